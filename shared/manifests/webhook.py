"""A manifest's `webhook`, compiled: reads one inbound request. Pure: no clock, no network.

The gateway calls, in this order: `handshake`, `select_scheme` and the scheme's `verify`,
`verified_handshake`, `events`, `answer`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus

import orjson

from shared.contracts.envelope import JSON_CONTENT_TYPE, rfc3339
from shared.contracts.errors import Malformed, TooLarge
from shared.manifests.form_body import fields_value, form_value
from shared.manifests.models import WebhookSpec
from shared.manifests.response_template import Handshake, Response, ResponseTemplate
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
"""A provider's own `read(body)`: returns a body that is neither JSON nor a form as a JSON value."""

MASK: Final = b"***"
"""Replaces a secret in a body."""

MAX_ACCOUNT_LENGTH: Final = 200
"""Characters of an account id in a webhook event."""


_MAX_SIGNED_METADATA_BYTES: Final = 64 * 1024
"""Upper bound of what is signed beside the body: URL and headers together are smaller."""

_MAX_EVENT_LENGTH: Final = 100
_MAX_ID_LENGTH: Final = 200
_INVALID_NAME_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9_.:-]+")
_INVALID_ID_CHARACTERS: Final = re.compile(r"[^\x21-\x7e]")
_MIN_SECRET_LENGTH: Final = 4
_MAX_REDACTED_VALUES: Final = 200
"""Secrets that are looked for in a rejected body: more than fit in its beginning, which is stored."""
_MAX_REDACTED_BYTES: Final = 4096
"""Longest secret that is redacted although it crosses the cut."""


class AccountRef(NamedTuple):
    """Account and resource that an event belongs to, as the provider names them; '' if unknown."""

    account: str
    resource: str


class WebhookEvent(NamedTuple):
    """One event of a request, ready for its topic. `delivery_id` is '' if the request has none.

    `data` is the body as received. It is JSON for one event of a batch, and for bodies that are neither JSON
    nor a form. `account_ref` is set for events at an app webhook only.
    """

    event: str
    delivery_id: str
    account: str
    occurred_at: str
    triggers: tuple[str, ...]
    data: bytes
    content_type: str
    account_ref: AccountRef | None = None


