"""`/api/auth/oauth/*`: sending a person to a platform, and taking him back."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.responses import RedirectResponse

from services.oauth.api.pages import SECURITY_HEADERS, Pages
from services.oauth.api.schemas import AuthorizationCreate, AuthorizationOut, ReauthorizationCreate
from services.oauth.authorization.callback import AuthorizationFailed, CallbackHandler
from services.oauth.authorization.flows import OAUTH_KINDS
from services.oauth.authorization.redirect import add_outcome
from services.oauth.authorization.start import (
    AuthorizationRedirect,
    AuthorizationRequest,
    AuthorizationStarter,
)
from services.oauth.authorization.state import (
    LIFETIME,
    BrowserMismatch,
    FinishedState,
    States,
    UnknownState,
    UsedState,
    cookie_name,
    cookie_name_of_result,
)
from shared.connections.integrations import IntegrationRepository
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, Misconfigured, RetryLater
from shared.manifests.catalogue import CALLBACK_PATH
from shared.manifests.registry import connectors
from shared.runtime.logs import Log
from shared.runtime.metrics import CONNECTIONS
from shared.runtime.mongo import Document
from shared.runtime.web.access import ApiKey, requires

_COOKIE_PATH: Final = "/api/auth/oauth"
RESULT_PATH: Final = f"{_COOKIE_PATH}/result"
_MAX_QUERY_PARAMETERS: Final = 50

Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class AuthorizationApi:
    """The routes and what they need."""

    def __init__(
        self,
        connecting: AuthorizationStarter,
        arriving: CallbackHandler,
        states: States,
        integrations: IntegrationRepository,
        pages: Pages,
        log: Log,
        *,
        public_base: str,
    ) -> None:
        self._starter = connecting
        self._callback_handler = arriving
        self._states = states
        self._pages = pages
        self._integrations = integrations
        self._log = log
        self._result_url = public_base + RESULT_PATH
        base = urlsplit(public_base)
        self._https = base.scheme == "https"
        # No sibling host can plant a cookie of this name; the price is that every path of the host gets it
        # (RFC 6265bis, 4.1.3.2). It needs TLS.
        self._prefix = "__Host-" if self._https else ""
        self._path = "/" if self._https else base.path + _COOKIE_PATH

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
        add("/auth/oauth/connect", self.connect, methods=["POST"], status_code=201)
        add(CALLBACK_PATH.removeprefix("/api"), self.callback, methods=["GET"], response_class=Response)
        result = RESULT_PATH.removeprefix("/api") + "/{result}"  # a page for browsers, which no client calls
        add(result, self.result, methods=["GET"], response_class=Response, include_in_schema=False)
        add("/integrations/{integration_id}/reconnect", self.reconnect, methods=["POST"])
        app.include_router(router)

    async def connect(self, body: AuthorizationCreate, key: Writer, response: Response) -> AuthorizationOut:
        """Begin to connect an account: the address to send the person to.

        The answer's cookie belongs to the browser of that person: pass it on when a server makes this call.
        """
        wish = AuthorizationRequest(
            provider=body.provider,
            workspace=key.workspace,
            user=body.user,
            scopes=body.scopes,
            params=body.params,
            return_to=body.return_to,
            name=body.name,
            takeover=body.takeover,
        )
        return self._authorization_out(await self._starter.start(wish), response)

    async def reconnect(
        self, integration_id: str, key: Writer, response: Response, body: ReauthorizationCreate | None = None
    ) -> AuthorizationOut:
        """Begin to connect an integration anew: it keeps its id, and refuses another account unless told."""
        body = body or ReauthorizationCreate()
        document = await self._integrations.find(integration_id, key.workspace)
        if document["status"] == "disabled":
            raise Conflict("the integration is disabled: enable it first")
        if document["kind"] not in OAUTH_KINDS:
            raise Conflict("this account was entered: send its fields to POST /api/integrations/{id}/fields")
        wish = AuthorizationRequest(
            provider=document["provider"],
            workspace=key.workspace,
            user=body.user,
            scopes=body.scopes,
            params=body.params,
            return_to=body.return_to,
            takeover=body.takeover,
        )
        sent = await self._starter.reconnect(document, wish, any_account=body.any_account)
        return self._authorization_out(sent, response)

    def _authorization_out(self, sent: AuthorizationRedirect, response: Response) -> AuthorizationOut:
        begun = sent.pending_state
        response.set_cookie(
            self._prefix + begun.cookie,
            begun.binding,
            max_age=int(LIFETIME.total_seconds()),
            path=self._path,
            secure=self._https,
            httponly=True,
            samesite="lax",
        )
        response.headers["Cache-Control"] = "no-store"
        return AuthorizationOut(
            authorization_url=sent.url,
            integration_id=sent.integration_id,
            expires_at=rfc3339(begun.expires_at),
        )

    async def callback(self, request: Request) -> Response:
        """Where platforms send people back to: on to `return_to`, or to a page without code and state.

        Who comes a second time, by the back button or a double click, is sent to the same place. The cookie
        stays after success, for its ten minutes: it shows the result to this browser, and to no other.
        """
        text = request.scope["query_string"].decode("ascii", "replace")
        query = parse_qsl(text, keep_blank_values=True)
        if wrong := self._check_query(query):
            return wrong
        state = dict(query)["state"]
        cookie = self._prefix + cookie_name(state)
        try:
            begun, document = await self._callback_handler.complete(query, request.cookies.get(cookie))
        except FinishedState as error:
            return self._result_redirect(error.result, error.outcome)
        except AuthorizationFailed as error:
            answer = self._failure_response(error)
        except BrowserMismatch:
            return self._rejection_page(
                "other_browser", 403, "Go on in the browser that you began in, or begin anew."
            )
        except UsedState:
            return self._rejection_page(
                "used", 410, "This address was used, or its ten minutes are over: begin anew."
            )
        except UnknownState as error:
            if error.__cause__ is not None:
                self._log.error("a state was changed in the store", why=str(error.__cause__))
            return self._rejection_page("unknown_state", 404, "This address is not known here: begin anew.")
        except (RetryLater, Misconfigured) as error:
            if isinstance(error, Misconfigured):
                self._log.error("connection not finished", why=str(error))
            return self._rejection_page(
                "unavailable", 503, "Something is not available: try again in a moment."
            )
        else:
            CONNECTIONS.labels(document["provider"], document["status"]).inc()
            return await self._success_response(state, begun, document)
        answer.delete_cookie(cookie, path=self._path, secure=self._https, httponly=True, samesite="lax")
        return answer

    def _check_query(self, query: Sequence[tuple[str, str]]) -> Response | None:
        """The refusal of an address that is no answer of a platform."""
        got = dict(query)
        if len(got) != len(query):
            return self._rejection_page("doubled", 400, "This address has a parameter twice.")
        if len(query) > _MAX_QUERY_PARAMETERS:
            return self._rejection_page("too_many", 400, "This address has too many parameters.")
        if not got.get("state"):
            return self._rejection_page(
                "no_state", 400, "Platforms send people here when they connect an account."
            )
        return None

    async def _success_response(self, state: str, pending_state: Document, document: Document) -> Response:
        title, text = _success_text(document)
        outcome: Document = {
            "title": title,
            "text": text,
            "return_to": pending_state["return_to"],
            "told": {"integration_id": document["_id"], "status": document["status"]},
        }
        try:
            result = await self._states.complete(state, pending_state["workspace"], outcome)
        except RetryLater:  # it is connected all the same
            return _return_redirect(pending_state, outcome["told"]) or self._pages.page(200, title, text)
        return self._result_redirect(result, outcome)

    def _result_redirect(self, result: str, outcome: Document | None) -> Response:
        """Send a person on: to `return_to`, or to the page with the result; a strange browser to the page."""
        way_back = _return_redirect(outcome, outcome["told"]) if outcome else None
        return way_back or RedirectResponse(
            f"{self._result_url}/{result}", status_code=303, headers=dict(SECURITY_HEADERS)
        )

    async def result(self, result: str, request: Request) -> Response:
        """What came of a connection; whose it is, only for the browser that it was made in."""
        try:
            outcome = await self._states.result(
                result, request.cookies.get(self._prefix + cookie_name_of_result(result))
            )
        except UnknownState:
            text = "This page is over. The chat shows which accounts are connected."
            return self._pages.page(404, "Nothing to see here", text, "unknown_result")
        except RetryLater:
            text = "Something is not available: reload this page in a moment."
            return self._pages.page(503, "Not available", text, "unavailable")
        if outcome is None:
            text = "This is finished. Only the browser that it was begun in shows more."
            return self._pages.page(200, "Finished", text)
        return self._pages.page(200, outcome["title"], outcome["text"])

    def _failure_response(self, error: AuthorizationFailed) -> Response:
        begun = error.pending_state
        CONNECTIONS.labels(begun["provider"], error.code).inc()
        self._log.info(
            "connection not finished",
            code=error.code,
            why=error.log_detail,
            provider=begun["provider"],
            integration_id=begun["integration_id"],
        )
        outcome = {"error": error.code, "integration_id": begun["integration_id"]}
        return _return_redirect(begun, outcome) or self._pages.page(
            error.status, "Not connected", error.why[:1].upper() + error.why[1:] + ".", error.code
        )

    def _rejection_page(self, code: str, status: int, why: str) -> Response:
        """Neither state nor code is logged: whoever reads logs must not be able to use them."""
        CONNECTIONS.labels("", code).inc()
        self._log.info("connection not finished", code=code)
        return self._pages.page(status, "Not connected", why, code)


def _success_text(document: Document) -> tuple[str, str]:
    """The title and the sentence of what was connected."""
    label = document["account"]["label"]
    if document["status"] == "connected":
        return "Connected", f"{label} is connected. This is finished: you can close this window."
    choices = connectors()[document["provider"]].choices
    about = choices.about if choices else "its place"
    return "One choice is left", f"{label} has several: choose {about} there where you began to connect it."


def _return_redirect(pending_state: Mapping[str, Any], outcome: Mapping[str, str]) -> Response | None:
    if not pending_state["return_to"]:
        return None
    return RedirectResponse(
        add_outcome(pending_state["return_to"], outcome), status_code=303, headers=dict(SECURITY_HEADERS)
    )
