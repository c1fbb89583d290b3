"""A manifest's `webhook` compiled: what the gateway asks about a request. Pure: no clock, no network.

In order: `handshake`, `way` and its `verify`, `verified_handshake`, `events`, `answer`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus

import orjson

from shared.catalog.manifest import Answer, Bodies, Handshake, Webhook
from shared.contracts.envelope import JSON, rfc3339
from shared.contracts.errors import Forbidden, Malformed, TooLarge
from shared.wire.batches import Batch, most_bytes
from shared.wire.bodies import FORM, json_text, media_type, parse_json
from shared.wire.keypairs import KeyPair
from shared.wire.moments import moment_of
from shared.wire.requests import Headers, Match, Request, Template, decoded, path_of
from shared.wire.tokens import Token
from shared.wire.verification import Way
from shared.wire.work import MOST_HASHED, Work

Reader = Callable[[bytes], Any]
"""A provider's own `read(body)`: a body that is neither JSON nor a form, as a JSON value."""

MASK: Final = b"***"
"""In place of a secret."""

LONGEST_OWNER: Final = 200
"""Characters of what names an account."""

LONGEST_ECHO: Final = 4096
"""Characters of what a handshake sends back."""

LONGEST_ANSWER: Final = 16 * 1024
"""Bytes of the body and the headers of an answer together."""

_PIECES: Final = 64 * 1024
"""More bytes than all that is signed beside the body: the address and the headers have fewer."""

_LONGEST_EVENT: Final = 100
_LONGEST_ID: Final = 200
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_.:-]+")
_NOT_IN_AN_ID: Final = re.compile(r"[^\x21-\x7e]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\]")
_DEEPEST: Final = 10
_LEAST_SECRET: Final = 4
_MOST_SAID: Final = 200
"""Secrets that are looked for in a refused body: more than can stand in its beginning, which is kept."""
_LONGEST_SAID: Final = 4096


class Owner(NamedTuple):
    """Whose an event is, as the platform says it: the account, and its place. '' where it does not."""

    account: str
    choice: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """One event of a request, ready for its topic. `delivery_id` is '' where the request has none.

    `data` is the body as it came, or, for one of several events (and for what is no JSON or form), JSON.
    `owner` is known of events at the address of an app.
    """

    event: str
    delivery_id: str
    account: str
    occurred_at: str
    triggers: tuple[str, ...]
    data: bytes
    content_type: str
    owner: Owner | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the platform is answered."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


class Agreed:
    """A handshake of the manifest, compiled. `keeps` is the secret that this request hands over."""

    __slots__ = ("_keeps", "_reply", "_require", "_when", "about", "verified", "waits")

    def __init__(self, handshake: Handshake) -> None:
        self.about = handshake.about
        self.verified = handshake.verified
        self.waits = handshake.keeps is not None
        self._when = Match(handshake.when)
        self._require = Match(handshake.require)
        self._keeps = Template(handshake.keeps) if handshake.keeps else None
        self._reply = Replier(handshake.answer)

    def is_asked(self, request: Request) -> bool:
        """Whether this request is the handshake."""
        try:
            return self._when.holds(request)
        except Malformed:
            return False

    def reply(self, request: Request) -> Reply:
        """Raises `Forbidden` when what it requires does not hold, `Malformed` for what cannot be echoed."""
        if not self._require.holds(request):
            raise Forbidden("the handshake does not have the value that this endpoint expects")
        return self._reply.reply(request)

    def kept(self, request: Request) -> str | None:
        """The secret in it."""
        return self._keeps.text(request) if self._keeps else None


