"""The console's addresses: who may see each page, and the checks of every form."""

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.console.hub_api import HubApi, Refusal, page_timeout
from services.console.live.event_feed import EventFeed
from services.console.live.streams import Streams
from services.console.openid.configuration import CALLBACK_PATH
from services.console.openid.sign_in import OpenIdSignIn
from services.console.pages.registry import KINDS
from services.console.saved_views import SavedViews
from services.console.sessions.records import Sessions
from services.console.sessions.sign_in import SignIn
from services.console.web.accounts import AccountPages
from services.console.web.action_forms import ActionForms
from services.console.web.apps import AppPages
from services.console.web.bulk import BulkPages
from services.console.web.catalogue import APP, CataloguePages
from services.console.web.connect import ConnectPages
from services.console.web.endpoint_edit import EndpointEdit
from services.console.web.endpoint_setup import EndpointSetup
from services.console.web.file_form import FileForm
from services.console.web.find import Find
from services.console.web.forms import BadForm, Form, first, read_form
from services.console.web.frame import Frame, see_other
from services.console.web.health import HealthPages
from services.console.web.import_forms import ImportForms
from services.console.web.import_plan import ImportPlanPages
from services.console.web.imports import ImportPages
from services.console.web.lists import ListPages
from services.console.web.live import Live
from services.console.web.mapping_forms import MappingForms
from services.console.web.objects import ObjectPages
from services.console.web.openid_pages import OpenIdPages
from services.console.web.overview import Overview
from services.console.web.retention import RetentionPage
from services.console.web.session_pages import SessionPages
from services.console.web.static_files import StaticFiles
from services.console.web.visits import SecurityHeaders, Visit, Visits, address_of, local_path
from services.console.web.webhook_forms import WebhookForms
from services.console.web.whole_path import PathPages
from services.console.web.workspace_addresses import WorkspaceAddresses
from shared.contracts.errors import DatabaseUnavailable, InterlinkError, Rejected
from shared.contracts.routes import CONSOLE_UPLOAD_PATH, MAX_UPLOAD_BYTES
from shared.runtime.logs import Log
from shared.runtime.web.request_body import RequestBody

Handler = Callable[[Request], Awaitable[Response]]
Page = Callable[[Request, Visit], Awaitable[Response]]
FormPage = Callable[[Request, Visit, Form], Awaitable[Response]]
FileFormPage = Callable[[Visit, FileForm], Awaitable[Response]]


