"""Shopify's authorization code grant for a shop, with expiring offline tokens.

https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant
https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/offline-access-tokens
https://shopify.dev/changelog/more-resilient-refreshes-for-expiring-offline-access-tokens (2026-08-28)
The errors' exact form, `access_denied` for a merchant who cancels, the way in which the hmac is made and the
revocation are from memory.

- Every shop is a host of its own; a code or a token of one shop does not work at another.
- The browser comes back with `hmac`: hex HMAC-SHA256 with the client secret over the other parameters,
  sorted.
- A scope that writes includes the one that reads, which the answer then leaves out
  (https://shopify.dev/docs/api/usage/access-scopes; that it is left out is from memory).
- Without `expiring=1` the token never expires and has no refresh token.
- A refresh gives a new refresh token. The one before works until the new one is used, for 30 days from its
  first use (`grace_s`). A test that wants a token to work once sets `grace_s` to 0.
- The API takes `X-Shopify-Access-Token`, not `Authorization`.
"""

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Final
from urllib.parse import urlencode

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Account, Asking, Grant, Token, Why
from tests.support.provider_hosts import FORM, HostRequest, Reply

_SHOP: Final = re.compile(r"[a-z0-9][a-z0-9-]*\.myshopify\.com")
_ERRORS: Final[dict[Why, tuple[int, str, str]]] = {
    "client": (400, "application_cannot_be_found", "The application was not found."),
    "secret": (401, "invalid_client", "Client authentication failed."),
    "style": (401, "invalid_client", "Client authentication failed."),
    "grant type": (400, "unsupported_grant_type", "The grant type is not supported."),
}


class Shopify(Fake):
    """One app. `shops` are the names (`one` for one.myshopify.com) that exist; None: every name does."""

    name = "Shopify"
    separator = ","
    pkce = "none"
    place = "{}"
    lifetime_s: float | None = 3600
    refresh_lifetime_s: float | None = 7776000
    grace_s: float = 30 * 86400
    replacement_retires = True
    authorize_needs = frozenset()
    grant_type_needed = False
    code_needs = frozenset()
    code_may: ClassVar = frozenset({"expiring", "redirect_uri"})

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.shops: set[str] | None = None
        self._expiring: set[Grant] = set()
        known = self.on(
            {
                "GET /admin/oauth/authorize": self.authorize,
                "POST /admin/oauth/access_token": self.token,
                "GET /admin/api/{}/shop.json": self.shop,
                "DELETE /admin/api_permissions/current.json": self.uninstall,
            }
        )

        def shop(request: HostRequest) -> Reply:
            assert _SHOP.fullmatch(request.host), f"{request.host} is not a shop"
            there = self.shops is None or request.host.partition(".")[0] in self.shops
            return known(request) if there else Reply.html("This shop is unavailable", 404)

        self.hosts = {"*.myshopify.com": shop}

    def returned(self, params: dict[str, str], asking: Asking, _grant: Grant | None) -> dict[str, str]:
        shop = asking.asked.host
        where = f"admin.shopify.com/store/{shop.partition('.')[0]}".encode()
        params |= {"shop": shop, "timestamp": str(int(self.now()))}
        params["host"] = base64.urlsafe_b64encode(where).rstrip(b"=").decode()
        signed = urlencode(sorted(params.items())).encode()
        return params | {"hmac": hmac.new(self.client_secret.encode(), signed, hashlib.sha256).hexdigest()}

    def scopes_granted(
        self, _account: Account, request: tuple[str, ...], _query: Mapping[str, str]
    ) -> tuple[str, ...]:
        included = {scope.replace("write_", "read_", 1) for scope in request if scope.startswith("write_")}
        return tuple(scope for scope in request if scope not in included)

    def belongs(self, grant: Grant, request: HostRequest) -> bool:
        return grant.asked.host == request.host

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        sent = request.form() if request.media_type == FORM else request.json()
        return self.client(
            request, {name: str(value) for name, value in sent.items()}, basic=False, body=True
        )

    def refusal(self, why: Why) -> Reply:
        about = "refresh token" if why.endswith("refresh") else "authorization code"
        unusable = (400, "invalid_grant", f"The {about} was not found or was already used.")
        status, error, message = _ERRORS.get(why, unusable)
        return Reply.json({"error": error, "error_description": message}, status)

    def _token(self, request: HostRequest) -> Reply:
        fields = request.form() if request.media_type == FORM else request.json()
        expiring = str(fields.get("expiring", "0"))
        assert expiring in {"0", "1"}, f"expiring is {expiring}"
        code = self.known(str(fields.get("code", "")), "code")
        if code and expiring == "1":
            self._expiring.add(code.grant)
        return super()._token(request)

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        expires = grant in self._expiring
        value = f"shpat_{secrets.token_hex(16)}"
        access = self.give("access", grant, self.lifetime_s if expires else None, value)
        answer: dict[str, Any] = {"access_token": access.value, "scope": ",".join(grant.scopes)}
        if expires:
            fresh = f"shprt_{secrets.token_hex(16)}"
            answer |= {
                "expires_in": self.seconds(),
                "refresh_token": self.give("refresh", grant, self.refresh_lifetime_s, fresh, old=old).value,
                "refresh_token_expires_in": int(self.refresh_lifetime_s or 0),
            }
        return Reply.json(answer)

    def _of_shop(self, request: HostRequest) -> Token | None:
        token = self.access(request.headers.get("x-shopify-access-token", ""))
        return token if token and self.belongs(token.grant, request) else None

    def shop(self, request: HostRequest) -> Reply:
        """The shop that the token stands for."""
        version = request.path.split("/")[3]
        assert re.fullmatch(r"\d{4}-(01|04|07|10)|unstable", version), f"{version} is no version of the API"
        token = self._of_shop(request)
        if token is None:
            return _unauthorized()
        account, shop = token.grant.account, request.host
        shown = {
            "id": zlib.crc32(shop.encode()),
            "name": shop.partition(".")[0].title(),
            "email": account.email,
        }
        return Reply.json(
            {"shop": {**shown, "shop_owner": account.name, "domain": shop, "myshopify_domain": shop}}
        )

    def uninstall(self, request: HostRequest) -> Reply:
        """The app leaves the shop: all of its tokens there end."""
        token = self._of_shop(request)
        if token is None:
            return _unauthorized()
        for other in self._tokens.values():
            if self.belongs(other.grant, request):
                other.grant.live = False
        self.end(token.grant)
        return Reply.json({})


def _unauthorized() -> Reply:
    message = "[API] Invalid API key or access token (unrecognized login or wrong password)"
    return Reply.json({"errors": message}, 401)
