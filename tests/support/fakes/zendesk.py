"""Zendesk's OAuth; every account is a host of its own.

https://developer.zendesk.com/api-reference/ticketing/oauth/grant_type_tokens/. From memory: that a token is
ended at `oauth/tokens/current`.

- The token request is JSON. PKCE is taken from clients with a secret, too.
- A refresh ends the access token and the refresh token of before.
"""

from typing import Any

from tests.support.fakes.standard import StandardFake
from tests.support.fakes.tokens import Grant, Token
from tests.support.provider_hosts import HostRequest, Reply


class Zendesk(StandardFake):
    """One global OAuth client. The place of an account is its subdomain."""

    name = "Zendesk"
    person = "354{:03d}"
    place = "example-{}"
    lifetime_s: float | None = 172800
    refresh_lifetime_s: float | None = 30 * 86400

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "*.zendesk.com": self.on(
                {
                    "GET /oauth/authorizations/new": self.authorize,
                    "POST /oauth/tokens": self.token,
                    "GET /api/v2/users/me.json": self.me,
                    "DELETE /api/v2/oauth/tokens/current.json": self.revoke,
                }
            )
        }

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.json(), basic=False, body=True)

    def belongs(self, grant: Grant, asked: HostRequest) -> bool:
        return grant.asked.host == asked.host

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        for token in self.tokens_of(grant):
            token.live = token.kind == "refresh" and token.live
        return super().granted(grant, old)

    def more(self, grant: Grant) -> dict[str, Any]:
        assert self.refresh_lifetime_s is not None
        return {**super().more(grant), "refresh_token_expires_in": int(self.refresh_lifetime_s)}

    def _named(self, request: HostRequest) -> Token | None:
        token = self.holder(request)
        return token if token and self.belongs(token.grant, request) else None

    def me(self, request: HostRequest) -> Reply:
        """Who the token stands for; somebody anonymous without one."""
        if "authorization" not in request.headers:
            return Reply.json({"user": {"id": None, "name": "Anonymous user"}})
        token = self._named(request)
        if token is None:
            return Reply.json({"error": "invalid_token", "error_description": "It has ended."}, 401)
        account = token.grant.account
        url = f"https://{request.host}/api/v2/users/{account.id}.json"
        shown = {"id": int(account.id), "url": url, "name": account.name, "email": account.email}
        return Reply.json({"user": {**shown, "role": "agent", "active": True}})

    def revoke(self, request: HostRequest) -> Reply:
        """The token that is sent ends, and its refresh token with it."""
        token = self._named(request)
        if token is None:
            return Reply.json({"error": "invalid_token", "error_description": "It has ended."}, 401)
        self.end(token.grant)
        return Reply(204)
