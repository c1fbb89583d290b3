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

from services.gateway.connected import Accounts
from services.gateway.diagnose import Refusal
from services.gateway.executions import MOST_BODY, Execution, Executions, Seen
from services.gateway.keys import CALLER, KeysUnavailable
from services.gateway.limits import Bucket, Buckets, Recent
from services.gateway.read import (
    BodyReader,
    Headers,
    caller,
    check_address,
    content_type,
    headers_of,
    idempotency_key,
    one,
)
from services.gateway.registered import PREFIX, AppAddress, AppSecret, aliased, no_address
from services.gateway.settings import GatewaySettings
from services.gateway.store import REJECTED_PER_MINUTE, Endpoint, Endpoints, token_digest
from services.gateway.verify import BadSignature, NoSecretYet, Verifier, work_of
from shared.catalog.door import Agreed, Arrived, Door, Reply
from shared.contracts.envelope import Event, now
from shared.contracts.errors import BusUnavailable, Conflict, Malformed, NotFound, Rejected, RetryLater
from shared.contracts.ids import EventId, event_id_for, message_id_for, new_event_id
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.runtime import metrics
from shared.runtime.configuration import Configuration
from shared.runtime.kafka.produce import Place, Producer, Record, record_of
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow
from shared.runtime.problems import MEDIA_TYPE, NEVER_A_PAGE, problem
from shared.wire.bodies import inflate
from shared.wire.incoming import INCOMING, MASS_MENTIONS, read_incoming
from shared.wire.requests import Request
from shared.wire.tracing import child_of
from shared.wire.verification import Verdict

ACK_WITHIN_S: Final = 1.5
_ACK_AFTER_WAIT_S: Final = 0.9
"""While MongoDB is away: a request may have waited a second for it, and is answered within two."""
APP_WITHIN_S: Final = 1.9
"""For whose account it is and the ack together, at the address of an app."""
MOST_IN_FLIGHT: Final = 2000

