"""The hot path: a stranger's request becomes events on Kafka, or a clear refusal.

Bare ASGI on purpose (a framework's route costs more than the whole of the work here): find the
endpoint in memory, read the body under its limits, shake hands or verify the raw bytes, publish, wait
for the broker's ack, answer. All requests that wait share one read of the configuration's version. No
other database call, but for a handshake that hands over a secret, and at the
address of an app for whose account it is.
"""

import hmac
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Final

import orjson
from starlette.types import Message, Receive, Scope, Send

from services.gateway.ingest.app_webhooks import (
    PREFIX,
    AppSecret,
    AppWebhookTarget,
    alias_provider,
    missing_target_detail,
)
from services.gateway.ingest.body import (
    BodyReader,
    Headers,
    check_address,
    client_address,
    content_type,
    first_header,
    headers_of,
    idempotency_key,
)
from services.gateway.ingest.connected_accounts import ConnectedAccounts
from services.gateway.ingest.diagnostics import SignatureFailure
from services.gateway.ingest.endpoints import (
    REJECTED_PER_MINUTE,
    InboundEndpoint,
    InboundEndpoints,
    token_digest,
)
from services.gateway.ingest.executions import MAX_STORED_BODY_BYTES, Execution, ExecutionEvent, Executions
from services.gateway.ingest.public_keys import CALLER, KeysUnavailable
from services.gateway.ingest.rate_limit import RecentDeliveries, TokenBucket, TokenBuckets
from services.gateway.ingest.verify import BadSignature, NoSecretYet, Verifier, hashed_bytes
from services.gateway.settings import GatewaySettings
from shared.contracts.envelope import Event, now
from shared.contracts.errors import BrokerUnavailable, Conflict, Malformed, NotFound, Rejected, RetryLater
from shared.contracts.ids import EventId, event_id_for, message_id_for, new_event_id
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.manifests.response_template import Handshake, Response
from shared.manifests.webhook import WebhookDefinition, WebhookEvent
from shared.runtime import metrics
from shared.runtime.configuration import Configuration
from shared.runtime.kafka.producer import Producer, Record, RecordPosition, event_record
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow
from shared.runtime.web.problems import MEDIA_TYPE, SANDBOX_HEADERS, problem
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult
from shared.webhooks.incoming import INCOMING_PROVIDER, MASS_MENTIONS_ATTRIBUTE, parse_incoming_message
from shared.wire.bodies import inflate
from shared.wire.tracing import child_traceparent

ACK_TIMEOUT_S: Final = 1.5
_ACK_AFTER_WAIT_TIMEOUT_S: Final = 0.9
"""While MongoDB is away: a request may have waited a second for it, and is answered within two."""
APP_REQUEST_TIMEOUT_S: Final = 1.9
"""For whose account it is and the ack together, at the address of an app."""
MAX_IN_FLIGHT: Final = 2000

_JSON_HEADER: Final = (b"content-type", b"application/json")
_PROBLEM_HEADER: Final = (b"content-type", MEDIA_TYPE.encode())
_CLOSE_HEADER: Final = (b"connection", b"close")
_SAFE_RESPONSE_HEADERS: Final = tuple(
    (name.lower().encode(), text.encode()) for name, text in SANDBOX_HEADERS.items()
)
"""On every answer: what a caller, a platform or an endpoint's owner wrote runs in no browser."""
_NOT_FOUND: Final = "no such endpoint"
_MAX_SECRET_LENGTH: Final = 500
_MIN_SECRET_LENGTH: Final = 8
_BYTES_PER_TOKEN: Final = 1024 * 1024
"""Bytes hashed in vain that count as one refused request. Only the work counts: a platform sends what is of
somebody else's app from the same addresses, and few small ones of those must not keep ours out."""
_ACCEPTED_BODY: Final = b'{"accepted":true}'
_READ_METHODS: Final = ("GET", "HEAD")
_RETRY_AFTER_S: Final = {
    "bus_unavailable": b"2",
    "no_secret": b"60",
    "keys_unavailable": b"30",
    "source_refused": b"300",
    "unavailable": b"5",
}


