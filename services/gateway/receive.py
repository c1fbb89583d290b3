"""The hot path: a stranger's request becomes an event on Kafka, or a clear refusal.

Bare ASGI on purpose (a framework's route costs more than the whole of the work here): find the
endpoint in memory, read the body under its limits, verify the raw bytes, publish once, wait for the
broker's ack, answer. No database call.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from time import time
from typing import Any, Final, NoReturn

import orjson
from starlette.types import Receive, Scope, Send

from services.gateway.limits import Bucket, Recent
from services.gateway.settings import GatewaySettings
from services.gateway.store import Endpoint, Endpoints, token_digest
from shared.catalog.registry import Provider
from shared.contracts.envelope import JSON, Event, now
from shared.contracts.errors import (
    BusUnavailable,
    Forbidden,
    Malformed,
    NotFound,
    Rejected,
    TooLarge,
    Unauthenticated,
)
from shared.contracts.ids import EventId, event_id_for, message_id_for
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.runtime import metrics
from shared.runtime.deadlines import Deadlines
from shared.runtime.kafka.produce import Producer, record_of
from shared.runtime.logs import Log
from shared.runtime.problems import MEDIA_TYPE, problem
from shared.wire.bodies import inflate, parse_object
from shared.wire.incoming import INCOMING, read_incoming
from shared.wire.signatures import Verdict
from shared.wire.tracing import child_of

PREFIX: Final = "/api/webhooks/"
ACK_WITHIN_S: Final = 1.5
MOST_IN_FLIGHT: Final = 2000

Headers = Mapping[bytes, Sequence[bytes]]

_JSON_HEADER: Final = (b"content-type", b"application/json")
_PROBLEM_HEADER: Final = (b"content-type", MEDIA_TYPE.encode())
_CLOSE: Final = (b"connection", b"close")
_NOT_FOUND: Final = "no such endpoint"
_LONGEST: Final = 200
_EVENT_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-")


class Gone(Rejected):
    """The endpoint is disabled."""

    status = 410
    reason = "disabled"


class TooSlow(Rejected):
    """The body did not arrive in time."""

    status = 408
    reason = "too_slow"


class NotAllowed(Rejected):
    """Not this method."""

    status = 405
    reason = "method"


class TooMany(Rejected):
    """The endpoint's rate limit; `retry_after` is in seconds."""

    status = 429
    reason = "rate_limited"

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many requests for this endpoint")
        self.retry_after = retry_after