class Replier:
    """An answer of the manifest, compiled."""

    __slots__ = ("_headers", "_json", "_status", "_text", "_type", "_when")

    def __init__(self, answer: Answer) -> None:
        self._when = Match(answer.when)
        self._status = answer.status
        self._type = answer.type
        self._headers = [(name.lower().encode(), Template(text)) for name, text in answer.headers.items()]
        self._text = Template(answer.text) if answer.text is not None else None
        self._json = _compiled(answer.json_) if answer.json_ is not None else None

    def fits(self, request: Request) -> bool:
        """Whether this is the answer to the request."""
        return self._when.holds(request)

    def reply(self, request: Request) -> Reply:
        """Raises `Malformed` when the request lacks what is echoed, or it is too long or unprintable."""
        headers = [(name, _echoed(template, request).encode()) for name, template in self._headers]
        kind, body = "", b""
        if self._text is not None:
            kind, body = "text/plain; charset=utf-8", _echoed(self._text, request).encode()
        elif self._json is not None:
            kind, body = JSON, orjson.dumps(_filled(self._json, request))
        kind = self._type or kind
        if kind:
            headers.append((b"content-type", kind.encode()))
        if len(body) + sum(len(value) for _, value in headers) > LONGEST_ANSWER:
            raise Malformed(f"the answer would have more than {LONGEST_ANSWER} bytes")
        return Reply(self._status, tuple(headers), body)


def _compiled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: Template(value)
        if isinstance(value, str)
        else _compiled(value)
        if isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }


def _filled(values: Mapping[str, Any], request: Request) -> dict[str, Any]:
    return {
        name: _echoed(value, request)
        if isinstance(value, Template)
        else _filled(value, request)
        if isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }


def _echoed(template: Template, request: Request) -> str:
    said = template.text(request)
    if said is None:
        raise Malformed(f"the handshake lacks {template.source}")
    if len(said) > LONGEST_ECHO or _CONTROL.search(said):
        raise Malformed(f"{template.source} is too long or has characters that cannot be sent back")
    return said


