"""`/api/integrations`: what is connected, how it is, and what can be done about it."""

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Query
from starlette.responses import Response

from services.oauth.api.schemas import (
    AccountSelectionUpdate,
    IntegrationCreate,
    IntegrationOut,
    IntegrationUpdate,
    ManualCredentialsUpdate,
    integration_out,
)
from services.oauth.authorization.account_identity import RELEASED
from services.oauth.authorization.account_selection import AccountSelection
from services.oauth.authorization.disconnect import Disconnector
from services.oauth.authorization.flows import OAUTH_KINDS
from services.oauth.credentials.manual import ManualCredentials
from shared.connections.integrations import IntegrationEventType, IntegrationRepository, IntegrationStatus
from shared.connections.tokens import Access, TokenSource
from shared.contracts.errors import Conflict
from shared.manifests.provider_response import ProviderRejected
from shared.manifests.registry import connectors
from shared.runtime.mongo import Document, utcnow
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Cursor, Limit, Page, page
from shared.wire.provider_http import ProviderRequest
from shared.wire.redaction import redact

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]

_TRIES: Final = 5
_CONFLICT_DETAIL: Final = "the integration is changing all the time: try again"


class IntegrationsApi:
    """The routes and what they need."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        entering: ManualCredentials,
        choosing: AccountSelection,
        disconnecting: Disconnector,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._manual_credentials = entering
        self._account_selection = choosing
        self._disconnector = disconnecting

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

    async def create(self, body: IntegrationCreate, key: Writer) -> IntegrationOut:
        """Connect an account by what was entered: it is tried out at the platform before it is kept.

        An account that is connected already keeps its integration, with the new secrets.
        """
        document = await self._manual_credentials.add(
            body.provider,
            body.kind,
            body.fields,
            preset=body.preset,
            name=body.name,
            workspace=key.workspace,
            user=body.user,
            takeover=body.takeover,
        )
        return integration_out(document)

    async def list_all(
        self,
        key: Reader,
        status: IntegrationStatus | None = None,
        provider: Annotated[str | None, Query(max_length=40)] = None,
        user: Annotated[str | None, Query(min_length=1, max_length=200, description="Whose.")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[IntegrationOut]:
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
            self._integrations.collection, query, integration_out, limit=limit, cursor=cursor, fields=fields
        )

    async def read(self, integration_id: str, key: Reader) -> IntegrationOut:
        """One integration."""
        return integration_out(await self._load(integration_id, key))

    async def status(self, integration_id: str, key: Reader) -> IntegrationOut:
        """How an integration is."""
        return integration_out(await self._load(integration_id, key))

    async def rename(self, integration_id: str, body: IntegrationUpdate, key: Writer) -> IntegrationOut:
        """Give it another name."""
        return await self._update(integration_id, key, lambda _: {"name": body.name})

    async def delete(self, integration_id: str, key: Writer) -> Response:
        """Disconnect it where it is connected, and remove it."""
        for _ in range(_TRIES):
            document = await self._load(integration_id, key)
            if document["status"] != "pending" or document["credential"] is not None:
                document = await self._disconnector.disconnect(document)
            gone = {"deleted_at": utcnow(), "open": False, "sole": False, **RELEASED}
            if await self._change(document, gone) is not None:
                return Response(status_code=204)
        raise Conflict(_CONFLICT_DETAIL)

    async def reenter(
        self, integration_id: str, body: ManualCredentialsUpdate, key: Writer
    ) -> IntegrationOut:
        """New secrets of the same account; fields that are left out stay as they are."""
        document = await self._load(integration_id, key)
        if document["kind"] in OAUTH_KINDS:
            raise Conflict("this account is connected by OAuth: POST /api/integrations/{id}/reconnect")
        return integration_out(
            await self._manual_credentials.update(
                document,
                body.fields,
                any_account=body.any_account,
                user=body.user,
                takeover=body.takeover,
            )
        )

    async def choose(self, integration_id: str, body: AccountSelectionUpdate, key: Writer) -> IntegrationOut:
        """Which of several places of the account the integration is of: one of `choices`, by id.

        A place that was connected before keeps its integration, which is answered, with the new grant.
        """
        return integration_out(
            await self._account_selection.choose(integration_id, key.workspace, body.choice)
        )

    async def check(self, integration_id: str, key: Writer) -> IntegrationOut:
        """Ask the platform whose account it is: whether the connection works now."""
        document = await self._load(integration_id, key)
        if document["status"] not in ("connected", "error"):
            raise Conflict(f"the integration is {document['status'].replace('_', ' ')}")
        if document["kind"] not in OAUTH_KINDS:
            return integration_out(await self._manual_credentials.check(document))
        await self._check_account(document)
        return integration_out(await self._load(integration_id, key))

    async def refresh(self, integration_id: str, key: Writer) -> IntegrationOut:
        """Make the tokens anew now, whether they are about to end or not.

        A pause that was begun because the platform refused the app is passed once.
        """
        document = await self._load(integration_id, key)
        if document["status"] not in ("connected", "error"):
            raise Conflict(
                f"the integration is {document['status'].replace('_', ' ')}: connect the account again"
            )
        if not document["refreshable"]:
            raise Conflict("there is nothing to make anew: these tokens do not end, or cannot be renewed")
        return integration_out(
            await self._tokens.refresh(integration_id, than=document["version"], user_initiated=True)
        )

    async def disable(self, integration_id: str, key: Writer) -> IntegrationOut:
        """Keep it, but let nobody use it until it is enabled."""

        def disabled(document: Document) -> dict[str, Any]:
            status = document["status"]
            if status not in ("connected", "error", "reauth_required", "disabled"):
                raise Conflict(f"the integration is {status}")
            return {} if status == "disabled" else {"status": "disabled", "disabled_from": status}

        return await self._update(integration_id, key, disabled)

    async def enable(self, integration_id: str, key: Writer) -> IntegrationOut:
        """Let it be used again."""

        def enabled(document: Document) -> dict[str, Any]:
            status = document["status"]
            if status in ("pending", "disconnected"):
                raise Conflict(f"the integration is {status}: connect the account")
            return {"status": document["disabled_from"]} if status == "disabled" else {}

        return await self._update(integration_id, key, enabled)

    async def disconnect(self, integration_id: str, key: Writer) -> IntegrationOut:
        """Revoke the grant at the platform, remove the secrets, keep the record."""
        return integration_out(await self._disconnector.disconnect(await self._load(integration_id, key)))

    async def _load(self, integration_id: str, key: ApiKey) -> Document:
        return await self._integrations.find(integration_id, key.workspace)

    async def _update(
        self, integration_id: str, key: ApiKey, wanted: Callable[[Document], dict[str, Any]]
    ) -> IntegrationOut:
        """The integration with what is `wanted` of it as it is; of one that changes meanwhile, once more.

        Raises `Conflict`: it changes all the time.
        """
        for _ in range(_TRIES):
            document = await self._load(integration_id, key)
            change = wanted(document)
            if not change:
                return integration_out(document)
            changed = await self._change(document, change)
            if changed is not None:
                return integration_out(changed)
        raise Conflict(_CONFLICT_DETAIL)

    async def _change(
        self, document: Document, change: dict[str, Any], *, publish: IntegrationEventType | None = None
    ) -> Document | None:
        """None when credential or status are not what was read."""
        only = {"status": document["status"]}
        changed = await self._integrations.change(document, change, publish=publish, condition=only)
        self._tokens.forget(document["_id"])
        return changed

    async def _check_account(self, document: Document) -> None:
        connector = connectors().get(document["provider"])
        probe = connector.probe_for(document["kind"]) if connector else None
        if connector is None or probe is None:
            raise Conflict("the platform has no way to ask")
        hidden: list[str] = []

        def make(access: Access) -> ProviderRequest:
            hidden.append(access.values.get("access_token", ""))
            return connector.request(probe, access.values)

        answer = await self._tokens.call(document["_id"], make)
        fault = None
        try:
            connector.parse_api_response(answer)
        except ProviderRejected as error:
            code, detail = redact(error.code, hidden), redact(error.detail, hidden)
            fault = {"at": utcnow(), "code": code, "detail": detail}
        current = await self._integrations.find(document["_id"])
        change: dict[str, Any] = {"last_error": fault, "failures": 1 if fault else 0}
        ends = current.get("expires_at")
        tell: IntegrationEventType | None = None
        if not fault and current["status"] == "error" and (ends is None or ends > utcnow()):
            change |= {"status": "connected", "reason": "", "retry_at": None}
            tell = "integration.recovered"
        elif not fault and current.get("retry_at"):  # of a refresh that fails, the check knows nothing
            return
        await self._change(current, change, publish=tell)
