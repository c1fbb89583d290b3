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

from shared.contracts.envelope import JSON_CONTENT_TYPE, rfc3339
from shared.contracts.errors import Forbidden, Malformed, TooLarge
from shared.manifests.models import BodyFormat, HandshakeSpec, ResponseSpec, WebhookSpec
from shared.verification.batch import Batch, documents_size_limit
from shared.verification.match import Match
from shared.verification.public_key import PublicKeyVerifier
from shared.verification.request import Headers, InboundRequest
from shared.verification.scheme import SchemeVerifier
from shared.verification.sources import compile_path
from shared.verification.template import SourceTemplate
from shared.verification.token import TokenVerifier
from shared.verification.work_counter import MAX_HASHED_BYTES, WorkCounter
from shared.wire.bodies import FORM_CONTENT_TYPE, decode_bytes, dump_json, media_type, parse_json
from shared.wire.timestamps import parse_timestamp

BodyReader = Callable[[bytes], Any]
"""A provider's own `read(body)`: a body that is neither JSON nor a form, as a JSON value."""

MASK: Final = b"***"
"""In place of a secret."""

MAX_ACCOUNT_LENGTH: Final = 200
"""Characters of what names an account."""

MAX_ECHO_LENGTH: Final = 4096
"""Characters of what a handshake sends back."""

MAX_RESPONSE_BYTES: Final = 16 * 1024
"""Bytes of the body and the headers of an answer together."""

_MAX_SIGNED_METADATA_BYTES: Final = 64 * 1024
"""More bytes than all that is signed beside the body: the address and the headers have fewer."""

_MAX_EVENT_LENGTH: Final = 100
_MAX_ID_LENGTH: Final = 200
_INVALID_NAME_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9_.:-]+")
_INVALID_ID_CHARACTERS: Final = re.compile(r"[^\x21-\x7e]")
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x1f\x7f]")
_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\]")
_MAX_DEPTH: Final = 10
_MIN_SECRET_LENGTH: Final = 4
_MAX_REDACTED_VALUES: Final = 200
"""Secrets that are looked for in a refused body: more than can stand in its beginning, which is kept."""
_MAX_REDACTED_BYTES: Final = 4096


class AccountRef(NamedTuple):
    """Whose an event is, as the platform says it: the account, and its place. '' where it does not."""

    account: str
    choice: str


@dataclass(frozen=True, slots=True)
class WebhookEvent:
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
    account_ref: AccountRef | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What the platform is answered."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


class Handshake:
    """A handshake of the manifest, compiled. `keeps` is the secret that this request hands over."""

    __slots__ = ("_keeps", "_reply", "_require", "_when", "about", "awaits_secret", "verified")

    def __init__(self, handshake: HandshakeSpec) -> None:
        self.about = handshake.about
        self.verified = handshake.verified
        self.awaits_secret = handshake.keeps is not None
        self._when = Match(handshake.when)
        self._require = Match(handshake.require)
        self._keeps = SourceTemplate(handshake.keeps) if handshake.keeps else None
        self._reply = ResponseTemplate(handshake.answer)

    def matches(self, request: InboundRequest) -> bool:
        """Whether this request is the handshake."""
        try:
            return self._when.holds(request)
        except Malformed:
            return False

    def response(self, request: InboundRequest) -> Response:
        """Raises `Forbidden` when what it requires does not hold, `Malformed` for what cannot be echoed."""
        if not self._require.holds(request):
            raise Forbidden("the handshake does not have the value that this endpoint expects")
        return self._reply.response(request)

    def extract_secret(self, request: InboundRequest) -> str | None:
        """The secret in it."""
        return self._keeps.text(request) if self._keeps else None


