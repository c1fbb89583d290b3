"""Mailchimp's OAuth 2.

https://mailchimp.com/developer/marketing/guides/access-user-data-oauth-2/
The errors' exact form, `expires_in` 0 and the rule for `localhost` are from memory; that the metadata of a
wrong token is HTTP 200 is seen in public clients.

- No scopes, no PKCE, no refresh tokens, no revocation: `expires_in` is 0, and means never.
- Which data centre the account is in says the metadata endpoint; the API's host has it in its name.
- The header is `Authorization: OAuth <token>`; `Bearer` works too.
- `localhost` is refused in redirect URIs: 127.0.0.1 has to be used.
"""

import secrets
from typing import Final

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Grant, Token, Why
from tests.support.provider_hosts import HostRequest, Reply

_ERRORS: Final[dict[Why, str]] = {
    "client": "invalid_client",
    "secret": "invalid_client",
    "style": "invalid_client",
    "grant type": "unsupported_grant_type",
}


class Mailchimp(Fake):
    """One registered app. `dc` is the data centre of all accounts."""

    name = "Mailchimp"
    separator = None
    pkce = "none"
    place = "{}"
    lifetime_s: float | None = None
    dc: str = "us19"

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "login.mailchimp.com": self.on(
                {
                    "GET /oauth2/authorize": self.authorize,
                    "POST /oauth2/token": self.token,
                    "GET /oauth2/metadata": self.metadata,
                }
            ),
            "*.api.mailchimp.com": self.on({"GET /3.0/": self.root}),
        }

    def authorize(self, request: HostRequest) -> Reply:
        host = request.params().get("redirect_uri", "").partition("://")[2]
        assert not host.startswith("localhost"), "localhost is not allowed in a redirect_uri; 127.0.0.1 is"
        return super().authorize(request)

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        fields = self.client(request, request.form(), basic=False, body=True)
        assert fields.get("grant_type") != "refresh_token", "Mailchimp has no refresh tokens"
        return fields

    def refusal(self, why: Why) -> Reply:
        return Reply.json(
            {"error": _ERRORS.get(why, "invalid_grant"), "error_description": f"Refused: {why}"}, 400
        )

    def granted(self, grant: Grant, _old: Token | None) -> Reply:
        token = self.give("access", grant, None, secrets.token_hex(16))
        return Reply.json({"access_token": token.value, "expires_in": 0, "scope": None})

    def _named(self, request: HostRequest) -> Token | None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        return self.access(value) if scheme in {"OAuth", "Bearer"} else None

    def metadata(self, request: HostRequest) -> Reply:
        """Who the token stands for, and where its account is."""
        token = self._named(request)
        if token is None:
            return Reply.json({"error": "invalid_token"})
        account = token.grant.account
        login = {
            "email": account.email,
            "login_id": int(account.id),
            "login_name": account.name,
            "avatar": None,
        }
        return Reply.json(
            {
                "dc": self.dc,
                "role": "owner",
                "accountname": account.place.name,
                "user_id": int(account.place.id),
                "login": login,
                "login_url": "https://login.mailchimp.com",
                "api_endpoint": f"https://{self.dc}.api.mailchimp.com",
            }
        )

    def root(self, request: HostRequest) -> Reply:
        """The account, at the API of its data centre."""
        token = self._named(request)
        if token is None or request.host != f"{self.dc}.api.mailchimp.com":
            return Reply.json({"title": "API Key Invalid", "status": 401}, 401)
        account = token.grant.account
        return Reply.json(
            {"account_id": account.place.id, "account_name": account.place.name, "email": account.email}
        )
