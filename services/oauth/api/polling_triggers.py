"""`/api/polling-triggers`: what providers are asked for again and again, because no webhook brings it."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from starlette.responses import Response

from services.oauth.api.polling_schemas import (
    PollingTriggerCreate,
    PollingTriggerOut,
    PollingTriggerUpdate,
    polling_trigger_out,
)
from services.oauth.polling.poller import app_key
from services.oauth.polling.polling_types import PollingType, PollingTypes
from services.oauth.polling.records import PollingTrigger, PollingTriggerRepository, new_trigger
from shared.connections.integration_record import Integration
from shared.connections.integrations import IntegrationRepository
from shared.contracts.errors import Conflict, FieldError, Invalid
from shared.contracts.ids import new_polling_trigger_id
from shared.manifests.connector import Connector
from shared.manifests.field_validation import validate_fields
from shared.manifests.scopes import missing_scopes
from shared.runtime.clock import utcnow
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class PollingTriggersApi:
    """The routes of polling triggers."""

    def __init__(
        self,
        triggers: PollingTriggerRepository,
        types: PollingTypes,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
    ) -> None:
        self._triggers = triggers
        self._types = types
        self._integrations = integrations
        self._connectors = connectors

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/polling-triggers").add
        item = "/{polling_trigger_id}"
        add("", self.create, methods=["POST"], status_code=201)
        add("", self.list_all, methods=["GET"])
        add(item, self.read, methods=["GET"])
        add(item, self.change, methods=["PATCH"])
        add(item, self.delete, methods=["DELETE"], status_code=204)
        add(f"{item}/pause", self.pause, methods=["POST"])
        add(f"{item}/resume", self.resume, methods=["POST"])

    async def create(self, body: PollingTriggerCreate, key: Writer) -> PollingTriggerOut:
        """Add a polling trigger. Its first poll, in a moment, sets the cursor and publishes nothing."""
        kind = self._types.get(body.trigger)
        account = await self._account(kind, body.integration_id, key.workspace)
        params = validate_fields(kind.spec.params, body.params, place="params")
        trigger = new_trigger(
            new_polling_trigger_id(),
            key.workspace,
            kind.provider,
            kind.trigger,
            body.name or kind.trigger,
            params,
            integration_id=account.id if account else None,
            app=app_key(account),
            channel_id=body.channel_id,
            interval_s=_interval(kind, body.interval_s),
        )
        await self._triggers.insert(trigger)
        return polling_trigger_out(trigger)

    async def list_all(self, key: Reader, paging: PagingQuery) -> Page[PollingTriggerOut]:
        """List the workspace's polling triggers, newest first."""
        found = await self._triggers.list_page(key.workspace, paging)
        return Page(items=[polling_trigger_out(item) for item in found.items], next_cursor=found.next_cursor)

    async def read(self, polling_trigger_id: str, key: Reader) -> PollingTriggerOut:
        """Return one polling trigger."""
        return polling_trigger_out(await self._triggers.find(polling_trigger_id, key.workspace))

    async def change(
        self, polling_trigger_id: str, body: PollingTriggerUpdate, key: Writer
    ) -> PollingTriggerOut:
        """Change name or interval. A new interval begins with a poll in a moment, unless it is paused."""
        trigger = await self._triggers.find(polling_trigger_id, key.workspace)
        changes: dict[str, Any] = {}
        if body.name is not None:
            changes["name"] = body.name
        if body.interval_s is not None:
            kind = self._types.get(trigger.trigger)
            changes["interval_s"] = _interval(kind, body.interval_s)
            if trigger.is_open and trigger.status == "active":
                changes["due_at"] = utcnow()
        if not changes:
            return polling_trigger_out(trigger)
        return polling_trigger_out(await self._triggers.change(trigger, **changes))

    async def pause(self, polling_trigger_id: str, key: Writer) -> PollingTriggerOut:
        """Stop polling. Nothing is lost: after `resume`, it goes on where it was."""
        trigger = await self._triggers.find(polling_trigger_id, key.workspace)
        paused = {"status": "paused", "is_open": False, "due_at": None, "last_error": None}
        return await self._change(trigger, paused)

    async def resume(self, polling_trigger_id: str, key: Writer) -> PollingTriggerOut:
        """Poll now, and go on. Also tries one that is failing at once."""
        trigger = await self._triggers.find(polling_trigger_id, key.workspace)
        status = "pending" if trigger.poll_state.starting else "active"
        resumed = {"status": status, "is_open": True, "due_at": utcnow(), "failures": 0, "last_error": None}
        return await self._change(trigger, resumed)

    async def delete(self, polling_trigger_id: str, key: Writer) -> Response:
        """Delete a polling trigger, and in a moment its inbound endpoint."""
        trigger = await self._triggers.find(polling_trigger_id, key.workspace)
        await self._triggers.remove(trigger)
        return Response(status_code=204)

    async def _change(self, trigger: PollingTrigger, changes: Mapping[str, Any]) -> PollingTriggerOut:
        return polling_trigger_out(await self._triggers.change(trigger, **changes))

    async def _account(
        self, kind: PollingType, integration_id: str | None, workspace: str
    ) -> Integration | None:
        """Return the account that is polled; None for what needs none. Raises `NotFound`, `Invalid`."""
        if kind.provider not in self._connectors:
            if integration_id is not None:
                raise _invalid("integration_id", "this trigger needs no account: leave it out")
            return None
        if integration_id is None:
            raise _invalid("integration_id", f"required: a connected account of {kind.provider}")
        account = await self._integrations.find(integration_id, workspace)
        if account.provider != kind.provider:
            raise _invalid(
                "integration_id", f"this is an account of {account.provider}, not of {kind.provider}"
            )
        if kind.spec.kinds and account.kind not in kind.spec.kinds:
            raise _invalid(
                "integration_id", f"connect the account with {' or '.join(kind.spec.kinds)} for this trigger"
            )
        connector = self._connectors[kind.provider]
        missing = missing_scopes(connector.oauth2, kind.spec.scopes, account.scopes)
        if missing:
            raise Conflict(f"the account was connected without {', '.join(missing)}: connect it again")
        return account


def _interval(kind: PollingType, interval_s: int | None) -> int:
    """Return the interval in seconds. Raises `Invalid` if it is too short for the trigger."""
    if interval_s is None:
        return kind.spec.interval_s
    if interval_s < kind.spec.min_interval_s:
        raise _invalid("interval_s", f"at least {kind.spec.min_interval_s} for this trigger")
    return interval_s


def _invalid(field: str, message: str) -> Invalid:
    return Invalid("the polling trigger is not acceptable", errors=(FieldError(field, message),))
