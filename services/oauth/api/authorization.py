"""`/api/auth/oauth/*`: start authorizations and handle their callbacks."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final
from urllib.parse import parse_qsl

from fastapi import Depends, FastAPI, Request, Response
from starlette.responses import RedirectResponse

from services.oauth.api.authorization_schemas import (
    AuthorizationCreate,
    AuthorizationOut,
    ReauthorizationCreate,
    purposes_of,
)
from services.oauth.api.cookies import COOKIE_PATH, StateCookies
from services.oauth.api.form_post import FormPosts, NotAForm
from services.oauth.api.pages import SECURITY_HEADERS, Pages
from services.oauth.api.tickets import TICKET_PATH
from services.oauth.authorization.callback import CallbackHandler, CompletedAuthorization
from services.oauth.authorization.errors import AuthorizationFailed
from services.oauth.authorization.flows import OAUTH_KINDS
from services.oauth.authorization.redirect import add_outcome
from services.oauth.authorization.start import (
    AuthorizationRedirect,
    AuthorizationRequest,
    AuthorizationStarter,
)
from services.oauth.authorization.state import States, cookie_name, cookie_name_of_result
from services.oauth.authorization.state_record import (
    AuthorizationOutcome,
    BrowserMismatch,
    FinishedState,
    UnknownState,
    UsedState,
)
from services.oauth.authorization.unconfirmed_grants import CONFIRMATION_REQUIRED
from shared.connections.integrations import IntegrationRepository
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, Misconfigured, RetryLater
from shared.manifests.catalogue import CALLBACK_PATH
from shared.manifests.connector import Connector
from shared.runtime.logs import Log
from shared.runtime.metrics import CONNECTIONS
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.routes import Routes

RESULT_PATH: Final = f"{COOKIE_PATH}/result"
_MAX_QUERY_PARAMETERS: Final = 50

Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class AuthorizationApi:
    """The routes of authorizations. `public_base` is the public address of the hub."""

    def __init__(
        self,
        starter: AuthorizationStarter,
        callback_handler: CallbackHandler,
        states: States,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        pages: Pages,
        cookies: StateCookies,
        log: Log,
        *,
        public_base: str,
    ) -> None:
        self._starter = starter
        self._callback_handler = callback_handler
        self._states = states
        self._pages = pages
        self._integrations = integrations
        self._connectors = connectors
        self._log = log
        self._cookies = cookies
        self._result_url = public_base + RESULT_PATH
        self._ticket_url = public_base + TICKET_PATH
        self._form_posts = FormPosts(
            public_base + CALLBACK_PATH, connectors.values(), max_parameters=_MAX_QUERY_PARAMETERS
        )

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api").add
        add("/auth/oauth/connect", self.connect, methods=["POST"], status_code=201)
        add(CALLBACK_PATH.removeprefix("/api"), self.callback, methods=["GET"], response_class=Response)
        # Pages for browsers, which API clients do not call.
        form_post = CALLBACK_PATH.removeprefix("/api")
        add(form_post, self.form_post, methods=["POST"], response_class=Response, include_in_schema=False)
        result = RESULT_PATH.removeprefix("/api") + "/{result}"
        add(result, self.result, methods=["GET"], response_class=Response, include_in_schema=False)
        add("/integrations/{integration_id}/reconnect", self.reconnect, methods=["POST"])

    async def connect(self, body: AuthorizationCreate, key: Writer, response: Response) -> AuthorizationOut:
        """Start an authorization. Return the provider's address to send the person to.

        The response sets a cookie that the browser of that person needs. If a server makes this call, it must
        pass the cookie on to the browser. If it cannot, because chat and hub have no common host name, it
        sends the person to `connect_url` instead, and confirms the result.
        """
        authorization_request = AuthorizationRequest(
            provider=body.provider,
            workspace=key.workspace,
            user=body.user,
            purposes=purposes_of(body),
            scopes=body.scopes,
            user_scopes=body.user_scopes,
            params=body.params,
            return_to=body.return_to,
            name=body.name,
            takeover=body.takeover,
            app_name=body.app,
            tags=body.tags,
            metadata=body.metadata,
        )
        return self._authorization_out(await self._starter.start(authorization_request), response)

    async def reconnect(
        self, integration_id: str, key: Writer, response: Response, body: ReauthorizationCreate | None = None
    ) -> AuthorizationOut:
        """Start an authorization for an existing integration, which keeps its id.

        `add_scopes` asks for more than before. The integration's `scopes` are those that were granted, its
        `missing_scopes` those that were not. Another account than before is refused unless `any_account` is
        set.
        """
        body = body or ReauthorizationCreate()
        integration = await self._integrations.find(integration_id, key.workspace)
        if integration.status == "disabled":
            raise Conflict("the integration is disabled: enable it first")
        if integration.kind not in OAUTH_KINDS:
            raise Conflict(
                "this account is connected by manual credentials: send them to "
                "POST /api/integrations/{id}/fields"
            )
        authorization_request = AuthorizationRequest(
            provider=integration.provider,
            workspace=key.workspace,
            user=body.user,
            purposes=purposes_of(body),
            scopes=body.scopes,
            more_scopes=body.add_scopes,
            user_scopes=body.user_scopes,
            params=body.params,
            return_to=body.return_to,
            takeover=body.takeover,
            app_name=body.app,
        )
        redirect = await self._starter.reconnect(
            integration, authorization_request, any_account=body.any_account
        )
        return self._authorization_out(redirect, response)

    def _authorization_out(self, redirect: AuthorizationRedirect, response: Response) -> AuthorizationOut:
        """Return the redirect as the API shows it, and set the cookie of its state on the response."""
        pending_state = redirect.pending_state
        self._cookies.set(response, pending_state.cookie, pending_state.binding)
        response.headers["Cache-Control"] = "no-store"
        return AuthorizationOut(
            authorization_url=redirect.url,
            connect_url=f"{self._ticket_url}?ticket={redirect.ticket}" if redirect.ticket else None,
            integration_id=redirect.integration_id,
            expires_at=rfc3339(pending_state.stored.expires_at),
        )

    async def callback(self, request: Request) -> Response:
        """Complete an authorization. Redirect to `return_to`, or to a result page without code and state.

        A repeated callback, by the back button or a double click, is redirected to the same address. After
        success the cookie stays for its ten minutes, so that only this browser can see the result.
        """
        text = request.scope["query_string"].decode("ascii", "replace")
        query = parse_qsl(text, keep_blank_values=True)
        if rejection := self._check_query(query):
            return rejection
        state = dict(query)["state"]
        cookie = cookie_name(state)
        try:
            completed = await self._callback_handler.complete(query, self._cookies.get(request, cookie))
        except FinishedState as error:
            return self._result_redirect(error.result, error.outcome)
        except AuthorizationFailed as error:
            response = self._failure_response(error)
        except BrowserMismatch:
            return self._rejection_page(
                "other_browser", 403, "Continue in the browser in which you started, or start again."
            )
        except UsedState:
            return self._rejection_page(
                "used", 410, "This address was used before, or it has expired: start again."
            )
        except UnknownState as error:
            if error.__cause__ is not None:  # The stored state could not be decrypted.
                self._log.error("authorization.state_unreadable", error=str(error.__cause__))
            return self._rejection_page("unknown_state", 404, "This address is not valid: start again.")
        except (RetryLater, Misconfigured) as error:
            if isinstance(error, Misconfigured):
                self._log.error("authorization.misconfigured", error=str(error))
            return self._rejection_page(
                "unavailable", 503, "The service is not available: try again in a moment."
            )
        else:
            integration = completed.integration
            CONNECTIONS.labels(integration.provider, integration.status).inc()
            return await self._success_response(state, completed)
        self._cookies.delete(response, cookie)
        return response

    async def form_post(self, request: Request) -> Response:
        """Have the browser repeat a posted response as a callback by GET, which has the state's cookie."""
        try:
            content_type = request.headers.get("content-type", "")
            parameters = self._form_posts.parse(content_type, await request.body())
            if rejection := self._check_query(parameters):
                return rejection
            url = self._form_posts.callback_url(parameters)
        except NotAForm:
            return self._rejection_page(
                "not_a_form", 400, "This is not a response of a provider that the hub can read: start again."
            )
        return RedirectResponse(url, status_code=303, headers=dict(SECURITY_HEADERS))

    def _check_query(self, query: Sequence[tuple[str, str]]) -> Response | None:
        """Return an error page if the query is not a provider's response; else None."""
        parameters = dict(query)
        if len(parameters) != len(query):
            return self._rejection_page("doubled", 400, "This address has the same parameter twice.")
        if len(query) > _MAX_QUERY_PARAMETERS:
            return self._rejection_page("too_many", 400, "This address has too many parameters.")
        if not parameters.get("state"):
            return self._rejection_page(
                "no_state", 400, "Providers send browsers to this address when an account is connected."
            )
        return None

    async def _success_response(self, state: str, completed: CompletedAuthorization) -> Response:
        """Store the outcome for repeated callbacks, and redirect the person."""
        title, text = self._success_text(completed)
        integration, code = completed.integration, completed.confirmation_code
        outcome = AuthorizationOutcome(
            title=title,
            text=text,
            return_to=completed.state.authorization.return_to,
            parameters={
                "integration_id": integration.id,
                "status": CONFIRMATION_REQUIRED if code else integration.status,
                **({"confirmation_code": code} if code else {}),
            },
        )
        try:
            result = await self._states.complete(state, completed.state.workspace, outcome)
        except RetryLater:  # The account is connected all the same.
            return _return_redirect(outcome.return_to, outcome.parameters) or self._pages.page(
                200, title, text
            )
        return self._result_redirect(result, outcome)

    def _success_text(self, completed: CompletedAuthorization) -> tuple[str, str]:
        """Return title and text of the result page."""
        label, integration = completed.account.label, completed.integration
        if completed.confirmation_code:
            return "Confirm in the chat", f"{label} is connected once the chat confirms it."
        if integration.status == "connected":
            return "Connected", f"{label} is connected. You can close this window."
        selection = self._connectors[integration.provider].account_selection
        about = selection.about if selection else "one of its resources"
        return "One choice is left", f"{label} has several: choose {about} where you started to connect it."

    def _result_redirect(self, result: str, outcome: AuthorizationOutcome | None) -> Response:
        """Redirect to `return_to`, or to the result page if there is none or the browser is another one."""
        return_redirect = _return_redirect(outcome.return_to, outcome.parameters) if outcome else None
        return return_redirect or RedirectResponse(
            f"{self._result_url}/{result}", status_code=303, headers=dict(SECURITY_HEADERS)
        )

    async def result(self, result: str, request: Request) -> Response:
        """Return the result page. Only the browser that started the authorization sees the account."""
        try:
            cookie = self._cookies.get(request, cookie_name_of_result(result))
            outcome = await self._states.result(result, cookie)
        except UnknownState:
            text = "This page has expired. The chat shows which accounts are connected."
            return self._pages.page(404, "Page expired", text, "unknown_result")
        except RetryLater:
            text = "The service is not available: reload this page in a moment."
            return self._pages.page(503, "Not available", text, "unavailable")
        if outcome is None:
            text = "This is finished. Only the browser in which it was started shows more."
            return self._pages.page(200, "Finished", text)
        return self._pages.page(200, outcome.title, outcome.text)

    def _failure_response(self, error: AuthorizationFailed) -> Response:
        """Redirect to `return_to` with the error code, or return an error page if there is none."""
        pending = error.pending
        provider, integration_id, return_to = (
            (pending.provider, pending.integration_id, pending.return_to) if pending else ("", "", None)
        )
        CONNECTIONS.labels(provider, error.code).inc()
        self._log.info(
            "authorization.failed",
            code=error.code,
            error=error.log_detail,
            provider=provider,
            integration_id=integration_id,
        )
        outcome = {"error": error.code, "integration_id": integration_id}
        return _return_redirect(return_to, outcome) or self._pages.page(
            error.status, "Not connected", error.detail[:1].upper() + error.detail[1:] + ".", error.code
        )

    def _rejection_page(self, code: str, status: int, detail: str) -> Response:
        """Return the error page of a callback that belongs to no pending authorization.

        Neither state nor authorization code is logged: a reader of the log could use them.
        """
        CONNECTIONS.labels("", code).inc()
        self._log.info("authorization.callback_rejected", code=code)
        return self._pages.page(status, "Not connected", detail, code)


def _return_redirect(return_to: str | None, outcome: Mapping[str, str]) -> Response | None:
    """Return the redirect to `return_to` with the outcome in its query; None if there is no `return_to`."""
    if not return_to:
        return None
    return RedirectResponse(add_outcome(return_to, outcome), status_code=303, headers=dict(SECURITY_HEADERS))