class BadSignature(Unauthenticated):
    """The signature is missing, unreadable or wrong."""

    reason = "signature"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the caller is told."""

    status: int
    body: bytes
    outcome: str


class Receiver:
    """The ASGI app of `/api/webhooks/...`."""

    def __init__(self, settings: GatewaySettings, endpoints: Endpoints, producer: Producer, log: Log) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._producer = producer
        self._log = log
        self._recent = Recent(settings.dedupe_window_s)
        self._in_flight = 0
        self._body_deadlines = Deadlines(settings.body_timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every refusal is a problem document and a metric."""
        kind, _, name = scope["path"][len(PREFIX) :].partition("/")
        route = INCOMING if kind == INCOMING else "webhook"
        endpoint = self._find(kind, name)
        headers: list[tuple[bytes, bytes]]
        self._in_flight += 1
        try:
            accepted = await self._accept(endpoint, scope, receive)
            status, body, outcome = accepted.status, accepted.body, accepted.outcome
            headers = [_JSON_HEADER]
        except Rejected as error:
            status, outcome = error.status, error.reason
            body = problem(status, error.detail, errors=error.errors)
            headers = [_PROBLEM_HEADER]
            if isinstance(error, TooMany):
                headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
            if isinstance(error, NotAllowed):
                headers.append((b"allow", b"POST"))
            if status in (408, 413):
                headers.append(_CLOSE)
            # Never the path: in an incoming webhook's it is the token, all that it takes to post.
            where = endpoint.id if endpoint else None
            self._log.info("webhook refused", route=route, endpoint_id=where, status=status, reason=outcome)
        except BusUnavailable:
            status, outcome = 503, "bus_unavailable"
            body = problem(status, "the event bus is not available: send the webhook again")
            headers = [_PROBLEM_HEADER, (b"retry-after", b"2")]
        finally:
            self._in_flight -= 1
        metrics.requests(route, outcome).inc()
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _find(self, kind: str, name: str) -> Endpoint | None:
        if kind == INCOMING:
            return self._endpoints.by_token.get(token_digest(name))
        endpoint = self._endpoints.get(name)
        return endpoint if endpoint and endpoint.provider and endpoint.provider.id == kind else None

    async def _accept(self, endpoint: Endpoint | None, scope: Scope, receive: Receive) -> Accepted:
        if endpoint is None:
            raise NotFound(_NOT_FOUND)
        if scope["method"] != "POST":
            raise NotAllowed("send webhooks with POST")
        if not endpoint.enabled:
            raise Gone("this endpoint is disabled")
        if self._in_flight > MOST_IN_FLIGHT:
            raise BusUnavailable("too many requests wait for Kafka")
        headers = _headers(scope)
        _check_address(endpoint, scope)
        for bucket in (endpoint.accepted, endpoint.rejected):
            _check_rate(bucket)
        raw = await self._read(headers, receive)
        body = inflate(raw, _one(headers, b"content-encoding").lower(), self._settings.max_body_bytes)
        if endpoint.provider is None:
            return await self._incoming(endpoint, headers, body)
        return await self._webhook(endpoint, endpoint.provider, headers, raw, body)

    async def _webhook(
        self, endpoint: Endpoint, provider: Provider, headers: Headers, raw: bytes, body: bytes
    ) -> Accepted:
        self._verify(endpoint, provider, headers, raw, body)
        webhook = provider.manifest.webhook
        assert webhook is not None  # noqa: S101 -- an endpoint's provider has webhooks, routes.py sees to it
        event_name = _token(headers, webhook.event.header, 100)
        delivery = _token(headers, webhook.delivery_id.header, 200)
        content_type = _content_type(headers)
        parse_object(provider.payload(content_type, body))
        event_id = event_id_for(endpoint.id, delivery)
        duplicate = await self._publish(
            endpoint,
            f"{provider.id}.{event_name}",
            event_id,
            body,
            content_type,
            headers,
            provider=provider.id,
            event=event_name,
            delivery_id=delivery,
        )
        answer = b'{"accepted":true,"event_id":"%b"%b}' % (
            event_id.encode(),
            b',"duplicate":true' if duplicate else b"",
        )
        return Accepted(202, answer, "duplicate" if duplicate else "accepted")

    async def _incoming(self, endpoint: Endpoint, headers: Headers, body: bytes) -> Accepted:
        content_type = _content_type(headers)
        read_incoming(content_type, body)
        delivery = _idempotency_key(headers) or secrets.token_hex(16)
        event_id = event_id_for(endpoint.id, delivery)
        duplicate = await self._publish(
            endpoint,
            f"{INCOMING}.message",
            event_id,
            body,
            content_type,
            headers,
            provider=INCOMING,
            event="message",
            delivery_id=delivery,
        )
        answer: dict[str, Any] = {
            "success": True,
            "message_id": message_id_for(event_id),
            "channel_id": endpoint.channel_id,
            "timestamp": now(),
        }
        return Accepted(200, orjson.dumps(answer), "duplicate" if duplicate else "accepted")

    def _verify(
        self, endpoint: Endpoint, provider: Provider, headers: Headers, raw: bytes, body: bytes
    ) -> None:
        """The signature over the body as the platform had it: before, or after, a proxy compressed it."""
        verifier = provider.verifier
        assert verifier is not None  # noqa: S101 -- see _webhook
        keys = endpoint.valid_keys()
        verdict = verifier.verify(headers, body, keys)
        if verdict is Verdict.MISMATCH and raw is not body:
            verdict = verifier.verify(headers, raw, keys)
        if verdict is not Verdict.VERIFIED:
            endpoint.rejected.take()
            metrics.SIGNATURE_FAILURES.labels(provider.id, verdict.value).inc()
            raise BadSignature(f"the signature header {verifier.header.decode()} is {_SAID[verdict]}")

    async def _publish(
        self,
        endpoint: Endpoint,
        kind: str,
        event_id: EventId,
        body: bytes,
        content_type: str,
        headers: Headers,
        **attributes: str,
    ) -> bool:
        """Put the event on Kafka unless it was within the window; True for a duplicate."""
        attributes["endpoint_id"] = endpoint.id
        if endpoint.channel_id:
            attributes["channel_id"] = endpoint.channel_id
        event = Event(
            id=event_id,
            type=kind,
            source=f"/webhooks/{attributes['provider']}/{endpoint.id}",
            workspace=endpoint.workspace,
            time=now(),
            data=body,
            content_type=content_type,
            traceparent=child_of(_one(headers, b"traceparent")),
            attributes=attributes,
        )
        started = time()

        async def put() -> None:
            _check_rate(endpoint.accepted)  # again: others may have taken the last while this body came in
            endpoint.accepted.take()
            await self._producer.publish(
                record_of(WEBHOOKS_RECEIVED, endpoint.id, event), within_s=ACK_WITHIN_S
            )

        first = await self._recent.once(event_id, put)
        self._log.info(
            "webhook accepted" if first else "webhook repeated",
            trace_id=event.trace_id,
            event_id=event_id,
            type=kind,
            endpoint_id=endpoint.id,
            bytes=len(body),
            ms=round((time() - started) * 1000, 1),
        )
        return not first

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        """The body, refused as soon as it is known to be too large or takes too long."""
        limit = self._settings.max_body_bytes
        declared = _one(headers, b"content-length")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
            raise TooLarge(f"the body has more than {limit} bytes")
        try:
            with self._body_deadlines.each():
                message = await receive()
                body: bytes = message.get("body", b"")
                if not message.get("more_body"):
                    if message["type"] == "http.disconnect":
                        _gone()
                    return body if len(body) <= limit else _too_large(limit)
                chunks = [body]
                size = len(body)
                while message.get("more_body"):
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        _gone()
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > limit:
                        _too_large(limit)
                    chunks.append(chunk)
        except TimeoutError:
            raise TooSlow(f"the body did not arrive within {self._settings.body_timeout_s:.0f} s") from None
        return b"".join(chunks)


