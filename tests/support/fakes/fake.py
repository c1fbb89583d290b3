"""What the fakes of platforms share: who logs in, codes, tokens, PKCE, and the switches of a test.

A fake stands for one app that is registered at the platform. Where the platform answers an error, it answers
that error, in the provider's own format. Where the platform would let something pass that a client must not
do, or would show a page of its own, it raises AssertionError with a sentence; `ProviderHosts` keeps it in its
`faults`.

Facts that nobody could read in a document of the platform are marked "from memory" beside them.
"""

import json
import math
import re
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Final, Literal
from urllib.parse import urlencode

from tests.support.fakes.tokens import (
    Account,
    Asking,
    Grant,
    Place,
    Refused,
    Token,
    Why,
    base64url,
    credentials,
    s256,
)
from tests.support.provider_hosts import Handler, HostRequest, Reply
from tests.support.recorded_secrets import record_secret

_CONSENT: Final = "/consent/"
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class Fake(ABC):
    """One app at one platform. Give `hosts` to `ProviderHosts`; turn the switches while it runs.

    `exchanges`, `refreshes` and `revocations` count what succeeded; `refused` has the reason of every refusal
    of the token endpoint, in order. `tokens_seen` are all secrets that it gave out: codes, tokens, id tokens.
    """

    name: ClassVar[str]
    client_field: ClassVar[str] = "client_id"
    separator: ClassVar[str | None] = " "
    """Between scopes; None: the platform has no scopes, and `scope` is a fault."""
    scope_needed: ClassVar[bool] = True
    challenge_method: ClassVar[bool] = True
    """Whether `code_challenge_method` has to be sent with a challenge (without it S256 is meant)."""
    person: ClassVar[str] = "{}"
    place: ClassVar[str] = "{}"
    """The format of the provider's ids of persons and places; formatted with a number."""
    authorize_needs: ClassVar[frozenset[str]] = frozenset({"response_type"})
    authorize_may: ClassVar[frozenset[str]] = frozenset()
    authorize_values: ClassVar[Mapping[str, frozenset[str]]] = {}
    """The values that a parameter may have, where the platform has a list."""
    grant_type_needed: ClassVar[bool] = True
    code_needs: ClassVar[frozenset[str]] = frozenset({"redirect_uri"})
    code_may: ClassVar[frozenset[str]] = frozenset()
    refresh_may: ClassVar[frozenset[str]] = frozenset()
    single_use: ClassVar[bool] = True
    """Whether a used refresh token is refused, after `grace_s`."""
    replacement_retires: ClassVar[bool] = False
    """Whether the use of a new refresh token ends the one before, also within `grace_s`."""
    denial: ClassVar[Mapping[str, str]] = {"error": "access_denied"}

    pkce: Literal["expected", "optional", "none"] = "expected"
    """`expected`: leaving it out is a fault. `none`: a challenge is an unknown parameter."""
    code_lifetime_s: float = 600
    lifetime_s: float | None = 3600
    """Of access tokens; None: they never expire."""
    refresh_lifetime_s: float | None = None
    grace_s: float = 0
    """How long a single-use refresh token works again after its first use."""

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.redirect_uri = redirect_uri
        record_secret("a client secret", client_secret)
        self.accounts: list[Account] = [self.account()]
        """Who logs in next; the last one stays."""
        self.asks = False
        """Show a page with a link `allow` and a link `deny`, instead of allowing at once."""
        self.denies = False
        """Deny at once (when it does not ask)."""
        self.unticked: set[str] = set()
        """Scopes that the person does not allow, where the platform lets them choose."""
        self.fail_next: list[Reply] = []
        """What the token endpoint answers next, in order, without doing anything."""
        self.fail_calls: list[Reply] = []
        """What the next calls of the API, who-am-i and revocations among them, are answered."""
        self.lose_next = 0
        """So many answers of the token endpoint are lost: it does its work, and the connection ends."""
        self.replace_next: list[Reply] = []
        """What the token endpoint answers next, in order, in place of what it did."""
        self.slow_s: float = 0
        """How long the token endpoint takes to answer, after its work is done."""
        self.now: Callable[[], float] = time.time
        self.exchanges = self.refreshes = self.revocations = 0
        self.refused: list[Why] = []
        self.tokens_seen: set[str] = set()
        self.hosts: dict[str, Handler] = {}
        self._grants: list[Grant] = []
        self._tokens: dict[str, Token] = {}
        self._asking: dict[str, Asking] = {}
        self._lock = threading.Lock()

    @classmethod
    def account(cls, number: int = 1, places: int = 1) -> Account:
        """A person with ids as the platform has them; each number is somebody else, elsewhere."""
        more = "" if number == 1 else f" {number}"
        ids = [number, *(number * 100 + further for further in range(1, places))]
        return Account(
            id=cls.person.format(number),
            name=f"Ada Example{more}",
            email=f"ada{more.strip()}@example.com",
            places=tuple(Place(cls.place.format(one), f"Example {one}") for one in ids),
        )

    def withdraw(self, account_id: str | None = None) -> None:
        """A person (or everybody) takes the access away, at the platform. No token works any more."""
        for grant in list(self._grants):
            if account_id in {None, grant.account.id}:
                grant.live = False

    def grants_of(self, account_id: str) -> list[Grant]:
        """What a person allowed so far, and did not take back."""
        return [grant for grant in self._grants if grant.live and grant.account.id == account_id]

    # What each platform says for itself.

    @abstractmethod
    def authenticated(self, request: HostRequest) -> dict[str, str]:
        """The fields of a token request without the client's, who is checked; Refused."""

    @abstractmethod
    def granted(self, grant: Grant, old: Token | None) -> Reply:
        """The tokens of a new grant, or new ones for a refresh token; Refused."""

    @abstractmethod
    def refusal(self, why: Why) -> Reply:
        """The platform's error. A test may put it into `fail_next`."""

    def scopes_asked(self, query: Mapping[str, str]) -> tuple[str, ...]:
        """The scopes of an authorization request."""
        return self.split(query["scope"]) if "scope" in query else ()

    def scopes_granted(
        self, _account: Account, request: tuple[str, ...], _query: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Which of them the person allows; more, when the platform adds earlier ones."""
        return request

    def returned(self, params: dict[str, str], _asking: Asking, _grant: Grant | None) -> dict[str, str]:
        """The parameters with which the browser comes back; there is no grant when the person denied."""
        return params

    def belongs(self, _grant: Grant, _asked: HostRequest) -> bool:
        """Whether a code or a refresh token may be used at this host and path."""
        return True

    # The authorization page.

    def authorize(self, request: HostRequest) -> Reply:
        """GET of the authorization page: checked, then decided at once or by a click."""
        query = request.params()
        scope = set() if self.separator is None else {"scope"}
        own = {self.client_field, "redirect_uri", "state"} | (scope if self.scope_needed else set())
        may = self.authorize_may | {"response_type"} | scope
        if self.pkce != "none":
            may |= {"code_challenge", "code_challenge_method"}
        self.check(query, own | self.authorize_needs, may, "the authorization request")
        assert query[self.client_field] == self.client_id, "the authorization request names another client"
        assert query["redirect_uri"] == self.redirect_uri, f"the redirect_uri is {query['redirect_uri']}"
        assert query.get("response_type", "code") == "code", "the response_type is not code"
        assert 16 <= len(query["state"]) <= 500, f"the state has {len(query['state'])} characters"
        for name, values in self.authorize_values.items():
            assert query.get(name) in {None, *values}, (
                f"{name} is {query[name]!r}, which {self.name} does not know"
            )
        self._check_challenge(query)
        asking = Asking(request, query, self.scopes_asked(query))
        if not self.asks:
            return self._decide(asking, allow=not self.denies)
        number = secrets.token_hex(8)
        self._asking[number] = asking
        links = (
            f'<a id="{decision}" href="{_CONSENT}{number}/{decision}">{decision.title()}</a>'
            for decision in ("allow", "deny")
        )
        return Reply.html(
            f"<!doctype html><title>{self.name}</title><p>An app asks for access. {' '.join(links)}"
        )

    def _check_challenge(self, query: Mapping[str, str]) -> None:
        challenge, method = query.get("code_challenge"), query.get("code_challenge_method")
        if challenge is None:
            assert method is None, "there is a code_challenge_method without a code_challenge"
            assert self.pkce != "expected", f"{self.name} supports PKCE, and there is no code_challenge"
            return
        assert method == "S256" or (method is None and not self.challenge_method), (
            f"the PKCE method is {method}"
        )
        assert _CHALLENGE.fullmatch(challenge), "the code_challenge is not 43 characters of base64url"

    def _decide(self, asking: Asking, *, allow: bool) -> Reply:
        grant = None
        params = dict(self.denial)
        if allow:
            account = self.accounts[0] if len(self.accounts) == 1 else self.accounts.pop(0)
            scopes = self.scopes_granted(account, asking.scopes, asking.query)
            first = not self.grants_of(account.id)
            grant = Grant(account, scopes, asking.asked, asking.query, first)
            self._grants.append(grant)
            params = {"code": self.give("code", grant, self.code_lifetime_s, self.new_code()).value}
        params = self.returned(params | {"state": asking.query["state"]}, asking, grant)
        uri = asking.query["redirect_uri"]
        return Reply.redirect(f"{uri}{'&' if '?' in uri else '?'}{urlencode(params)}")

    def _decided(self, request: HostRequest) -> Reply:
        number, _, decision = request.path.removeprefix(_CONSENT).partition("/")
        asking = self._asking.pop(number, None)
        assert asking, f"nobody was asked at {request.path}"
        assert decision in {"allow", "deny"}, f"{decision} is no decision"
        return self._decide(asking, allow=decision == "allow")

    # The token endpoint.

    def token(self, request: HostRequest) -> Reply:
        """The token endpoint, with the switches of the test."""
        if self.fail_next:
            return self.fail_next.pop(0)
        try:
            reply = self._token(request)
        except Refused as refused:
            self.refused.append(refused.why)
            reply = self.refusal(refused.why)
        if self.lose_next:
            self.lose_next -= 1
            return Reply.gone()
        return self.replace_next.pop(0) if self.replace_next else reply

    def _token(self, request: HostRequest) -> Reply:
        assert not request.query, "the token request has a query"
        fields = self.authenticated(request)
        kind = fields.pop("grant_type", "" if self.grant_type_needed else "authorization_code")
        if kind == "authorization_code":
            pkce = set() if self.pkce == "none" else {"code_verifier"}
            self.check(fields, {"code"} | self.code_needs, self.code_may | pkce, "the token request")
            reply = self.granted(self._exchange(fields, request), None)
            self.exchanges += 1
            return reply
        if kind != "refresh_token":
            raise Refused("grant type")
        self.check(fields, {"refresh_token"}, self.refresh_may, "the refresh request")
        old = self._redeem(fields["refresh_token"], request)
        self._scope_of_refresh(old.grant, fields.get("scope"))
        reply = self.granted(old.grant, old)
        self.refreshes += 1
        return reply

    def _exchange(self, fields: Mapping[str, str], request: HostRequest) -> Grant:
        code, verifier = self.known(fields["code"], "code"), fields.get("code_verifier")
        record_secret("a PKCE verifier", verifier or "")
        if code is None or not self.belongs(code.grant, request):
            raise Refused("code")
        if code.used_at is not None:
            raise Refused("used code")
        if code.state(self.now()) != "live":
            raise Refused("expired code")
        if fields.get("redirect_uri", self.redirect_uri) != code.grant.query["redirect_uri"]:
            raise Refused("redirect_uri")
        challenge = code.grant.query.get("code_challenge")
        assert challenge or not verifier, "there is a code_verifier, and there was no code_challenge"
        assert not verifier or _VERIFIER.fullmatch(verifier), "the code_verifier is not as RFC 7636 has it"
        if challenge and challenge != s256(verifier or ""):
            raise Refused("verifier")
        code.used_at = self.now()
        return code.grant

    def _redeem(self, value: str, request: HostRequest) -> Token:
        token, now = self.known(value, "refresh"), self.now()
        if token is None or not self.belongs(token.grant, request):
            raise Refused("refresh")
        if (state := token.state(now)) != "live":
            raise Refused("revoked refresh" if state == "revoked" else "expired refresh")
        if self.single_use and token.used_at is not None and now - token.used_at >= self.grace_s:
            raise Refused("used refresh")
        if token.used_at is None:
            token.used_at = now
        if self.replacement_retires and token.replaces is not None:
            token.replaces.live = False
        return token

    def _scope_of_refresh(self, grant: Grant, scope: str | None) -> None:
        """A refresh may ask for less than was granted, never for more (RFC 6749, 6)."""
        if scope is not None and not set(self.split(scope)) <= set(grant.scopes):
            raise Refused("scope")

    # For the platforms.

    def on(self, routes: Mapping[str, Handler]) -> Handler:
        """A host's handler: `METHOD /path` with `{}` for one part of a path; anything else is a fault."""
        found = [(re.compile(re.escape(path).replace(r"\{\}", "[^/]+")), one) for path, one in routes.items()]

        def handle(request: HostRequest) -> Reply:
            named = f"{request.method} {request.path}"
            if request.path.startswith(_CONSENT):
                endpoint: Handler | None = self._decided
            else:
                endpoint = next((one for path, one in found if path.fullmatch(named)), None)
            assert endpoint, f"{self.name} has no {named} at {request.host}"
            called = endpoint not in (self.authorize, self._decided, self.token)
            if called and self.fail_calls:
                return self.fail_calls.pop(0)
            with self._lock:
                reply = endpoint(request)
            if endpoint == self.token and self.slow_s:
                time.sleep(self.slow_s)
            return reply

        return handle

    def client(
        self, request: HostRequest, fields: dict[str, str], *, basic: bool, body: bool
    ) -> dict[str, str]:
        """The fields without the client's, which is right, and named as the platform takes it; Refused."""
        named = credentials(request)
        in_body = {self.client_field, "client_secret"} & set(fields)
        assert not (named and in_body), "the client is named in the Authorization header and in the body"
        if named is None:
            named = fields.get(self.client_field, ""), fields.get("client_secret", "")
            if not body or len(in_body) != 2:
                raise Refused("style")
        elif not basic:
            raise Refused("style")
        if named[0] != self.client_id:
            raise Refused("client")
        if named[1] != self.client_secret:
            raise Refused("secret")
        return {name: value for name, value in fields.items() if name not in in_body}

    def give(
        self,
        kind: Literal["code", "access", "refresh"],
        grant: Grant,
        lifetime_s: float | None,
        value: str,
        *,
        role: str = "",
        old: Token | None = None,
    ) -> Token:
        """A secret goes out; `old` is the refresh token that it replaces."""
        ends_at = math.inf if lifetime_s is None else self.now() + lifetime_s
        token = Token(value, kind, grant, ends_at, role, replaces=old)
        self._tokens[value] = token
        self.gives(kind, value)
        return token

    def gives(self, kind: str, value: str) -> None:
        """Whatever secret goes out; `kind` says what it is."""
        self.tokens_seen.add(value)
        record_secret(f"a secret ({kind}) of {self.name}", value)

    def new_code(self) -> str:
        """Return a code in the provider's format."""
        return secrets.token_urlsafe(30)

    def id_token(self, grant: Grant, **claims: str) -> str:
        """An OpenID Connect id token, with a signature that nobody needs to check when it comes over TLS."""
        now = int(self.now())
        message = {"sub": grant.account.id, "aud": self.client_id, "iat": now, "exp": now + 3600, **claims}
        parts = (json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, message))
        value = ".".join([*(base64url(part) for part in parts), secrets.token_urlsafe(256)])
        self.gives("id token", value)
        return value

    def known(self, value: str, kind: str) -> Token | None:
        """A secret of this kind that was given out, in whatever state it is."""
        token = self._tokens.get(value)
        return token if token and token.kind == kind else None

    def access(self, value: str) -> Token | None:
        """An access token that works."""
        token = self.known(value, "access")
        return token if token and token.state(self.now()) == "live" else None

    def end(self, grant: Grant) -> None:
        """The app gave the access back."""
        grant.live = False
        self.revocations += 1

    def seconds(self) -> int:
        """What `expires_in` says; not for tokens that never expire."""
        assert self.lifetime_s is not None
        return int(self.lifetime_s)

    def split(self, text: str) -> tuple[str, ...]:
        """Scopes, joined as the platform joins them."""
        scopes = text.split(self.separator)
        wrong = [scope for scope in scopes if not scope or re.search(r"[\s,;+]", scope)]
        assert not wrong, f"the scopes {text!r} are not joined by {self.separator!r}"
        assert len(set(scopes)) == len(scopes), f"the scopes {text!r} have one twice"
        return tuple(scopes)

    def check(
        self, fields: Mapping[str, Any], needs: Collection[str], may: Collection[str], what: str
    ) -> None:
        """All that it needs, with a value, and nothing that the platform does not know."""
        missing = sorted(name for name in needs if fields.get(name) in {None, ""})
        assert not missing, f"{what} lacks {', '.join(missing)}"
        unknown = sorted(set(fields) - set(needs) - set(may))
        assert not unknown, f"{what} has {', '.join(unknown)}, which {self.name} does not know"
