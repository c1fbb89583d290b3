"""Zoom's OAuth 2.0, for apps that people add (user-managed).

https://developers.zoom.us/docs/integrations/oauth/ and the blog on PKCE (S256, the verifier in the body).
From memory: the forms of the errors, and that a refresh token works once and lives for 90 days.

- The app's scopes are chosen where it is registered: none are asked for.
- The client is named by HTTP Basic, at the token endpoint and when a token is revoked.
- The error of a refresh token is `invalid_request`; its `reason` says which.
"""

from typing import Any, ClassVar

from tests.support.fakes.standard import StandardFake
from tests.support.fakes.tokens import Grant, Refused, Why
from tests.support.provider_hosts import HostRequest, Reply


def _error(error: str, reason: str, status: int) -> Reply:
    return Reply.json({"reason": reason, "error": error}, status)


_NO_TOKEN = _error("invalid_request", "Invalid Token!", 401)


class Zoom(StandardFake):
    """One general app."""

    name = "Zoom"
    separator = None
    person = "exampleUser{}"
    place = "exampleAccount{}"
    client_in = "basic"
    lifetime_s: float | None = 3599
    refresh_lifetime_s: float | None = 90 * 86400
    errors: ClassVar[dict[Why, Reply]] = {
        "refresh": _NO_TOKEN,
        "used refresh": _NO_TOKEN,
        "expired refresh": _NO_TOKEN,
        "revoked refresh": _NO_TOKEN,
        "client": _error("invalid_client", "Invalid client_id or client_secret", 401),
        "secret": _error("invalid_client", "Invalid client_id or client_secret", 401),
        "verifier": _error("invalid_grant", "Invalid code verifier", 400),
    }

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "zoom.us": self.on(
                {
                    "GET /oauth/authorize": self.authorize,
                    "POST /oauth/token": self.token,
                    "POST /oauth/revoke": self.revoke,
                }
            ),
            "api.zoom.us": self.on({"GET /v2/users/me": self.me}),
        }

    def more(self, _grant: Grant) -> dict[str, Any]:
        return {"scope": "user:read:user", "api_url": "https://api.zoom.us"}

    def me(self, request: HostRequest) -> Reply:
        """Who the token stands for."""
        token = self.holder(request)
        if token is None:
            return Reply.json({"code": 124, "message": "Invalid access token."}, 401)
        account = token.grant.account
        shown = {"id": account.id, "display_name": account.name, "email": account.email}
        return Reply.json({**shown, "account_id": account.place.id, "status": "active"})

    def revoke(self, request: HostRequest) -> Reply:
        """The grant of a token ends."""
        try:
            fields = self.authenticated(request)
        except Refused as refused:
            return self.refusal(refused.why)
        self.check(fields, {"token"}, set(), "the revocation")
        self.revoked(fields)
        return Reply.json({"status": "success"})
