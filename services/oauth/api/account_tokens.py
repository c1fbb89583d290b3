"""`/api/integrations/{id}/token`: access tokens for callers that cannot send a call through the hub."""

from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from services.oauth.calls.limits import check_limits
from shared.connections.integration_record import Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import Access, TokenSource
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.idempotency import forbid_storing
from shared.runtime.web.routes import Routes

TokenReader = Annotated[ApiKey, Depends(requires("tokens:read"))]


class AccessTokenOut(BaseModel):
    """An access token of an account; never a refresh token."""

    integration_id: str
    provider: str
    access_token: str
    expires_at: str | None = Field(description="When it expires; null if that is not known.")
    version: Annotated[int, Field(description="Names this token when it is reported as refused.")]


class RefusedToken(BaseModel):
    """`POST /api/integrations/{id}/token/refused`."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=0, le=2**53, description="The `version` of the refused token.")]


class AccountTokensApi:
    """The routes of access tokens."""

    def __init__(self, integrations: IntegrationRepository, tokens: TokenSource) -> None:
        self._integrations = integrations
        self._tokens = tokens

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/integrations/{integration_id}").add
        add("/token", self.issue, methods=["POST"])
        add("/token/refused", self.report, methods=["POST"])

    async def issue(
        self, integration_id: str, key: TokenReader, request: Request, response: Response
    ) -> AccessTokenOut:
        """Return a valid access token of the account.

        Ask again before each use: the hub refreshes the token when that is due. No scope includes
        `tokens:read`, not even `admin`.
        """
        integration = await self._load(integration_id, key)
        return _token_out(await self._tokens.access(integration.id), request, response)

    async def report(
        self, integration_id: str, body: RefusedToken, key: TokenReader, request: Request, response: Response
    ) -> AccessTokenOut:
        """Report that the provider answered 401 to a token, and return a newer one.

        It is the same token if the provider still accepts it for the account: then the 401 concerned the
        call. 409 means that the account has to be connected again.
        """
        integration = await self._load(integration_id, key)
        access = await self._tokens.access(integration.id)
        if access.version <= body.version:
            access = await self._tokens.replace_rejected(access)
        return _token_out(access, request, response)

    async def _load(self, integration_id: str, key: ApiKey) -> Integration:
        integration = await self._integrations.find(integration_id, key.workspace)
        check_limits(key, integration_id, integration)
        return integration


def _token_out(access: Access, request: Request, response: Response) -> AccessTokenOut:
    """Return the token as the API shows it. Nobody stores the response.

    Raises `Conflict` if the credentials have no token.
    """
    token = access.values.get("access_token")
    if not token:
        raise Conflict("these credentials have no access token: call the provider through the hub")
    response.headers["Cache-Control"] = "no-store"
    forbid_storing(request.scope)
    return AccessTokenOut(
        integration_id=access.integration,
        provider=access.provider,
        access_token=token,
        expires_at=rfc3339(access.ends_at) if access.ends_at else None,
        version=access.version,
    )