class Door:
    """What a provider's webhooks are checked and read with."""

    def __init__(self, webhook: Webhook, reader: Reader | None = None) -> None:
        """`reader` is the provider's own, for bodies that are neither JSON nor a form."""
        self.methods = frozenset(webhook.methods)
        self.ways: Sequence[Way] = [way.compiled() for way in webhook.verification]
        handshakes = [Agreed(each) for each in webhook.handshakes]
        self._unsigned_handshakes = [each for each in handshakes if not each.verified]
        self._signed_handshakes = [each for each in handshakes if each.verified]
        self._answers = [Replier(each) for each in webhook.answers]
        self._bodies = webhook.body
        self._reader = reader
        self._batch = Batch(webhook.batch)
        self._event = [Template(text) for text in webhook.event.source]
        self._strip = webhook.event.strip
        self._names = webhook.event.names
        self._delivery_id = [Template(text) for text in webhook.delivery_id]
        self._account = [Template(text) for text in webhook.account]
        self._owner = [Template(text) for text in (webhook.app and webhook.app.account) or webhook.account]
        self._choice = [Template(text) for text in webhook.app.choice] if webhook.app else []
        self._occurred = [Template(text) for text in webhook.occurred]
        self._triggers = {
            name: [(trigger, Match(rules)) for trigger, rules in event.triggers.items()]
            for name, event in webhook.handled.items()
            if event.triggers
        }
        self._has_secret_in_body = any(isinstance(way, Token) and way.is_in_body for way in self.ways)
        self.refused_status = webhook.refused.status if webhook.refused else None
        passes = max((way.passes for way in self.ways), default=1)
        self.most_body = (MOST_HASHED - _PIECES) // passes
        """Bytes of a body that can be verified with the newest secret at least."""

    def request(
        self,
        method: str,
        address: str,
        query_string: bytes,
        headers: Headers,
        body: bytes,
        settings: Mapping[str, str],
    ) -> Request:
        """A request whose payload is read as the manifest says."""
        return Request(method, address, query_string, headers, body, settings, self._read)

    def handshake(self, request: Request) -> Agreed | None:
        """The handshake that this request is, of those that are not signed."""
        return _asked(self._unsigned_handshakes, request) if self._unsigned_handshakes else None

    def verified_handshake(self, request: Request) -> Agreed | None:
        """The handshake that this request is, now that its signature is known to be right."""
        return _asked(self._signed_handshakes, request) if self._signed_handshakes else None

    def way(self, request: Request) -> Way | None:
        """The way in which a request is signed; None when it is not. Raises `Malformed`."""
        return next((way for way in self.ways if way.applies(request)), None)

    def can_use(self, secret: bytes, *, made_here: bool = False) -> bool:
        """Whether one of the ways could verify with this secret. A public key is never made here."""
        return any(way.usable(secret) for way in self.ways if not (made_here and isinstance(way, KeyPair)))

    def events(self, request: Request, *, owned: bool = False) -> list[Arrived]:
        """The events of a request, in its order: none for an empty batch. With their owners when asked.

        Raises `Malformed` for a body that cannot be read, or one that lacks what every webhook has;
        `TooLarge` for a batch over its bounds.
        """
        payload = request.payload
        if self._batch:
            return [
                self._arrived(request.of(document, element), text, JSON, owned=owned)
                for text, document, element in self._batch.documents(payload, most_bytes(len(request.body)))
            ]
        if not isinstance(payload, dict):
            raise Malformed("the body is JSON, but not an object")
        if self._reader or self._bodies.headers or not request.body:
            return [self._arrived(request, json_text(payload), JSON, owned=owned)]
        kind = request.header(b"content-type") or JSON
        if self._bodies.decoded or media_type(kind) != JSON:
            json_text(payload)  # whoever asks `json` for it needs it written anew: not later than here
        return [self._arrived(request, request.body, kind, owned=owned)]

    def claimed_account(self, request: Request) -> str:
        """Return the account that a request claims to be of, which nothing has proven yet; '' for none."""
        try:
            if self._batch:
                document, element = self._batch.first(request.payload)
                request = request.of(document, element)
            return _named(self._owner, request)
        except Malformed:
            return ""

    def answer(self, request: Request) -> Reply | None:
        """What the platform wants to hear of accepted events; None when it does not care."""
        found = next((each for each in self._answers if each.fits(request)), None)
        return found.reply(request) if found else None

    def masked(self, data: bytes, secrets: Sequence[bytes]) -> bytes:
        """What may go on to others: without the secret, where the platform sends it in the body."""
        return _without(data, secrets) if self._has_secret_in_body else data

    def masked_refused(self, request: Request, secrets: Sequence[bytes], most: int) -> bytes:
        """The beginning of a refused body, without what stands where the platform sends secrets, too.

        It may be the secret of somebody else, sent to the wrong address.
        """
        said: list[str | None] = []
        with suppress(Malformed, TooLarge):
            for way in self.ways:
                if isinstance(way, Token) and way.is_in_body:
                    said += way.said(request)
            said += [each.kept(request) for each in (*self._unsigned_handshakes, *self._signed_handshakes)]
        texts = dict.fromkeys(text for text in said if text and len(text) >= _LEAST_SECRET)
        found = [text.encode("utf-8", "replace") for text in islice(texts, _MOST_SAID)]
        begin = _without(request.body[: most + _LONGEST_SAID], [*secrets, *found])
        if len(request.body) > most + _LONGEST_SAID:  # the cut may have gone through one
            begin = begin[:-_LONGEST_SAID]
        return begin[:most]

    def json(self, content_type: str, data: bytes) -> bytes:
        """The payload of an event's data, as JSON text. Raises `Malformed`."""
        if media_type(content_type) == JSON and not self._bodies.decoded:
            return data
        headers = {b"content-type": [content_type.encode("latin-1", "replace")]}
        return json_text(self._read(self.request("POST", "", b"", headers, data, {})))

    def _arrived(self, one: Request, data: bytes, content_type: str, *, owned: bool) -> Arrived:
        event = self._name(_first(self._event, one) or _lacks(self._event))
        delivery = _first(self._delivery_id, one) or ""
        return Arrived(
            event,
            _printable(delivery),
            _printable(_first(self._account, one) or ""),
            self._occurred_at(one),
            tuple(trigger for trigger, rules in self._triggers.get(event, ()) if rules.holds(one)),
            data,
            content_type,
            Owner(_named(self._owner, one), _named(self._choice, one)) if owned else None,
        )

    def _name(self, said: str) -> str:
        said = self._names.get(said) or said.removeprefix(self._strip)
        said = self._names.get(said) or _NOT_IN_A_NAME.sub("_", said.replace("/", "."))
        return said[:_LONGEST_EVENT]

    def _occurred_at(self, one: Request) -> str:
        for template in self._occurred:
            said = template.text(one)
            moment = moment_of(said) if said else None
            if moment:
                return rfc3339(moment)
        return ""

    def _read(self, request: Request) -> Any:
        payload = self._value(request)
        if self._bodies.headers and isinstance(payload, dict):
            said = {name: request.header(header.encode()) for name, header in self._bodies.headers.items()}
            payload = {**{name: value for name, value in said.items() if value}, **payload}
        for name, each in self._bodies.decoded.items():
            if isinstance(payload, dict) and name not in payload:
                inner = _inner(each.path, each.encoding, payload, request.work)
                if inner is not None:
                    payload = {**payload, name: inner}
        return payload

    def _value(self, request: Request) -> Any:
        if not request.body and self._bodies.empty:
            return {}
        kind = media_type(request.header(b"content-type") or JSON)
        if kind == FORM and (self._bodies.form or self._bodies.form_field):
            return _form_value(request, self._bodies)
        if self._reader and kind != JSON:
            return self._reader(request.body)
        if self._bodies.text and kind != JSON and not kind.endswith("+json"):
            return {"text": request.body.decode("utf-8", "replace")}
        return parse_json(request.body)


