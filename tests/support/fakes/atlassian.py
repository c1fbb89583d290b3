"""Atlassian's OAuth 2.0 (3LO), for Jira and Confluence.

https://developer.atlassian.com/cloud/jira/platform/oauth-2-3lo-apps/
https://developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens
The lifetimes, the time in which a used refresh token works again, the errors other than that of a refresh,
and PKCE (not in the documents; checked here when it is used) are from memory.

- `audience` and `prompt=consent` are needed. Without `offline_access` there is no refresh token.
- The token request may be JSON or a form; the client is in the body.
- A failed refresh is 403 `invalid_grant`.
- A token is for the sites of `accessible-resources`; a person who consents for another site later widens it.
- There is no revocation.
"""

import secrets
from typing import Any, ClassVar, Final

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Grant, Token, Why, bearer
from tests.support.provider_hosts import FORM, HostRequest, Reply

_ERRORS: Final[dict[Why, tuple[int, str, str]]] = {
    "client": (401, "access_denied", "Unauthorized"),
    "secret": (401, "access_denied", "Unauthorized"),
    "style": (401, "access_denied", "Unauthorized"),
    "grant type": (403, "unauthorized_client", "Grant type not allowed for the client."),
    "code": (403, "invalid_grant", "Invalid authorization code"),
    "used code": (403, "invalid_grant", "Invalid authorization code"),
    "expired code": (403, "invalid_grant", "Invalid authorization code"),
    "verifier": (403, "invalid_grant", "Failed to verify code verifier"),
    "redirect_uri": (403, "invalid_grant", "The redirect URI is wrong."),
}


class Atlassian(Fake):
    """One 3LO app. An account with several places has several sites: `account(1, places=2)`."""

    name = "Atlassian"
    person = "557058:00000000-0000-4000-8000-{:012d}"
    place = "11111111-0000-4000-8000-{:012d}"
    pkce = "optional"
    refresh_lifetime_s: float | None = 90 * 86400
    grace_s: float = 600
    authorize_needs: ClassVar = frozenset({"response_type", "audience", "prompt"})
    authorize_values: ClassVar = {
        "audience": frozenset({"api.atlassian.com"}),
        "prompt": frozenset({"consent"}),
    }

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "auth.atlassian.com": self.on(
                {"GET /authorize": self.authorize, "POST /oauth/token": self.token},
            ),
            "api.atlassian.com": self.on(
                {
                    "GET /oauth/token/accessible-resources": self.sites,
                    "GET /me": self.me,
                    "GET /ex/jira/{}/rest/api/3/myself": self.myself,
                }
            ),
        }

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        fields = request.form() if request.media_type == FORM else request.json()
        return self.client(request, fields, basic=False, body=True)

    def refusal(self, why: Why) -> Reply:
        refused = (403, "invalid_grant", "Unknown or invalid refresh token.")
        status, error, message = _ERRORS.get(why, refused)
        return Reply.json({"error": error, "error_description": message}, status)

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        # Access tokens are JSON Web Tokens of some 2,000 characters.
        answer: dict[str, Any] = {
            "access_token": self.give("access", grant, self.lifetime_s, secrets.token_urlsafe(1500)).value,
            "expires_in": self.seconds(),
            "token_type": "Bearer",
            "scope": " ".join(grant.scopes),
        }
        if "offline_access" in grant.scopes:
            fresh = secrets.token_urlsafe(1000)
            answer["refresh_token"] = self.give(
                "refresh", grant, self.refresh_lifetime_s, fresh, old=old
            ).value
        return Reply.json(answer)

    def sites(self, request: HostRequest) -> Reply:
        """The sites of the token: of all that its person consented to, also later."""
        token = self.access(bearer(request))
        if token is None:
            return _refused(401)
        grants = self.grants_of(token.grant.account.id)
        found = {place.id: place for grant in grants for place in grant.account.places}
        scopes = [scope for scope in token.grant.scopes if scope not in {"offline_access", "read:me"}]
        return Reply.json(
            [
                {
                    "id": place.id,
                    "name": place.name,
                    "url": f"https://{place.name.lower().replace(' ', '-')}.atlassian.net",
                    "scopes": scopes,
                    "avatarUrl": "https://example.com/site.png",
                }
                for place in found.values()
            ]
        )

    def me(self, request: HostRequest) -> Reply:
        """Who the token stands for; needs `read:me`."""
        token = self.access(bearer(request))
        if token is None or "read:me" not in token.grant.scopes:
            return _refused(401 if token is None else 403)
        account = token.grant.account
        shown = {"account_id": account.id, "name": account.name, "email": account.email}
        return Reply.json({**shown, "account_type": "atlassian", "account_status": "active"})

    def myself(self, request: HostRequest) -> Reply:
        """The same for one site; needs `read:jira-user`."""
        token, site = self.access(bearer(request)), request.path.split("/")[3]
        if token is None or "read:jira-user" not in token.grant.scopes:
            return _refused(401 if token is None else 403)
        account = token.grant.account
        if site not in {place.id for place in account.places}:
            return _refused(404)
        shown = {"accountId": account.id, "displayName": account.name, "emailAddress": account.email}
        return Reply.json({**shown, "active": True})


def _refused(status: int) -> Reply:
    message = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
    return Reply.json({"code": status, "message": message[status]}, status)