class WebhookDefinition:
    """Verifies, reads and answers the webhooks of one provider."""

    def __init__(self, webhook: WebhookSpec, reader: BodyReader | None = None) -> None:
        """Compile a webhook section. `reader` reads bodies that are neither JSON nor a form."""
        self.methods = frozenset(webhook.methods)
        self.schemes: Sequence[SchemeVerifier] = [scheme.compile() for scheme in webhook.verification]
        handshakes = [Handshake(spec) for spec in webhook.handshakes]
        self._unsigned_handshakes = [handshake for handshake in handshakes if not handshake.verified]
        self._signed_handshakes = [handshake for handshake in handshakes if handshake.verified]
        self._responses = [ResponseTemplate(spec) for spec in webhook.answers]
        self._body_format = webhook.body
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
        self.has_secret_in_body = any(
            isinstance(scheme, TokenVerifier) and scheme.is_in_body for scheme in self.schemes
        )
        """True if the provider sends the secret in the body. Then events have to be redacted."""
        self.rejection_status = webhook.refused.status if webhook.refused else None
        hash_passes = max((scheme.hash_passes for scheme in self.schemes), default=1)
        self.max_body = (MAX_HASHED_BYTES - _MAX_SIGNED_METADATA_BYTES) // hash_passes
        """Bytes of a body that can be verified with at least the newest secret."""

    def request(
        self,
        method: str,
        address: str,
        query_string: bytes,
        headers: Headers,
        body: bytes,
        settings: Mapping[str, str],
    ) -> InboundRequest:
        """Return a request whose payload is read by the manifest's rules."""
        return InboundRequest(method, address, query_string, headers, body, settings, self._read)

    def handshake(self, request: InboundRequest) -> Handshake | None:
        """Return the matching handshake of those that need no signature; None for none."""
        return _find_handshake(self._unsigned_handshakes, request) if self._unsigned_handshakes else None

    def verified_handshake(self, request: InboundRequest) -> Handshake | None:
        """Return the matching handshake of those that need a valid signature; None for none."""
        return _find_handshake(self._signed_handshakes, request) if self._signed_handshakes else None

    def select_scheme(self, request: InboundRequest, secrets: Sequence[bytes] = ()) -> SchemeVerifier | None:
        """Return the scheme that decides about the request; None if it is not signed.

        It is the first that applies to the request, of those that the endpoint's secrets are for; if they are
        for none, the first that applies. Raises `Malformed` if a value that decides about it cannot be read.
        """
        first = None
        for scheme in self.schemes:
            if not scheme.applies(request):
                continue
            # Without a secret in its form, a scheme can verify nothing: its header may be there by chance.
            if not scheme.uses_secrets or any(map(scheme.accepts_secret, secrets)):
                return scheme
            first = first or scheme
        return first

    def accepts_secret(self, secret: bytes, *, generated: bool = False) -> bool:
        """Return whether a scheme can verify with this secret.

        `generated`: the hub generated the secret, so it is not a public key.
        """
        return any(
            scheme.accepts_secret(secret)
            for scheme in self.schemes
            if not (generated and isinstance(scheme, PublicKeyVerifier))
        )

    def events(self, request: InboundRequest, *, with_accounts: bool = False) -> list[WebhookEvent]:
        """Return the events of a request, in order; none for an empty batch.

        `with_accounts` adds each event's `account_ref`. Raises `Malformed` if the body cannot be read or has
        no event name, and `TooLarge` if a batch exceeds its limits.
        """
        payload = request.payload
        if self._batch:
            return [
                self._webhook_event(
                    request.for_event(document, element), text, JSON_CONTENT_TYPE, with_accounts=with_accounts
                )
                for text, document, element in self._batch.documents(
                    payload, documents_size_limit(len(request.body))
                )
            ]
        if not isinstance(payload, dict):
            # Templates and match rules need named fields.
            raise Malformed("the body is JSON, but not an object")
        # The payload is not in the body as it is: the event carries it as JSON.
        if self._reader or self._body_format.headers or not request.body:
            return [
                self._webhook_event(
                    request, dump_json(payload), JSON_CONTENT_TYPE, with_accounts=with_accounts
                )
            ]
        content_type = request.header(b"content-type") or JSON_CONTENT_TYPE
        if self._body_format.decoded or media_type(content_type) != JSON_CONTENT_TYPE:
            dump_json(payload)  # `json` writes it again later: raise now what cannot be written
        return [self._webhook_event(request, request.body, content_type, with_accounts=with_accounts)]

    def claimed_account(self, request: InboundRequest) -> str:
        """Return the account id that an unverified request claims; '' if it has none."""
        try:
            if self._batch:
                document, element = self._batch.first(request.payload)
                request = request.for_event(document, element)
            return _account_value(self._app_account, request)
        except Malformed:
            return ""

    def answer(self, request: InboundRequest) -> Response | None:
        """Return the response to accepted events; None if the manifest does not define one."""
        for template in self._responses:
            if template.matches(request):
                return template.response(request)
        return None

    def redact(self, data: bytes, secrets: Sequence[bytes]) -> bytes:
        """Return data without the secrets, if the provider sends the secret in the body."""
        return _redact(data, secrets) if self.has_secret_in_body else data

    def redact_rejected(self, request: InboundRequest, secrets: Sequence[bytes], max_bytes: int) -> bytes:
        """Return the beginning of a rejected body, with every possible secret redacted.

        Besides `secrets`, the values in the places of secrets are redacted: the request may carry the secret
        of another endpoint. The result has at most `max_bytes` bytes.
        """
        values: list[str | None] = []
        with suppress(Malformed, TooLarge):
            for scheme in self.schemes:
                if isinstance(scheme, TokenVerifier) and scheme.is_in_body:
                    values += scheme.presented_tokens(request)
            values += [
                handshake.extract_secret(request)
                for handshake in (*self._unsigned_handshakes, *self._signed_handshakes)
            ]
        texts = dict.fromkeys(text for text in values if text and len(text) >= _MIN_SECRET_LENGTH)
        presented = [text.encode("utf-8", "replace") for text in islice(texts, _MAX_REDACTED_VALUES)]
        # Redact more than is returned, so that a secret at the cut is recognised.
        beginning = _redact(request.body[: max_bytes + _MAX_REDACTED_BYTES], [*secrets, *presented])
        if len(request.body) > max_bytes + _MAX_REDACTED_BYTES:  # the cut may go through a secret
            beginning = beginning[:-_MAX_REDACTED_BYTES]
        return beginning[:max_bytes]

    def json(self, content_type: str, data: bytes) -> bytes:
        """Return the payload of an event's data as JSON text. Raises `Malformed`."""
        if media_type(content_type) == JSON_CONTENT_TYPE and not self._body_format.decoded:
            return data
        headers = {b"content-type": [content_type.encode("latin-1", "replace")]}
        return dump_json(self._read(self.request("POST", "", b"", headers, data, {})))

    def _webhook_event(
        self, request: InboundRequest, data: bytes, content_type: str, *, with_accounts: bool
    ) -> WebhookEvent:
        event = self._name(_first_value(self._event, request) or _raise_missing(self._event))
        delivery = _first_value(self._delivery_id, request) or ""
        return WebhookEvent(
            event,
            printable_id(delivery),
            printable_id(_first_value(self._account, request) or ""),
            self._occurred_at(request),
            self._fired_triggers(event, request),
            data,
            content_type,
            AccountRef(
                _account_value(self._app_account, request), _account_value(self._app_resource, request)
            )
            if with_accounts
            else None,
        )

    def _fired_triggers(self, event: str, request: InboundRequest) -> tuple[str, ...]:
        triggers = self._triggers.get(event)
        if triggers is None:
            return ()
        return tuple(trigger for trigger, rules in triggers if rules.holds(request))

    def _name(self, name: str) -> str:
        # `names` applies to the provider's spelling first, and then to the name without its prefix.
        name = self._names.get(name) or name.removeprefix(self._strip)
        name = self._names.get(name) or _INVALID_NAME_CHARACTERS.sub("_", name.replace("/", "."))
        return name[:_MAX_EVENT_LENGTH]

    def _occurred_at(self, request: InboundRequest) -> str:
        for template in self._occurred:
            text = template.text(request)
            time = parse_timestamp(text) if text else None
            if time:
                return rfc3339(time)
        return ""

    def _read(self, request: InboundRequest) -> Any:
        payload = self._value(request)
        if self._body_format.headers and isinstance(payload, dict):
            values = {
                name: request.header(header.encode()) for name, header in self._body_format.headers.items()
            }
            payload = {**{name: value for name, value in values.items() if value}, **payload}
        # A field of the payload itself wins over an embedded one of the same name.
        for name, embedded in self._body_format.decoded.items():
            if isinstance(payload, dict) and name not in payload:
                value = _parse_embedded(embedded.path, embedded.encoding, payload, request.work)
                if value is not None:
                    payload = {**payload, name: value}
        return payload

    def _value(self, request: InboundRequest) -> Any:
        if not request.body and self._body_format.query and request.method == "GET":
            return fields_value(request.query, self._body_format)
        if not request.body and self._body_format.empty:
            return {}
        content_type = media_type(request.header(b"content-type") or JSON_CONTENT_TYPE)
        if content_type == FORM_CONTENT_TYPE and (self._body_format.form or self._body_format.form_field):
            return form_value(request, self._body_format)
        # JSON is always parsed here, even for a provider with a reader.
        if self._reader and content_type != JSON_CONTENT_TYPE:
            return self._reader(request.body)
        if (
            self._body_format.text
            and content_type != JSON_CONTENT_TYPE
            and not content_type.endswith("+json")
        ):
            return {"text": request.body.decode("utf-8", "replace")}
        return parse_json(request.body)


