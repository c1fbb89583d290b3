"""PagerDuty's OAuth (Scoped OAuth).

PagerDuty/python-pagerduty, OAuthTokenClient (the token endpoint takes a form with the client in it; 10 days);
PagerDuty-Samples/pagerduty-bulk-user-mgr-sample (PKCE). From memory: that a refresh token works once, and the
form of the errors.

- The API wants its version in `Accept`.
"""

from tests.support.fakes.standard import StandardFake
from tests.support.provider_hosts import HostRequest, Reply

_VERSION = "application/vnd.pagerduty+json;version=2"


class PagerDuty(StandardFake):
    """One registered app. Accounts in the EU have another address of the API."""

    name = "PagerDuty"
    person = "PEXMPL{}"
    lifetime_s: float | None = 864000

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        api = self.on({"GET /users/me": self.me})
        self.hosts = {
            "identity.pagerduty.com": self.on(
                {"GET /oauth/authorize": self.authorize, "POST /oauth/token": self.token}
            ),
            "api.pagerduty.com": api,
            "api.eu.pagerduty.com": api,
        }

    def me(self, request: HostRequest) -> Reply:
        """Who the token stands for; needs `users.read`."""
        assert request.headers.get("accept") == _VERSION, "Accept does not name the version of the API"
        token = self.holder(request)
        if token is None:
            return Reply(401)
        if "users.read" not in token.grant.scopes:
            return Reply.json({"error": {"message": "Access Denied", "code": 2010}}, 403)
        account = token.grant.account
        shown = {"id": account.id, "name": account.name, "email": account.email}
        url = f"https://example.pagerduty.com/users/{account.id}"
        return Reply.json({"user": {**shown, "html_url": url, "role": "user"}})
