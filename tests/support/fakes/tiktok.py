"""TikTok's OAuth v2 for a web app.

https://developers.tiktok.com/docs/en/oauth-user-access-token-management (2026-11-05)
https://developers.tiktok.com/doc/oauth-get-a-user-access-token (2026-11-02)
https://developers.tiktok.com/docs/en/oauth-refresh-a-user-access-token (2026-11-02)
https://developers.tiktok.com/doc/oauth-error-handling
That errors of the token endpoint are HTTP 200, and the answer of a refused revocation, are from memory.

- The client is `client_key`, in the body. Paths end with a slash.
- The code has characters that are encoded in the address, and has to be decoded.
- Scopes are joined by commas; the person may allow some of them, and `scopes` comes back beside the code.
- A refresh gives a new refresh token, and the one before stops working.
- PKCE is optional on the web (and in hexadecimal for desktop apps, which this is not).
"""

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Account, Asking, Grant, Refused, Token, Why, bearer
from tests.support.provider_hosts import HostRequest, Reply

_ERRORS: Final[dict[Why, str]] = {
    "client": "invalid_client",
    "secret": "invalid_client",
    "style": "invalid_client",
    "grant type": "unsupported_grant_type",
}
_FIELDS: Final = frozenset({"open_id", "union_id", "avatar_url", "display_name"})


class TikTok(Fake):
    """One web app."""

    name = "TikTok"
    client_field = "client_key"
    separator = ","
    pkce = "optional"
    person = "-000open{:05d}"
    lifetime_s: float | None = 7200
    refresh_lifetime_s: float | None = 180 * 86400
    authorize_may: ClassVar = frozenset({"disable_auto_auth"})
    denial: ClassVar = {"error": "access_denied", "error_description": "User canceled"}

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "www.tiktok.com": self.on({"GET /v2/auth/authorize/": self.authorize}),
            "open.tiktokapis.com": self.on(
                {
                    "POST /v2/oauth/token/": self.token,
                    "POST /v2/oauth/revoke/": self.revoke,
                    "GET /v2/user/info/": self.user_info,
                }
            ),
        }

    def scopes_granted(
        self, _account: Account, request: tuple[str, ...], _query: Mapping[str, str]
    ) -> tuple[str, ...]:
        return tuple(scope for scope in request if scope not in self.unticked)

    def returned(self, params: dict[str, str], _asking: Asking, grant: Grant | None) -> dict[str, str]:
        return params | ({"scopes": ",".join(grant.scopes)} if grant else {})

    def new_code(self) -> str:
        return f"{secrets.token_urlsafe(40)}*0!{secrets.randbelow(9000) + 1000}.va"

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.form(), basic=False, body=True)

    def refusal(self, why: Why) -> Reply:
        error = _ERRORS.get(why, "invalid_grant")
        return Reply.json({"error": error, "error_description": f"Refused: {why}.", "log_id": _log_id()})

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        access = self.give("access", grant, self.lifetime_s, f"act.{secrets.token_urlsafe(50)}*0!1")
        fresh = f"rft.{secrets.token_urlsafe(50)}*0!1"
        refresh = self.give("refresh", grant, self.refresh_lifetime_s, fresh, old=old)
        answer: dict[str, Any] = {
            "access_token": access.value,
            "expires_in": self.seconds(),
            "open_id": grant.account.id,
            "refresh_expires_in": int(self.refresh_lifetime_s or 0),
            "refresh_token": refresh.value,
            "scope": ",".join(grant.scopes),
            "token_type": "Bearer",
        }
        return Reply.json(answer)

    def revoke(self, request: HostRequest) -> Reply:
        """An access token, and the grant with it; the answer is empty."""
        try:
            fields = self.client(request, request.form(), basic=False, body=True)
        except Refused as refused:
            return self.refusal(refused.why)
        self.check(fields, {"token"}, (), "the revocation")
        token = self.access(fields["token"])
        if token is None:
            return self.refusal("code")
        self.end(token.grant)
        return Reply(200)

    def user_info(self, request: HostRequest) -> Reply:
        """Who the token stands for: the fields that were asked for."""
        fields = request.params().get("fields", "").split(",")
        assert set(fields) <= _FIELDS, f"the fields {fields} are not in user.info.basic"
        token = self.access(bearer(request))
        if token is None:
            return _answer({}, "access_token_invalid", 401)
        if "user.info.basic" not in token.grant.scopes:
            return _answer({}, "scope_not_authorized", 401)
        account = token.grant.account
        known = {"open_id": account.id, "union_id": account.id, "display_name": account.name}
        known["avatar_url"] = "https://example.com/ada.png"
        return _answer({"user": {name: known[name] for name in fields}}, "ok", 200)


def _answer(data: Mapping[str, Any], code: str, status: int) -> Reply:
    message = "" if code == "ok" else "The access token is invalid or not found in the request."
    return Reply.json(
        {"data": data, "error": {"code": code, "message": message, "log_id": _log_id()}}, status
    )


def _log_id() -> str:
    return f"2026{secrets.token_hex(14).upper()}"