def _find_handshake(handshakes: Sequence[Handshake], request: InboundRequest) -> Handshake | None:
    return next((handshake for handshake in handshakes if handshake.matches(request)), None)


def _redact(data: bytes, secrets: Sequence[bytes]) -> bytes:
    for secret in secrets:
        for encoding in _secret_encodings(secret):
            data = data.replace(encoding, MASK)
    return data


def _secret_encodings(secret: bytes) -> set[bytes]:
    """Return the spellings that a secret can have in a body."""
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
        value = template.text(request)
        if value:
            return value
    return None


def _account_value(templates: Sequence[SourceTemplate], request: InboundRequest) -> str:
    """Return an account id as the provider writes it; '' if it is too long or not printable."""
    value = _first_value(templates, request) or ""
    return value if len(value) <= MAX_ACCOUNT_LENGTH and value.isprintable() else ""


def _raise_missing(templates: Sequence[SourceTemplate]) -> str:
    sources = " or ".join(template.source for template in templates)
    raise Malformed(f"the webhook has no {sources}, or has it more than once")


def printable_id(text: str) -> str:
    """Return an id that fits in a header: unchanged, or its digest if it is long or has other characters."""
    if len(text) > _MAX_ID_LENGTH or _INVALID_ID_CHARACTERS.search(text):
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return text


def _parse_embedded(path: str, encoding: str, payload: Any, work: WorkCounter) -> Any:
    """Return a JSON text inside the payload as a value; None if it is missing or not valid."""
    text = compile_path(path)(payload)
    if not isinstance(text, str):
        return None
    raw = text.encode("utf-8", "surrogatepass") if encoding == "json" else decode_bytes(text, "base64")
    work.parsed_bytes += len(raw or b"")
    try:
        return parse_json(raw) if raw else None
    except Malformed:
        return None