class ResponseTemplate:
    """An answer of the manifest, compiled."""

    __slots__ = ("_headers", "_json", "_status", "_text", "_type", "_when")

    def __init__(self, answer: ResponseSpec) -> None:
        self._when = Match(answer.when)
        self._status = answer.status
        self._type = answer.type
        self._headers = [
            (name.lower().encode(), SourceTemplate(text)) for name, text in answer.headers.items()
        ]
        self._text = SourceTemplate(answer.text) if answer.text is not None else None
        self._json = _compile_templates(answer.json_) if answer.json_ is not None else None

    def matches(self, request: InboundRequest) -> bool:
        """Whether this is the answer to the request."""
        return self._when.holds(request)

    def response(self, request: InboundRequest) -> Response:
        """Raises `Malformed` when the request lacks what is echoed, or it is too long or unprintable."""
        headers = [(name, _render_echo(template, request).encode()) for name, template in self._headers]
        kind, body = "", b""
        if self._text is not None:
            kind, body = "text/plain; charset=utf-8", _render_echo(self._text, request).encode()
        elif self._json is not None:
            kind, body = JSON_CONTENT_TYPE, orjson.dumps(_render_values(self._json, request))
        kind = self._type or kind
        if kind:
            headers.append((b"content-type", kind.encode()))
        if len(body) + sum(len(value) for _, value in headers) > MAX_RESPONSE_BYTES:
            raise Malformed(f"the answer would have more than {MAX_RESPONSE_BYTES} bytes")
        return Response(self._status, tuple(headers), body)


def _compile_templates(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: SourceTemplate(value)
        if isinstance(value, str)
        else _compile_templates(value)
        if isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }


def _render_values(values: Mapping[str, Any], request: InboundRequest) -> dict[str, Any]:
    return {
        name: _render_echo(value, request)
        if isinstance(value, SourceTemplate)
        else _render_values(value, request)
        if isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }


def _render_echo(template: SourceTemplate, request: InboundRequest) -> str:
    said = template.text(request)
    if said is None:
        raise Malformed(f"the handshake lacks {template.source}")
    if len(said) > MAX_ECHO_LENGTH or _CONTROL_CHARACTERS.search(said):
        raise Malformed(f"{template.source} is too long or has characters that cannot be sent back")
    return said