def _asked(handshakes: Sequence[Agreed], request: Request) -> Agreed | None:
    return next((each for each in handshakes if each.is_asked(request)), None)


def _without(data: bytes, secrets: Sequence[bytes]) -> bytes:
    for secret in secrets:
        for written in _spellings(secret):
            data = data.replace(written, MASK)
    return data


def _spellings(secret: bytes) -> set[bytes]:
    """How a secret may stand in a body."""
    text = secret.decode()
    escaped = json.dumps(text)[1:-1]
    return {
        secret,
        quote_plus(text).encode(),
        orjson.dumps(text)[1:-1],
        escaped.encode(),
        escaped.replace("/", "\\/").encode(),
    }


def _first(templates: Sequence[Template], request: Request) -> str | None:
    for template in templates:
        said = template.text(request)
        if said:
            return said
    return None


def _named(templates: Sequence[Template], request: Request) -> str:
    """What names an account, as it is; '' for what is so long, or not printable, that it names none."""
    said = _first(templates, request) or ""
    return said if len(said) <= LONGEST_OWNER and said.isprintable() else ""


def _lacks(templates: Sequence[Template]) -> str:
    wanted = " or ".join(template.source for template in templates)
    raise Malformed(f"the webhook lacks {wanted} (or has it more than once)")


def _printable(text: str) -> str:
    """An id as a header can carry it: as it is, or its digest when it is long or has other characters."""
    if len(text) > _LONGEST_ID or _NOT_IN_AN_ID.search(text):
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return text


def _inner(path: str, encoding: str, payload: Any, work: Work) -> Any:
    """A JSON text inside the payload, as a value; None when there is none that can be read."""
    said = path_of(path)(payload)
    if not isinstance(said, str):
        return None
    raw = said.encode("utf-8", "surrogatepass") if encoding == "json" else decoded(said, "base64")
    work.parsed += len(raw or b"")
    try:
        return parse_json(raw) if raw else None
    except Malformed:
        return None


def _form_value(request: Request, bodies: Bodies) -> Any:
    """A form's fields: the JSON in one of them, or all of them as an object."""
    if bodies.form_field:
        values = [value for name, value in request.form if name == bodies.form_field]
        if len(values) == 1:
            return parse_json(values[0].encode("utf-8", "surrogatepass"))
        if not bodies.form:
            raise Malformed(f"the form must have the field {bodies.form_field!r} once")
    fields: dict[str, Any] = {}
    for name, value in request.form:
        keys = [name]
        if bodies.form == "brackets" and "[" in name:
            keys = [name.partition("[")[0], *_BRACKETS.findall(name)]
        _put(fields, keys, value)
    return fields


def _put(fields: dict[str, Any], keys: Sequence[str], value: str) -> None:
    """Set a field; one that is there again becomes a list. Raises `Malformed` for contradictions."""
    if len(keys) > _DEEPEST:
        raise Malformed(f"a field of the form is nested more than {_DEEPEST} deep")
    *outer, last = keys
    for key in outer:
        inner = fields.setdefault(key, {})
        if not isinstance(inner, dict):
            raise Malformed("a field of the form is a text and an object at once")
        fields = inner
    if isinstance(fields.get(last), dict):
        raise Malformed("a field of the form is a text and an object at once")
    if last not in fields:
        fields[last] = value
    elif isinstance(fields[last], list):
        fields[last].append(value)
    else:
        fields[last] = [fields[last], value]
