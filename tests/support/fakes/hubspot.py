"""HubSpot's OAuth 2.0, as its API of 2026-03 has it.

HubSpot/HubSpot-public-api-spec-collection, Auth/Oauth 2026-03 (addresses, fields, `code_verifier`, answers);
https://developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/oauth/working-with-oauth.
From memory: that the authorization page takes a `code_challenge`, and the forms of the errors.

- The client is in the body, also with PKCE, and the request has no query.
- A refresh token works until the app is uninstalled, and comes with every answer.
- The token says whose it is (`hub_id`, `user_id`); the account has no name of its own.
"""

from typing import Any, ClassVar

from tests.support.fakes.standard import StandardFake
from tests.support.fakes.tokens import Grant, Refused, Why
from tests.support.provider_hosts import HostRequest, Reply


def _error(status: str, message: str) -> Reply:
    return Reply.json({"status": status, "message": message, "correlationId": "example"}, 400)


_NO_CODE = _error("BAD_AUTH_CODE", "missing or unknown auth code")
_NO_REFRESH = _error("BAD_REFRESH_TOKEN", "missing or invalid refresh token")


class HubSpot(StandardFake):
    """One public app."""

    name = "HubSpot"
    person = "2931{:02d}"
    place = "625{:02d}"
    single_use = False
    lifetime_s: float | None = 1800
    errors: ClassVar[dict[Why, Reply]] = {
        "client": _error("BAD_CLIENT_ID", "missing or unknown client id"),
        "secret": _error("BAD_CLIENT_SECRET", "missing or invalid client secret"),
        "code": _NO_CODE,
        "used code": _NO_CODE,
        "expired code": _NO_CODE,
        "verifier": _NO_CODE,
        "refresh": _NO_REFRESH,
        "expired refresh": _NO_REFRESH,
        "revoked refresh": _NO_REFRESH,
    }

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "app.hubspot.com": self.on({"GET /oauth/authorize": self.authorize}),
            "api.hubapi.com": self.on(
                {
                    "POST /oauth/2026-03/token": self.token,
                    "POST /oauth/2026-03/token/revoke": self.revoke,
                    "GET /account-info/v3/details": self.details,
                }
            ),
        }

    def more(self, grant: Grant) -> dict[str, Any]:
        account_ids = {"hub_id": int(grant.account.place.id), "user_id": int(grant.account.id)}
        return {**account_ids, "token_use": "access_token", "scopes": list(grant.scopes)}

    def details(self, request: HostRequest) -> Reply:
        """The account that the token is for."""
        token = self.holder(request)
        if token is None:
            expired = {"status": "error", "category": "EXPIRED_AUTHENTICATION"}
            return Reply.json({**expired, "message": "The OAuth token used to make this call expired."}, 401)
        place = token.grant.account.place
        return Reply.json(
            {"portalId": int(place.id), "accountType": "STANDARD", "uiDomain": "app.hubspot.com"}
        )

    def revoke(self, request: HostRequest) -> Reply:
        """The grant of a refresh token ends."""
        try:
            fields = self.client(request, request.form(), basic=False, body=True)
        except Refused as refused:
            return self.refusal(refused.why)
        self.check(fields, {"token", "token_type_hint"}, set(), "the revocation")
        assert self.known(fields["token"], "refresh"), "only refresh tokens are revoked"
        self.revoked(fields)
        return Reply(204)
