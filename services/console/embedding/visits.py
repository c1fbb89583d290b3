"""Requests of embedded pages: whose they are, their cookie, and the headers of every response."""

from collections.abc import Iterable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from services.console.embedding.records import EmbeddedSession, EmbeddedSessions
from services.console.hub_api import Member
from services.console.sessions.records import digest_of
from services.console.web.visits import OwnOrigin, Visit, address_of, policy
from shared.contracts.ids import WorkspaceId
from shared.runtime.mongo import utcnow
from shared.runtime.web.access import ApiKey, Keyring
from shared.runtime.web.api_keys import Scope
from shared.runtime.web.service_keys import Actor, Customer

_ANCESTORS: Final = "ancestors"
"""In the state of a request: the origins that may embed its response."""


def acting_member(
    workspace: str,
    key_id: str,
    *,
    scopes: Iterable[Scope],
    session: str = "",
    user: str = "",
    address: str = "",
    customer: Customer | None = None,
) -> Member:
    """Return a member for whom the console calls: with these scopes, or limited to a customer.

    In the audit log, it is `user` with the API key that created the session.
    """
    key = ApiKey(
        key_id,
        WorkspaceId(workspace),
        frozenset(scopes),
        None,
        acting=Actor(key_id, session, user),
        customer=customer,
    )
    return Member(key, address)


class EmbeddedVisits:
    """Finds the sessions of requests, and sets their cookies."""

    def __init__(self, sessions: EmbeddedSessions, keyring: Keyring, public_base: str) -> None:
        """`public_base` is the hub's public address."""
        self._sessions = sessions
        self._keyring = keyring
        self.own_origin = OwnOrigin(public_base)

    async def session_of(self, request: Request, prefix: str) -> EmbeddedSession | None:
        """Return the session in the address of a request, also one that has expired; None if there is none.

        `prefix` is that of the ids of its kind. From here on, the origins of the session may embed the
        response. A session ends with the API key that created it. Raises `DatabaseUnavailable`.
        """
        session_id = request.path_params["session"]
        session = await self._sessions.find(session_id) if session_id.startswith(prefix) else None
        if session is None or not await self._keyring.is_valid(session.key_id):
            return None
        if session.portal:
            setattr(request.state, _ANCESTORS, session.origins)
        return session

    def secret_of(self, request: Request, session: EmbeddedSession) -> str:
        """Return the value of the session's cookie; empty if this browser is not the one of the session."""
        secret = request.cookies.get(self._cookie(session), "")
        return secret if secret and digest_of(secret) == session.cookie_digest else ""

    def visit(self, request: Request, session: EmbeddedSession, secret: str) -> Visit:
        """Return the visit of a request with the session's cookie."""
        customer, user, scopes = None, "", list[Scope]()
        if session.portal:
            user, scopes = session.portal.customer, ["webhooks:write"]
            customer = Customer(session.portal.customer, session.portal.events)
        elif session.connect:
            user, scopes = session.connect.user, ["integrations:write"]
        member = acting_member(
            session.workspace,
            session.key_id,
            scopes=scopes,
            session=session.id,
            user=user,
            address=address_of(request),
            customer=customer,
        )
        return Visit(secret, session.id, member)

    def set_cookie(self, response: Response, session: EmbeddedSession, secret: str, path: str) -> None:
        """Give the cookie of a session to the browser; it is sent to pages below `path` only.

        A portal's is for pages within pages of other sites. Browsers store it apart for each of these sites,
        and only over https (or on localhost).
        """
        parts = [
            f"{self._cookie(session)}={secret}",
            f"Path={path}",
            f"Max-Age={max(1, int((session.expires_at - utcnow()).total_seconds()))}",
            "HttpOnly",
        ]
        if session.portal:
            parts += ["Secure", "SameSite=None", "Partitioned"]
        else:
            parts += ["SameSite=Lax", *(["Secure"] if self.own_origin.is_https else [])]
        response.headers.append("set-cookie", "; ".join(parts))

    def _cookie(self, session: EmbeddedSession) -> str:
        name = "interlink-portal" if session.portal else "interlink-connect"
        return f"__Secure-{name}" if self.own_origin.is_https else name


class EmbeddedHeaders:
    """ASGI middleware: every response has the security headers, for the origins that may embed it.

    A response with a `Referrer-Policy` of its own keeps it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ancestors = state.get(_ANCESTORS, ())
                defaults = {
                    b"content-security-policy": policy(ancestors),
                    b"referrer-policy": b"same-origin",
                    b"x-content-type-options": b"nosniff",
                    b"cache-control": b"no-store",
                    b"cross-origin-resource-policy": b"same-origin",
                    **({} if ancestors else {b"x-frame-options": b"DENY"}),
                }
                known = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in defaults.items() if name not in known]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)
