"""Microsoft's identity platform (Entra ID) v2.0, and who-am-i at Microsoft Graph.

https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow
https://learn.microsoft.com/entra/identity-platform/refresh-tokens
https://learn.microsoft.com/entra/identity-platform/reference-error-codes
The lifetime of access tokens, which number comes with which status, the parameters that come back beside
`code`, and that `scope` in the answer leaves out `offline_access` are from memory.

- The tenant is a part of the path. The directory's id is `tid` in the id token.
- Errors carry a number (AADSTS...), `error_codes`, and ids for support.
- Without `offline_access` there is no refresh token. A refresh gives a new one, and the old one stays valid.
- A client secret expires: `secret_expired`. There is no revocation.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final
from uuid import uuid4

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Asking, Grant, Refused, Token, Why, bearer
from tests.support.provider_hosts import HostRequest, Reply

_CODES: Final[dict[Why, int]] = {
    "client": 700016,
    "secret": 7000215,
    "style": 7000218,
    "grant type": 70003,
    "code": 9002313,
    "used code": 54005,
    "expired code": 70008,
    "redirect_uri": 70000,
    "verifier": 501481,
    "refresh": 9002313,
    "expired refresh": 700082,
    "revoked refresh": 50173,
    "scope": 65001,
}
_ERRORS: Final = {
    700016: (400, "unauthorized_client", "The application was not found in the directory."),
    7000215: (401, "invalid_client", "An invalid client secret was provided."),
    7000218: (401, "invalid_client", "The request has to contain client_assertion or client_secret."),
    7000222: (401, "invalid_client", "The provided client secret keys are expired."),
    70003: (400, "unsupported_grant_type", "The app returned an unsupported grant type."),
    9002313: (400, "invalid_grant", "The request is malformed or invalid."),
    54005: (400, "invalid_grant", "The authorization code was already redeemed."),
    70008: (400, "invalid_grant", "The code has expired due to inactivity."),
    70000: (400, "invalid_grant", "The provided value for redirect_uri is not valid."),
    501481: (400, "invalid_grant", "The code_verifier does not match the code_challenge."),
    700082: (400, "invalid_grant", "The refresh token has expired due to inactivity."),
    50173: (400, "invalid_grant", "The grant has expired because it was revoked."),
    50076: (400, "interaction_required", "The user must use multi-factor authentication."),
    65001: (400, "invalid_grant", "The user or administrator has not consented to use the application."),
}


class Microsoft(Fake):
    """One app registration. `tenant` is what stands in the path."""

    name = "Microsoft"
    person = "22222222-0000-4000-8000-{:012d}"
    place = "33333333-0000-4000-8000-{:012d}"
    single_use = False
    refresh_lifetime_s: float | None = 90 * 86400
    denial: ClassVar = {
        "error": "access_denied",
        "error_subcode": "cancel",
        "error_description": "AADSTS65004: User declined to consent to access the app.",
    }
    authorize_may: ClassVar = frozenset({"response_mode", "prompt", "login_hint", "domain_hint", "nonce"})
    authorize_values: ClassVar = {
        "response_mode": frozenset({"query"}),
        "prompt": frozenset({"login", "none", "consent", "select_account"}),
    }
    code_may: ClassVar = frozenset({"scope"})
    refresh_may: ClassVar = frozenset({"scope"})

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str, tenant: str = "common") -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.tenant = tenant
        self.lifetime_s = secrets.choice(range(3600, 5401))
        self.secret_expired = False
        self.hosts = {
            "login.microsoftonline.com": self.on(
                {
                    f"GET /{tenant}/oauth2/v2.0/authorize": self.authorize,
                    f"POST /{tenant}/oauth2/v2.0/token": self.token,
                }
            ),
            "graph.microsoft.com": self.on({"GET /v1.0/me": self.me}),
        }

    def returned(self, params: dict[str, str], _asking: Asking, grant: Grant | None) -> dict[str, str]:
        return params | ({"session_state": str(uuid4())} if grant else {})

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.form(), basic=True, body=True)

    def token(self, request: HostRequest) -> Reply:
        return self.error(7000222) if self.secret_expired else super().token(request)

    def refusal(self, why: Why) -> Reply:
        return self.error(_CODES[why])

    def error(self, number: int) -> Reply:
        """An error by its number; 50076, say, for `fail_next`."""
        status, error, text = _ERRORS[number]
        trace, correlation, stamp = (
            str(uuid4()),
            str(uuid4()),
            time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
        )
        where = f" Trace ID: {trace} Correlation ID: {correlation} Timestamp: {stamp}"
        answer: dict[str, Any] = {"error": error, "error_description": f"AADSTS{number}: {text}{where}"}
        answer |= {
            "error_codes": [number],
            "timestamp": stamp,
            "trace_id": trace,
            "correlation_id": correlation,
        }
        answer["error_uri"] = f"https://login.microsoftonline.com/error?code={number}"
        return Reply.json(answer | ({"suberror": "consent_required"} if number == 65001 else {}), status)

    def new_code(self) -> str:
        return f"1.{secrets.token_urlsafe(700)}"

    def _exchange(self, fields: Mapping[str, str], request: HostRequest) -> Grant:
        grant = super()._exchange(fields, request)
        if not set(self.split(fields.get("scope", " ".join(grant.scopes)))) <= set(grant.scopes):
            raise Refused("scope")
        return grant

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        value = secrets.token_urlsafe(1500)
        answer: dict[str, Any] = {
            "token_type": "Bearer",
            "scope": " ".join(scope for scope in grant.scopes if scope != "offline_access"),
            "expires_in": self.seconds(),
            "ext_expires_in": self.seconds(),
            "access_token": self.give("access", grant, self.lifetime_s, value).value,
        }
        if "offline_access" in grant.scopes:
            fresh = f"1.{secrets.token_urlsafe(900)}"
            answer["refresh_token"] = self.give(
                "refresh", grant, self.refresh_lifetime_s, fresh, old=old
            ).value
        if "openid" in grant.scopes:
            tid = grant.account.place.id
            issuer = f"https://login.microsoftonline.com/{tid}/v2.0"
            answer["id_token"] = self.id_token(grant, tid=tid, oid=grant.account.id, iss=issuer)
        return Reply.json(answer)

    def me(self, request: HostRequest) -> Reply:
        """Who the token stands for; needs `User.Read`."""
        token = self.known(bearer(request), "access")
        if token is None or token.state(self.now()) != "live":
            expired = token is not None and token.state(self.now()) == "expired"
            text = (
                "Lifetime validation failed, the token is expired."
                if expired
                else "Access token is empty or wrong."
            )
            return _graph_error(401, "InvalidAuthenticationToken", text)
        if "User.Read" not in token.grant.scopes:
            return _graph_error(403, "Authorization_RequestDenied", "Insufficient privileges.")
        account = token.grant.account
        return Reply.json(
            {
                "@odata.context": "https://graph.microsoft.com/v1.0/$metadata#users/$entity",
                "id": account.id,
                "displayName": account.name,
                "mail": account.email,
                "userPrincipalName": account.email,
            }
        )


def _graph_error(status: int, code: str, message: str) -> Reply:
    return Reply.json({"error": {"code": code, "message": message, "innerError": {}}}, status)
