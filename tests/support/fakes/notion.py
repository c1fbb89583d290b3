"""Notion's OAuth for public connections.

https://developers.notion.com/reference/create-a-token, https://developers.notion.com/reference/refresh-a-token
The exact errors and the answer of a revocation are from memory.

- The client is in `Authorization: Basic`, the body is JSON.
- `owner=user` is needed at the authorization page; there are no scopes and no PKCE.
- `redirect_uri` is needed in the token request, as it was in the authorization request.
- The answer says who it is (`bot_id`, `workspace_id`, `owner`); a workspace keeps its `bot_id`.
- There is no `expires_in`: with `lifetime_s` set, tokens end without a warning.
- A refresh gives a new access token and a new refresh token.
- The API wants `Notion-Version`.
"""

import re
import secrets
from typing import Any, ClassVar, Final
from uuid import NAMESPACE_URL, uuid4, uuid5

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Grant, Refused, Token, Why, bearer
from tests.support.provider_hosts import HostRequest, Reply

_ERRORS: Final[dict[Why, tuple[int, str]]] = {
    "client": (401, "invalid_client"),
    "secret": (401, "invalid_client"),
    "style": (401, "invalid_client"),
    "grant type": (400, "unsupported_grant_type"),
}
_VERSION: Final = re.compile(r"20\d\d-\d\d-\d\d")


class Notion(Fake):
    """One public connection."""

    name = "Notion"
    separator = None
    pkce = "none"
    person = "44444444-0000-4000-8000-{:012d}"
    place = "55555555-0000-4000-8000-{:012d}"
    lifetime_s: float | None = None
    authorize_needs: ClassVar = frozenset({"response_type", "owner"})
    authorize_values: ClassVar = {"owner": frozenset({"user"})}

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "api.notion.com": self.on(
                {
                    "GET /v1/oauth/authorize": self.authorize,
                    "POST /v1/oauth/token": self.token,
                    "POST /v1/oauth/revoke": self.revoke,
                    "POST /v1/oauth/introspect": self.introspect,
                    "GET /v1/users/me": self.me,
                }
            )
        }

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.json(), basic=True, body=False)

    def refusal(self, why: Why) -> Reply:
        status, error = _ERRORS.get(why, (400, "invalid_grant"))
        text = {"error": error, "error_description": f"Refused: {why}.", "request_id": str(uuid4())}
        return Reply.json(text, status)

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        access = self.give("access", grant, self.lifetime_s, f"ntn_{secrets.token_urlsafe(34)}")
        fresh = f"nrt_{secrets.token_urlsafe(34)}"
        refresh = self.give("refresh", grant, self.refresh_lifetime_s, fresh, old=old)
        answer: dict[str, Any] = {
            "access_token": access.value,
            "token_type": "bearer",
            "refresh_token": refresh.value,
            "bot_id": self.bot_id(grant),
            "workspace_id": grant.account.place.id,
            "workspace_name": grant.account.place.name,
            "workspace_icon": None,
            "owner": _owner(grant),
            "duplicated_template_id": None,
            "request_id": str(uuid4()),
        }
        return Reply.json(answer)

    def bot_id(self, grant: Grant) -> str:
        """The id of this app's bot in the workspace, the same at every authorization."""
        return str(uuid5(NAMESPACE_URL, f"{self.client_id}/{grant.account.place.id}"))

    def _named(self, request: HostRequest) -> Token | Reply | None:
        """The token of a revocation or an introspection; None when it does not work, or the error."""
        try:
            fields = self.authenticated(request)
        except Refused as refused:
            return self.refusal(refused.why)
        self.check(fields, {"token"}, (), "the request")
        refresh = self.known(fields["token"], "refresh")
        return self.access(fields["token"]) or (
            refresh if refresh and refresh.state(self.now()) == "live" else None
        )

    def revoke(self, request: HostRequest) -> Reply:
        """A token, and the grant with it."""
        token = self._named(request)
        if isinstance(token, Reply):
            return token
        if token is None:
            return self.refusal("refresh")
        self.end(token.grant)
        return Reply.json({"request_id": str(uuid4())})

    def introspect(self, request: HostRequest) -> Reply:
        """Whether a token works."""
        token = self._named(request)
        if isinstance(token, Reply):
            return token
        return Reply.json({"active": token is not None, "request_id": str(uuid4())})

    def me(self, request: HostRequest) -> Reply:
        """The bot that the token stands for."""
        if not _VERSION.fullmatch(request.headers.get("notion-version", "")):
            return _error(400, "missing_version", "Notion-Version header failed validation.")
        token = self.access(bearer(request))
        if token is None:
            return _error(401, "unauthorized", "API token is invalid.")
        grant = token.grant
        bot = {"owner": _owner(grant), "workspace_id": grant.account.place.id}
        bot["workspace_name"] = grant.account.place.name
        shown = {"object": "user", "id": self.bot_id(grant), "type": "bot", "name": "Interlink"}
        return Reply.json({**shown, "avatar_url": None, "bot": bot, "request_id": str(uuid4())})


def _owner(grant: Grant) -> dict[str, Any]:
    person = {"email": grant.account.email}
    user = {
        "object": "user",
        "id": grant.account.id,
        "name": grant.account.name,
        "type": "person",
        "person": person,
    }
    return {"type": "user", "user": {**user, "avatar_url": None}}


def _error(status: int, code: str, message: str) -> Reply:
    text = {"object": "error", "status": status, "code": code, "message": message}
    return Reply.json({**text, "request_id": str(uuid4())}, status)
