"""Sessions of browsers' requests, the check of a form's origin, and the headers of pages."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.console.hub_api import Member
from services.console.sessions.records import digest_of, form_token
from services.console.sessions.sign_in import SignIn
from services.console.web.workspace_addresses import address_in, asked_workspace, base_of
from shared.runtime import tracing

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors {}; base-uri 'none'"
)


def policy(ancestors: Sequence[str] = ()) -> bytes:
    """Return the Content-Security-Policy of a page that only pages of these origins may embed."""
    return _POLICY.format(" ".join(ancestors) or "'none'").encode()


MAX_WORKSPACES: Final = 5
"""The workspaces that a browser is signed in to at the same time."""
_SEPARATOR: Final = "."
_HEADERS: Final = (
    (b"content-security-policy", policy()),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of a member, with their session."""

    session_id: str
    record_id: str
    member: Member
    others: "tuple[Visit, ...]" = ()
    """The browser's sessions in other workspaces, which the member can change to."""
    base: str = ""
    """What the addresses of a page begin with if that of the request names its workspace."""

    @property
    def sessions(self) -> "tuple[Visit, ...]":
        """All sessions of the browser: the one of the visit, and the others."""
        return (self, *self.others)

    @property
    def workspaces(self) -> Sequence[str]:
        """The other workspaces that the browser is signed in to."""
        return [other.member.key.workspace for other in self.others]

    @property
    def page_id(self) -> str:
        """An id that live pages send, so that a page of another session of the browser is reloaded."""
        return self.record_id[:16]

    @property
    def token(self) -> str:
        """The token of every form."""
        return form_token(self.session_id)

    def has_token(self, presented: str) -> bool:
        """Return whether this is the token of the session's forms."""
        return compare_digest(presented.encode(), self.token.encode())


Page = Callable[[Request, Visit], Awaitable[Response]]


class OwnOrigin:
    """Checks that a form was sent by a page of the hub."""

    def __init__(self, public_base: str) -> None:
        """`public_base` is the hub's public address."""
        base = urlsplit(public_base)
        self._origin = f"{base.scheme}://{base.netloc}"
        self.is_https = base.scheme == "https"

    def sent(self, request: Request) -> bool:
        """Return whether a page of the hub sent a form: browsers send the page's origin with every form.

        Without https, the hub may have several addresses, such as localhost: the called one is accepted.
        """
        origin = request.headers.get("origin", "")
        if origin == self._origin:
            return True
        return not self.is_https and origin == f"http://{request.headers.get('host', '')}"


def trace_context(request: Request) -> str:
    """Return the context of a request's span; '' without one: what the browser sent was not checked."""
    return "" if tracing.tracer is None else request.headers.get("traceparent", "")


