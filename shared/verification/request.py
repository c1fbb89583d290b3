"""A platform's request as its verification sees it, and the small language that names parts of it.

A *source* is one part: `header:x-github-event`, `query:challenge`, `json:event.type`, `body`. A *template*
is a text with sources in braces: `v0:{timestamp}:{body}`. A *match* says what parts have to be. All three
are compiled once, look at one request without changing it, and cannot loop. Pure: no clock, no network.
"""

import base64
import binascii
import hashlib
import hmac
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

import orjson

from shared.contracts.errors import InterlinkError, Malformed
from shared.verification.work_counter import WorkCounter
from shared.wire.bodies import dump_json, parse_urlencoded

Headers = Mapping[bytes, Sequence[bytes]]
"""Lower-case names, each with its values in order, as ASGI has them."""

MAX_SOURCES: Final = 10
"""Sources in one text."""

MAX_TEXT_CHARACTERS: Final = 16 * 1024
"""Characters that a template may make of a request; a longer text counts as missing."""

_MAX_INDEX_DIGITS: Final = 9
"""Digits of a place in a list."""

_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_DOT: Final = re.compile(r"(?<!\\)\.")
_PORTS: Final = {"https": 443, "http": 80}


class SourceTemplateError(InterlinkError):
    """A template or source of a manifest is not in the language."""