class Gone(Rejected):
    """The endpoint is disabled."""

    status = 410
    reason = "disabled"


class SourceRefused(RetryLater):
    """The owner's description of the sender is over the bounds: the owner has to change it first."""


class MethodNotAllowed(Rejected):
    """Not this method."""

    status = 405
    reason = "method"

    def __init__(self, methods: Sequence[str]) -> None:
        super().__init__(f"send webhooks with {' or '.join(methods)}")
        self.methods = methods


class TooManyRequests(Rejected):
    """The endpoint's rate limit; `retry_after` is in seconds."""

    status = 429
    reason = "rate_limited"

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many requests for this endpoint")
        self.retry_after = retry_after


@dataclass(slots=True)
class RequestContext:
    """What is known of one request so far: for its answer and its execution."""

    started: float
    test: bool = False
    headers: Headers = field(default_factory=dict)
    body: bytes = b""
    request: InboundRequest | None = None
    verdict: VerificationResult | None = None
    signature_failure: SignatureFailure | None = None
    to: Sequence[InboundEndpoint] = ()
    """Where each that arrived came to."""
    arrived: Sequence[WebhookEvent] = ()
    event_ids: Sequence[EventId] = ()
    places: dict[int, RecordPosition] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What the caller is told, and the outcome in metrics and executions."""

    reply: Response
    outcome: str
    detail: str = ""
    """Why it was refused after all."""


class Receiver:
    """The ASGI app of `/api/webhooks/...` and `/integrations/{provider}/webhook`."""

    def __init__(
        self,
        settings: GatewaySettings,
        configuration: Configuration,
        endpoints: InboundEndpoints,
        addresses: Mapping[str, AppWebhookTarget],
        accounts: ConnectedAccounts,
        verifier: Verifier,
        executions: Executions,
        producer: Producer,
        log: Log,
    ) -> None:
        """`addresses` are those of whole apps, by provider."""
        self._max_body_bytes = settings.max_body_bytes
        self._window_s = settings.dedupe_window_s
        self._configuration = configuration
        self._endpoints = endpoints
        self._addresses = addresses
        self._accounts = accounts
        self._callers = TokenBuckets(REJECTED_PER_MINUTE)
        self._verifier = verifier
        self._executions = executions
        self._producer = producer
        self._log = log
        self._recent = RecentDeliveries()
        self._in_flight = 0
        self._body_reader = BodyReader(settings.body_timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every refusal is a problem document and a metric."""
        await self._configuration.current()
        kind, has_name, name = scope["path"][len(PREFIX) :].partition("/")
        if has_name:
            endpoint = self._find(kind, name)
            reply = await self.receive(
                endpoint, INCOMING_PROVIDER if kind == INCOMING_PROVIDER else "webhook", scope, receive
            )
        else:
            reply = await self._receive_for_app(kind, scope, receive)
        for message in _asgi_messages(reply, scope["method"]):
            await send(message)

    async def alias(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same at the other address of an app."""
        await self._configuration.current()
        reply = await self._receive_for_app(alias_provider(scope["path"]), scope, receive)
        for message in _asgi_messages(reply, scope["method"]):
            await send(message)

    async def receive(
        self,
        endpoint: InboundEndpoint | None,
        route: str,
        scope: Scope,
        receive: Receive,
        *,
        test: bool = False,
    ) -> Response:
        """Take one request in. `test` marks one that the hub makes itself, to try the endpoint."""
        course = RequestContext(perf_counter(), test)
        self._in_flight += 1
        try:
            told = await self._accept(endpoint, course, scope, receive)
        except (Rejected, RetryLater) as error:
            door, where = (endpoint.definition, endpoint.id) if endpoint else (None, None)
            told = self._refuse(error, route, door, where)
        finally:
            self._in_flight -= 1
        metrics.requests(route, told.outcome).inc()
        if endpoint:
            self._record_execution(endpoint, course, told)
        return told.reply

    async def _receive_for_app(self, name: str, scope: Scope, receive: Receive) -> Response:
        """Take one request in at the address of a provider's apps.

        It is in the executions of each account that it is for, once it is accepted: before, nobody knows
        whose it is.
        """
        place = self._addresses.get(name)
        course = RequestContext(perf_counter())
        self._in_flight += 1
        try:
            if place is None:
                raise NotFound(missing_target_detail(name) or _NOT_FOUND)
            told = await self._accept_for_app(place, course, scope, receive)
        except (Rejected, RetryLater) as error:
            door, where = (place.definition, name) if place else (None, None)
            told = self._refuse(error, "app", door, where)
        finally:
            self._in_flight -= 1
        metrics.requests("app", told.outcome).inc()
        for endpoint, positions in _positions_by_endpoint(course.to):
            self._record_execution(endpoint, _context_for_endpoint(course, positions), told)
        return told.reply

    def _refuse(
        self,
        error: Rejected | RetryLater,
        route: str,
        definition: WebhookDefinition | None,
        where: str | None,
    ) -> RequestOutcome:
        if isinstance(error, RetryLater):
            outcome, detail = _retryable_response(error)
            headers = (_PROBLEM_HEADER, (b"retry-after", _RETRY_AFTER_S[outcome]))
            return RequestOutcome(Response(503, headers, problem(503, detail)), outcome, detail)
        # Never the path: in an incoming webhook's it is the token, all that it takes to post.
        self._log.info(
            "webhook refused", route=route, endpoint_id=where, status=error.status, reason=error.reason
        )
        return RequestOutcome(_rejection_response(definition, error), error.reason, error.detail)

    def _find(self, kind: str, name: str) -> InboundEndpoint | None:
        if kind == INCOMING_PROVIDER:
            return self._endpoints.by_token.get(token_digest(name))
        endpoint = self._endpoints.get(name)
        return endpoint if endpoint and endpoint.provider and endpoint.provider.id == kind else None

    async def _accept(
        self, endpoint: InboundEndpoint | None, course: RequestContext, scope: Scope, receive: Receive
    ) -> RequestOutcome:
        if endpoint is None:
            raise NotFound(_NOT_FOUND)
        door = endpoint.definition
        if endpoint.fault and endpoint.enabled:
            raise SourceRefused(
                "this endpoint's description of its sender cannot be used: its owner is told why"
            )
        if door is None and scope["method"] != "POST":
            raise MethodNotAllowed(("POST",))
        if not endpoint.enabled:
            raise Gone("this endpoint is disabled")
        if self._in_flight > MAX_IN_FLIGHT:
            raise BrokerUnavailable("too many requests wait for Kafka")
        course.headers = headers_of(scope)
        check_address(endpoint.networks, scope)
        # Of each caller: whoever knows the address can send what is rejected, and must not keep others out.
        rejected = self._callers.of(f"{endpoint.id} {client_address(scope)}")
        for bucket in (endpoint.accepted, rejected):
            _check_rate(bucket)
        try:
            return await self._read(endpoint, course, scope, receive, rejected)
        except Rejected as error:
            if course.verdict is not VerificationResult.VERIFIED and not isinstance(error, TooManyRequests):
                rejected.take()
            raise

    async def _read(
        self,
        endpoint: InboundEndpoint,
        course: RequestContext,
        scope: Scope,
        receive: Receive,
        rejected: TokenBucket,
    ) -> RequestOutcome:
        """Read the body and take the request in. `rejected` is the caller's room for rejections here."""
        headers, door = course.headers, endpoint.definition
        limit = min(endpoint.body_limit or self._max_body_bytes, self._max_body_bytes)
        if door:
            limit = min(limit, door.max_body)
        raw = await self._body_reader.read(headers, receive, limit)
        body = course.body = inflate(raw, first_header(headers, b"content-encoding").lower(), limit)
        if door is None:
            return await self._accept_incoming(endpoint, course)
        request = door.request(
            scope["method"],
            endpoint.address,
            scope["query_string"],
            headers,
            body,
            endpoint.settings,
        )
        course.request = request
        CALLER.set(client_address(scope))
        return await self._accept_webhook(endpoint, door, course, request, raw, rejected)

    async def _accept_webhook(
        self,
        endpoint: InboundEndpoint,
        definition: WebhookDefinition,
        course: RequestContext,
        request: InboundRequest,
        raw: bytes,
        rejected: TokenBucket,
    ) -> RequestOutcome:
        handshake = definition.handshake(request)
        if handshake:
            rejected.take()  # they are cheap to send, and few
            return RequestOutcome(await self._answer_handshake(endpoint, handshake, request), "handshake")
        if request.method not in definition.methods:
            raise MethodNotAllowed(sorted(definition.methods))
        try:
            with _charge_work(rejected, hashed_bytes(request, raw) * max(1, len(endpoint.valid_keys()))):
                course.verdict = await self._verifier.verify(endpoint, definition, request, raw)
        except BadSignature as error:
            course.verdict, course.signature_failure = (
                error.verdict,
                SignatureFailure(error.verdict, error.way, request),
            )
            metrics.SIGNATURE_FAILURES.labels(_provider_id(endpoint), error.verdict.value).inc()
            raise
        handshake = definition.verified_handshake(request)
        if handshake:
            return RequestOutcome(await self._answer_handshake(endpoint, handshake, request), "handshake")
        arrived = definition.events(request)
        to = [endpoint] * len(arrived)
        fresh = await self._publish(to, course, arrived, self._ack_timeout_s) if arrived else []
        duplicate = bool(arrived) and not fresh
        reply = definition.answer(request) or Response(
            202, (_JSON_HEADER,), _accepted_body(course.event_ids, duplicate=duplicate)
        )
        return RequestOutcome(reply, "duplicate" if duplicate else "accepted")

    async def _accept_for_app(
        self, place: AppWebhookTarget, course: RequestContext, scope: Scope, receive: Receive
    ) -> RequestOutcome:
        door = place.definition
        if self._in_flight > MAX_IN_FLIGHT:
            raise BrokerUnavailable("too many requests wait for Kafka")
        headers = course.headers = headers_of(scope)
        # Of each caller: everybody knows this address, so what one refuses himself must not keep others out.
        refused = self._callers.of(f"{place.provider.id} {client_address(scope)}")
        _check_rate(refused)
        limit = min(self._max_body_bytes, door.max_body)
        raw = await self._body_reader.read(headers, receive, limit)
        body = course.body = inflate(raw, first_header(headers, b"content-encoding").lower(), limit)
        request = door.request(
            scope["method"],
            place.address(scope["path"]),
            scope["query_string"],
            headers,
            body,
            place.settings,
        )
        handshake = door.handshake(request)
        if handshake:
            refused.take()
            return RequestOutcome(place.answer_handshake(handshake, request), "handshake")
        if request.method in _READ_METHODS:
            refused.take()
            return RequestOutcome(Response(200, (_JSON_HEADER,), orjson.dumps(place.setup())), "setup")
        if request.method not in door.methods:
            raise MethodNotAllowed(sorted(door.methods))
        CALLER.set(client_address(scope))
        try:
            with _charge_work(refused, hashed_bytes(request, raw) * max(1, len(place.secrets))):
                app = await self._verifier.verify_app(place.secrets, door, request, raw)
        except BadSignature as error:
            metrics.SIGNATURE_FAILURES.labels(place.provider.id, error.verdict.value).inc()
            raise
        course.verdict = VerificationResult.VERIFIED
        handshake = door.verified_handshake(request)
        if handshake:
            return RequestOutcome(handshake.response(request), "handshake")
        outcome = await self._publish_to_accounts(
            place, app, course, door.events(request, with_accounts=True)
        )
        return RequestOutcome(door.answer(request) or Response(202, (_JSON_HEADER,), _ACCEPTED_BODY), outcome)

    async def _publish_to_accounts(
        self, place: AppWebhookTarget, app: AppSecret, course: RequestContext, arrived: Sequence[WebhookEvent]
    ) -> str:
        """Put each event on Kafka for every workspace that has connected its account; the outcome.

        What is told to the caller is the same, whoever has connected what.
        """
        began = perf_counter()
        owners = {each.account_ref for each in arrived if each.account_ref}
        connected = await self._accounts.of(place.provider.id, app, owners)
        made: dict[str, InboundEndpoint] = {}
        to: list[InboundEndpoint] = []
        sent: list[WebhookEvent] = []
        for each in arrived:
            found = connected.get(each.account_ref, ()) if each.account_ref else ()
            if not found:
                metrics.UNCONNECTED.labels(place.provider.id).inc()
            for one_of_them in found:
                if one_of_them.id not in made:
                    made[one_of_them.id] = self._accounts.endpoint(place, app, one_of_them)
                to.append(made[one_of_them.id])
                sent.append(each)
        if not sent:
            return "unconnected" if arrived else "accepted"
        # In steps: each length of a wait has a line of its own in the producer, for good.
        within_s = min(
            self._ack_timeout_s, max(0.1, round(APP_REQUEST_TIMEOUT_S - (perf_counter() - began), 1))
        )
        return "accepted" if await self._publish(to, course, sent, within_s) else "duplicate"

    async def _answer_handshake(
        self, endpoint: InboundEndpoint, handshake: Handshake, request: InboundRequest
    ) -> Response:
        """Answer a handshake; one that hands over a secret counts only while the endpoint waits for it."""
        reply = handshake.response(request)
        if not handshake.awaits_secret:
            return reply
        secret = handshake.extract_secret(request)
        if (
            secret is None
            or not (_MIN_SECRET_LENGTH <= len(secret) <= _MAX_SECRET_LENGTH)
            or not secret.isascii()
        ):
            raise Malformed("the handshake hands over no secret that can be kept")
        if any(hmac.compare_digest(secret.encode(), key) for key in endpoint.valid_keys()):
            return reply  # the platform did not hear the answer to the first
        if endpoint.keys or not await self._endpoints.store_handshake_secret(endpoint.id, secret):
            raise Conflict("this endpoint has its secret already: make another endpoint for another webhook")
        self._log.info("handshake took the secret", endpoint_id=endpoint.id)
        return reply

    async def _accept_incoming(self, endpoint: InboundEndpoint, course: RequestContext) -> RequestOutcome:
        kind = content_type(course.headers)
        parse_incoming_message(kind, course.body, mass_mentions=endpoint.mass_mentions)
        delivery = idempotency_key(course.headers) or secrets.token_hex(16)
        arrived = [WebhookEvent("message", delivery, "", "", (), course.body, kind)]
        fresh = await self._publish([endpoint], course, arrived, self._ack_timeout_s)
        answer: dict[str, Any] = {
            "success": True,
            "message_id": message_id_for(course.event_ids[0]),
            "channel_id": endpoint.channel_id,
            "timestamp": now(),
        }
        reply = Response(200, (_JSON_HEADER,), orjson.dumps(answer))
        return RequestOutcome(reply, "accepted" if fresh else "duplicate")

    @property
    def _ack_timeout_s(self) -> float:
        return _ACK_AFTER_WAIT_TIMEOUT_S if self._configuration.is_stale else ACK_TIMEOUT_S

    async def _publish(
        self,
        to: Sequence[InboundEndpoint],
        course: RequestContext,
        arrived: Sequence[WebhookEvent],
        timeout_s: float,
    ) -> list[int]:
        """Put the events on Kafka, each to its endpoint, that were not within the window; their positions."""
        content_type(course.headers)  # too long a type fits no header
        ids = [
            event_id_for(endpoint.id, each.delivery_id)
            if each.delivery_id and not course.test
            else new_event_id()
            for endpoint, each in zip(to, arrived, strict=True)
        ]
        course.to, course.arrived, course.event_ids = to, arrived, ids
        traceparent = child_traceparent(first_header(course.headers, b"traceparent"))

        async def put(fresh: Sequence[int]) -> None:
            for endpoint in _unique_endpoints(to):
                _check_rate(endpoint.accepted)  # again: others may have taken the last while this came in
            records: list[Record] = []
            for position in fresh:
                endpoint = to[position]
                endpoint.accepted.take()
                event = _event(endpoint, arrived[position], ids[position], traceparent, test=course.test)
                records.append(event_record(WEBHOOKS_RECEIVED, endpoint.id, event))
            if len(records) == 1:
                course.places[fresh[0]] = await self._producer.publish(records[0], timeout_s=timeout_s)
                return
            places = await self._producer.publish_all(records, timeout_s=timeout_s)
            course.places.update(zip(fresh, places, strict=True))

        first = to[0]
        window = self._window_s if first.dedupe_window_s is None else first.dedupe_window_s
        fresh = await self._recent.publish_once(ids, put, window_s=window)
        self._log.info(
            "webhook accepted" if fresh else "webhook repeated",
            trace_id=traceparent[3:35],
            event_id=ids[0],
            events=len(ids),
            type=f"{_provider_id(first)}.{arrived[0].event}",
            endpoint_id=first.id,
            bytes=len(course.body),
            ms=round((perf_counter() - course.started) * 1000, 1),
        )
        return fresh

    def _record_execution(
        self, endpoint: InboundEndpoint, course: RequestContext, told: RequestOutcome
    ) -> None:
        refused = bool(told.detail)
        proven = course.verdict is VerificationResult.VERIFIED or endpoint.provider is None
        arrived = len(course.arrived)
        if not self._executions.count(endpoint, told.outcome, arrived, refused=refused, proven=proven):
            return
        self._executions.keep(
            Execution(
                endpoint,
                utcnow(),
                told.outcome,
                told.reply.status,
                refused,
                perf_counter() - course.started,
                len(course.body),
                course.verdict,
                told.detail,
                [
                    ExecutionEvent(
                        each.event, each.delivery_id, each.triggers, each.account, each.occurred_at
                    )
                    for each in course.arrived
                ],
                course.event_ids,
                course.places,
                _rejected_body(endpoint, course) if refused else b"",
                first_header(course.headers, b"content-type")[:200] if refused else "",
                course.signature_failure,
                course.test,
            )
        )


def _asgi_messages(reply: Response, method: str) -> tuple[Message, Message]:
    headers = [*reply.headers, *_SAFE_RESPONSE_HEADERS, (b"content-length", str(len(reply.body)).encode())]
    return (
        {"type": "http.response.start", "status": reply.status, "headers": headers},
        {"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body},
    )


def _unique_endpoints(to: Sequence[InboundEndpoint]) -> Iterable[InboundEndpoint]:
    """Every endpoint once."""
    return to if len(to) == 1 else {each.id: each for each in to}.values()


def _positions_by_endpoint(to: Sequence[InboundEndpoint]) -> Iterable[tuple[InboundEndpoint, Sequence[int]]]:
    """Every endpoint once, with where it stands."""
    found: dict[str, tuple[InboundEndpoint, list[int]]] = {}
    for position, each in enumerate(to):
        found.setdefault(each.id, (each, []))[1].append(position)
    return found.values()


def _context_for_endpoint(course: RequestContext, own: Sequence[int]) -> RequestContext:
    """What is of one endpoint in a request that was for several: nothing in it is of the others."""
    arrived = [course.arrived[position] for position in own]
    return replace(
        course,
        body=b"".join(each.data for each in arrived),
        arrived=arrived,
        event_ids=[course.event_ids[position] for position in own],
        places={
            number: course.places[position]
            for number, position in enumerate(own)
            if position in course.places
        },
    )


def _rejection_response(definition: WebhookDefinition | None, error: Rejected) -> Response:
    status = error.status
    if isinstance(error, BadSignature) and definition and definition.rejection_status:
        status = definition.rejection_status
        if status < 300:
            return Response(status)
    headers = [_PROBLEM_HEADER]
    if isinstance(error, TooManyRequests):
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.methods).encode()))
    if status in (408, 413):
        headers.append(_CLOSE_HEADER)
    return Response(status, tuple(headers), problem(status, error.detail, errors=error.errors))