class Visits:
    """Finds the sessions of requests, and sets the cookie of new ones.

    The cookie has a session for each workspace that the person has signed in to. That of the workspace in
    the address counts, or the first one. Each is an ordinary session of its workspace, which ends by itself.
    """

    def __init__(self, sign_in: SignIn, public_base: str) -> None:
        """`public_base` is the hub's public address. With https, cookies need it too."""
        self._sign_in = sign_in
        self._own_origin = OwnOrigin(public_base)
        self._https = self._own_origin.is_https
        self._cookie = "__Host-interlink" if self._https else "interlink"
        self._sign_in_cookie = f"{self._cookie}-sign-in"

    async def of(self, request: Request) -> Visit | None:
        """Return the visit of a request; None without a valid session. Raises `DatabaseUnavailable`."""
        session_ids = request.cookies.get(self._cookie, "").split(_SEPARATOR)[:MAX_WORKSPACES]
        client, workspace = address_of(request), asked_workspace(request)
        if workspace:
            # Only the session of this workspace is used: the idle time of the others goes on.
            found = await self._others(session_ids, client, "")
            asked = [one.session_id for one in found if one.member.key.workspace == workspace]
            session_ids = [*asked, *session_ids] if asked else []
        visit = await self._first(session_ids, client)
        if visit is None or workspace not in ("", visit.member.key.workspace):
            return None
        visit.member.traceparent = trace_context(request)
        return replace(visit, base=base_of(workspace)) if workspace else visit

    async def _first(self, session_ids: Sequence[str], client: str) -> Visit | None:
        """Return a visit with the first of these sessions that is valid, and note its use."""
        for place, session_id in enumerate(session_ids):
            if found := await self._sign_in.find(session_id) if session_id else None:
                session, key = found
                others = await self._others(session_ids[place + 1 :], client, key.workspace)
                return Visit(session_id, session.id, Member(key, client, session.id), others)
        return None

    async def _others(self, session_ids: Sequence[str], client: str, workspace: str) -> tuple[Visit, ...]:
        """Return the valid ones of these sessions, one for each workspace but the given one.

        It does not extend their idle time.
        """
        if not session_ids:
            return ()
        records = {digest_of(session_id): session_id for session_id in session_ids}
        keys = await self._sign_in.find_all(list(records))
        found: dict[str, Visit] = {}
        for record_id, session_id in records.items():
            if (key := keys.get(record_id)) and key.workspace != workspace:
                visit = Visit(session_id, record_id, Member(key, client, record_id))
                found.setdefault(key.workspace, visit)
        return tuple(found.values())

    async def start(self, request: Request, new: Mapping[str, str], next_path: str) -> Response:
        """Give new sessions, ids by workspace, to the browser, and return the redirect to the next page.

        It keeps its sessions in other workspaces. Those in the same ones end: the browser forgets them, so
        nobody else may have them. The next page is one of the first new workspace.
        """
        before = await self.of(request)
        session_ids: dict[str, str] = {}
        for visit in before.sessions if before else ():
            workspace = visit.member.key.workspace
            if workspace in new or len(session_ids.keys() | new.keys()) >= MAX_WORKSPACES:
                await self._sign_in.end(workspace, visit.record_id)
            if workspace in new:
                session_ids[workspace] = new[workspace]
            elif len(session_ids.keys() | new.keys()) < MAX_WORKSPACES:
                session_ids[workspace] = visit.session_id
        session_ids |= new
        is_first = next(iter(session_ids)) == next(iter(new))
        base = "" if is_first else base_of(next(iter(new)))
        response = RedirectResponse(address_in(base, next_path), 303)
        self._set_cookie(response, list(session_ids.values()))
        return response

    async def end(self, response: Response, visit: Visit) -> None:
        """End every session of the browser."""
        for found in visit.sessions:
            await self._sign_in.end(found.member.key.workspace, found.record_id)
        response.delete_cookie(self._cookie, path="/", secure=self._https, httponly=True, samesite="lax")

    @staticmethod
    def next_path(request: Request) -> str:
        """Return the address of a request, to go on there after signing in."""
        workspace = asked_workspace(request)
        query = f"?{request.url.query}" if request.url.query else ""
        return address_in(base_of(workspace) if workspace else "", local_path(request.url.path + query))

    @staticmethod
    def page_of_form(request: Request) -> str:
        """Return the address of the page that sent a form, to go on there after signing in."""
        try:
            page = urlsplit(request.headers.get("referer", ""))
        except ValueError:
            return "/console"
        return local_path(f"{page.path}?{page.query}" if page.query else page.path)

    def sign_in_problem(self, request: Request) -> str:
        """Return why a page asks for a key although the browser has sessions; empty if it has none.

        None of them is of the workspace in the address.
        """
        workspace = asked_workspace(request)
        if not workspace or not request.cookies.get(self._cookie):
            return ""
        return (
            f"this address is of the workspace {workspace[:80]}: sign in with a key of it, or open /console "
            "for your own pages"
        )

    def is_own_origin(self, request: Request) -> bool:
        """Return whether a page of the hub sent a form."""
        return self._own_origin.sent(request)

    def _set_cookie(self, response: Response, session_ids: Sequence[str]) -> None:
        """Give sessions to the browser. Scripts cannot read them, and other sites' forms do not send them."""
        response.set_cookie(
            self._cookie,
            _SEPARATOR.join(session_ids),
            path="/",
            secure=self._https,
            httponly=True,
            samesite="lax",
        )

    def sign_in_cookie(self, request: Request) -> str:
        """Return the cookie of a started sign-in; empty if there is none."""
        return request.cookies.get(self._sign_in_cookie, "")

    def set_sign_in_cookie(self, response: Response, value: str, max_age_s: int) -> None:
        """Set the cookie of a started sign-in. It is lax because the callback comes from another site."""
        response.set_cookie(
            self._sign_in_cookie,
            value,
            max_age=max_age_s,
            path="/",
            secure=self._https,
            httponly=True,
            samesite="lax",
        )

    def delete_sign_in_cookie(self, response: Response) -> None:
        """Delete the cookie of a started sign-in: it can be used once."""
        response.delete_cookie(
            self._sign_in_cookie, path="/", secure=self._https, httponly=True, samesite="lax"
        )


def address_of(request: Request) -> str:
    """Return the address of the caller, as trusted proxies report it."""
    return request.client.host if request.client else ""


def local_path(path: str) -> str:
    """Return the path if it is one of the console, else that of its first page."""
    is_own = path == "/console" or path.startswith(("/console/", "/console?"))
    return path if is_own and "\\" not in path and path.isprintable() else "/console"


class SecurityHeaders:
    """ASGI middleware: every response has the security headers, and none but static files is stored."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *_HEADERS]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_headers)
