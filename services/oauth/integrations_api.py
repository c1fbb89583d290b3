"""`/api/integrations`: what is connected, how it is, and what can be done about it."""

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Query
from starlette.responses import Response

from services.oauth.choose import Choosing
from services.oauth.disconnect import Disconnecting
from services.oauth.enter import Entering
from services.oauth.flows import BY_OAUTH
from services.oauth.identity import RELEASED
from services.oauth.schemas import Chosen, NewIntegration, Reentered, Renamed, ShownIntegration, shown
from shared.catalog.connector import Refused
from shared.catalog.registry import connectors
from shared.contracts.errors import Conflict
from shared.runtime.access import ApiKey, requires
from shared.runtime.integrations import Integrations, Status, Told
from shared.runtime.mongo import Document, utcnow
from shared.runtime.paging import Cursor, Limit, Page, page
from shared.runtime.tokens import Access, TokenSource
from shared.wire.oauth import Call, unsaid

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]

_TRIES: Final = 5
_CHANGING: Final = "the integration is changing all the time: try again"


class IntegrationsApi:
    """The routes and what they need."""

    def __init__(
        self,
        integrations: Integrations,
        tokens: TokenSource,
        entering: Entering,
        choosing: Choosing,
        disconnecting: Disconnecting,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._entering = entering
        self._choosing = choosing
        self._disconnecting = disconnecting

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api/integrations")
        add = router.add_api_route
        one = "/{integration_id}"
        add("", self.create, methods=["POST"], status_code=201)
        add("", self.list_all, methods=["GET"])
        add(one, self.read, methods=["GET"])
        add(f"{one}/status", self.status, methods=["GET"])
        add(one, self.rename, methods=["PATCH"])
        add(one, self.delete, methods=["DELETE"], status_code=204)
        add(f"{one}/fields", self.reenter, methods=["POST"])
        add(f"{one}/choose", self.choose, methods=["POST"])
        add(f"{one}/check", self.check, methods=["POST"])
        add(f"{one}/refresh", self.refresh, methods=["POST"])
        add(f"{one}/disable", self.disable, methods=["POST"])
        add(f"{one}/enable", self.enable, methods=["POST"])
        add(f"{one}/disconnect", self.disconnect, methods=["POST"])
        app.include_router(router)

    async def create(self, body: NewIntegration, key: Writer) -> ShownIntegration:
        """Connect an account by what was entered: it is tried out at the platform before it is kept.

        An account that is connected already keeps its integration, with the new secrets.
        """
        document = await self._entering.add(
            body.provider,
            body.kind,
            body.fields,
            preset=body.preset,
            name=body.name,
            workspace=key.workspace,
            user=body.user,
            takeover=body.takeover,
        )
        return shown(document)

    async def list_all(
        self,
        key: Reader,
        status: Status | None = None,
        provider: Annotated[str | None, Query(max_length=40)] = None,
        user: Annotated[str | None, Query(min_length=1, max_length=200, description="Whose.")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[ShownIntegration]:
        """The workspace's integrations, newest first."""
        query: dict[str, Any] = {"workspace": key.workspace, "deleted_at": None}
        if status:
            query["status"] = status
        if provider:
            query["provider"] = provider
        if user:
            query["user"] = user
        fields = {"credential": 0, "events": 0}
        return await page(
            self._integrations.collection, query, shown, limit=limit, cursor=cursor, fields=fields
        )

    async def read(self, integration_id: str, key: Reader) -> ShownIntegration:
        """One integration."""
        return shown(await self._mine(integration_id, key))

    async def status(self, integration_id: str, key: Reader) -> ShownIntegration:
        """How an integration is."""
        return shown(await self._mine(integration_id, key))

    async def rename(self, integration_id: str, body: Renamed, key: Writer) -> ShownIntegration:
        """Give it another name."""
        return await self._changed(integration_id, key, lambda _: {"name": body.name})

    async def delete(self, integration_id: str, key: Writer) -> Response:
        """Disconnect it where it is connected, and remove it."""
        for _ in range(_TRIES):
            document = await self._mine(integration_id, key)
            if document["status"] != "pending" or document["credential"] is not None:
                document = await self._disconnecting.end(document)
            gone = {"deleted_at": utcnow(), "open": False, "sole": False, **RELEASED}
            if await self._change(document, gone) is not None:
                return Response(status_code=204)
        raise Conflict(_CHANGING)

    async def reenter(self, integration_id: str, body: Reentered, key: Writer) -> ShownIntegration:
        """New secrets of the same account; fields that are left out stay as they are."""
        document = await self._mine(integration_id, key)
        if document["kind"] in BY_OAUTH:
            raise Conflict("this account is connected by OAuth: POST /api/integrations/{id}/reconnect")
        return shown(
            await self._entering.again(
                document,
                body.fields,
                any_account=body.any_account,
                user=body.user,
                takeover=body.takeover,
            )
        )

    async def choose(self, integration_id: str, body: Chosen, key: Writer) -> ShownIntegration:
        """Which of several places of the account the integration is of: one of `choices`, by id.

        A place that was connected before keeps its integration, which is answered, with the new grant.
        """
        return shown(await self._choosing.choose(integration_id, key.workspace, body.choice))

    async def check(self, integration_id: str, key: Writer) -> ShownIntegration:
        """Ask the platform whose account it is: whether the connection works now."""
        document = await self._mine(integration_id, key)
        if document["status"] not in ("connected", "error"):
            raise Conflict(f"the integration is {document['status'].replace('_', ' ')}")
        if document["kind"] not in BY_OAUTH:
            return shown(await self._entering.check(document))
        await self._ask_who(document)
        return shown(await self._mine(integration_id, key))

    async def refresh(self, integration_id: str, key: Writer) -> ShownIntegration:
        """Make the tokens anew now, whether they are about to end or not.

        A pause that was begun because the platform refused the app is passed once.
        """
        document = await self._mine(integration_id, key)
        if document["status"] not in ("connected", "error"):
            raise Conflict(
                f"the integration is {document['status'].replace('_', ' ')}: connect the account again"
            )
        if not document["refreshable"]:
            raise Conflict("there is nothing to make anew: these tokens do not end, or cannot be renewed")
        return shown(await self._tokens.renew(integration_id, than=document["version"], by_person=True))

    async def disable(self, integration_id: str, key: Writer) -> ShownIntegration:
        """Keep it, but let nobody use it until it is enabled."""

        def disabled(document: Document) -> dict[str, Any]:
            status = document["status"]
            if status not in ("connected", "error", "reauth_required", "disabled"):
                raise Conflict(f"the integration is {status}")
            return {} if status == "disabled" else {"status": "disabled", "disabled_from": status}

        return await self._changed(integration_id, key, disabled)

    async def enable(self, integration_id: str, key: Writer) -> ShownIntegration:
        """Let it be used again."""

        def enabled(document: Document) -> dict[str, Any]:
            status = document["status"]
            if status in ("pending", "disconnected"):
                raise Conflict(f"the integration is {status}: connect the account")
            return {"status": document["disabled_from"]} if status == "disabled" else {}

        return await self._changed(integration_id, key, enabled)

    async def disconnect(self, integration_id: str, key: Writer) -> ShownIntegration:
        """Revoke the grant at the platform, remove the secrets, keep the record."""
        return shown(await self._disconnecting.end(await self._mine(integration_id, key)))

    async def _mine(self, integration_id: str, key: ApiKey) -> Document:
        return await self._integrations.find(integration_id, key.workspace)

    async def _changed(
        self, integration_id: str, key: ApiKey, wanted: Callable[[Document], dict[str, Any]]
    ) -> ShownIntegration:
        """The integration with what is `wanted` of it as it is; of one that changes meanwhile, once more.

        Raises `Conflict`: it changes all the time.
        """
        for _ in range(_TRIES):
            document = await self._mine(integration_id, key)
            change = wanted(document)
            if not change:
                return shown(document)
            changed = await self._change(document, change)
            if changed is not None:
                return shown(changed)
        raise Conflict(_CHANGING)

    async def _change(
        self, document: Document, change: dict[str, Any], *, tell: Told | None = None
    ) -> Document | None:
        """None when credential or status are not what was read."""
        only = {"status": document["status"]}
        changed = await self._integrations.change(document, change, tell=tell, only=only)
        self._tokens.forget(document["_id"])
        return changed

    async def _ask_who(self, document: Document) -> None:
        connector = connectors().get(document["provider"])
        probe = connector.probe_of(document["kind"]) if connector else None
        if connector is None or probe is None:
            raise Conflict("the platform has no way to ask")
        hidden: list[str] = []

        def make(access: Access) -> Call:
            hidden.append(access.values.get("access_token", ""))
            return connector.request(probe, access.values)

        answer = await self._tokens.call(document["_id"], make)
        fault = None
        try:
            connector.read(answer)
        except Refused as error:
            code, detail = unsaid(error.code, hidden), unsaid(error.detail, hidden)
            fault = {"at": utcnow(), "code": code, "detail": detail}
        current = await self._integrations.find(document["_id"])
        change: dict[str, Any] = {"last_error": fault, "failures": 1 if fault else 0}
        ends = current.get("expires_at")
        tell: Told | None = None
        if not fault and current["status"] == "error" and (ends is None or ends > utcnow()):
            change |= {"status": "connected", "reason": "", "retry_at": None}
            tell = "integration.recovered"
        elif not fault and current.get("retry_at"):  # of a refresh that fails, the check knows nothing
            return
        await self._change(current, change, tell=tell)