def _redacted_data(endpoint: InboundEndpoint, data: bytes) -> bytes:
    """What may go on to others."""
    return endpoint.definition.redact(data, endpoint.valid_keys()) if endpoint.definition else data


def _rejected_body(endpoint: InboundEndpoint, course: RequestContext) -> bytes:
    """What may be kept of it."""
    if endpoint.definition is None:
        return course.body[:MAX_STORED_BODY_BYTES]
    request = course.request or endpoint.definition.request(
        "POST", "", b"", course.headers, course.body, endpoint.settings
    )
    return endpoint.definition.redact_rejected(request, endpoint.valid_keys(), MAX_STORED_BODY_BYTES)


def _provider_id(endpoint: InboundEndpoint) -> str:
    return endpoint.provider.id if endpoint.provider else INCOMING_PROVIDER


def _event(
    endpoint: InboundEndpoint, arrived: WebhookEvent, event_id: EventId, traceparent: str, *, test: bool
) -> Event:
    provider = _provider_id(endpoint)
    attributes = {
        "provider": provider,
        "event": arrived.event,
        "delivery_id": arrived.delivery_id or event_id,
        "endpoint_id": endpoint.id,
    }
    if endpoint.channel_id and arrived.event in endpoint.shown:
        attributes["channel_id"] = endpoint.channel_id
    if arrived.account:
        attributes["account"] = arrived.account
    if arrived.occurred_at:
        attributes["occurred_at"] = arrived.occurred_at
    if endpoint.mass_mentions:
        attributes[MASS_MENTIONS_ATTRIBUTE] = "true"
    if test:
        attributes["test"] = "true"
    if arrived.triggers:
        attributes["triggers"] = ",".join(arrived.triggers)
    return Event(
        id=event_id,
        type=f"{provider}.{arrived.event}",
        source=f"/webhooks/{provider}/{endpoint.id}",
        workspace=endpoint.workspace,
        time=now(),
        data=_redacted_data(endpoint, arrived.data),
        content_type=arrived.content_type,
        traceparent=traceparent,
        attributes=attributes,
    )


