"""The audit log of management calls: ASGI middleware of every management app.

The entry of a call is stored before the call is carried out, and gets the status before the answer is sent.
So nothing is changed without an entry, also if the process dies or MongoDB stops answering in between
(docs/adr/0069-audit-entry-before-the-change.md).
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

import orjson
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel
from starlette.routing import BaseRoute, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.contracts.errors import DatabaseUnavailable, Rejected, RetryLater
from shared.contracts.ids import new_audit_entry_id
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import failpoint
from shared.runtime.logs import Log
from shared.runtime.web.access import ApiKey, Keyring, caller_of
from shared.runtime.web.audit_entries import AuditActor, AuditEntries, AuditEntry, search_terms
from shared.runtime.web.body_limit import replay_body
from shared.runtime.web.idempotency import record_id_of
from shared.runtime.web.problems import problem_response
from shared.runtime.web.service_keys import CURRENT_ACTOR, Actor
from shared.wire.tracing import trace_id_of

MUTATING_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MAX_ID_LENGTH: Final = 200
_MAX_FIELDS: Final = 50
_USER_FIELD: Final = "user"


@dataclass(frozen=True, slots=True)
class AuditedRoute:
    """A route whose calls are recorded. `fields` are the names that its body can have.

    `is_streamed`: neither the body nor the response is read.
    """

    method: str
    path: str
    pattern: re.Pattern[str]
    fields: frozenset[str]
    is_streamed: bool = False


class Audit:
    """Records every call of an audited route by an authenticated caller, also a rejected one.

    Not recorded: calls without a valid API key, calls of paths that there are not, and repeats that
    `Idempotency`, which is outside, answers with the first response.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: Iterable[AuditedRoute],
        entries: AuditEntries,
        keyring: Keyring,
        service: str,
        log: Log,
    ) -> None:
        self._app = app
        self._routes = tuple(routes)
        self._entries = entries
        self._keyring = keyring
        self._service = service
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in MUTATING_METHODS:
            return await self._app(scope, receive, send)
        route, resources = self._route(scope)
        if route is None:
            return await self._app(scope, receive, send)
        try:
            key = await caller_of(scope, self._keyring)
        except Rejected:
            return await self._app(scope, receive, send)  # the route rejects it as usual
        except RetryLater as error:
            # Not by the route, where the same key might be known a moment later.
            return await problem_response(503, str(error), headers={"Retry-After": "1"})(scope, receive, send)
        body = b""
        if not route.is_streamed:
            body = (await receive()).get("body", b"")  # complete, because `BodyLimit` is outside
            receive = replay_body(body, receive)
        entry = self._entry(scope, route, resources, key, body)
        try:
            await self._entries.insert(entry)
        except DatabaseUnavailable as error:
            detail = f"nothing was changed, because the audit log cannot be written: {error}"
            return await problem_response(503, detail, headers={"Retry-After": "1"})(scope, receive, send)
        actor = entry.actor
        token = CURRENT_ACTOR.set(_acting(actor))
        try:
            await self._run(entry, scope, receive, send, route)
        finally:
            CURRENT_ACTOR.reset(token)

    def _route(self, scope: Scope) -> tuple[AuditedRoute | None, list[str]]:
        """Return the route of a call, and the ids in its path; None for no audited route."""
        for route in self._routes:
            if route.method == scope["method"] and (match := route.pattern.match(scope["path"])):
                return route, [_bounded(value) for value in match.groups()]
        return None, []

    def _entry(
        self, scope: Scope, route: AuditedRoute, resources: list[str], key: ApiKey, body: bytes
    ) -> AuditEntry:
        headers = dict(scope["headers"])
        idempotency_key = headers.get(b"idempotency-key")
        fields = _parse_object(body) if route.fields else {}
        known = [name for name in fields if name in route.fields]
        actor = _actor(key, fields.get(_USER_FIELD) if _USER_FIELD in route.fields else None)
        now = utcnow()
        return AuditEntry(
            id=new_audit_entry_id(),
            workspace=key.workspace,
            at=now,
            expires_at=now + self._entries.ttl,
            service=self._service,
            actor=actor,
            method=route.method,
            route=route.path,
            resources=tuple(resources),
            client=scope["client"][0] if scope["client"] else None,
            trace_id=trace_id_of(headers.get(b"traceparent", b"").decode("latin-1")) or None,
            idempotency_digest=record_id_of(key, idempotency_key) if idempotency_key else None,
            fields=tuple(known[:_MAX_FIELDS]),
            other_fields=len(fields) - len(known),
            terms=tuple(
                search_terms(
                    actors=[actor.key_id, actor.user, actor.service, actor.session],
                    resources=resources,
                    service=self._service,
                )
            ),
        )

    async def _run(
        self, entry: AuditEntry, scope: Scope, receive: Receive, send: Send, route: AuditedRoute
    ) -> None:
        """Carry the call out. The status is stored before the first byte of the answer is sent."""
        start: Message | None = None

        async def complete_and_send(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                failpoint("audit.before_status")
                started, start = start, None
                created = b"" if route.is_streamed else message.get("body", b"")
                await self._complete(entry, started["status"], _created_id(started["status"], created))
                await send(started)
            await send(message)

        try:
            await self._app(scope, receive, complete_and_send)
        except Exception:
            await self._complete(entry, 500, "")  # outside of here it becomes this answer
            raise

    async def _complete(self, entry: AuditEntry, status: int, created: str) -> None:
        """Store the status. If that fails, the entry stays without one: the call itself is recorded."""
        try:
            await self._entries.complete(entry, status, created)
        except DatabaseUnavailable as error:
            self._log.warning(
                "audit.status_not_stored", entry=entry.id, route=entry.route, status=status, error=str(error)
            )


def audited_routes(routes: Iterable[BaseRoute], unaudited: Collection[str]) -> list[AuditedRoute]:
    """Return the routes of an app that change something, but for the paths in `unaudited`.

    Raises `ValueError` if one of `unaudited` is not the path of such a route.
    """
    found: list[AuditedRoute] = []
    for context in iter_route_contexts(tuple(routes)):
        if not isinstance(context.original_route, APIRoute):
            continue
        pattern, path, _ = compile_path(context.path or "")
        fields = frozenset(_field_names(context.original_route))
        methods = sorted(MUTATING_METHODS & (context.methods or set()))
        found += [AuditedRoute(method, path, pattern, fields) for method in methods]
    if unknown := set(unaudited) - {route.path for route in found}:
        raise ValueError(f"no routes that change something: {', '.join(sorted(unknown))}")
    return [route for route in found if route.path not in unaudited]


def _field_names(route: APIRoute) -> Iterable[str]:
    """Return the names of the top-level fields of a route's body; none if it has no model."""
    if route.body_field is None:
        return
    for model in _models(route.body_field.field_info.annotation):
        for name, field in model.model_fields.items():
            yield field.alias or name


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _actor(key: ApiKey, user: Any) -> AuditActor:
    """Return who makes a call: for a service key, the member for whom the service acts, and the service."""
    named = _bounded(user) if isinstance(user, str) and len(user) <= _MAX_ID_LENGTH else ""
    acting = key.acting or Actor(key.id, key.name, role=key.role)
    return AuditActor(
        key_id=acting.key_id,
        key_name=acting.key_name,
        user=named or acting.user or None,
        service=key.service or None,
        role=acting.role or None,
        session=acting.session or None,
    )


def _acting(actor: AuditActor) -> Actor:
    """Return the actor of the calls that a call leads to."""
    return Actor(actor.key_id, actor.key_name, actor.user or "", actor.role or "", actor.session or "")


def _parse_object(body: bytes) -> Mapping[str, Any]:
    """Return a body's JSON object; an empty one for any other body, which its route rejects."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _created_id(status: int, body: bytes) -> str:
    """Return the id of what a call created; '' if it created nothing that has one."""
    created = _parse_object(body).get("id") if status == 201 else None
    return _bounded(created) if isinstance(created, str) else ""


def _bounded(text: str) -> str:
    """Return the beginning of a text of the caller, in characters that MongoDB can store."""
    return text[:_MAX_ID_LENGTH].encode("utf-8", "replace").decode()
