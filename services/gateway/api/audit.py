"""`GET /api/audit`: the audit log of a workspace, of the calls to all services."""

from typing import Annotated, Self

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel

from shared.contracts.envelope import rfc3339
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.audit_entries import AuditEntries, AuditEntry, search_terms
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes

Admin = Annotated[ApiKey, Depends(requires("admin"))]


class AuditActorOut(BaseModel):
    """The caller.

    `key_id` and `key_name` are the API key. If a service made the call, `service` is its name, and the key is
    that of the call which led to it; `service:<name>` if the service acted by itself. `user` is the user of
    the chat whom the call names. For a member, `key_id` and `key_name` are those of the member, with the
    `role`; `session` is the session of the console.
    """

    key_id: str
    key_name: str
    user: str | None
    service: str | None
    role: str | None = None
    session: str | None = None


class AuditEntryOut(BaseModel):
    """One call that changes something.

    `status` is the status of the answer; null if it was not stored, because the service stopped or MongoDB
    failed: the change may have been made or not. `route` is the pattern of the path, `resources` are the ids
    in it and, behind them, the id of what the call created. `client` is the address of the caller, as trusted
    proxies report it. `fields` are the names of the fields in the body; values are never stored.
    `other_fields` counts the fields that the route does not have.
    """

    id: str
    at: str
    service: str
    actor: AuditActorOut
    method: str
    route: str
    resources: list[str]
    status: int | None
    client: str | None
    trace_id: str | None
    idempotency_digest: str | None
    fields: list[str]
    other_fields: int

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """Return an entry as the API shows it."""
        actor = entry.actor
        return cls(
            id=entry.id,
            at=rfc3339(entry.at),
            service=entry.service,
            actor=AuditActorOut(
                key_id=actor.key_id,
                key_name=actor.key_name,
                user=actor.user,
                service=actor.service,
                role=actor.role,
                session=actor.session,
            ),
            method=entry.method,
            route=entry.route,
            resources=list(entry.resources),
            status=entry.status,
            client=entry.client,
            trace_id=entry.trace_id,
            idempotency_digest=entry.idempotency_digest,
            fields=list(entry.fields),
            other_fields=entry.other_fields,
        )


class AuditApi:
    """The route of the audit log."""

    def __init__(self, entries: AuditEntries) -> None:
        self._entries = entries

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        routes = Routes(app, "/api")
        routes.add("/audit", self.list_entries, methods=["GET"])

    async def list_entries(
        self,
        key: Admin,
        paging: PagingQuery,
        actor: Annotated[
            str | None,
            Query(
                max_length=200,
                description="The id of an API key, a member or a session, a user, or a service.",
            ),
        ] = None,
        resource: Annotated[
            str | None, Query(max_length=200, description="An id in the path, or of what was created.")
        ] = None,
        service: Annotated[
            str | None, Query(max_length=40, description="The service that answered the call.")
        ] = None,
    ) -> Page[AuditEntryOut]:
        """List the calls that changed something in this workspace, or tried to, newest first."""
        return await self._entries.page(
            key.workspace,
            AuditEntryOut.of,
            paging,
            terms=search_terms(actors=[actor], resources=[resource], service=service),
        )
