"""Sessions, cookies and response headers of requests for embedded pages."""

from collections.abc import Iterable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from services.console.embedding.records import EmbeddedSession, EmbeddedSessions
from services.console.hub_api import Member
from services.console.sessions.records import digest_of
from services.console.web.visits import OwnOrigin, Visit, address_of, policy, trace_context
from shared.contracts.ids import WorkspaceId
from shared.runtime.clock import utcnow
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
    """Return the member that the console makes a session's calls for: with scopes, or limited to a customer.

    The audit log names `user`, and `key_id`, the API key that created the session.
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
        """Return the session in the address of a request, also one that has expired.

        Return None if there is none, or if the API key or member that created it may not do so any more.
        `prefix` begins the ids of the wanted kind of sessions. Afterwards, the origins of a portal may embed
        the response. Raises `DatabaseUnavailable`.
        """
        session_id = request.path_params["session"]
        session = await self._sessions.find(session_id) if session_id.startswith(prefix) else None
        if session is None:
            return None
        scope: Scope = "portal:write" if session.portal else "connect:write"
        if not await self._keyring.allows_session(session.key_id, scope, session.created_at):
            return None
        if session.portal:
            setattr(request.state, _ANCESTORS, session.origins)
        return session

    def secret_of(self, request: Request, session: EmbeddedSession) -> str:
        """Return the value of the session's cookie; empty if the request does not have it."""
        secret = request.cookies.get(self._cookie(session), "")
        return secret if secret and digest_of(secret) == session.cookie_digest else ""

    def visit(self, request: Request, session: EmbeddedSession, secret: str) -> Visit:
        """Return the visit of a request. `secret` is the value of the session's cookie."""
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
        member.traceparent = trace_context(request)
        return Visit(secret, session.id, member)

    def set_cookie(self, response: Response, session: EmbeddedSession, secret: str, path: str) -> None:
        """Set the cookie of a session. Browsers send it to pages below `path` only.

        The cookie of a portal works in frames of other sites. Browsers store it for each of these sites
        separately, and only over https (or on localhost).
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
    """ASGI middleware: add the security headers to every response, with the origins that may embed it.

    A header that the response already has is not changed.
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
