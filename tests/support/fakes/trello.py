"""Trello's OAuth 1.0a.

https://developer.atlassian.com/cloud/trello/guides/rest-api/authorization/ and RFC 5849.
From memory: the texts and the status of errors, how a denied request comes back, and that a token is ended by
DELETE /1/tokens/{token}.

- The first step names where the person comes back to (`oauth_callback`); nothing is registered for it.
- Signatures are HMAC-SHA1, in the header `Authorization: OAuth`. A nonce is good once.
- A request token is exchanged once, by whoever knows its secret and the verifier that the person brought.
- The API takes the token in the same header with the key, unsigned.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlencode

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Asking, Grant, Refused, Token, Why
from tests.support.provider_hosts import HostRequest, Reply

_SCOPES: Final = frozenset({"read", "write", "account"})
_LIFETIMES_S: Final[dict[str, float | None]] = {
    "1hour": 3600,
    "1day": 86_400,
    "30days": 30 * 86_400,
    "never": None,
}
_ALWAYS: Final = frozenset(
    {"oauth_consumer_key", "oauth_signature_method", "oauth_timestamp", "oauth_nonce", "oauth_signature"}
)
_CLOCK_S: Final = 300
_PAIR: Final = re.compile(r'([A-Za-z0-9_%.~-]+)="([^"]*)"')
_ERRORS: Final[dict[Why, str]] = {"client": "invalid key", "secret": "invalid signature"}
_FIELDS: Final = frozenset({"id", "username", "fullName", "url"})


def base_string(method: str, url: str, pairs: Iterable[tuple[str, str]]) -> str:
    """What is signed (RFC 5849, 3.4.1); `url` has no query, `pairs` are all parameters but the signature."""
    encoded = sorted((_encoded(name), _encoded(value)) for name, value in pairs)
    joined = "&".join(f"{name}={value}" for name, value in encoded)
    return "&".join((method.upper(), _encoded(url), _encoded(joined)))


def hmac_sha1(text: str, client_secret: str, token_secret: str) -> str:
    """The signature in base64 (RFC 5849, 3.4.2)."""
    key = f"{_encoded(client_secret)}&{_encoded(token_secret)}"
    return base64.b64encode(hmac.digest(key.encode(), text.encode(), hashlib.sha1)).decode()


def header_of(request: HostRequest) -> dict[str, str]:
    """The parameters of `Authorization: OAuth` (RFC 5849, 3.5.1); a fault when it is written otherwise."""
    scheme, _, listed = request.headers.get("authorization", "").partition(" ")
    if scheme != "OAuth":
        return {}
    found: dict[str, str] = {}
    for each in listed.split(","):
        pair = _PAIR.fullmatch(each.strip())
        assert pair, f"{each.strip()!r} is no parameter of Authorization: OAuth"
        name = unquote(pair[1])
        assert name not in found, f"{name} is there twice"
        found[name] = unquote(pair[2])
    return found


def _encoded(text: str) -> str:
    return quote(text, safe="-._~")


@dataclass(eq=False)
class Request:
    """A request token. It is decided about once, and exchanged once."""

    token: str
    secret: str
    callback: str
    ends_at: float
    decided: bool = False
    used: bool = False
    grant: Grant | None = None
    verifier: str = ""


class Trello(Fake):
    """One Power-Up with its API key (the client id) and secret."""

    name = "Trello"
    separator = ","
    pkce = "none"
    person = "5abbe4b7ddc1b351ef96{:04}"
    place = "{}"
    lifetime_s: float | None = None

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self._requests: dict[str, Request] = {}
        self._nonces: set[tuple[str, str]] = set()
        self.hosts = {
            "trello.com": self.on(
                {
                    "POST /1/OAuthGetRequestToken": self.request_token,
                    "GET /1/OAuthAuthorizeToken": self.authorize,
                    "POST /1/OAuthGetAccessToken": self.token,
                }
            ),
            "api.trello.com": self.on({"GET /1/members/me": self.me, "DELETE /1/tokens/{}": self.delete}),
        }

    def refusal(self, why: Why) -> Reply:
        return Reply(401, _ERRORS.get(why, "invalid token").encode(), {"content-type": "text/plain"})

    # The three legs.

    def request_token(self, request: HostRequest) -> Reply:
        """A token that names the request, for where the person is to come back to."""
        try:
            sent = self._signed(request, {"oauth_callback"}, "")
        except Refused as refused:
            self.refused.append(refused.why)
            return self.refusal(refused.why)
        back, _, state = sent["oauth_callback"].partition("?state=")
        assert back == self.redirect_uri, f"the oauth_callback is {sent['oauth_callback']}"
        assert 16 <= len(state) <= 500, f"the state has {len(state)} characters"
        made = Request(
            secrets.token_hex(16),
            secrets.token_hex(16),
            sent["oauth_callback"],
            self.now() + self.code_lifetime_s,
        )
        self._requests[made.token] = made
        self.gives("request", made.secret)  # the token itself stands in the address that the person goes to
        return Reply.form({**_pair(made.token, made.secret), "oauth_callback_confirmed": "true"})

    def authorize(self, request: HostRequest) -> Reply:
        query = request.params()
        self.check(query, {"oauth_token"}, {"scope", "name", "expiration"}, "the authorization request")
        made = self._requests.get(query["oauth_token"])
        assert made, "nobody asked for this oauth_token"
        assert not made.decided, "this oauth_token was decided about"
        assert self.now() < made.ends_at, "this oauth_token is too old"
        scopes = self.scopes_asked(query)
        assert set(scopes) <= _SCOPES, f"the scopes are {scopes}"
        assert query.get("expiration", "never") in _LIFETIMES_S, f"the expiration is {query['expiration']}"
        asking = Asking(request, query, scopes)
        if not self.asks:
            return self._decide(asking, allow=not self.denies)
        self._asking[made.token] = asking
        page = f"/consent/{made.token}"
        return Reply.html(
            f'<a id="allow" href="{page}/allow">Allow</a> <a id="deny" href="{page}/deny">Deny</a>'
        )

    def _decide(self, asking: Asking, *, allow: bool) -> Reply:
        made = self._requests[asking.query["oauth_token"]]
        made.decided = True
        params = {}
        if allow:
            account = self.accounts[0] if len(self.accounts) == 1 else self.accounts.pop(0)
            first = not self.grants_of(account.id)
            made.grant = Grant(account, asking.scopes or ("read",), asking.asked, asking.query, first)
            made.verifier = secrets.token_hex(16)
            self._grants.append(made.grant)
            self.gives("verifier", made.verifier)
            params = {"oauth_token": made.token, "oauth_verifier": made.verifier}
        return Reply.redirect(f"{made.callback}&{urlencode(params)}" if params else made.callback)

    def _token(self, request: HostRequest) -> Reply:
        named = header_of(request).get("oauth_token", "")
        made = self._requests.get(named)
        sent = self.authenticated(request)
        if made is None or made.grant is None:
            raise Refused("code")
        if made.used:
            raise Refused("used code")
        if self.now() >= made.ends_at or not made.grant.live:
            raise Refused("expired code")
        if sent["oauth_verifier"] != made.verifier:
            raise Refused("verifier")
        made.used = True
        self.exchanges += 1
        return self.granted(made.grant, None)

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        made = self._requests.get(header_of(request).get("oauth_token", ""))
        return self._signed(request, {"oauth_token", "oauth_verifier"}, made.secret if made else "")

    def granted(self, grant: Grant, _old: Token | None) -> Reply:
        lifetime_s = _LIFETIMES_S[grant.query.get("expiration", "never")]
        token = self.give("access", grant, lifetime_s, secrets.token_hex(32))
        secret = secrets.token_hex(16)
        self.gives("signing", secret)
        return Reply.form(_pair(token.value, secret))

    def _signed(self, request: HostRequest, needs: set[str], token_secret: str) -> dict[str, str]:
        """The parameters of a request that is rightly signed; Refused."""
        assert not request.query, "the request has a query"
        assert not request.body, "the request has a body"
        sent = header_of(request)
        self.check(sent, _ALWAYS | needs, {"oauth_version"}, f"Authorization of {request.path}")
        assert sent["oauth_signature_method"] == "HMAC-SHA1", "it is not signed with HMAC-SHA1"
        assert sent.get("oauth_version", "1.0") == "1.0", f"the version is {sent['oauth_version']}"
        assert abs(int(sent["oauth_timestamp"]) - self.now()) <= _CLOCK_S, "the time is not now"
        once = (sent["oauth_timestamp"], sent["oauth_nonce"])
        assert once not in self._nonces, "the nonce was used"
        self._nonces.add(once)
        if sent["oauth_consumer_key"] != self.client_id:
            raise Refused("client")
        pairs = [(name, value) for name, value in sent.items() if name != "oauth_signature"]
        text = base_string(request.method, f"https://{request.host}{request.path}", pairs)
        if sent["oauth_signature"] != hmac_sha1(text, self.client_secret, token_secret):
            raise Refused("secret")
        return sent

    # The API.

    def me(self, request: HostRequest) -> Reply:
        """Whose token it is: the fields that are asked for."""
        token = self._known(request)
        if isinstance(token, Reply):
            return token
        wanted = request.params().get("fields", "").split(",")
        assert set(wanted) <= _FIELDS, f"the fields are {wanted}"
        account = token.grant.account
        username = account.email.partition("@")[0]
        shown = {"id": account.id, "username": username, "fullName": account.name}
        shown["url"] = f"https://trello.com/{username}"
        return Reply.json({name: shown[name] for name in ("id", *wanted)})

    def delete(self, request: HostRequest) -> Reply:
        """The token itself is in the path."""
        token = self._known(request)
        if isinstance(token, Reply):
            return token
        ended = self.access(request.path.rpartition("/")[2])
        if ended is None or ended.grant.account.id != token.grant.account.id:
            return Reply(404, b"token not found", {"content-type": "text/plain"})
        self.end(ended.grant)
        return Reply.json({})

    def _known(self, request: HostRequest) -> Token | Reply:
        """The token of a request to the API, or the refusal of it."""
        assert not {"key", "token"} & set(request.query), "the token is in the query"
        sent = header_of(request)
        if sent.get("oauth_consumer_key") != self.client_id:
            return self.refusal("client")
        return self.access(sent.get("oauth_token", "")) or self.refusal("code")


def _pair(token: str, secret: str) -> dict[str, str]:
    return {"oauth_token": token, "oauth_token_secret": secret}