class InboundRequest:
    """One request. `address` is the one that the platform knows: behind a proxy the server sees another.

    `settings` are the endpoint's own. `timestamp` is what the verification found; `item` the event at
    hand in a batch, else the payload. `reader` makes the payload of the body, once, when it is asked for.
    `work` counts what is done for it. Whatever is made of the body or the query is made once.
    """

    __slots__ = (
        "_derived",
        "_item",
        "_item_digest",
        "_payload",
        "_reader",
        "address",
        "body",
        "headers",
        "method",
        "query_string",
        "settings",
        "timestamp",
        "work",
    )

    def __init__(
        self,
        method: str,
        address: str,
        query_string: bytes,
        headers: Headers,
        body: bytes,
        settings: Mapping[str, str],
        reader: "Callable[[InboundRequest], Any]",
    ) -> None:
        self.method = method
        self.address = address
        self.query_string = query_string
        self.headers = headers
        self.body = body
        self.settings = settings
        self.timestamp = ""
        self._reader = reader
        self._payload: Any = _UNSET
        self._item: Any = _UNSET
        self._item_digest = ""
        self._derived: dict[str, Any] = {}
        self.work = WorkCounter()

    @property
    def url(self) -> str:
        """The address with the query string as it came."""
        query = self.query_string.decode("latin-1")
        return f"{self.address}?{query}" if query else self.address

    @property
    def payload(self) -> Any:
        """The body as the provider reads it. Raises `Malformed`."""
        if self._payload is _UNSET:
            self._payload = self._memoize("payload", self._read)
        return self._payload

    def _read(self) -> Any:
        self.work.parsed_bytes += len(self.body)
        return self._reader(self)

    def _memoize(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what is made of the body or the query, made once; also that it cannot be made."""
        found = self._derived.get(name, _UNSET)
        if found is _UNSET:
            try:
                found = make()
            except Malformed as error:
                found = error
            self._derived[name] = found
        if isinstance(found, Malformed):
            raise Malformed(found.detail)
        return found

    def json(self) -> Any:
        """The payload, None when the body is none that the provider reads."""
        try:
            return self.payload
        except Malformed:
            return None

    @property
    def item(self) -> Any:
        """The event at hand: an element of a batch, or the payload."""
        return self.payload if self._item is _UNSET else self._item

    def of(self, payload: Any, item: Any) -> "InboundRequest":
        """The same request, as if this were all that it carried: one event of a batch."""
        one = self._changed()
        one._payload, one._item = payload, item
        one._derived, one.work = self._derived, self.work
        return one

    def with_header(self, name: bytes, value: bytes) -> "InboundRequest":
        """The same with one more header, or another value of it."""
        return self._changed(headers={**self.headers, name: [value]})

    def with_body(self, body: bytes) -> "InboundRequest":
        """The same with another body."""
        return self._changed(body=body)

    def with_part(self, source: str, value: str) -> "InboundRequest":
        """The same with another value of a source: a header, a parameter of the query, a value in the body.

        For `sign`. A value in a JSON body is exchanged in its text, so that the rest stays as it is.
        """
        kind, _, argument = source.strip("{}").partition(":")
        if kind == "header":
            return self.with_header(argument.lower().encode(), value.encode())
        if kind == "query":
            pairs = [pair for pair in self.query if pair[0] != argument]
            return self._changed(query_string=urlencode([*pairs, (argument, value)]).encode())
        old = compile_source(f"{kind}:{argument}")(self)
        if old is None:
            raise Malformed(f"the request has no {kind}:{argument}, which is signed")
        return self._changed(body=self.body.replace(old.encode(), value.encode(), 1))

    def _changed(
        self,
        *,
        headers: Headers | None = None,
        query_string: bytes | None = None,
        body: bytes | None = None,
    ) -> "InboundRequest":
        changed = InboundRequest(
            self.method,
            self.address,
            self.query_string if query_string is None else query_string,
            self.headers if headers is None else headers,
            self.body if body is None else body,
            self.settings,
            self._reader,
        )
        changed.timestamp = self.timestamp
        return changed

    @property
    def query(self) -> list[tuple[str, str]]:
        """The parameters of the query string, in order. Raises `Malformed`."""
        found: list[tuple[str, str]] = self._memoize(
            "query", lambda: self._pairs(self.query_string, "query string")
        )
        return found

    @property
    def form(self) -> list[tuple[str, str]]:
        """The fields of a URL-encoded body, in order. Raises `Malformed`."""
        found: list[tuple[str, str]] = self._memoize("form", lambda: self._pairs(self.body, "body"))
        return found

    def _pairs(self, raw: bytes, what: str) -> list[tuple[str, str]]:
        self.work.parsed_bytes += len(raw)
        return parse_urlencoded(raw, what)

    def parameter(self, name: str) -> str | None:
        """The value of a parameter of the query that is there once. Raises `Malformed`."""
        values: dict[str, str | None] = self._memoize("parameters", lambda: _unique_values(self.query))
        return values.get(name)

    def field(self, name: str) -> str | None:
        """The value of a field of the form that is there once. Raises `Malformed`."""
        values: dict[str, str | None] = self._memoize("fields", lambda: _unique_values(self.form))
        return values.get(name)

    @property
    def sorted_form(self) -> str:
        """Each name of the form with its value, sorted. Raises `Malformed`.

        Of a name that is there more often, its different values, sorted.
        """
        made: str = self._memoize(
            "sorted_form", lambda: "".join(name + value for name, value in sorted(set(self.form)))
        )
        return made

    @property
    def sha256(self) -> str:
        """The digest of the body, in hex."""
        digest: str = self._memoize(
            "sha256", lambda: hashlib.sha256(self._count_hashed(self.body)).hexdigest()
        )
        return digest

    @property
    def crc32(self) -> str:
        """The checksum of the body, as a number."""
        checksum: str = self._memoize("crc32", lambda: str(zlib.crc32(self._count_hashed(self.body))))
        return checksum

    @property
    def item_sha256(self) -> str:
        """The digest of the event at hand, whatever the order of its keys. Raises `Malformed`."""
        if not self._item_digest:
            text = dump_json(self.item, orjson.OPT_SORT_KEYS)
            self.work.parsed_bytes += len(text)
            self._item_digest = hashlib.sha256(self._count_hashed(text)).hexdigest()
        return self._item_digest

    def _count_hashed(self, raw: bytes) -> bytes:
        self.work.count_hash(len(raw))
        return raw

    def header(self, name: bytes) -> str | None:
        """A header's value, None when it is not there once. Bytes beyond ASCII stay apart (latin-1)."""
        values = self.headers.get(name)
        return values[0].decode("latin-1").strip() if values and len(values) == 1 else None


_UNSET: Final = object()


def _unique_values(pairs: Sequence[tuple[str, str]]) -> dict[str, str | None]:
    """Each field with its value, None if it is there twice: a proxy and we might each read another."""
    values: dict[str, str | None] = {}
    for name, value in pairs:
        values[name] = None if name in values else value
    return values


TextGetter = Callable[[InboundRequest], str | None]
"""The text of a source in a request; None when it is not there, or is no text or number."""

BytesGetter = Callable[[InboundRequest], bytes | None]
"""As `TextGetter`, for what is signed: bytes as they came."""


def scalar_text(value: Any) -> str | None:
    """A JSON value as a source's text: texts, numbers and booleans; None for everything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else None


def compile_path(dotted: str) -> Callable[[Any], Any]:
    r"""A reader of `a.b.0.c`: the value there, None when there is none. `\.` is a dot in a key's name."""
    names = [step.replace("\\.", ".") for step in _DOT.split(dotted)]
    steps = [
        (name, int(name) if name.isascii() and name.isdigit() and len(name) <= _MAX_INDEX_DIGITS else None)
        for name in names
    ]

    def read(value: Any) -> Any:
        for key, index in steps:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and index is not None and index < len(value):
                value = value[index]
            else:
                return None
        return value

    return read


def compile_source(name: str) -> TextGetter:
    """Compile one source. Raises `Unreadable`."""
    kind, has_argument, argument = name.partition(":")
    if has_argument and argument and kind in _SOURCES_WITH_ARGUMENT:
        return _SOURCES_WITH_ARGUMENT[kind](argument)
    if not has_argument and kind in _SOURCES:
        return _SOURCES[kind]
    raise SourceTemplateError(f"no such source: {name[:_MAX_QUOTED_CHARACTERS]!r}")


def _split_template(source: str) -> list[str]:
    """Split a template into text and sources in turn. Raises `Unreadable`."""
    pieces = _BRACES.split(source)
    if any("{" in text or "}" in text for text in pieces[::2]):
        raise SourceTemplateError(f"a brace without its other half in {source[:_MAX_QUOTED_CHARACTERS]!r}")
    sources = pieces[1::2]
    if len(sources) > MAX_SOURCES:
        raise SourceTemplateError(f"{len(sources)} sources in one text: use at most {MAX_SOURCES}")
    return pieces


_MAX_QUOTED_CHARACTERS: Final = 100
"""Characters of a text that an error repeats."""


class SourceTemplate:
    """A text with sources in braces. `{{` is not special: a template has no other syntax."""

    __slots__ = ("_parts", "constant", "source")

    def __init__(self, source: str) -> None:
        """Raises `Unreadable` for a brace or a source that is none."""
        self.source = source
        pieces = _split_template(source)
        self._parts: list[str | TextGetter] = [
            compile_source(piece) if position % 2 else piece
            for position, piece in enumerate(pieces)
            if piece or position % 2
        ]
        self.constant = not any(callable(part) for part in self._parts)

    def text(self, request: InboundRequest) -> str | None:
        """The text for this request; None if one of the sources is not there or is empty.

        None as well for a text of more than `MAX_TEXT_CHARACTERS` characters.
        """
        if len(self._parts) == 1:
            only = self._parts[0]
            text = only if isinstance(only, str) else only(request)
            return text if text and len(text) <= MAX_TEXT_CHARACTERS else None
        made: list[str] = []
        size = 0
        for part in self._parts:
            text = part if isinstance(part, str) else part(request)
            if not text:
                return None
            size += len(text)
            if size > MAX_TEXT_CHARACTERS:
                return None
            made.append(text)
        return "".join(made)


class SignedContent:
    """A template of bytes: what a platform signs. `{body}` is the body exactly as it came."""

    __slots__ = ("_parts", "only_body", "source")

    def __init__(self, source: str) -> None:
        """Raises `Unreadable`, also for a source that is in the text twice: it would be hashed twice."""
        self.source = source
        pieces = _split_template(source)
        sources = pieces[1::2]
        if len(set(sources)) < len(sources):
            raise SourceTemplateError(
                f"a source is in the text twice: name each one once in {source[:_MAX_QUOTED_CHARACTERS]!r}"
            )
        self._parts: list[bytes | BytesGetter] = [
            _compile_bytes_source(piece) if position % 2 else piece.encode()
            for position, piece in enumerate(pieces)
            if piece or position % 2
        ]
        self.only_body = source == "{body}"

    def of(self, request: InboundRequest, secret: bytes = b"") -> bytes | None:
        """The bytes that were signed; None when a part of them is missing. `{secret}` is `secret`."""
        if self.only_body:
            return request.body
        made: list[bytes] = []
        return b"".join(made) if self._emit(request, secret, made.append) else None

    def feed(self, request: InboundRequest, secret: bytes, update: Callable[[bytes], object]) -> bool:
        """Pass the bytes that were signed to a digest, piece by piece; False if a part of them is missing.

        They are counted as work of the request. Raises `TooCostly`.
        """

        def count(piece: bytes) -> None:
            request.work.count_hash(len(piece))
            update(piece)

        return self._emit(request, secret, count)

    def _emit(self, request: InboundRequest, secret: bytes, take: Callable[[bytes], object]) -> bool:
        for part in self._parts:
            piece = part if isinstance(part, bytes) else secret if part is _secret else part(request)
            if piece is None:
                return False
            take(piece)
        return True


def _compile_bytes_source(name: str) -> BytesGetter:
    if name in _BYTES_SOURCES:
        return _BYTES_SOURCES[name]
    getter = compile_source(name)
    encoding = "latin-1" if name.startswith("header:") else "utf-8"

    def read(request: InboundRequest) -> bytes | None:
        said = getter(request)
        return None if said is None else said.encode(encoding, "surrogatepass")

    return read


def _body(request: InboundRequest) -> bytes:
    return request.body


def _secret(_request: InboundRequest) -> bytes:
    """Stands for the key itself, which `Signed.of` puts in."""
    raise AssertionError


_BYTES_SOURCES: Final[Mapping[str, BytesGetter]] = {"body": _body, "secret": _secret}


def _header(argument: str) -> TextGetter:
    name = argument.lower().encode()
    return lambda request: request.header(name)


def _query(argument: str) -> TextGetter:
    return lambda request: request.parameter(argument)


def _form(argument: str) -> TextGetter:
    return lambda request: request.field(argument)


def _json(argument: str) -> TextGetter:
    read = compile_path(argument)
    return lambda request: scalar_text(read(request.payload))


def _item(argument: str) -> TextGetter:
    read = compile_path(argument)
    return lambda request: scalar_text(read(request.item))


def _key(argument: str) -> TextGetter:
    names = argument.split("|")

    def find(request: InboundRequest) -> str | None:
        value = request.item
        return next((name for name in names if name in value), None) if isinstance(value, dict) else None

    return find


_PLAIN_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


def _other_key(argument: str) -> TextGetter:
    known = frozenset(argument.split("|"))

    def find(request: InboundRequest) -> str | None:
        value = request.item
        if not isinstance(value, dict) or len(value) > len(known) + 1:
            return None
        others = [name for name in value if name not in known]
        return others[0] if len(others) == 1 and _PLAIN_NAME.fullmatch(others[0]) else None

    return find


def _setting(argument: str) -> TextGetter:
    return lambda request: request.settings.get(argument)


_SIGNABLE_TEXT: Final = re.compile(r"[A-Za-z0-9_+/-]{1,200}={0,2}")
"""What a handshake may have signed: the key is the one of webhooks, and a stranger chooses the text.

So it must be no body (no brace, bracket, quote, angle or `=` inside), no text that is signed around a body
(no colon, blank or dot), and no JSON Web Token (no dot).
"""


_HMAC_PREFIX: Final = "hmac_"


def _hmac(algorithm: str, encode: Callable[[bytes], str]) -> Callable[[str], TextGetter]:
    def compiled(argument: str) -> TextGetter:
        if argument.startswith(_HMAC_PREFIX):
            raise SourceTemplateError(f"an HMAC of an HMAC: {argument[:_MAX_QUOTED_CHARACTERS]!r}")
        source = compile_source(argument)

        def sign(request: InboundRequest) -> str | None:
            said = source(request)
            secret = request.settings.get(SECRET_SETTING)
            if said is None or secret is None or not _SIGNABLE_TEXT.fullmatch(said):
                return None
            return encode(hmac.digest(secret.encode(), said.encode(), algorithm))

        return sign

    return compiled


SECRET_SETTING: Final = "secret"  # noqa: S105 -- a name
"""The name among a request's settings of the endpoint's newest secret, as text: handshakes sign with it."""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _path(request: InboundRequest) -> str:
    return urlsplit(request.address).path


def _with_port(request: InboundRequest) -> str | None:
    parts = urlsplit(request.url)
    port = _PORTS.get(parts.scheme)
    if not parts.hostname or port is None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port or port}"))


