"""Calendly's OAuth.

https://developer.calendly.com/docs/authentication/scopes and /refresh-token-rotation-guide; the addresses are
those of "Creating an OAuth App". From memory: the client in the body, PKCE, and the form of the errors.

- Access tokens live for 2 hours. A refresh token works once, and ends only by use.
- The token names its owner and organization by URIs; so does the API.
"""

from typing import Any

from tests.support.fakes.standard import StandardFake
from tests.support.fakes.tokens import Grant, Refused
from tests.support.provider_hosts import HostRequest, Reply

_API = "https://api.calendly.com"


class Calendly(StandardFake):
    """One OAuth app."""

    name = "Calendly"
    person = _API + "/users/EXAMPLE{}"
    place = _API + "/organizations/EXAMPLE{}"
    lifetime_s: float | None = 7200

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "auth.calendly.com": self.on(
                {
                    "GET /oauth/authorize": self.authorize,
                    "POST /oauth/token": self.token,
                    "POST /oauth/revoke": self.revoke,
                }
            ),
            "api.calendly.com": self.on({"GET /users/me": self.me}),
        }

    def more(self, grant: Grant) -> dict[str, Any]:
        account = {"owner": grant.account.id, "organization": grant.account.place.id}
        return {**super().more(grant), **account, "created_at": int(self.now())}

    def me(self, request: HostRequest) -> Reply:
        """Who the token stands for; needs `users:read`."""
        token = self.holder(request)
        if token is None:
            return Reply.json({"title": "Unauthenticated", "message": "The access token is invalid"}, 401)
        if "users:read" not in token.grant.scopes:
            return Reply.json({"title": "Permission Denied", "message": "A scope is missing."}, 403)
        account = token.grant.account
        shown = {"uri": account.id, "name": account.name, "email": account.email}
        return Reply.json({"resource": {**shown, "current_organization": account.place.id}})

    def revoke(self, request: HostRequest) -> Reply:
        """The grant of a token ends."""
        try:
            fields = self.authenticated(request)
        except Refused as refused:
            return self.refusal(refused.why)
        self.check(fields, {"token"}, set(), "the revocation")
        self.revoked(fields)
        return Reply.json({})