_JSON_HEADER: Final = (b"content-type", b"application/json")
_PROBLEM_HEADER: Final = (b"content-type", MEDIA_TYPE.encode())
_CLOSE: Final = (b"connection", b"close")
_NEVER_A_PAGE: Final = tuple((name.lower().encode(), text.encode()) for name, text in NEVER_A_PAGE.items())
"""On every answer: what a caller, a platform or an endpoint's owner wrote runs in no browser."""
_NOT_FOUND: Final = "no such endpoint"
_LONGEST_SECRET: Final = 500
_SHORTEST_SECRET: Final = 8
_A_TOKEN: Final = 1024 * 1024
"""Bytes hashed in vain that count as one refused request. Only the work counts: a platform sends what is of
somebody else's app from the same addresses, and few small ones of those must not keep ours out."""
_ACCEPTED: Final = b'{"accepted":true}'
_LOOKS: Final = ("GET", "HEAD")
_RETRY_S: Final = {
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


class NotAllowed(Rejected):
    """Not this method."""

    status = 405
    reason = "method"

    def __init__(self, methods: Sequence[str]) -> None:
        super().__init__(f"send webhooks with {' or '.join(methods)}")
        self.methods = methods


class TooMany(Rejected):
    """The endpoint's rate limit; `retry_after` is in seconds."""

    status = 429
    reason = "rate_limited"

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many requests for this endpoint")
        self.retry_after = retry_after


@dataclass(slots=True)
class _Course:
    """What is known of one request so far: for its answer and its execution."""

    started: float
    test: bool = False
    headers: Headers = field(default_factory=dict)
    body: bytes = b""
    request: Request | None = None
    verdict: Verdict | None = None
    refusal: Refusal | None = None
    to: Sequence[Endpoint] = ()
    """Where each that arrived came to."""
    arrived: Sequence[Arrived] = ()
    event_ids: Sequence[EventId] = ()
    places: dict[int, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the caller is told, and the outcome in metrics and executions."""

    reply: Reply
    outcome: str
    detail: str = ""
    """Why it was refused after all."""


class Receiver:
    """The ASGI app of `/api/webhooks/...` and `/integrations/{provider}/webhook`."""

    def __init__(
        self,
        settings: GatewaySettings,
        configuration: Configuration,
        endpoints: Endpoints,
        addresses: Mapping[str, AppAddress],
        accounts: Accounts,
        verifier: Verifier,
        executions: Executions,
        producer: Producer,
        log: Log,
    ) -> None:
        """`addresses` are those of whole apps, by provider."""
        self._most_body = settings.max_body_bytes
        self._window_s = settings.dedupe_window_s
        self._configuration = configuration
        self._endpoints = endpoints
        self._addresses = addresses
        self._accounts = accounts
        self._callers = Buckets(REJECTED_PER_MINUTE)
        self._verifier = verifier
        self._executions = executions
        self._producer = producer
        self._log = log
        self._recent = Recent()
        self._in_flight = 0
        self._bodies = BodyReader(settings.body_timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every refusal is a problem document and a metric."""
        await self._configuration.current()
        kind, has_name, name = scope["path"][len(PREFIX) :].partition("/")
        if has_name:
            endpoint = self._find(kind, name)
            reply = await self.receive(endpoint, INCOMING if kind == INCOMING else "webhook", scope, receive)
        else:
            reply = await self._receive_for_app(kind, scope, receive)
        for message in _messages(reply, scope["method"]):
            await send(message)

    async def alias(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same at the other address of an app."""
        await self._configuration.current()
        reply = await self._receive_for_app(aliased(scope["path"]), scope, receive)
        for message in _messages(reply, scope["method"]):
            await send(message)

    async def receive(
        self, endpoint: Endpoint | None, route: str, scope: Scope, receive: Receive, *, test: bool = False
    ) -> Reply:
        """Take one request in. `test` marks one that the hub makes itself, to try the endpoint."""
        course = _Course(perf_counter(), test)
        self._in_flight += 1
        try:
            told = await self._accept(endpoint, course, scope, receive)
        except (Rejected, RetryLater) as error:
            door, where = (endpoint.door, endpoint.id) if endpoint else (None, None)
            told = self._refuse(error, route, door, where)
        finally:
            self._in_flight -= 1
        metrics.requests(route, told.outcome).inc()
        if endpoint:
            self._note(endpoint, course, told)
        return told.reply

    async def _receive_for_app(self, name: str, scope: Scope, receive: Receive) -> Reply:
        """Take one request in at the address of a provider's apps.

        It is in the executions of each account that it is for, once it is accepted: before, nobody knows
        whose it is.
        """
        place = self._addresses.get(name)
        course = _Course(perf_counter())
        self._in_flight += 1
        try:
            if place is None:
                raise NotFound(no_address(name) or _NOT_FOUND)
            told = await self._accept_for_app(place, course, scope, receive)
        except (Rejected, RetryLater) as error:
            door, where = (place.door, name) if place else (None, None)
            told = self._refuse(error, "app", door, where)
        finally:
            self._in_flight -= 1
        metrics.requests("app", told.outcome).inc()
        for endpoint, positions in _positions(course.to):
            self._note(endpoint, _part_of(course, positions), told)
        return told.reply

    def _refuse(
        self, error: Rejected | RetryLater, route: str, door: Door | None, where: str | None
    ) -> _Answer:
        if isinstance(error, RetryLater):
            outcome, detail = _later(error)
            headers = (_PROBLEM_HEADER, (b"retry-after", _RETRY_S[outcome]))
            return _Answer(Reply(503, headers, problem(503, detail)), outcome, detail)
        # Never the path: in an incoming webhook's it is the token, all that it takes to post.
        self._log.info(
            "webhook refused", route=route, endpoint_id=where, status=error.status, reason=error.reason
        )
        return _Answer(_refused(door, error), error.reason, error.detail)

    def _find(self, kind: str, name: str) -> Endpoint | None:
        if kind == INCOMING:
            return self._endpoints.by_token.get(token_digest(name))
        endpoint = self._endpoints.get(name)
        return endpoint if endpoint and endpoint.provider and endpoint.provider.id == kind else None

    async def _accept(
        self, endpoint: Endpoint | None, course: _Course, scope: Scope, receive: Receive
    ) -> _Answer:
        if endpoint is None:
            raise NotFound(_NOT_FOUND)
        door = endpoint.door
        if endpoint.fault and endpoint.enabled:
            raise SourceRefused(
                "this endpoint's description of its sender cannot be used: its owner is told why"
            )
        if door is None and scope["method"] != "POST":
            raise NotAllowed(("POST",))
        if not endpoint.enabled:
            raise Gone("this endpoint is disabled")
        if self._in_flight > MOST_IN_FLIGHT:
            raise BusUnavailable("too many requests wait for Kafka")
        course.headers = headers_of(scope)
        check_address(endpoint.networks, scope)
        # Of each caller: whoever knows the address can send what is rejected, and must not keep others out.
        rejected = self._callers.of(f"{endpoint.id} {caller(scope)}")
        for bucket in (endpoint.accepted, rejected):
            _check_rate(bucket)
        try:
            return await self._read(endpoint, course, scope, receive, rejected)
        except Rejected as error:
            if course.verdict is not Verdict.VERIFIED and not isinstance(error, TooMany):
                rejected.take()
            raise

    async def _read(
        self, endpoint: Endpoint, course: _Course, scope: Scope, receive: Receive, rejected: Bucket
    ) -> _Answer:
        """Read the body and take the request in. `rejected` is the caller's room for rejections here."""
        headers, door = course.headers, endpoint.door
        limit = min(endpoint.body_limit or self._most_body, self._most_body)
        if door:
            limit = min(limit, door.most_body)
        raw = await self._bodies.read(headers, receive, limit)
        body = course.body = inflate(raw, one(headers, b"content-encoding").lower(), limit)
        if door is None:
            return await self._incoming(endpoint, course)
        request = door.request(
            scope["method"],
            endpoint.address,
            scope["query_string"],
            headers,
            body,
            endpoint.settings,
        )
        course.request = request
        CALLER.set(caller(scope))
        return await self._webhook(endpoint, door, course, request, raw, rejected)

    async def _webhook(
        self,
        endpoint: Endpoint,
        door: Door,
        course: _Course,
        request: Request,
        raw: bytes,
        rejected: Bucket,
    ) -> _Answer:
        handshake = door.handshake(request)
        if handshake:
            rejected.take()  # they are cheap to send, and few
            return _Answer(await self._shake(endpoint, handshake, request), "handshake")
        if request.method not in door.methods:
            raise NotAllowed(sorted(door.methods))
        try:
            with _charged(rejected, work_of(request, raw) * max(1, len(endpoint.valid_keys()))):
                course.verdict = await self._verifier.verify(endpoint, door, request, raw)
        except BadSignature as error:
            course.verdict, course.refusal = error.verdict, Refusal(error.verdict, error.way, request)
            metrics.SIGNATURE_FAILURES.labels(_provider(endpoint), error.verdict.value).inc()
            raise
        handshake = door.verified_handshake(request)
        if handshake:
            return _Answer(await self._shake(endpoint, handshake, request), "handshake")
        arrived = door.events(request)
        to = [endpoint] * len(arrived)
        fresh = await self._publish(to, course, arrived, self._ack_within_s) if arrived else []
        duplicate = bool(arrived) and not fresh
        reply = door.answer(request) or Reply(
            202, (_JSON_HEADER,), _told(course.event_ids, duplicate=duplicate)
        )
        return _Answer(reply, "duplicate" if duplicate else "accepted")

    async def _accept_for_app(
        self, place: AppAddress, course: _Course, scope: Scope, receive: Receive
    ) -> _Answer:
        door = place.door
        if self._in_flight > MOST_IN_FLIGHT:
            raise BusUnavailable("too many requests wait for Kafka")
        headers = course.headers = headers_of(scope)
        # Of each caller: everybody knows this address, so what one refuses himself must not keep others out.
        refused = self._callers.of(f"{place.provider.id} {caller(scope)}")
        _check_rate(refused)
        limit = min(self._most_body, door.most_body)
        raw = await self._bodies.read(headers, receive, limit)
        body = course.body = inflate(raw, one(headers, b"content-encoding").lower(), limit)
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
            return _Answer(place.shake(handshake, request), "handshake")
        if request.method in _LOOKS:
            refused.take()
            return _Answer(Reply(200, (_JSON_HEADER,), orjson.dumps(place.setup())), "setup")
        if request.method not in door.methods:
            raise NotAllowed(sorted(door.methods))
        CALLER.set(caller(scope))
        try:
            with _charged(refused, work_of(request, raw) * max(1, len(place.secrets))):
                app = await self._verifier.which(place.secrets, door, request, raw)
        except BadSignature as error:
            metrics.SIGNATURE_FAILURES.labels(place.provider.id, error.verdict.value).inc()
            raise
        course.verdict = Verdict.VERIFIED
        handshake = door.verified_handshake(request)
        if handshake:
            return _Answer(handshake.reply(request), "handshake")
        outcome = await self._to_accounts(place, app, course, door.events(request, owned=True))
        return _Answer(door.answer(request) or Reply(202, (_JSON_HEADER,), _ACCEPTED), outcome)

    async def _to_accounts(
        self, place: AppAddress, app: AppSecret, course: _Course, arrived: Sequence[Arrived]
    ) -> str:
        """Put each event on Kafka for every workspace that has connected its account; the outcome.

        What is told to the caller is the same, whoever has connected what.
        """
        began = perf_counter()
        owners = {each.owner for each in arrived if each.owner}
        connected = await self._accounts.of(place.provider.id, app, owners)
        made: dict[str, Endpoint] = {}
        to: list[Endpoint] = []
        sent: list[Arrived] = []
        for each in arrived:
            found = connected.get(each.owner, ()) if each.owner else ()
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
        within_s = min(self._ack_within_s, max(0.1, round(APP_WITHIN_S - (perf_counter() - began), 1)))
        return "accepted" if await self._publish(to, course, sent, within_s) else "duplicate"

    async def _shake(self, endpoint: Endpoint, handshake: Agreed, request: Request) -> Reply:
        """Answer a handshake; one that hands over a secret counts only while the endpoint waits for it."""
        reply = handshake.reply(request)
        if not handshake.waits:
            return reply
        secret = handshake.kept(request)
        if secret is None or not (_SHORTEST_SECRET <= len(secret) <= _LONGEST_SECRET) or not secret.isascii():
            raise Malformed("the handshake hands over no secret that can be kept")
        if any(hmac.compare_digest(secret.encode(), key) for key in endpoint.valid_keys()):
            return reply  # the platform did not hear the answer to the first
        if endpoint.keys or not await self._endpoints.take_secret(endpoint.id, secret):
            raise Conflict("this endpoint has its secret already: make another endpoint for another webhook")
        self._log.info("handshake took the secret", endpoint_id=endpoint.id)
        return reply

    async def _incoming(self, endpoint: Endpoint, course: _Course) -> _Answer:
        kind = content_type(course.headers)
        read_incoming(kind, course.body, mass_mentions=endpoint.mass_mentions)
        delivery = idempotency_key(course.headers) or secrets.token_hex(16)
        arrived = [Arrived("message", delivery, "", "", (), course.body, kind)]
        fresh = await self._publish([endpoint], course, arrived, self._ack_within_s)
        answer: dict[str, Any] = {
            "success": True,
            "message_id": message_id_for(course.event_ids[0]),
            "channel_id": endpoint.channel_id,
            "timestamp": now(),
        }
        reply = Reply(200, (_JSON_HEADER,), orjson.dumps(answer))
        return _Answer(reply, "accepted" if fresh else "duplicate")

    @property
    def _ack_within_s(self) -> float:
        return _ACK_AFTER_WAIT_S if self._configuration.away else ACK_WITHIN_S

    async def _publish(
        self, to: Sequence[Endpoint], course: _Course, arrived: Sequence[Arrived], within_s: float
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
        traceparent = child_of(one(course.headers, b"traceparent"))

        async def put(fresh: Sequence[int]) -> None:
            for endpoint in _each(to):
                _check_rate(endpoint.accepted)  # again: others may have taken the last while this came in
            records: list[Record] = []
            for position in fresh:
                endpoint = to[position]
                endpoint.accepted.take()
                event = _event(endpoint, arrived[position], ids[position], traceparent, test=course.test)
                records.append(record_of(WEBHOOKS_RECEIVED, endpoint.id, event))
            if len(records) == 1:
                course.places[fresh[0]] = await self._producer.publish(records[0], within_s=within_s)
                return
            places = await self._producer.publish_all(records, within_s=within_s)
            course.places.update(zip(fresh, places, strict=True))

        first = to[0]
        window = self._window_s if first.dedupe_window_s is None else first.dedupe_window_s
        fresh = await self._recent.once(ids, put, window_s=window)
        self._log.info(
            "webhook accepted" if fresh else "webhook repeated",
            trace_id=traceparent[3:35],
            event_id=ids[0],
            events=len(ids),
            type=f"{_provider(first)}.{arrived[0].event}",
            endpoint_id=first.id,
            bytes=len(course.body),
            ms=round((perf_counter() - course.started) * 1000, 1),
        )
        return fresh

    def _note(self, endpoint: Endpoint, course: _Course, told: _Answer) -> None:
        refused = bool(told.detail)
        proven = course.verdict is Verdict.VERIFIED or endpoint.provider is None
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
                    Seen(each.event, each.delivery_id, each.triggers, each.account, each.occurred_at)
                    for each in course.arrived
                ],
                course.event_ids,
                course.places,
                _refused_body(endpoint, course) if refused else b"",
                one(course.headers, b"content-type")[:200] if refused else "",
                course.refusal,
                course.test,
            )
        )


def _messages(reply: Reply, method: str) -> tuple[Message, Message]:
    headers = [*reply.headers, *_NEVER_A_PAGE, (b"content-length", str(len(reply.body)).encode())]
    return (
        {"type": "http.response.start", "status": reply.status, "headers": headers},
        {"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body},
    )


def _each(to: Sequence[Endpoint]) -> Iterable[Endpoint]:
    """Every endpoint once."""
    return to if len(to) == 1 else {each.id: each for each in to}.values()


def _positions(to: Sequence[Endpoint]) -> Iterable[tuple[Endpoint, Sequence[int]]]:
    """Every endpoint once, with where it stands."""
    found: dict[str, tuple[Endpoint, list[int]]] = {}
    for position, each in enumerate(to):
        found.setdefault(each.id, (each, []))[1].append(position)
    return found.values()


def _part_of(course: _Course, own: Sequence[int]) -> _Course:
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


def _refused(door: Door | None, error: Rejected) -> Reply:
    status = error.status
    if isinstance(error, BadSignature) and door and door.refused_status:
        status = door.refused_status
        if status < 300:
            return Reply(status)
    headers = [_PROBLEM_HEADER]
    if isinstance(error, TooMany):
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    if isinstance(error, NotAllowed):
        headers.append((b"allow", ", ".join(error.methods).encode()))
    if status in (408, 413):
        headers.append(_CLOSE)
    return Reply(status, tuple(headers), problem(status, error.detail, errors=error.errors))


def _masked(endpoint: Endpoint, data: bytes) -> bytes:
    """What may go on to others."""
    return endpoint.door.masked(data, endpoint.valid_keys()) if endpoint.door else data


def _refused_body(endpoint: Endpoint, course: _Course) -> bytes:
    """What may be kept of it."""
    if endpoint.door is None:
        return course.body[:MOST_BODY]
    request = course.request or endpoint.door.request(
        "POST", "", b"", course.headers, course.body, endpoint.settings
    )
    return endpoint.door.masked_refused(request, endpoint.valid_keys(), MOST_BODY)


def _provider(endpoint: Endpoint) -> str:
    return endpoint.provider.id if endpoint.provider else INCOMING


def _event(endpoint: Endpoint, arrived: Arrived, event_id: EventId, traceparent: str, *, test: bool) -> Event:
    provider = _provider(endpoint)
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
        attributes[MASS_MENTIONS] = "true"
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
        data=_masked(endpoint, arrived.data),
        content_type=arrived.content_type,
        traceparent=traceparent,
        attributes=attributes,
    )


def _told(ids: Sequence[EventId], *, duplicate: bool) -> bytes:
    """The answer where the platform does not ask for another: what it became."""
    if len(ids) == 1:
        return b'{"accepted":true,"event_id":"%b"%b}' % (
            ids[0].encode(),
            b',"duplicate":true' if duplicate else b"",
        )
    said: dict[str, Any] = {"accepted": True, "events": len(ids), "event_ids": list(ids)}
    return orjson.dumps({**said, "duplicate": True} if duplicate else said)


def _later(error: RetryLater) -> tuple[str, str]:
    """The outcome of a request that has to come again, and what is told."""
    if isinstance(error, SourceRefused):
        return "source_refused", str(error)
    if isinstance(error, NoSecretYet):
        return "no_secret", str(error)
    if isinstance(error, KeysUnavailable):
        return "keys_unavailable", f"{error}: send the webhook again"
    if isinstance(error, BusUnavailable):
        return "bus_unavailable", "the event bus is not available: send the webhook again"
    return "unavailable", f"{error}: send the webhook again"


@contextmanager
def _charged(bucket: Bucket, work: int) -> Iterator[None]:
    """Charge a caller for bytes that are hashed for him; given back unless it was in vain.

    Charged before it is done: who sends many at once has them all refused, not all tried. Raises `TooMany`.
    """
    _check_rate(bucket)
    bucket.take(work / _A_TOKEN)
    in_vain = False
    try:
        yield
    except Rejected:
        in_vain = True
        raise
    finally:
        if not in_vain:  # a key server that is away is not the caller's fault either
            bucket.take(-work / _A_TOKEN)


def _check_rate(bucket: Bucket) -> None:
    wait = bucket.wait()
    if wait > 0:
        raise TooMany(wait)