def _accepted_body(ids: Sequence[EventId], *, duplicate: bool) -> bytes:
    """The answer where the platform does not ask for another: what it became."""
    if len(ids) == 1:
        return b'{"accepted":true,"event_id":"%b"%b}' % (
            ids[0].encode(),
            b',"duplicate":true' if duplicate else b"",
        )
    said: dict[str, Any] = {"accepted": True, "events": len(ids), "event_ids": list(ids)}
    return orjson.dumps({**said, "duplicate": True} if duplicate else said)


def _retryable_response(error: RetryLater) -> tuple[str, str]:
    """The outcome of a request that has to come again, and what is told."""
    if isinstance(error, SourceRefused):
        return "source_refused", str(error)
    if isinstance(error, NoSecretYet):
        return "no_secret", str(error)
    if isinstance(error, KeysUnavailable):
        return "keys_unavailable", f"{error}: send the webhook again"
    if isinstance(error, BrokerUnavailable):
        return "bus_unavailable", "the event bus is not available: send the webhook again"
    return "unavailable", f"{error}: send the webhook again"


@contextmanager
def _charge_work(bucket: TokenBucket, work: int) -> Iterator[None]:
    """Charge a caller for bytes that are hashed for him; given back unless it was in vain.

    Charged before it is done: who sends many at once has them all refused, not all tried. Raises
    `TooManyRequests`.
    """
    _check_rate(bucket)
    bucket.take(work / _BYTES_PER_TOKEN)
    in_vain = False
    try:
        yield
    except Rejected:
        in_vain = True
        raise
    finally:
        if not in_vain:  # a key server that is away is not the caller's fault either
            bucket.take(-work / _BYTES_PER_TOKEN)


def _check_rate(bucket: TokenBucket) -> None:
    wait = bucket.wait()
    if wait > 0:
        raise TooManyRequests(wait)
