"""`/api/integrations`: the connected accounts of a workspace, their state, and changes to them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Query
from pydantic import Field
from starlette.responses import Response

from services.oauth.api.integration_schemas import (
    AccountSelectionUpdate,
    IntegrationCreate,
    IntegrationOut,
    IntegrationUpdate,
    ManualCredentialsUpdate,
    TokensImport,
    integration_out,
)
from services.oauth.authorization.account_selection import AccountSelection
from services.oauth.authorization.disconnect import Disconnector
from services.oauth.authorization.flows import OAUTH_KINDS
from services.oauth.authorization.start import AuthorizationRequest
from services.oauth.credentials.manual import ManualCredentials
from services.oauth.credentials.token_import import ImportedTokens, TokenImporter
from shared.connections.integration_record import (
    USABLE,
    Integration,
    IntegrationEventType,
    IntegrationStatus,
    LastError,
    search_terms,
)
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import Access, TokenSource
from shared.contracts.errors import Conflict
from shared.manifests.connector import Connector
from shared.manifests.provider_response import ProviderRejected
from shared.runtime.clock import utcnow
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes
from shared.wire.provider_http import ProviderRequest
from shared.wire.redaction import redact

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]

_MAX_ATTEMPTS: Final = 5
_CONFLICT_DETAIL: Final = "the integration changed while it was updated: try again"


class IntegrationsApi:
    """The routes of integrations."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        tokens: TokenSource,
        manual_credentials: ManualCredentials,
        token_importer: TokenImporter,
        account_selection: AccountSelection,
        disconnector: Disconnector,
    ) -> None:
        self._integrations = integrations
        self._connectors = connectors
        self._tokens = tokens
        self._manual_credentials = manual_credentials
        self._token_importer = token_importer
        self._account_selection = account_selection
        self._disconnector = disconnector

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/integrations").add
        item = "/{integration_id}"
        add("", self.create, methods=["POST"], status_code=201)
        add("", self.list_all, methods=["GET"])
        add(item, self.read, methods=["GET"])
        add(f"{item}/status", self.status, methods=["GET"])
        add(item, self.rename, methods=["PATCH"])
        add(item, self.delete, methods=["DELETE"], status_code=204)
        add(f"{item}/fields", self.reenter, methods=["POST"])
        add(f"{item}/choose", self.choose, methods=["POST"])
        add(f"{item}/check", self.check, methods=["POST"])
        add(f"{item}/refresh", self.refresh, methods=["POST"])
        add(f"{item}/disable", self.disable, methods=["POST"])
        add(f"{item}/enable", self.enable, methods=["POST"])
        add(f"{item}/disconnect", self.disconnect, methods=["POST"])

    async def create(self, body: IntegrationCreate, key: Writer) -> IntegrationOut:
        """Connect an account by manual credentials or by tokens, which the provider is asked about first.

        An account that is connected already keeps its integration, with the new credentials.
        """
        if body.tokens is not None:
            return self._out(await self._import(body, body.tokens, key))
        integration = await self._manual_credentials.add(
            body.provider,
            body.kind,
            body.fields or {},
            preset=body.preset,
            name=body.name,
            workspace=key.workspace,
            user=body.user,
            takeover=body.takeover,
            labels=_labels(body),
        )
        return self._out(integration)

    async def _import(self, body: IntegrationCreate, tokens: TokensImport, key: ApiKey) -> Integration:
        authorization_request = AuthorizationRequest(
            provider=body.provider,
            workspace=key.workspace,
            user=body.user,
            scopes=body.scopes,
            params=body.params,
            name=body.name,
            takeover=body.takeover,
            app_name=body.app,
            tags=body.tags,
            metadata=body.metadata,
        )
        imported = ImportedTokens(tokens.access_token, tokens.refresh_token or "", tokens.expires_at)
        return await self._token_importer.add(authorization_request, imported)

    async def list_all(
        self,
        key: Reader,
        paging: PagingQuery,
        status: IntegrationStatus | None = None,
        provider: Annotated[str | None, Query(max_length=40)] = None,
        user: Annotated[
            str | None, Query(min_length=1, max_length=200, description="The user whose account it is.")
        ] = None,
        account_id: Annotated[
            str | None,
            Query(
                min_length=1,
                max_length=500,
                description="The provider's id of the account, of its selected resource, or of the person "
                "whom the token acts for.",
            ),
        ] = None,
        tag: Annotated[
            list[Annotated[str, Field(max_length=64)]] | None,
            Query(max_length=5, description="A tag. Several: integrations that have all of them."),
        ] = None,
        metadata: Annotated[
            list[Annotated[str, Field(max_length=541, pattern=r"^[A-Za-z0-9_-]{1,40}:")]] | None,
            Query(max_length=5, description="`name:value`: integrations with this value in their metadata."),
        ] = None,
    ) -> Page[IntegrationOut]:
        """List the integrations of the workspace, newest first.

        With `tag` or `metadata` and other filters, a page may have fewer items than `limit`, or none; the
        list ends where `next_cursor` is null. With `account_id`, no other filter counts, and there is one
        page.
        """
        if account_id is not None:
            found = await self._integrations.with_account_id(key.workspace, account_id, limit=paging.limit)
            return Page(items=[self._out(item) for item in found], next_cursor=None)
        entries = [entry.partition(":") for entry in metadata or ()]
        terms = [term for name, _, value in entries for term in search_terms((), {name: value})]
        return await self._integrations.page_of(
            key.workspace,
            self._out,
            paging,
            status=status,
            provider=provider,
            user=user,
            terms=[*terms, *search_terms(tag or (), {})],
        )

    async def read(self, integration_id: str, key: Reader) -> IntegrationOut:
        """Return an integration."""
        return self._out(await self._load(integration_id, key))

    async def status(self, integration_id: str, key: Reader) -> IntegrationOut:
        """Return the state of an integration: the same document."""
        return self._out(await self._load(integration_id, key))

    async def rename(self, integration_id: str, body: IntegrationUpdate, key: Writer) -> IntegrationOut:
        """Change the name, the tags or the metadata of an integration."""
        change = _labels(body) | ({} if body.name is None else {"name": body.name})
        return await self._update(integration_id, key, lambda _: change)

    async def delete(self, integration_id: str, key: Writer) -> Response:
        """Disconnect an integration, if it is connected, and delete it."""
        for _ in range(_MAX_ATTEMPTS):
            if await self._disconnector.delete(await self._load(integration_id, key)):
                return Response(status_code=204)
        raise Conflict(_CONFLICT_DETAIL)

    async def reenter(
        self, integration_id: str, body: ManualCredentialsUpdate, key: Writer
    ) -> IntegrationOut:
        """Replace manual credentials of the same account. Fields that are left out stay unchanged."""
        integration = await self._load(integration_id, key)
        if integration.kind in OAUTH_KINDS:
            raise Conflict("this account is connected by OAuth: POST /api/integrations/{id}/reconnect")
        return self._out(
            await self._manual_credentials.update(
                integration,
                body.fields,
                any_account=body.any_account,
                user=body.user,
                takeover=body.takeover,
            )
        )

    async def choose(self, integration_id: str, body: AccountSelectionUpdate, key: Writer) -> IntegrationOut:
        """Select which resource of the account the integration is for: one of `choices`, by its id.

        A resource that was connected before keeps its integration, which gets the new grant and is returned.
        """
        return self._out(await self._account_selection.choose(integration_id, key.workspace, body.choice))

    async def check(self, integration_id: str, key: Writer) -> IntegrationOut:
        """Check at the provider whether the connection works."""
        integration = await self._load(integration_id, key)
        if integration.status not in USABLE:
            raise Conflict(f"the integration is {integration.status.replace('_', ' ')}")
        if integration.kind not in OAUTH_KINDS:
            return self._out(await self._manual_credentials.check(integration))
        await self._check_account(integration)
        return self._out(await self._load(integration_id, key))

    async def refresh(self, integration_id: str, key: Writer) -> IntegrationOut:
        """Refresh the tokens now, whether they are about to expire or not.

        If refreshes are paused because the provider rejected the app, one attempt is made all the same.
        """
        integration = await self._load(integration_id, key)
        if integration.status not in USABLE:
            raise Conflict(
                f"the integration is {integration.status.replace('_', ' ')}: connect the account again"
            )
        if not integration.refreshable:
            raise Conflict("there is nothing to refresh: the tokens do not expire, or no refresh token came")
        return self._out(
            await self._tokens.refresh(integration_id, than=integration.version, user_initiated=True)
        )

    async def disable(self, integration_id: str, key: Writer) -> IntegrationOut:
        """Disable an integration: it stays connected, and nobody can use it until it is enabled."""

        def build_change(integration: Integration) -> dict[str, Any]:
            status = integration.status
            if status not in ("connected", "error", "reauth_required", "disabled"):
                raise Conflict(f"the integration is {status}")
            return {} if status == "disabled" else {"status": "disabled", "status_before_disabled": status}

        return await self._update(integration_id, key, build_change)

    async def enable(self, integration_id: str, key: Writer) -> IntegrationOut:
        """Enable a disabled integration."""

        def build_change(integration: Integration) -> dict[str, Any]:
            status = integration.status
            if status in ("pending", "disconnected"):
                raise Conflict(f"the integration is {status}: connect the account")
            return {"status": integration.status_before_disabled} if status == "disabled" else {}

        return await self._update(integration_id, key, build_change)

    async def disconnect(self, integration_id: str, key: Writer) -> IntegrationOut:
        """Revoke the grant at the provider and remove the secrets. The integration is not deleted."""
        return self._out(await self._disconnector.disconnect(await self._load(integration_id, key)))

    async def _load(self, integration_id: str, key: ApiKey) -> Integration:
        return await self._integrations.find(integration_id, key.workspace)

    def _out(self, integration: Integration) -> IntegrationOut:
        return integration_out(integration, self._connectors.get(integration.provider))

    async def _update(
        self, integration_id: str, key: ApiKey, build_change: Callable[[Integration], dict[str, Any]]
    ) -> IntegrationOut:
        """Apply the change that `build_change` returns for the current integration; none if it is empty.

        Repeat it if the integration changed meanwhile. Raises `Conflict` if it did so at every attempt.
        """
        for _ in range(_MAX_ATTEMPTS):
            integration = await self._load(integration_id, key)
            change = build_change(integration)
            if not change:
                return self._out(integration)
            changed = await self._integrations.change(
                integration, condition={"status": integration.status}, **change
            )
            self._tokens.forget(integration.id)
            if changed is not None:
                return self._out(changed)
        raise Conflict(_CONFLICT_DETAIL)

    async def _check_account(self, integration: Integration) -> None:
        """Ask the provider with the account's token, and store the result.

        Raises `Conflict` if the provider has no request for it; as `TokenSource.call` if it does not answer.
        """
        connector = self._connectors.get(integration.provider)
        probe = connector.probe_for(integration.kind) if connector else None
        if connector is None or probe is None:
            raise Conflict("this provider offers no request to check an account")
        sent_tokens: list[str] = []

        def build_request(access: Access) -> ProviderRequest:
            sent_tokens.append(access.values.get("access_token", ""))
            return connector.request(probe, access.values)

        answer = await self._tokens.call(integration.id, build_request)
        last_error = None
        try:
            connector.parse_api_response(answer)
        except ProviderRejected as error:
            code, detail = redact(error.code, sent_tokens), redact(error.detail, sent_tokens)
            last_error = LastError(at=utcnow(), code=code, detail=detail)
        # Read again: the call above may have refreshed the tokens, which raises the version.
        current = await self._integrations.find(integration.id)
        change: dict[str, Any] = {"last_error": last_error, "failures": 1 if last_error else 0}
        expires_at = current.expires_at
        events: tuple[IntegrationEventType, ...] = ()
        if not last_error and current.status == "error" and (expires_at is None or expires_at > utcnow()):
            change |= {"status": "connected", "reason": "", "retry_at": None}
            events = ("integration.recovered",)
        elif not last_error and current.retry_at:
            # A refresh failed and will be retried. A check that succeeds must not hide that error.
            return
        await self._integrations.change(
            current, publish=events, condition={"status": current.status}, **change
        )
        self._tokens.forget(current.id)


def _labels(body: IntegrationCreate | IntegrationUpdate) -> dict[str, Any]:
    """Return the fields of tags and metadata that a request names."""
    tags = {} if body.tags is None else {"tags": tuple(body.tags)}
    return tags | ({} if body.metadata is None else {"metadata": body.metadata})