_SAID: Final = {
    Verdict.MISSING: "missing",
    Verdict.DOUBLED: "there more than once",
    Verdict.UNREADABLE: "not of the expected form",
    Verdict.MISMATCH: "wrong: another secret, or a changed body",
}


def _check_address(endpoint: Endpoint, scope: Scope) -> None:
    """Whether the caller may call this endpoint; `client` is already what a trusted proxy says it is."""
    if not endpoint.networks:
        return
    try:
        address = ip_address(scope["client"][0] if scope.get("client") else "")
    except ValueError:
        raise Forbidden("your address is not known") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped  # as a socket for both versions shows IPv4
    if not any(address.version == network.version and address in network for network in endpoint.networks):
        raise Forbidden("your address is not on this endpoint's list")


def _headers(scope: Scope) -> Headers:
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        if name in headers:
            headers[name].append(value)
        else:
            headers[name] = [value]
    return headers


def _one(headers: Headers, name: bytes) -> str:
    """The first value of a header as printable text, or ''."""
    values = headers.get(name)
    if not values:
        return ""
    return values[0].decode("ascii", "replace").replace("\0", "").strip()


def _content_type(headers: Headers) -> str:
    """It travels in the envelope, where 1024 bytes is the most; JSON when there is none."""
    text = _one(headers, b"content-type") or JSON
    if len(text) > _LONGEST:
        raise Malformed(f"the header content-type has more than {_LONGEST} characters")
    return text


def _idempotency_key(headers: Headers) -> str:
    """The caller's key as it is: two keys that were made equal would lose a message."""
    given = headers.get(b"idempotency-key", (b"",))[0]
    if len(given) > _LONGEST or not given.isascii():
        raise Malformed(f"the header idempotency-key has at most {_LONGEST} ASCII characters")
    return given.decode("ascii")


def _token(headers: Headers, name: str, longest: int) -> str:
    """A required header that goes into ids and types: letters, digits and `_.:-` only."""
    values = headers.get(name.encode())
    if not values or not values[0]:
        raise Malformed(f"the header {name} is missing")
    try:
        text = values[0].decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if len(values) > 1 or not 0 < len(text) <= longest or not _EVENT_CHARACTERS.issuperset(text):
        raise Malformed(f"the header {name} must be one value of at most {longest} letters, digits and _.:-")
    return text


def _check_rate(bucket: Bucket) -> None:
    wait = bucket.wait()
    if wait > 0:
        raise TooMany(wait)


def _too_large(limit: int) -> NoReturn:
    raise TooLarge(f"the body has more than {limit} bytes")


def _gone() -> NoReturn:
    raise Malformed("the connection was closed before the body was complete")
