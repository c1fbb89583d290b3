"""Typeform's OAuth.

https://www.typeform.com/developers/get-started/applications/ as public clients follow it. From memory: the
form of the errors.

- No PKCE. The client is in the body.
- Without `offline` among the scopes there is no refresh token; it works once.
- The answer does not list the scopes.
"""

from typing import Any

from tests.support.fakes.standard import StandardFake
from tests.support.fakes.tokens import Grant, Token
from tests.support.provider_hosts import HostRequest, Reply


class Typeform(StandardFake):
    """One developer app. Accounts in the EU data center have another address of the API."""

    name = "Typeform"
    pkce = "none"
    person = "01EXAMPLE{}"
    lifetime_s: float | None = 604800

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "api.typeform.com": self.on(
                {
                    "GET /oauth/authorize": self.authorize,
                    "POST /oauth/token": self.token,
                    "GET /me": self.me,
                }
            ),
            "api.eu.typeform.com": self.on({"GET /me": self.me}),
        }

    def gives_refresh_token(self, grant: Grant) -> bool:
        return "offline" in grant.scopes

    def more(self, _grant: Grant) -> dict[str, Any]:
        return {}

    def me(self, request: HostRequest) -> Reply:
        """Who the token stands for; needs `accounts:read`."""
        token: Token | None = self.holder(request)
        if token is None or "accounts:read" not in token.grant.scopes:
            text = "Authentication credentials not found on the Request Headers"
            return Reply.json({"code": "AUTHENTICATION_FAILED", "description": text}, 403)
        account = token.grant.account
        return Reply.json({"user_id": account.id, "alias": account.name, "email": account.email})