class Site:
    """The pages below `/console`."""

    def __init__(
        self,
        hub: HubApi,
        sessions: Sessions,
        sign_in: SignIn,
        views: SavedViews,
        openid: OpenIdSignIn | None,
        files: StaticFiles,
        public_base: str,
        log: Log,
        feed: EventFeed,
        streams: Streams,
    ) -> None:
        """`public_base` is the hub's public address: forms come from there."""
        self._public_base = public_base
        self._feed = feed
        self._streams = streams
        self._hub = hub
        self._sessions = sessions
        self._sign_in = sign_in
        self._views = views
        self._openid = openid
        self._files = files
        self._log = log
        self._frame = Frame(files)
        self._visits = Visits(sign_in, public_base)

    def app(self) -> ASGIApp:
        """Return the ASGI app."""
        forms = ActionForms(self._frame)
        objects = ObjectPages(self._hub, self._frame, forms)
        lists = ListPages(self._hub, self._frame, self._views)
        imports = ImportPages(self._hub, self._frame)
        overview = Overview(self._hub, self._frame, self._feed)
        health = HealthPages(self._hub, self._frame, self._public_base)
        bulk = BulkPages(self._hub, self._frame)
        live = Live(overview, self._feed, self._streams, self._frame)
        sessions = SessionPages(self._hub, self._sessions, self._sign_in, self._frame)
        retention = RetentionPage(self._hub, self._frame, self._sessions)
        routes = [
            Route("/console/static/{name:path}", self._files.serve),
            Route("/console", self._page(overview.show)),
            Route("/console/live", self._page(live.show)),
            Route("/console/statistics", self._page(health.statistics)),
            Route("/console/help", self._page(health.help)),
            Route("/console/sign-in", self._guarded(self._sign_in_page), methods=["GET"]),
            Route("/console/sign-in", self._guarded(self._sign_in_form), methods=["POST"]),
            *self._openid_routes(),
            Route("/console/sign-out", self._form(self._sign_out), methods=["POST"]),
            Route("/console/find", self._page(Find(self._hub, self._frame).show)),
            Route("/console/paths/{id:path}", self._page(PathPages(self._hub, self._frame).show)),
            Route("/console/imports/new", self._page(imports.show), methods=["GET"]),
            Route("/console/imports/new", self._form(imports.start), methods=["POST"]),
            Route(CONSOLE_UPLOAD_PATH, self._file_form(imports.send_file), methods=["POST"]),
            Route("/console/uploads", self._script(imports.upload), methods=["POST"]),
            Route("/console/uploads/{id}", self._script(imports.upload), methods=["HEAD", "PATCH"]),
            *self._import_routes(forms),
            *self._catalogue_routes(forms),
            Route("/console/views", self._form(lists.save_view), methods=["POST"]),
            Route("/console/views/{slot}/delete", self._form(lists.delete_view), methods=["POST"]),
            Route("/console/sessions", self._page(sessions.show)),
            Route("/console/retention", self._page(retention.show)),
            Route("/console/sessions/key", self._form(sessions.rotate_key), methods=["POST"]),
            Route("/console/sessions/{id}/end", self._form(sessions.end), methods=["POST"]),
        ]
        mappings = MappingForms(self._hub, self._frame, forms)
        routes.append(Route("/console/mappings/find", self._page(mappings.find), methods=["GET"]))
        for path in ("/console/mappings/do/create", "/console/mappings/{id}/do/edit"):
            routes.append(Route(path, self._page(mappings.ask), methods=["GET"]))
            routes.append(Route(path, self._form(mappings.submit), methods=["POST"]))
        webhooks = WebhookForms(self._hub, self._frame)
        for path in ("/console/webhooks/do/create", "/console/webhooks/{id}/do/edit"):
            routes.append(Route(path, self._page(webhooks.show), methods=["GET"]))
            routes.append(Route(path, self._form(webhooks.submit), methods=["POST"]))
        # Lists that belong to an object come first: the address of an object would take theirs.
        for kind in sorted(KINDS, key=lambda kind: -kind.path.count("/")):
            for suffix, page in (*lists.pages(kind), *bulk.pages(kind), *objects.pages(kind)):
                routes.append(Route(f"/console/{kind.path}{suffix}", self._page(page), methods=["GET"]))
            for suffix, form in (*objects.forms(kind), *bulk.forms(kind)):
                routes.append(Route(f"/console/{kind.path}{suffix}", self._form(form), methods=["POST"]))
        app = Starlette(
            routes=routes,
            middleware=[Middleware(WorkspaceAddresses)],
            exception_handlers={404: self._not_found, 405: self._not_found, Exception: self._failed},
        )
        # Starlette answers an unexpected error outside of its `middleware`: this adds the headers to it too.
        return SecurityHeaders(app)

    def _import_routes(self, forms: ActionForms) -> list[Route]:
        """Return the routes of the steps of an import."""
        plan = ImportPlanPages(self._hub, self._frame)
        steps = ImportForms(self._hub, self._frame, forms)
        found = []
        for path, page, form in (
            ("account", steps.ask_account, steps.start_account),
            ("{id}/channels", plan.channels, plan.change_channels),
            ("{id}/people", plan.people, plan.change_people),
            ("{id}/options", steps.options, steps.set_options),
            ("{id}/do/undo", steps.ask_undo, steps.undo),
        ):
            found.append(Route(f"/console/imports/{path}", self._page(page), methods=["GET"]))
            found.append(Route(f"/console/imports/{path}", self._form(form), methods=["POST"]))
        answers = Route("/console/imports/{id}/answers", self._form(steps.answer), methods=["POST"])
        return [*found, answers]

    def _openid_routes(self) -> list[Route]:
        """Return the routes to the identity provider and back; none if the settings have none."""
        if self._openid is None:
            return []
        pages = OpenIdPages(self._openid, self._visits, self._ask, self._log)
        return [
            Route("/console/sign-in/openid", self._guarded(pages.begin), methods=["GET"]),
            Route(CALLBACK_PATH, self._guarded(pages.finish), methods=["GET"]),
        ]

    def _catalogue_routes(self, forms: ActionForms) -> list[Route]:
        """Return the routes of the catalogue, and of what is connected and set up from there."""
        catalogue = CataloguePages(self._hub, self._frame)
        connect = ConnectPages(self._hub, self._frame, forms)
        apps = AppPages(self._hub, self._frame, forms)
        accounts = AccountPages(self._hub, self._frame, forms)
        setup = EndpointSetup(self._hub, self._frame, forms)
        endpoints = EndpointEdit(self._hub, self._frame, forms)
        pages: dict[str, Page] = {
            "catalogue": catalogue.show,
            "catalogue/{provider}": catalogue.provider,
            f"catalogue/{{provider}}/{APP}": apps.ask,
            "catalogue/{provider}/{kind}": connect.ask,
            "apps": apps.show,
            "apps/{provider}/delete": apps.ask_delete,
            "connected": connect.connected,
            "integrations/{id}/reconnect": accounts.ask,
            "endpoints/new": setup.choose,
            "endpoints/new/{provider}": setup.ask,
            "endpoints/{id}/setup": setup.show,
            "endpoints/{id}/do/edit": endpoints.ask,
        }
        forms_of: dict[str, FormPage] = {
            "catalogue/{provider}/verify-app": apps.verify,
            f"catalogue/{{provider}}/{APP}": apps.save,
            "apps/{provider}/delete": apps.delete,
            "catalogue/{provider}/{kind}": connect.connect,
            "integrations/{id}/reconnect": accounts.reconnect,
            "integrations/{id}/choose": accounts.choose,
            "endpoints/new/{provider}": setup.create,
            "endpoints/{id}/do/edit": endpoints.submit,
            "endpoints/{id}/setup/secret": setup.enter_secret,
            "endpoints/{id}/setup/test": setup.test,
        }
        return [
            *(Route(f"/console/{path}", self._page(page), methods=["GET"]) for path, page in pages.items()),
            *(Route(f"/console/{path}", self._form(do), methods=["POST"]) for path, do in forms_of.items()),
        ]

    # Sign in

    async def _sign_in_page(self, request: Request) -> Response:
        next_path = local_path(request.query_params.get("next", ""))
        async with page_timeout():
            if not request.query_params.get("another") and await self._visits.of(request):
                return see_other(next_path)
        return self._ask(200, next_path)

    def _ask(self, status: int, next_path: str, problem: str = "") -> Response:
        """Return the page to sign in."""
        return self._frame.page(
            "sign_in.html",
            None,
            status,
            title="Sign in",
            problem=problem,
            next=next_path,
            openid=self._openid.configuration.name if self._openid else "",
        )

    async def _sign_in_form(self, request: Request) -> Response:
        """Sign in with the key of the form, and go on to the page that was asked for."""
        if not self._visits.is_own_origin(request):
            return self._ask(403, "/console", "this form is not of the console: enter the key here")
        form = await read_form(request)
        next_path = local_path(first(form, "next"))
        async with page_timeout():
            try:
                session_id, key = await self._sign_in.sign_in(
                    first(form, "key").strip(),
                    address=address_of(request),
                    agent=request.headers.get("user-agent", ""),
                )
            except Rejected as error:
                self._log.warning("console.sign_in_refused", client=address_of(request), reason=error.reason)
                return self._ask(error.status, next_path, str(error))
            self._log.info("console.signed_in", key_id=key.id, client=address_of(request))
            return await self._visits.start(request, {key.workspace: session_id}, next_path)

    async def _sign_out(self, _request: Request, visit: Visit, _form: Form) -> Response:
        """End the sessions of the browser, in every workspace."""
        response = see_other("/console/sign-in")
        await self._visits.end(response, visit)
        return response

    # Checks

    def _page(self, page: Page) -> Handler:
        """Return a page that only members see. Without a session it is the form to sign in."""

        async def checked(request: Request) -> Response:
            async with page_timeout():
                visit = await self._visits.of(request)
                if visit is None:
                    return self._ask(
                        401, self._visits.next_path(request), self._visits.sign_in_problem(request)
                    )
                return await page(request, visit)

        return self._guarded(checked)

    def _form(self, page: FormPage) -> Handler:
        """Return what a form of a member does: it needs an origin of the hub, and the session's token."""

        async def checked(request: Request) -> Response:
            if not self._visits.is_own_origin(request):
                text = "No page of the console sent this form, so nothing was changed. Do it again there."
                return self._frame.problem(None, 403, "Refused", text)
            form = await read_form(request)
            async with page_timeout():
                visit = await self._visits.of(request)
                if visit is None:
                    text = "the session has ended: sign in, and do it again"
                    return self._ask(401, self._visits.page_of_form(request), text)
                if not visit.has_token(first(form, "token")):
                    text = "The form has expired, and nothing was changed. Open the page, and do it again."
                    return self._frame.problem(visit, 403, "Refused", text)
                return await page(request, visit, form)

        return self._guarded(checked)

    def _file_form(self, page: FileFormPage) -> Handler:
        """Return what a form with a file does: it is checked before the file is read."""

        async def checked(request: Request) -> Response:
            body = RequestBody(request.scope, request.receive, max_bytes=MAX_UPLOAD_BYTES)
            try:
                response = await self._guarded(partial(self._checked_file, page, body))(request)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody gets it
            await body.discard()
            response.headers.update({k.decode(): v.decode() for k, v in body.closing_headers()})
            return response

        return checked

    async def _checked_file(self, page: FileFormPage, body: RequestBody, request: Request) -> Response:
        if not self._visits.is_own_origin(request):
            text = "No page of the console sent this form, so nothing was changed. Do it again there."
            return self._frame.problem(None, 403, "Refused", text)
        async with page_timeout():
            visit = await self._visits.of(request)
        if visit is None:
            return self._ask(401, "/console/imports/new", "the session has ended: sign in, and do it again")
        if not visit.member.key.allows("imports:write"):
            return self._frame.not_allowed(visit, "imports:write", "/console/imports")
        form = FileForm(request.headers.get("content-type", ""), body)
        try:
            await form.open()
        except TimeoutError:
            raise BadForm("the form did not come in time: send it again") from None
        if not visit.has_token(first(form.fields, "token")):
            text = "The form has expired, and nothing was changed. Open the page, and do it again."
            return self._frame.problem(visit, 403, "Refused", text)
        return await page(visit, form)

    def _script(self, page: Page) -> Handler:
        """Return what a script of the console does: it sends the session's token in a header."""

        async def checked(request: Request) -> Response:
            async with page_timeout():
                visit = await self._visits.of(request)
            if visit is None:
                return Response("the session has ended: sign in again", 401, media_type="text/plain")
            is_own = request.method == "HEAD" or self._visits.is_own_origin(request)
            if not is_own or not visit.has_token(request.headers.get("x-form-token", "")):
                return Response("this was not sent by a page of the console", 403, media_type="text/plain")
            return await page(request, visit)

        return self._guarded(checked)

    def _guarded(self, handler: Handler) -> Handler:
        """Return a handler that responds to errors with a page."""

        async def guarded(request: Request) -> Response:
            try:
                return await handler(request)
            except BadForm as error:
                return self._frame.problem(None, 400, "The form cannot be read", error.detail)
            except Refusal as refusal:
                return self._frame.problem(None, refusal.status, refusal.title, refusal.detail)
            except (DatabaseUnavailable, TimeoutError):
                text = "The database does not answer in time. Try again in a moment."
                if request.method == "POST":
                    text += " It may have been done already: look at its page first."
                return self._frame.problem(None, 503, "Not available", text)
            except InterlinkError as error:
                return self._frame.problem(None, getattr(error, "status", 503), "Not possible", str(error))

        return guarded

    async def _not_found(self, _request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return self._frame.problem(
            None,
            status,
            "Not found",
            "There is no such page in the console. Go back, and choose one in the menu.",
        )

    async def _failed(self, request: Request, error: Exception) -> Response:
        self._log.error("console.page_failed", path=request.url.path, exc_info=error)
        text = "The console failed to show this page. Try again; its log says why, as console.page_failed."
        return self._frame.problem(None, 500, "Failed", text)
