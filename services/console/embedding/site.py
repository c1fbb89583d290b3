"""The routes of embedded pages, with the checks of every page and form."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.console.embedding.frame import EmbeddedFrame, Logo, base_of, home_of
from services.console.embedding.kinds import KINDS, PORTAL_WEBHOOKS
from services.console.embedding.records import EmbeddedSession, EmbeddedSessions
from services.console.embedding.theme import stylesheet
from services.console.embedding.visits import EmbeddedHeaders, EmbeddedVisits
from services.console.embedding.window import ConnectWindow
from services.console.hub_api import HubApi, page_timeout
from services.console.web.action_forms import ActionForms
from services.console.web.forms import BadForm, Form, first, read_form
from services.console.web.frame import see_other
from services.console.web.lists import ListPages
from services.console.web.objects import ObjectPages
from services.console.web.static_files import StaticFiles
from services.console.web.visits import Visit
from services.console.web.webhook_forms import WebhookForms
from shared.contracts.errors import DatabaseUnavailable, InterlinkError
from shared.contracts.routes import CONNECT_PATH, CONSOLE_PATH, PORTAL_PATH
from shared.runtime.logs import Log

Handler = Callable[[Request], Awaitable[Response]]
Page = Callable[[Request, Visit], Awaitable[Response]]
FormPage = Callable[[Request, Visit, Form], Awaitable[Response]]

_FILES_PATH: Final = f"{CONSOLE_PATH}/embed"
PATHS: Final = (f"{PORTAL_PATH}/", f"{CONNECT_PATH}/", f"{_FILES_PATH}/")
"""Prefixes of the paths of embedded pages, and of the files that pages of other sites load."""
_SCRIPT: Final = "interlink-connect.js"
_LOGO: Final = "logo"
_ID_PREFIXES: Final = {PORTAL_PATH: "ptl_", CONNECT_PATH: "con_"}
_NO_REFERRER: Final = {"Referrer-Policy": "no-referrer"}
_PUBLIC: Final = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Cache-Control": "public, max-age=300",
}
"""Headers of the script, which pages of every site may load: it has no secret."""


class EmbeddedSite:
    """The pages below `PATHS`."""

    def __init__(
        self,
        hub: HubApi,
        sessions: EmbeddedSessions,
        visits: EmbeddedVisits,
        frame: EmbeddedFrame,
        files: StaticFiles,
        logo: Logo | None,
        log: Log,
    ) -> None:
        self._hub = hub
        self._sessions = sessions
        self._visits = visits
        self._frame = frame
        self._files = files
        self._logo = logo
        self._log = log

    def app(self) -> ASGIApp:
        """Return the ASGI app."""
        app = Starlette(
            routes=[
                Route(f"{_FILES_PATH}/{{name}}", self._file),
                *self._session_routes(PORTAL_PATH),
                *self._portal_routes(),
                *self._session_routes(CONNECT_PATH),
                *self._window_routes(),
            ],
            exception_handlers={404: self._not_found, 405: self._not_found, Exception: self._failed},
        )
        # Starlette answers an unexpected error outside of its `middleware`: this adds the headers to it too.
        return EmbeddedHeaders(app)

    def _session_routes(self, path: str) -> list[Route]:
        """Return the routes that sessions of both kinds have."""

        async def open_session(request: Request) -> Response:
            async with page_timeout():
                return await self._open(request, _ID_PREFIXES[path])

        async def theme(request: Request) -> Response:
            async with page_timeout():
                session = await self._visits.session_of(request, _ID_PREFIXES[path])
            return Response(stylesheet(session.theme if session else {}), media_type="text/css")

        return [
            Route(f"{path}/{{session}}/open", self._guarded(open_session), methods=["GET"]),
            Route(f"{path}/{{session}}/theme.css", self._guarded(theme), methods=["GET"]),
        ]

    def _portal_routes(self) -> list[Route]:
        forms = ActionForms(self._frame)
        objects = ObjectPages(self._hub, self._frame, forms)
        lists = ListPages(self._hub, self._frame, None)
        webhooks = WebhookForms(self._hub, self._frame, PORTAL_WEBHOOKS)
        routes: list[Route] = []
        for end in ("do/create", "{id}/do/edit"):
            path = f"{CONSOLE_PATH}/{PORTAL_WEBHOOKS.path}/{end}"
            routes += self._both(path, PORTAL_PATH, webhooks.show, webhooks.submit)
        for kind in KINDS:
            path = f"{CONSOLE_PATH}/{kind.path}"
            for suffix, page in (*lists.pages(kind), *objects.pages(kind)):
                routes.append(Route(path + suffix, self._page(page, PORTAL_PATH), methods=["GET"]))
            for suffix, form in objects.forms(kind):
                routes.append(Route(path + suffix, self._form(form, PORTAL_PATH), methods=["POST"]))
        return routes

    def _window_routes(self) -> list[Route]:
        window = ConnectWindow(self._hub, self._sessions, self._frame)
        here = f"{CONNECT_PATH}/{{session}}"
        return [
            Route(here, self._page(window.show, CONNECT_PATH), methods=["GET"]),
            Route(f"{here}/done", self._page(window.done, CONNECT_PATH), methods=["GET"]),
            *self._both(f"{here}/{{provider}}/{{kind}}", CONNECT_PATH, window.ask, window.connect),
        ]

    def _both(self, path: str, kind: str, page: Page, form: FormPage) -> Sequence[Route]:
        """Return the routes that show a form and submit it."""
        return (
            Route(path, self._page(page, kind), methods=["GET"]),
            Route(path, self._form(form, kind), methods=["POST"]),
        )

    # Sessions

    async def _open(self, request: Request, prefix: str) -> Response:
        """Exchange the code in the address for the cookie, and redirect to the session's first page.

        A browser that has the cookie is redirected again: it reloads the address with the page around it.
        """
        session = await self._visits.session_of(request, prefix)
        self._frame.set_context(request, session)
        if session is None:
            response = self._gone()
        elif not session.is_open:
            response = self._expired(session)
        elif self._visits.secret_of(request, session):
            response = see_other(home_of(session))
        else:
            secret = await self._sessions.open(session, request.query_params.get("code", "")[:200])
            if secret is None:
                text = "This address was used before, or it has expired. Open it again from the chat."
                response = self._frame.problem(None, 403, "Open it again", text)
            else:
                response = see_other(home_of(session))
                self._visits.set_cookie(response, session, secret, base_of(session))
        response.headers.update(_NO_REFERRER)  # the address has the code
        return response

    def _gone(self) -> Response:
        return self._frame.problem(None, 404, "Not found", "This has ended. Open it again from the chat.")

    def _expired(self, session: EmbeddedSession) -> Response:
        text = "The time for this has passed. Open it again from the chat."
        if session.connect is None:
            return self._frame.problem(None, 410, "Expired", text)
        return self._frame.page(
            "expired.html", None, 410, title="Expired", text=text, report=ConnectWindow.expired(session)
        )

    async def _visit(self, request: Request, kind: str) -> Visit | Response:
        """Return the visit of a request, or the page to respond with if the request has no valid session."""
        session = await self._visits.session_of(request, _ID_PREFIXES[kind])
        self._frame.set_context(request, session)
        if session is None:
            return self._gone()
        if not session.is_open:
            return self._expired(session)
        secret = self._visits.secret_of(request, session)
        if not secret:
            text = (
                "This browser did not send the cookie of this page. Allow cookies for it, and open it again "
                "from the chat."
            )
            return self._frame.problem(None, 401, "Open it again", text)
        request.state.session = session
        return self._visits.visit(request, session, secret)

    # Checks

    def _page(self, page: Page, kind: str) -> Handler:
        async def checked(request: Request) -> Response:
            async with page_timeout():
                visit = await self._visit(request, kind)
                return visit if isinstance(visit, Response) else await page(request, visit)

        return self._guarded(checked)

    def _form(self, page: FormPage, kind: str) -> Handler:
        """Return a handler that checks origin and token of a submitted form before `page` handles it."""

        async def checked(request: Request) -> Response:
            form = await read_form(request) if self._visits.own_origin.sent(request) else {}
            async with page_timeout():
                visit = await self._visit(request, kind)
                if isinstance(visit, Response):
                    return visit
                if not visit.has_token(first(form, "token")):
                    text = (
                        "This form is not of this page, or has expired. Nothing was changed: "
                        "do it again here."
                    )
                    return self._frame.problem(visit, 403, "Refused", text)
                return await page(request, visit, form)

        return self._guarded(checked)

    def _guarded(self, handler: Handler) -> Handler:
        """Return a handler that responds to errors with a page."""

        async def guarded(request: Request) -> Response:
            self._frame.set_context(request, None)
            try:
                return await handler(request)
            except BadForm as error:
                return self._frame.problem(None, 400, "The form cannot be read", error.detail)
            except (DatabaseUnavailable, TimeoutError):
                return self._frame.problem(None, 503, "Not available", "Try again in a moment.")
            except InterlinkError as error:
                status = getattr(error, "status", 503)
                return self._frame.problem(None, status, "Not possible", str(error))

        return guarded

    async def _file(self, request: Request) -> Response:
        """Return the script of connect sessions, or the chat's logo."""
        name = request.path_params["name"]
        if name == _LOGO and self._logo:
            headers = {"Cache-Control": "public, max-age=300"}
            return Response(self._logo.content, headers=headers, media_type=self._logo.media_type)
        if name != _SCRIPT:
            return Response(status_code=404)
        response = await self._files.serve(request)
        response.headers.update(_PUBLIC)
        return response

    async def _not_found(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        self._frame.set_context(request, None)
        return self._frame.problem(None, status, "Not found", "There is no such page.")

    async def _failed(self, request: Request, error: Exception) -> Response:
        self._log.error("console.embedded_page_failed", path=request.url.path, exc_info=error)
        self._frame.set_context(request, None)
        return self._frame.problem(None, 500, "Failed", "This page cannot be shown now. Try again later.")