class WebhookDefinition:
    """What a provider's webhooks are checked and read with."""

    def __init__(self, webhook: WebhookSpec, reader: BodyReader | None = None) -> None:
        """`reader` is the provider's own, for bodies that are neither JSON nor a form."""
        self.methods = frozenset(webhook.methods)
        self.schemes: Sequence[SchemeVerifier] = [way.compile() for way in webhook.verification]
        handshakes = [Handshake(each) for each in webhook.handshakes]
        self._unsigned_handshakes = [each for each in handshakes if not each.verified]
        self._signed_handshakes = [each for each in handshakes if each.verified]
        self._answers = [ResponseTemplate(each) for each in webhook.answers]
        self._bodies = webhook.body
        self._reader = reader
        self._batch = Batch(webhook.batch)
        self._event = [SourceTemplate(text) for text in webhook.event.source]
        self._strip = webhook.event.strip
        self._names = webhook.event.names
        self._delivery_id = [SourceTemplate(text) for text in webhook.delivery_id]
        self._account = [SourceTemplate(text) for text in webhook.account]
        self._app_account = [
            SourceTemplate(text) for text in (webhook.app and webhook.app.account) or webhook.account
        ]
        self._app_resource = [SourceTemplate(text) for text in webhook.app.choice] if webhook.app else []
        self._occurred = [SourceTemplate(text) for text in webhook.occurred]
        self._triggers = {
            name: [(trigger, Match(rules)) for trigger, rules in event.triggers.items()]
            for name, event in webhook.handled.items()
            if event.triggers
        }
        self._has_secret_in_body = any(
            isinstance(way, TokenVerifier) and way.is_in_body for way in self.schemes
        )
        self.rejection_status = webhook.refused.status if webhook.refused else None
        passes = max((way.hash_passes for way in self.schemes), default=1)
        self.max_body = (MAX_HASHED_BYTES - _MAX_SIGNED_METADATA_BYTES) // passes
        """Bytes of a body that can be verified with the newest secret at least."""

    def request(
        self,
        method: str,
        address: str,
        query_string: bytes,
        headers: Headers,
        body: bytes,
        settings: Mapping[str, str],
    ) -> InboundRequest:
        """A request whose payload is read as the manifest says."""
        return InboundRequest(method, address, query_string, headers, body, settings, self._read)

    def handshake(self, request: InboundRequest) -> Handshake | None:
        """The handshake that this request is, of those that are not signed."""
        return _find_handshake(self._unsigned_handshakes, request) if self._unsigned_handshakes else None

    def verified_handshake(self, request: InboundRequest) -> Handshake | None:
        """The handshake that this request is, now that its signature is known to be right."""
        return _find_handshake(self._signed_handshakes, request) if self._signed_handshakes else None

    def select_scheme(self, request: InboundRequest) -> SchemeVerifier | None:
        """The way in which a request is signed; None when it is not. Raises `Malformed`."""
        return next((way for way in self.schemes if way.applies(request)), None)

    def accepts_secret(self, secret: bytes, *, made_here: bool = False) -> bool:
        """Whether one of the ways could verify with this secret. A public key is never made here."""
        return any(
            way.accepts_secret(secret)
            for way in self.schemes
            if not (made_here and isinstance(way, PublicKeyVerifier))
        )

    def events(self, request: InboundRequest, *, with_accounts: bool = False) -> list[WebhookEvent]:
        """The events of a request, in its order: none for an empty batch. With their owners when asked.

        Raises `Malformed` for a body that cannot be read, or one that lacks what every webhook has;
        `TooLarge` for a batch over its bounds.
        """
        payload = request.payload
        if self._batch:
            return [
                self._webhook_event(
                    request.of(document, element), text, JSON_CONTENT_TYPE, with_accounts=with_accounts
                )
                for text, document, element in self._batch.documents(
                    payload, documents_size_limit(len(request.body))
                )
            ]
        if not isinstance(payload, dict):
            raise Malformed("the body is JSON, but not an object")
        if self._reader or self._bodies.headers or not request.body:
            return [
                self._webhook_event(
                    request, dump_json(payload), JSON_CONTENT_TYPE, with_accounts=with_accounts
                )
            ]
        kind = request.header(b"content-type") or JSON_CONTENT_TYPE
        if self._bodies.decoded or media_type(kind) != JSON_CONTENT_TYPE:
            dump_json(payload)  # whoever asks `json` for it needs it written anew: not later than here
        return [self._webhook_event(request, request.body, kind, with_accounts=with_accounts)]

    def claimed_account(self, request: InboundRequest) -> str:
        """Return the account that a request claims to be of, which nothing has proven yet; '' for none."""
        try:
            if self._batch:
                document, element = self._batch.first(request.payload)
                request = request.of(document, element)
            return _account_value(self._app_account, request)
        except Malformed:
            return ""

    def answer(self, request: InboundRequest) -> Response | None:
        """What the platform wants to hear of accepted events; None when it does not care."""
        found = next((each for each in self._answers if each.matches(request)), None)
        return found.response(request) if found else None

    def redact(self, data: bytes, secrets: Sequence[bytes]) -> bytes:
        """What may go on to others: without the secret, where the platform sends it in the body."""
        return _redact(data, secrets) if self._has_secret_in_body else data

    def redact_rejected(self, request: InboundRequest, secrets: Sequence[bytes], most: int) -> bytes:
        """The beginning of a refused body, without what stands where the platform sends secrets, too.

        It may be the secret of somebody else, sent to the wrong address.
        """
        said: list[str | None] = []
        with suppress(Malformed, TooLarge):
            for way in self.schemes:
                if isinstance(way, TokenVerifier) and way.is_in_body:
                    said += way.presented_tokens(request)
            said += [
                each.extract_secret(request)
                for each in (*self._unsigned_handshakes, *self._signed_handshakes)
            ]
        texts = dict.fromkeys(text for text in said if text and len(text) >= _MIN_SECRET_LENGTH)
        found = [text.encode("utf-8", "replace") for text in islice(texts, _MAX_REDACTED_VALUES)]
        begin = _redact(request.body[: most + _MAX_REDACTED_BYTES], [*secrets, *found])
        if len(request.body) > most + _MAX_REDACTED_BYTES:  # the cut may have gone through one
            begin = begin[:-_MAX_REDACTED_BYTES]
        return begin[:most]

    def json(self, content_type: str, data: bytes) -> bytes:
        """The payload of an event's data, as JSON text. Raises `Malformed`."""
        if media_type(content_type) == JSON_CONTENT_TYPE and not self._bodies.decoded:
            return data
        headers = {b"content-type": [content_type.encode("latin-1", "replace")]}
        return dump_json(self._read(self.request("POST", "", b"", headers, data, {})))

    def _webhook_event(
        self, one: InboundRequest, data: bytes, content_type: str, *, with_accounts: bool
    ) -> WebhookEvent:
        event = self._name(_first_value(self._event, one) or _raise_missing(self._event))
        delivery = _first_value(self._delivery_id, one) or ""
        return WebhookEvent(
            event,
            _printable_id(delivery),
            _printable_id(_first_value(self._account, one) or ""),
            self._occurred_at(one),
            tuple(trigger for trigger, rules in self._triggers.get(event, ()) if rules.holds(one)),
            data,
            content_type,
            AccountRef(_account_value(self._app_account, one), _account_value(self._app_resource, one))
            if with_accounts
            else None,
        )

    def _name(self, said: str) -> str:
        said = self._names.get(said) or said.removeprefix(self._strip)
        said = self._names.get(said) or _INVALID_NAME_CHARACTERS.sub("_", said.replace("/", "."))
        return said[:_MAX_EVENT_LENGTH]

    def _occurred_at(self, one: InboundRequest) -> str:
        for template in self._occurred:
            said = template.text(one)
            moment = parse_timestamp(said) if said else None
            if moment:
                return rfc3339(moment)
        return ""

    def _read(self, request: InboundRequest) -> Any:
        payload = self._value(request)
        if self._bodies.headers and isinstance(payload, dict):
            said = {name: request.header(header.encode()) for name, header in self._bodies.headers.items()}
            payload = {**{name: value for name, value in said.items() if value}, **payload}
        for name, each in self._bodies.decoded.items():
            if isinstance(payload, dict) and name not in payload:
                inner = _parse_embedded(each.path, each.encoding, payload, request.work)
                if inner is not None:
                    payload = {**payload, name: inner}
        return payload

    def _value(self, request: InboundRequest) -> Any:
        if not request.body and self._bodies.empty:
            return {}
        kind = media_type(request.header(b"content-type") or JSON_CONTENT_TYPE)
        if kind == FORM_CONTENT_TYPE and (self._bodies.form or self._bodies.form_field):
            return _form_value(request, self._bodies)
        if self._reader and kind != JSON_CONTENT_TYPE:
            return self._reader(request.body)
        if self._bodies.text and kind != JSON_CONTENT_TYPE and not kind.endswith("+json"):
            return {"text": request.body.decode("utf-8", "replace")}
        return parse_json(request.body)


