"""Zalo's OAuth v4 for an Official Account.

Authorization with PKCE after https://github.com/zaloplatform/zalo-php-sdk; lifetimes, -14020 and -216 after
https://developers.zalo.me/community/detail/d546eda3d1e638b861f7.
The numbers of the other errors, a denial and the answer of `getoa` are from memory.

- The app is `app_id`; its secret is the header `secret_key`, never a field.
- The permission page takes `code_challenge` without a method (S256 is meant) and has no scopes.
  `response_type` and `code_challenge_method` are not documented; they are let through, as a server does with
  what it does not know.
- Errors are HTTP 200 with `error`, a negative number. `expires_in` is a string.
- The browser comes back with `oa_id`: which Official Account it is.
- The API takes the token in the header `access_token`.
"""

import secrets
from collections.abc import Mapping
from typing import ClassVar, Final

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Asking, Grant, Refused, Token, Why
from tests.support.provider_hosts import HostRequest, Reply

_ERRORS: Final[dict[Why, tuple[int, str]]] = {
    "client": (-14002, "Invalid app id"),
    "secret": (-14004, "Invalid secret key"),
    "style": (-14004, "Invalid secret key"),
    "grant type": (-14005, "Invalid grant type"),
    "code": (-14006, "Invalid authorized code"),
    "used code": (-14019, "Authorized code expired"),
    "expired code": (-14019, "Authorized code expired"),
    "redirect_uri": (-14003, "Invalid redirect uri"),  # as many public projects quote it
    "verifier": (-14010, "Invalid code verifier"),
    "refresh": (-14014, "Invalid refresh token"),
}


class Zalo(Fake):
    """One app that is linked to Official Accounts: an account's place."""

    name = "Zalo"
    client_field = "app_id"
    separator = None
    challenge_method = False
    person = "50000000000000{:05d}"
    place = "10000000000000{:05d}"
    lifetime_s: float | None = 90000
    refresh_lifetime_s: float | None = 7776000
    authorize_needs = frozenset()
    code_needs = frozenset()
    code_may: ClassVar = frozenset({"redirect_uri"})

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.hosts = {
            "oauth.zaloapp.com": self.on(
                {"GET /v4/oa/permission": self.authorize, "POST /v4/oa/access_token": self.token}
            ),
            "openapi.zalo.me": self.on({"GET /v2.0/oa/getoa": self.getoa}),
        }

    def returned(self, params: dict[str, str], _asking: Asking, grant: Grant | None) -> dict[str, str]:
        return params | ({"oa_id": grant.account.place.id} if grant else {})

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        fields = request.form()
        if (
            "secret_key" not in request.headers
            or "authorization" in request.headers
            or "client_secret" in fields
        ):
            raise Refused("style")
        if fields.pop("app_id", "") != self.client_id:
            raise Refused("client")
        if request.headers["secret_key"] != self.client_secret:
            raise Refused("secret")
        return fields

    def refusal(self, why: Why) -> Reply:
        number, message = _ERRORS.get(why, (-14020, "Refresh token expired"))
        shown = {"error": number, "error_name": message, "error_description": message, "error_reason": why}
        return Reply.json({**shown, "ref_doc": "https://developers.zalo.me/docs"})

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        access = self.give("access", grant, self.lifetime_s, secrets.token_urlsafe(300))
        refresh = self.give("refresh", grant, self.refresh_lifetime_s, secrets.token_urlsafe(300), old=old)
        shown: Mapping[str, str] = {"access_token": access.value, "refresh_token": refresh.value}
        return Reply.json({**shown, "expires_in": str(self.seconds())})

    def getoa(self, request: HostRequest) -> Reply:
        """The Official Account that the token stands for."""
        token = self.access(request.headers.get("access_token", ""))
        if token is None:
            return Reply.json({"error": -216, "message": "Access token is invalid"})
        place = token.grant.account.place
        about = {
            "oa_id": place.id,
            "name": place.name,
            "is_verified": False,
            "avatar": "https://example.com/oa.png",
        }
        return Reply.json({"data": about, "error": 0, "message": "Success"})