def _without_port(request: InboundRequest) -> str:
    parts = urlsplit(request.url)
    host = parts.hostname or ""
    return urlunsplit(parts._replace(netloc=f"[{host}]" if ":" in host else host))


_SOURCES: Final[Mapping[str, TextGetter]] = {
    "method": lambda request: request.method,
    "url": lambda request: request.url,
    "url_without_query": lambda request: request.address,
    "url_with_port": _with_port,
    "url_without_port": _without_port,
    "path": _path,
    "timestamp": lambda request: request.timestamp or None,
    "sorted_form": lambda request: request.sorted_form,
    "crc32": lambda request: request.crc32,
    "sha256": lambda request: request.sha256,
    "item_sha256": lambda request: request.item_sha256,
}

_SOURCES_WITH_ARGUMENT: Final[Mapping[str, Callable[[str], TextGetter]]] = {
    "header": _header,
    "query": _query,
    "form": _form,
    "json": _json,
    "item": _item,
    "key": _key,
    "other_key": _other_key,
    "setting": _setting,
    "hmac_sha256_hex": _hmac("sha256", bytes.hex),
    "hmac_sha256_base64": _hmac("sha256", _base64),
}

ExpectedValue = str | int | bool | Sequence[str | int]
"""What a match may ask for: a value, one of several, `present` or `absent`."""

