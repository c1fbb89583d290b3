"""Google's OAuth 2.0 for web server applications.

https://developers.google.com/identity/protocols/oauth2
https://developers.google.com/identity/protocols/oauth2/web-server
The exact errors, the parameters that come back beside `code`, and that a revocation ends all that the person
granted are from memory.

- A refresh token comes with `access_type=offline` only, and only at the person's first consent or with
  `prompt=consent`. A refresh answers none: the old one stays.
- The person may untick scopes. `email` and `profile` are answered as
  `https://www.googleapis.com/auth/userinfo.email` and `.profile`
  (https://github.com/googleapis/google-api-python-client/pull/1088).
- With `include_granted_scopes=true` the earlier grants' scopes are there as well.
- An account has 100 live refresh tokens for one client; the oldest ends silently.
"""

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Account, Asking, Grant, Token, Why, bearer
from tests.support.provider_hosts import HostRequest, Reply

_FULL: Final = {name: f"https://www.googleapis.com/auth/userinfo.{name}" for name in ("email", "profile")}
_ERRORS: Final[dict[Why, tuple[int, str, str]]] = {
    "client": (401, "invalid_client", "The OAuth client was not found."),
    "secret": (401, "invalid_client", "Unauthorized"),
    "style": (400, "invalid_request", "client_secret is missing."),
    "grant type": (400, "unsupported_grant_type", "Invalid grant_type"),
    "code": (400, "invalid_grant", "Malformed auth code."),
    "used code": (400, "invalid_grant", "Bad Request"),
    "expired code": (400, "invalid_grant", "Bad Request"),
    "verifier": (400, "invalid_grant", "Invalid code verifier."),
    "redirect_uri": (400, "redirect_uri_mismatch", "Bad Request"),
    "scope": (400, "invalid_scope", "Bad Request"),
}


class Google(Fake):
    """One OAuth client. With `refresh_lifetime_s` set the answers say `refresh_token_expires_in`."""

    name = "Google"
    person = "1000000000000000{:05d}"
    lifetime_s: float | None = 3599
    single_use = False
    max_refresh_tokens: int = 100
    authorize_may: ClassVar = frozenset(
        {"access_type", "prompt", "include_granted_scopes", "login_hint", "hd", "nonce"}
    )
    authorize_values: ClassVar = {
        "access_type": frozenset({"online", "offline"}),
        "prompt": frozenset(
            {"none", "consent", "select_account", "consent select_account", "select_account consent"}
        ),
        "include_granted_scopes": frozenset({"true", "false"}),
    }
    refresh_may: ClassVar = frozenset({"scope"})

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "accounts.google.com": self.on({"GET /o/oauth2/v2/auth": self.authorize}),
            "oauth2.googleapis.com": self.on({"POST /token": self.token, "POST /revoke": self.revoke}),
            "openidconnect.googleapis.com": self.on({"GET /v1/userinfo": self.userinfo}),
        }
        self._refresh: dict[str, list[Token]] = {}

    def scopes_granted(
        self, account: Account, request: tuple[str, ...], query: Mapping[str, str]
    ) -> tuple[str, ...]:
        scopes = [_FULL.get(scope, scope) for scope in request if scope not in self.unticked]
        if query.get("include_granted_scopes") == "true":
            scopes += [
                one for grant in self.grants_of(account.id) for one in grant.scopes if one not in scopes
            ]
        return tuple(dict.fromkeys(scopes))

    def returned(self, params: dict[str, str], _asking: Asking, grant: Grant | None) -> dict[str, str]:
        more = {"scope": " ".join(grant.scopes), "authuser": "0", "prompt": "consent"} if grant else {}
        return params | more

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.form(), basic=True, body=True)

    def refusal(self, why: Why) -> Reply:
        status, error, message = _ERRORS.get(
            why, (400, "invalid_grant", "Token has been expired or revoked.")
        )
        return Reply.json({"error": error, "error_description": message}, status)

    def new_code(self) -> str:
        return f"4/0A{secrets.token_urlsafe(50)}"

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        value = f"ya29.{secrets.token_urlsafe(150)}"
        answer: dict[str, Any] = {
            "access_token": self.give("access", grant, self.lifetime_s, value).value,
            "expires_in": self.seconds(),
            "scope": " ".join(grant.scopes),
            "token_type": "Bearer",
        }
        if "openid" in grant.scopes:
            answer["id_token"] = self.id_token(
                grant, iss="https://accounts.google.com", email=grant.account.email
            )
        if old is not None:
            return Reply.json(answer)
        asked_for = grant.first or "consent" in grant.query.get("prompt", "").split()
        if asked_for and grant.query.get("access_type") == "offline":
            fresh = self.give("refresh", grant, self.refresh_lifetime_s, f"1//0{secrets.token_urlsafe(70)}")
            answer["refresh_token"] = fresh.value
            if self.refresh_lifetime_s is not None:
                answer["refresh_token_expires_in"] = int(self.refresh_lifetime_s)
            held = self._refresh.setdefault(grant.account.id, [])
            held.append(fresh)
            for oldest in held[: -self.max_refresh_tokens]:
                oldest.live = False
        return Reply.json(answer)

    def revoke(self, request: HostRequest) -> Reply:
        """Either token ends all that its person granted. In the query it would stand in logs, so: a form."""
        assert not request.query, "the token to revoke is in the query"
        fields = request.form()
        self.check(fields, {"token"}, {"token_type_hint"}, "the revocation")
        token = self.known(fields["token"], "access") or self.known(fields["token"], "refresh")
        if token is None or token.state(self.now()) != "live":
            message = {"error": "invalid_token", "error_description": "Token expired or revoked"}
            return Reply.json(message, 400)
        self.withdraw(token.grant.account.id)
        self.end(token.grant)
        return Reply.json({})

    def userinfo(self, request: HostRequest) -> Reply:
        """Who the token stands for, as far as its scopes go."""
        token = self.access(bearer(request))
        if token is None or "openid" not in token.grant.scopes:
            return Reply.json({"error": "invalid_request", "error_description": "Invalid Credentials"}, 401)
        account = token.grant.account
        shown: dict[str, Any] = {"sub": account.id}
        if _FULL["email"] in token.grant.scopes:
            shown |= {"email": account.email, "email_verified": True}
        if _FULL["profile"] in token.grant.scopes:
            shown |= {"name": account.name, "picture": "https://example.com/ada.png"}
        return Reply.json(shown)