def _find_handshake(handshakes: Sequence[Handshake], request: InboundRequest) -> Handshake | None:
    return next((each for each in handshakes if each.matches(request)), None)


def _redact(data: bytes, secrets: Sequence[bytes]) -> bytes:
    for secret in secrets:
        for written in _secret_encodings(secret):
            data = data.replace(written, MASK)
    return data


def _secret_encodings(secret: bytes) -> set[bytes]:
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


def _first_value(templates: Sequence[SourceTemplate], request: InboundRequest) -> str | None:
    for template in templates:
        said = template.text(request)
        if said:
            return said
    return None


def _account_value(templates: Sequence[SourceTemplate], request: InboundRequest) -> str:
    """What names an account, as it is; '' for what is so long, or not printable, that it names none."""
    said = _first_value(templates, request) or ""
    return said if len(said) <= MAX_ACCOUNT_LENGTH and said.isprintable() else ""


def _raise_missing(templates: Sequence[SourceTemplate]) -> str:
    wanted = " or ".join(template.source for template in templates)
    raise Malformed(f"the webhook lacks {wanted} (or has it more than once)")


def _printable_id(text: str) -> str:
    """An id as a header can carry it: as it is, or its digest when it is long or has other characters."""
    if len(text) > _MAX_ID_LENGTH or _INVALID_ID_CHARACTERS.search(text):
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return text


def _parse_embedded(path: str, encoding: str, payload: Any, work: WorkCounter) -> Any:
    """A JSON text inside the payload, as a value; None when there is none that can be read."""
    said = compile_path(path)(payload)
    if not isinstance(said, str):
        return None
    raw = said.encode("utf-8", "surrogatepass") if encoding == "json" else decode_bytes(said, "base64")
    work.parsed_bytes += len(raw or b"")
    try:
        return parse_json(raw) if raw else None
    except Malformed:
        return None


def _form_value(request: InboundRequest, bodies: BodyFormat) -> Any:
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
        _set_field(fields, keys, value)
    return fields


def _set_field(fields: dict[str, Any], keys: Sequence[str], value: str) -> None:
    """Set a field; one that is there again becomes a list. Raises `Malformed` for contradictions."""
    if len(keys) > _MAX_DEPTH:
        raise Malformed(f"a field of the form is nested more than {_MAX_DEPTH} deep")
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