PRESENT: Final = "present"
ABSENT: Final = "absent"


class Match:
    """Parts of a request and what each has to be: all of them, or it is no match. Empty always matches.

    An expected value is compared as text (`true` and `1` as JSON writes them); a list means one of them;
    `present` and `absent` ask whether the part is there at all. A text with a source in braces is compared
    with that source, in constant time.
    """

    __slots__ = ("_rules",)

    def __init__(self, expected: Mapping[str, ExpectedValue]) -> None:
        """Raises `Unreadable`."""
        self._rules = [(_compile_value(name), _compile_rule(value)) for name, value in expected.items()]

    def holds(self, request: InboundRequest) -> bool:
        """Whether every part is as expected. Raises `Malformed` for a query or form that cannot be read."""
        return all(rule(seen(request), request) for seen, rule in self._rules)


def _compile_value(name: str) -> Callable[[InboundRequest], Any]:
    """As `compile_source`, but an object or a list is there too, for `present` and `absent`."""
    kind, _, argument = name.partition(":")
    if kind not in ("json", "item") or not argument:
        return compile_source(name)
    read = compile_path(argument)
    return (lambda request: read(request.payload)) if kind == "json" else (lambda request: read(request.item))


def _compile_rule(value: ExpectedValue) -> Callable[[Any, InboundRequest], bool]:
    if value == PRESENT:
        return lambda seen, _request: seen is not None
    if value == ABSENT:
        return lambda seen, _request: seen is None
    if isinstance(value, str) and _BRACES.search(value):
        template = SourceTemplate(value)

        def equal(seen: Any, request: InboundRequest) -> bool:
            wanted, found = template.text(request), scalar_text(seen)
            if wanted is None or found is None or len(wanted) != len(found):
                return False
            return hmac.compare_digest(wanted.encode(), found.encode("utf-8", "surrogatepass"))

        return equal
    allowed = {scalar_text(each) for each in (value if isinstance(value, list | tuple) else (value,))}
    return lambda seen, _request: seen is not None and scalar_text(seen) in allowed


def decode_bytes(text: str | bytes, encoding: str) -> bytes | None:
    """Bytes that are written as `hex` or `base64` (standard or URL alphabet, padding optional)."""
    raw = text.encode("latin-1", "replace") if isinstance(text, str) else text
    try:
        if encoding == "hex":
            return binascii.unhexlify(raw)
        raw = raw.replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except (ValueError, binascii.Error):
        return None
