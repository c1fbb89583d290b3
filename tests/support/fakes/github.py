"""GitHub's OAuth, of a GitHub App (tokens of 8 hours) or of an OAuth App (`lifetime_s = None`: no expiry).

https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps
https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens
https://docs.github.com/en/rest/apps/oauth-applications
The lifetimes and what a wrong client gets at the API are from memory.

- The token endpoint answers a form, unless `Accept` is application/json. Its errors are HTTP 200.
- Scopes are asked for with spaces between them and answered with commas, without those that another one
  includes (https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps); a GitHub
  App's tokens have none.
- A refresh ends the refresh token and the access token that it was given out with.
- PKCE is S256 only (https://github.blog/changelog/2025-07-14-pkce-support-for-oauth-and-github-app-authentication).
- The API refuses requests without `User-Agent`.
"""

import secrets
from collections.abc import Mapping
from typing import ClassVar, Final

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Account, Grant, Token, Why, bearer, credentials
from tests.support.provider_hosts import HostRequest, Reply

_ERRORS: Final[dict[Why, str]] = {
    "client": "incorrect_client_credentials",
    "secret": "incorrect_client_credentials",
    "style": "incorrect_client_credentials",
    "grant type": "unsupported_grant_type",
    "code": "bad_verification_code",
    "used code": "bad_verification_code",
    "expired code": "bad_verification_code",
    "verifier": "bad_verification_code",
    "redirect_uri": "redirect_uri_mismatch",
}
_INCLUDED: Final = {
    "user": {"read:user", "user:email", "user:follow"},
    "repo": {"repo:status", "repo_deployment", "public_repo", "repo:invite", "security_events"},
}


class GitHub(Fake):
    """One app at GitHub."""

    name = "GitHub"
    person = "{}"
    lifetime_s: float | None = 28800
    refresh_lifetime_s: float | None = 15897600
    scope_needed = False
    authorize_needs = frozenset()
    grant_type_needed = False
    authorize_may: ClassVar = frozenset({"login", "allow_signup", "prompt"})
    authorize_values: ClassVar = {
        "allow_signup": frozenset({"true", "false"}),
        "prompt": frozenset({"select_account"}),
    }
    denial: ClassVar = {
        "error": "access_denied",
        "error_description": "The user has denied your application access.",
    }
    code_needs = frozenset()
    code_may: ClassVar = frozenset({"redirect_uri"})

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "github.com": self.on(
                {
                    "GET /login/oauth/authorize": self.authorize,
                    "POST /login/oauth/access_token": self.token,
                }
            ),
            "api.github.com": self.on(
                {
                    "GET /user": self.user,
                    "DELETE /applications/{}/token": self.delete_token,
                    "DELETE /applications/{}/grant": self.delete_token,
                }
            ),
        }

    def scopes_granted(
        self, _account: Account, request: tuple[str, ...], _query: Mapping[str, str]
    ) -> tuple[str, ...]:
        included = {each for scope in request for each in _INCLUDED.get(scope, ())}
        return tuple(scope for scope in request if scope not in included)

    def token(self, request: HostRequest) -> Reply:
        reply = super().token(request)
        if reply.status != 200 or "application/json" in request.headers.get("accept", ""):
            return reply
        answer = HostRequest("", "", "", headers={"content-type": "application/json"}, body=reply.body).json()
        return Reply.form({name: str(value) for name, value in answer.items()})

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.form(), basic=True, body=True)

    def refusal(self, why: Why) -> Reply:
        error = _ERRORS.get(why, "bad_refresh_token")
        about = "https://docs.github.com/apps/managing-oauth-apps/troubleshooting-oauth-app-access-token-request-errors"
        return Reply.json({"error": error, "error_description": f"Refused: {why}.", "error_uri": about})

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        if self.lifetime_s is None:
            token = self.give("access", grant, None, f"gho_{secrets.token_hex(18)}")
            scope = ",".join(grant.scopes)
            return Reply.json({"access_token": token.value, "scope": scope, "token_type": "bearer"})
        for mate in old.mates if old else ():
            mate.live = False
        access = self.give("access", grant, self.lifetime_s, f"ghu_{secrets.token_hex(18)}")
        refresh = self.give(
            "refresh", grant, self.refresh_lifetime_s, f"ghr_{secrets.token_hex(38)}", old=old
        )
        refresh.mates = [access]
        return Reply.json(
            {
                "access_token": access.value,
                "expires_in": self.seconds(),
                "refresh_token": refresh.value,
                "refresh_token_expires_in": int(self.refresh_lifetime_s or 0),
                "scope": "",
                "token_type": "bearer",
            }
        )

    def user(self, request: HostRequest) -> Reply:
        """Who the token stands for; the header lists the scopes."""
        if not request.headers.get("user-agent"):
            return Reply(403, b"Request forbidden by administrative rules.")
        token = self.access(bearer(request))
        if token is None:
            return Reply.json({"message": "Bad credentials", "status": "401"}, 401)
        account = token.grant.account
        user = {
            "login": account.email.partition("@")[0],
            "id": int(account.id),
            "name": account.name,
            "email": account.email,
            "avatar_url": "https://example.com/ada.png",
            "type": "User",
        }
        scopes = "" if self.lifetime_s else ", ".join(token.grant.scopes)
        return Reply.json(user, x_oauth_scopes=scopes)

    def delete_token(self, request: HostRequest) -> Reply:
        """One token, or the whole grant: all tokens of this person."""
        if credentials(request) != (self.client_id, self.client_secret):
            return Reply.json({"message": "Not Found", "status": "404"}, 404)
        assert request.path.split("/")[2] == self.client_id, f"{request.path} is not this client's"
        fields = request.json()
        self.check(fields, {"access_token"}, (), "the deletion")
        token = self.access(fields["access_token"])
        if token is None:
            return Reply.json({"message": "Validation Failed", "status": "422"}, 422)
        if request.path.endswith("/grant"):
            self.withdraw(token.grant.account.id)
        for other in self._tokens.values():
            if other is token or token in other.mates:  # that its refresh token ends too is from memory
                other.live = False
        self.revocations += 1
        return Reply(204)
