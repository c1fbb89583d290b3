"""Sources: the names that manifests give to single parts of a request. Pure.

Examples are `header:x-github-event`, `query:challenge`, `json:event.type` and `path`. A source is compiled
once into a function, reads one request without changing it, and cannot loop.
"""

import base64
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from shared.contracts.errors import Malformed
from shared.verification.request import SECRET_SETTING, InboundRequest
from shared.wire.template import MAX_QUOTED_CHARACTERS, TemplateError, find_source

TextGetter = Callable[[InboundRequest], str | None]
"""Returns the text of a source in a request; None if the part is missing, or is neither text nor number."""

_MAX_INDEX_DIGITS: Final = 9
"""Digits of a list index in a path."""

_DOT: Final = re.compile(r"(?<!\\)\.")
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_PLAIN_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_HMAC_PREFIX: Final = "hmac_"
_OPTIONAL_PREFIX: Final = "optional:"

_SIGNABLE_TEXT: Final = re.compile(r"[A-Za-z0-9_+/-]{1,200}={0,2}")
"""Matches a text that a handshake may sign. The key is that of webhooks, and a stranger chooses the text.

So the text must not be a body (no brace, bracket, quote, angle bracket or `=` inside), nor a text that is
signed around a body (no colon, blank or dot), nor a JSON Web Token (no dot).
"""


def compile_source(name: str) -> TextGetter:
    """Compile one source. Raises `TemplateError` if there is no such source."""
    return find_source(name, _SOURCES, _SOURCES_WITH_ARGUMENT)


def replace_source(request: InboundRequest, source: str, value: str) -> InboundRequest:
    """Return a copy of the request in which a source has another value, to sign test requests.

    The source is a header, a query parameter or a value in the body, with or without braces. A value in the
    body is replaced in the text (its first occurrence), so that the other bytes stay as they are.
    Raises `Malformed` if the body has no such value.
    """
    kind, _, argument = source.strip("{}").partition(":")
    if kind == "header":
        return request.with_header(argument.lower().encode(), value.encode())
    if kind == "query":
        pairs = [pair for pair in request.query if pair[0] != argument]
        return request.replace(query_string=urlencode([*pairs, (argument, value)]).encode())
    # Encoding the body again would change blanks and number formats, which a signature covers.
    old = compile_source(f"{kind}:{argument}")(request)
    if old is None:
        raise Malformed(f"the request has no {kind}:{argument}, which is signed")
    return request.replace(body=request.body.replace(old.encode(), value.encode(), 1))


def scalar_text(value: Any) -> str | None:
    """Return a JSON text, number or boolean as text; None for any other value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else None


def compile_path(dotted: str) -> Callable[[Any], Any]:
    r"""Compile a path such as `a.b.0.c` into a function that returns the value there, or None.

    `\.` is a dot inside a key's name. A number is a key of an object or an index of a list.
    """
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
    """Compile `key:a|b`: the first of these names that is a key of the current event."""
    names = argument.split("|")

    def find(request: InboundRequest) -> str | None:
        value = request.item
        return next((name for name in names if name in value), None) if isinstance(value, dict) else None

    return find


def _other_key(argument: str) -> TextGetter:
    """Compile `other_key:a|b`: the only key of the current event that is none of these names."""
    known_keys = frozenset(argument.split("|"))

    def find(request: InboundRequest) -> str | None:
        value = request.item
        # Checked by length first: a stranger's object may have a million keys.
        if not isinstance(value, dict) or len(value) > len(known_keys) + 1:
            return None
        others = [name for name in value if name not in known_keys]
        return others[0] if len(others) == 1 and _PLAIN_NAME.fullmatch(others[0]) else None

    return find


def _setting(argument: str) -> TextGetter:
    return lambda request: request.settings.get(argument)


def _refuse_nesting(argument: str) -> None:
    """Raise `TemplateError` if the argument of a source that contains another one contains a third.

    Otherwise a text could nest sources as deep as it is long.
    """
    if argument.startswith((_HMAC_PREFIX, _OPTIONAL_PREFIX)):
        raise TemplateError(
            f"an hmac or optional source cannot contain another one: {argument[:MAX_QUOTED_CHARACTERS]!r}"
        )


def _hmac(algorithm: str, encode: Callable[[bytes], str]) -> Callable[[str], TextGetter]:
    """Return the compiler of a source such as `hmac_sha256_hex:query:challenge`, for handshakes."""

    def compile_hmac(argument: str) -> TextGetter:
        _refuse_nesting(argument)
        source = compile_source(argument)

        def sign(request: InboundRequest) -> str | None:
            text = source(request)
            secret = request.settings.get(SECRET_SETTING)
            if text is None or secret is None or not _SIGNABLE_TEXT.fullmatch(text):
                return None
            return encode(hmac.digest(secret.encode(), text.encode(), algorithm))

        return sign

    return compile_hmac


def _optional(argument: str) -> TextGetter:
    """Compile `optional:json:a`: the value of a source, or the empty text if it is missing."""
    _refuse_nesting(argument)
    source = compile_source(argument)
    return lambda request: source(request) or ""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _path(request: InboundRequest) -> str:
    return urlsplit(request.address).path


def _with_port(request: InboundRequest) -> str | None:
    parts = urlsplit(request.url)
    port = _DEFAULT_PORTS.get(parts.scheme)
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
    "optional": _optional,
    "hmac_sha256_hex": _hmac("sha256", bytes.hex),
    "hmac_sha256_base64": _hmac("sha256", _base64),
}
