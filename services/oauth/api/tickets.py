"""Open an authorization with a ticket in a browser that has no cookie of it, and confirm the result."""

from collections.abc import Mapping
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Query, Request, Response
from starlette.responses import RedirectResponse

from services.oauth.api.authorization_schemas import ConfirmationCreate
from services.oauth.api.cookies import COOKIE_PATH, StateCookies
from services.oauth.api.integration_schemas import IntegrationOut, integration_out
from services.oauth.api.pages import SECURITY_HEADERS, Pages
from services.oauth.authorization.confirmation import GrantConfirmer
from services.oauth.authorization.state import States, cookie_name_of_result
from services.oauth.authorization.state_record import OpenedTicket, UnknownState, UsedState
from shared.contracts.errors import RetryLater
from shared.manifests.connector import Connector
from shared.manifests.registry import Registry
from shared.runtime.metrics import CONNECTIONS
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.problems import openapi_response
from shared.runtime.web.routes import Routes
from shared.wire.oauth import new_state

TICKET_PATH: Final = f"{COOKIE_PATH}/start"

Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]
Ticket = Annotated[str, Query(max_length=200)]


class TicketsApi:
    """The page of tickets, and the route that confirms what they brought."""

    def __init__(
        self,
        states: States,
        confirmer: GrantConfirmer,
        registry: Registry,
        connectors: Mapping[str, Connector],
        pages: Pages,
        cookies: StateCookies,
    ) -> None:
        self._states = states
        self._confirmer = confirmer
        self._registry = registry
        self._connectors = connectors
        self._pages = pages
        self._cookies = cookies

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api").add
        path = TICKET_PATH.removeprefix("/api")
        # A page for browsers, which API clients do not call.
        add(path, self.show, methods=["GET"], response_class=Response, include_in_schema=False)
        add(path, self.start, methods=["POST"], response_class=Response, include_in_schema=False)
        unknown = openapi_response("The code is unknown, was used, or has expired.")
        add("/auth/oauth/confirm", self.confirm, methods=["POST"], responses={404: unknown})

    async def show(self, request: Request, ticket: Ticket = "") -> Response:
        """Return the page that names workspace, user and provider, with a button. It uses nothing up.

        Its cookie is what the button needs: a page of another site cannot press it.
        """
        try:
            opened, cookie = await self._open(ticket, request)
        except (UnknownState, UsedState, RetryLater) as error:
            return self._error_page(error)
        provider = self._registry.providers.get(opened.authorization.provider)
        response = self._pages.ticket_page(
            provider=provider.manifest.name if provider else opened.authorization.provider,
            provider_host=urlsplit(opened.authorization_url).netloc,
            user=opened.authorization.user or "",
            workspace=opened.workspace,
            return_host=urlsplit(opened.authorization.return_to or "").netloc,
        )
        if cookie is None:
            self._cookies.set(response, cookie_name_of_result(opened.result), new_state())
        return response

    async def start(self, request: Request, ticket: Ticket = "") -> Response:
        """Use the ticket, and send the browser on to the provider."""
        try:
            _, cookie = await self._open(ticket, request)
            if cookie is None:
                return self._refusal(403, "no_cookie", "Open the address again, and allow cookies for it.")
            url = await self._states.use_ticket(ticket, cookie)
        except (UnknownState, UsedState, RetryLater) as error:
            return self._error_page(error)
        return RedirectResponse(url, status_code=303, headers=dict(SECURITY_HEADERS))

    async def confirm(self, body: ConfirmationCreate, key: Writer) -> IntegrationOut:
        """Connect the account that a person brought back from `connect_url`. Return its integration.

        Until then nothing can use the account. The code works once, within ten minutes, for the `user` that
        was given at the start; after that time, or if it is brought for another user, the grant is revoked at
        the provider. Take `user` from the session of the browser that came to `return_to`, not from the
        address: this is what keeps an account of somebody else, who was sent the link, out of the workspace.
        """
        integration = await self._confirmer.confirm(body.confirmation_code, body.user, key.workspace)
        return integration_out(integration, self._connectors.get(integration.provider))

    async def _open(self, ticket: str, request: Request) -> tuple[OpenedTicket, str | None]:
        """Return what a ticket is for, and this browser's cookie. Raises as `States.open_ticket` does."""
        cookie = self._cookies.get(request, cookie_name_of_result(self._states.result_of_ticket(ticket)))
        return await self._states.open_ticket(ticket, cookie), cookie

    def _error_page(self, error: Exception) -> Response:
        if isinstance(error, UsedState):
            text = "This address was used before, or it has expired: start again in the chat."
            return self._refusal(410, "used", text)
        if isinstance(error, UnknownState):
            return self._refusal(404, "unknown_ticket", "This address is not valid: start again in the chat.")
        return self._refusal(503, "unavailable", "The service is not available: try again in a moment.")

    def _refusal(self, status: int, code: str, text: str) -> Response:
        CONNECTIONS.labels("", code).inc()
        return self._pages.page(status, "Not connected", text, code)
