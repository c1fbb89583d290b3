"""Facebook Login, and the Pages of a person.

https://developers.facebook.com/docs/facebook-login/guides/advanced/manual-flow and
/access-tokens/get-long-lived; /docs/graph-api/webhooks/getting-started/webhooks-for-pages (subscribed_apps).
From memory: the codes of errors, and that a subscription replaces the fields of the one before.

- The code gives a token of an hour or two; `fb_exchange_token` makes one of 60 days of it, again and again.
- A Page has a token of its own, which the token of a person with a role on it gives. It ends with the grant.
- A Page's token does what concerns the Page. `me` is the Page, with it.
"""

import secrets
from typing import Any, ClassVar

from tests.support.fakes.standard import StandardFake
from tests.support.fakes.tokens import Grant, Place, Refused, Token, Why
from tests.support.provider_hosts import HostRequest, Reply

_VERSION = "/v25.0"
_SHORT_S, _LONG_S = 5400.0, 60 * 86400.0


def _error(code: int, message: str, status: int = 400) -> Reply:
    error = {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "example"}
    return Reply.json({"error": error}, status)


class Facebook(StandardFake):
    """One Meta app. The places of an account are its Pages."""

    name = "Facebook"
    separator = ","
    pkce = "none"
    person = "1000000000000{:04d}"
    place = "2000000000000{:04d}"
    grant_type_needed = False
    authorize_may: ClassVar = frozenset({"auth_type", "config_id"})
    errors: ClassVar[dict[Why, Reply]] = {
        "client": _error(101, "Error validating application."),
        "secret": _error(1, "Error validating client secret."),
        "code": _error(100, "Invalid verification code format."),
        "used code": _error(100, "This authorization code has been used."),
    }

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.subscribed: dict[str, list[str]] = {}
        """The fields that the app is subscribed to, by the id of the Page."""
        self.without_role: set[str] = set()
        """Pages on which the person has no role any more."""
        self.page_tokens = 0
        """How often the token of a Page was asked for."""
        routes = {
            "POST /oauth/access_token": self.token,
            "GET /me": self.me,
            "GET /me/accounts": self.pages,
            "DELETE /me/permissions": self.revoke,
            "GET /{}": self.page,
            "GET /{}/subscribed_apps": self.subscriptions,
            "POST /{}/subscribed_apps": self.subscribe,
        }
        self.hosts = {
            "www.facebook.com": self.on({f"GET {_VERSION}/dialog/oauth": self.authorize}),
            "graph.facebook.com": self.on(
                {route.replace(" ", f" {_VERSION}", 1): handler for route, handler in routes.items()}
            ),
        }

    def gives_refresh_token(self, _grant: Grant) -> bool:
        return False

    def more(self, _grant: Grant) -> dict[str, Any]:
        return {}

    def _token(self, request: HostRequest) -> Reply:
        fields = request.form()
        if fields.get("grant_type") != "fb_exchange_token":
            self.lifetime_s = _SHORT_S
            return super()._token(request)
        self.client(request, dict(fields), basic=False, body=True)
        old = self.access(fields["fb_exchange_token"])
        if old is None or old.role:
            raise Refused("revoked refresh")
        self.lifetime_s = _LONG_S
        self.refreshes += 1
        return self.granted(old.grant, None)

    def refusal(self, why: Why) -> Reply:
        if "refresh" in why:
            return _error(190, "Error validating access token.", 401)
        return super().refusal(why)

    def _page_of(self, token: Token, page_id: str) -> Place | None:
        """The Page, if the token is a person's with a role on it, or its own."""
        if token.role not in {"", page_id} or page_id in self.without_role:
            return None
        return next((place for place in token.grant.account.places if place.id == page_id), None)

    def me(self, request: HostRequest) -> Reply:
        """Who the token stands for: the person, or the Page."""
        token = self.holder(request)
        if token is None:
            return _error(190, "Error validating access token.", 401)
        account = token.grant.account
        page = self._page_of(token, token.role) if token.role else None
        return Reply.json(
            {"id": page.id if page else account.id, "name": page.name if page else account.name}
        )

    def pages(self, request: HostRequest) -> Reply:
        """The Pages of the person."""
        token = self.holder(request)
        if token is None or token.role:
            return _error(190, "Error validating access token.", 401)
        places = [place for place in token.grant.account.places if place.id not in self.without_role]
        return Reply.json({"data": [{"id": place.id, "name": place.name} for place in places]})

    def page(self, request: HostRequest) -> Reply:
        """A Page, with its token."""
        assert request.params() == {"fields": "access_token"}, "other fields than access_token are asked for"
        token, page_id = self.holder(request), request.path.rpartition("/")[2]
        if token is None:
            return _error(190, "Error validating access token.", 401)
        assert not token.role, "the token of a Page is asked for with one"
        page = self._page_of(token, page_id)
        if page is None:
            return _error(100, "Unsupported get request. Object does not exist.")
        self.page_tokens += 1
        given = self.give("access", token.grant, None, f"EAA{secrets.token_hex(40)}", role=page.id)
        return Reply.json({"access_token": given.value, "id": page.id})

    def _with_page_token(self, request: HostRequest) -> str | Reply:
        token, page_id = self.holder(request), request.path.split("/")[2]
        if token is None:
            return _error(190, "Error validating access token.", 401)
        if token.role != page_id or page_id in self.without_role:
            return _error(210, "(#210) A page access token is required to request this resource.", 403)
        return page_id

    def subscriptions(self, request: HostRequest) -> Reply:
        """The app's subscription of a Page."""
        page_id = self._with_page_token(request)
        if isinstance(page_id, Reply):
            return page_id
        fields = self.subscribed.get(page_id)
        data = [] if fields is None else [{"id": "1", "name": "App", "subscribed_fields": fields}]
        return Reply.json({"data": data})

    def subscribe(self, request: HostRequest) -> Reply:
        """Subscribe the app to fields of a Page, in place of those of before."""
        page_id = self._with_page_token(request)
        if isinstance(page_id, Reply):
            return page_id
        fields = request.form()
        self.check(fields, {"subscribed_fields"}, set(), "the subscription")
        self.subscribed[page_id] = fields["subscribed_fields"].split(",")
        return Reply.json({"success": True})

    def revoke(self, request: HostRequest) -> Reply:
        """Take back all that the person allowed."""
        token = self.holder(request)
        if token is None:
            return _error(190, "Error validating access token.", 401)
        assert not token.role, "permissions are taken back with the token of a Page"
        self.end(token.grant)
        return Reply.json({"success": True})
