"""The fake providers accept a correct client, and reject what the real providers reject."""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest

from tests.support.fakes.atlassian import Atlassian
from tests.support.fakes.calendly import Calendly
from tests.support.fakes.fake import Fake
from tests.support.fakes.github import GitHub
from tests.support.fakes.google import Google
from tests.support.fakes.hubspot import HubSpot
from tests.support.fakes.mailchimp import Mailchimp
from tests.support.fakes.microsoft import Microsoft
from tests.support.fakes.notion import Notion
from tests.support.fakes.pagerduty import PagerDuty
from tests.support.fakes.shopify import Shopify
from tests.support.fakes.slack import Slack
from tests.support.fakes.tiktok import TikTok
from tests.support.fakes.tokens import s256
from tests.support.fakes.typeform import Typeform
from tests.support.fakes.zalo import Zalo
from tests.support.fakes.zendesk import Zendesk
from tests.support.fakes.zoom import Zoom
from tests.support.provider_hosts import FORM, JSON, HostRequest, Reply

ID: Final = "the-client"
SECRET: Final = "the-secret"
BACK: Final = "https://hub.example.com/api/oauth/callback"
STATE: Final = "s" * 43
VERIFIER: Final = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"  # RFC 7636, appendix B
CHALLENGE: Final = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
CLIENT: Final = {"client_id": ID, "client_secret": SECRET}
BASIC: Final = {"authorization": f"Basic {base64.b64encode(f'{ID}:{SECRET}'.encode()).decode()}"}
SHOP: Final = "https://one.myshopify.com"


def with_bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", "user-agent": "test"}


@dataclass(frozen=True)
class ProviderCase:
    """How a right client goes through one platform's dance."""

    fake: type[Fake]
    page: str
    asks: Mapping[str, str]
    token: str
    who: str
    client: Mapping[str, str] = field(default_factory=lambda: CLIENT)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = FORM
    code: Mapping[str, str] = field(default_factory=lambda: {"redirect_uri": BACK})
    post_who: bool = False
    bears: Callable[[str], Mapping[str, str]] = with_bearer
    pkce: bool = True
    refreshes: bool = True
    another_style: Mapping[str, str] = field(default_factory=dict)
    """Headers that name the client in a way that the platform does not take."""

    def make(self) -> Fake:
        return self.fake(ID, SECRET, BACK)

    def params(self) -> dict[str, str]:
        pkce = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"} if self.pkce else {}
        return {self.fake.client_field: ID, "redirect_uri": BACK, "state": STATE, **pkce, **self.asks}

    def consent(self, fake: Fake, **changed: str) -> dict[str, str]:
        """The parameters with which the browser comes back."""
        reply = ask(fake, "GET", self.page, query=self.params() | changed)
        assert reply.status == 302
        return came_back(reply)

    def post(self, fake: Fake, fields: Mapping[str, str], **changed: str) -> Reply:
        sent = {**self.client, **fields, **changed}
        return ask(fake, "POST", self.token, body=sent, media=self.body, **self.headers)

    def exchange(self, fake: Fake, code: str, **changed: str) -> Reply:
        pkce = {"code_verifier": VERIFIER} if self.pkce else {}
        fields = {"grant_type": "authorization_code", "code": code, **self.code, **pkce}
        return self.post(fake, fields, **changed)

    def refresh(self, fake: Fake, token: str) -> Reply:
        return self.post(fake, {"grant_type": "refresh_token", "refresh_token": token})

    def tokens(self, fake: Fake, **changed: str) -> dict[str, Any]:
        return answer(self.exchange(fake, self.consent(fake, **changed)["code"]))

    def works(self, fake: Fake, token: str) -> bool:
        """Whether who-am-i knows the token."""
        reply = ask(fake, "POST" if self.post_who else "GET", self.who, **self.bears(token))
        text = reply.body.decode()
        refused = json.loads(text).get("ok") is False if self.fake is Slack else False
        return reply.status == 200 and not refused and "invalid" not in text


CASES: Final = {
    "slack": ProviderCase(
        Slack,
        "https://slack.com/oauth/v2/authorize",
        {"scope": "chat:write,team:read", "user_scope": "search:read"},
        "https://slack.com/api/oauth.v2.access",
        "https://slack.com/api/auth.test",
        post_who=True,
        pkce=False,
    ),
    "github": ProviderCase(
        GitHub,
        "https://github.com/login/oauth/authorize",
        {"scope": "read:user repo"},
        "https://github.com/login/oauth/access_token",
        "https://api.github.com/user",
        headers={"accept": "application/json"},
    ),
    "atlassian": ProviderCase(
        Atlassian,
        "https://auth.atlassian.com/authorize",
        {"response_type": "code", "audience": "api.atlassian.com", "prompt": "consent"}
        | {"scope": "offline_access read:me read:jira-user"},
        "https://auth.atlassian.com/oauth/token",
        "https://api.atlassian.com/me",
        body=JSON,
        another_style=BASIC,
    ),
    "google": ProviderCase(
        Google,
        "https://accounts.google.com/o/oauth2/v2/auth",
        {"response_type": "code", "scope": "openid email profile", "access_type": "offline"},
        "https://oauth2.googleapis.com/token",
        "https://openidconnect.googleapis.com/v1/userinfo",
    ),
    "microsoft": ProviderCase(
        Microsoft,
        "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
        {"response_type": "code", "scope": "openid offline_access User.Read", "response_mode": "query"},
        "https://login.microsoftonline.com/common/oauth2/v2.0/token",
        "https://graph.microsoft.com/v1.0/me",
    ),
    "shopify": ProviderCase(
        Shopify,
        f"{SHOP}/admin/oauth/authorize",
        {"scope": "read_products,read_orders"},
        f"{SHOP}/admin/oauth/access_token",
        f"{SHOP}/admin/api/2026-10/shop.json",
        code={"expiring": "1"},
        bears=lambda token: {"x-shopify-access-token": token},
        pkce=False,
        another_style=BASIC,
    ),
    "zalo": ProviderCase(
        Zalo,
        "https://oauth.zaloapp.com/v4/oa/permission",
        {},
        "https://oauth.zaloapp.com/v4/oa/access_token",
        "https://openapi.zalo.me/v2.0/oa/getoa",
        client={"app_id": ID},
        headers={"secret_key": SECRET},
        code={},
        bears=lambda token: {"access_token": token},
        another_style=BASIC,
    ),
    "tiktok": ProviderCase(
        TikTok,
        "https://www.tiktok.com/v2/auth/authorize/",
        {"response_type": "code", "scope": "user.info.basic,video.list"},
        "https://open.tiktokapis.com/v2/oauth/token/",
        "https://open.tiktokapis.com/v2/user/info/?fields=open_id,display_name",
        client={"client_key": ID, "client_secret": SECRET},
        another_style=BASIC,
    ),
    "mailchimp": ProviderCase(
        Mailchimp,
        "https://login.mailchimp.com/oauth2/authorize",
        {"response_type": "code"},
        "https://login.mailchimp.com/oauth2/token",
        "https://login.mailchimp.com/oauth2/metadata",
        bears=lambda token: {"authorization": f"OAuth {token}"},
        pkce=False,
        refreshes=False,
        another_style=BASIC,
    ),
    "notion": ProviderCase(
        Notion,
        "https://api.notion.com/v1/oauth/authorize",
        {"response_type": "code", "owner": "user"},
        "https://api.notion.com/v1/oauth/token",
        "https://api.notion.com/v1/users/me",
        client={},
        headers=BASIC,
        body=JSON,
        bears=lambda token: with_bearer(token) | {"notion-version": "2025-09-03"},
        pkce=False,
    ),
    "zoom": ProviderCase(
        Zoom,
        "https://zoom.us/oauth/authorize",
        {"response_type": "code"},
        "https://zoom.us/oauth/token",
        "https://api.zoom.us/v2/users/me",
        client={},
        headers=BASIC,
    ),
    "hubspot": ProviderCase(
        HubSpot,
        "https://app.hubspot.com/oauth/authorize",
        {"response_type": "code", "scope": "oauth crm.objects.contacts.read"},
        "https://api.hubapi.com/oauth/2026-03/token",
        "https://api.hubapi.com/account-info/v3/details",
        another_style=BASIC,
    ),
    "calendly": ProviderCase(
        Calendly,
        "https://auth.calendly.com/oauth/authorize",
        {"response_type": "code", "scope": "users:read webhooks:write"},
        "https://auth.calendly.com/oauth/token",
        "https://api.calendly.com/users/me",
        another_style=BASIC,
    ),
    "typeform": ProviderCase(
        Typeform,
        "https://api.typeform.com/oauth/authorize",
        {"response_type": "code", "scope": "accounts:read offline"},
        "https://api.typeform.com/oauth/token",
        "https://api.typeform.com/me",
        pkce=False,
        another_style=BASIC,
    ),
    "pagerduty": ProviderCase(
        PagerDuty,
        "https://identity.pagerduty.com/oauth/authorize",
        {"response_type": "code", "scope": "users.read incidents.read"},
        "https://identity.pagerduty.com/oauth/token",
        "https://api.pagerduty.com/users/me",
        bears=lambda token: with_bearer(token) | {"accept": "application/vnd.pagerduty+json;version=2"},
        another_style=BASIC,
    ),
    "zendesk": ProviderCase(
        Zendesk,
        "https://example-1.zendesk.com/oauth/authorizations/new",
        {"response_type": "code", "scope": "read write"},
        "https://example-1.zendesk.com/oauth/tokens",
        "https://example-1.zendesk.com/api/v2/users/me.json",
        body=JSON,
        another_style=BASIC,
    ),
}
PLAIN: Final = {
    fake: {fake.client_field: ID, "redirect_uri": BACK, "state": STATE} for fake in (Atlassian, TikTok)
}
"""What is asked without PKCE."""
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
refreshing = pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.refreshes],
    ids=[name for name in CASES if CASES[name].refreshes],
)


def ask(
    fake: Fake, method: str, url: str, query: Any = (), body: Any = None, media: str = "", **headers: str
) -> Reply:
    """One request to a handler, as `ProviderHosts` would hand it on."""
    parts = urlsplit(url)
    found = parse_qs(urlencode(dict(query)) or parts.query, keep_blank_values=True)
    sent = {
        name.replace("_", "-") if name == "content_type" else name: value for name, value in headers.items()
    }
    raw = b""
    if body is not None:
        raw = (json.dumps(body) if media == JSON else urlencode(body)).encode()
        sent["content-type"] = media or FORM
    handler = fake.hosts.get(parts.netloc) or fake.hosts["*." + parts.netloc.partition(".")[2]]
    return handler(HostRequest(method, parts.netloc, parts.path, found, sent, raw))


def came_back(reply: Reply) -> dict[str, str]:
    url = urlsplit(dict(reply.fields)["location"])
    assert f"{url.scheme}://{url.netloc}{url.path}" == BACK
    return dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=True))


def answer(reply: Reply) -> dict[str, Any]:
    found = json.loads(reply.body)
    assert isinstance(found, dict)
    return found


# What every platform does.


@every
def test_a_correct_client_gets_a_token_that_works(case: ProviderCase) -> None:
    fake = case.make()
    back = case.consent(fake)
    assert back["state"] == STATE
    tokens = answer(case.exchange(fake, back["code"]))
    assert case.works(fake, tokens["access_token"])
    assert not case.works(fake, "no-such-token")
    assert (fake.exchanges, fake.refused) == (1, [])
    assert {back["code"], tokens["access_token"]} <= fake.tokens_seen
    assert ("refresh_token" in tokens) is case.refreshes


@refreshing
def test_a_refresh_gives_a_token_that_works(case: ProviderCase) -> None:
    fake = case.make()
    first = case.tokens(fake)
    again = answer(case.refresh(fake, first["refresh_token"]))
    assert again["access_token"] != first["access_token"]
    assert case.works(fake, again["access_token"])
    assert fake.refreshes == 1
    case.refresh(fake, "no-such-token")
    assert (fake.refreshes, fake.refused) == (1, ["refresh"])


@refreshing
def test_a_used_refresh_token_is_refused_where_it_is_for_one_use(case: ProviderCase) -> None:
    fake = case.make()
    fake.grace_s = 0
    first = case.tokens(fake)["refresh_token"]
    new = answer(case.refresh(fake, first)).get("refresh_token", "")
    second = answer(case.refresh(fake, first))
    if case.fake in {Google, Microsoft, HubSpot}:
        assert "access_token" in second
        assert fake.refused == []
        return
    assert "access_token" not in second
    assert fake.refused == ["used refresh"]
    assert "access_token" in answer(case.refresh(fake, new))


@every
def test_a_code_works_once_and_not_for_long(case: ProviderCase) -> None:
    fake = case.make()
    code = case.consent(fake)["code"]
    assert "access_token" in answer(case.exchange(fake, code))
    assert "access_token" not in answer(case.exchange(fake, code))
    late = case.consent(fake)["code"]
    fake.now = lambda: time.time() + 601
    assert "access_token" not in answer(case.exchange(fake, late))
    assert "access_token" not in answer(case.exchange(fake, "no-such-code"))
    assert fake.refused == ["used code", "expired code", "code"]


@every
def test_an_access_token_ends(case: ProviderCase) -> None:
    fake = case.make()
    token = case.tokens(fake)["access_token"]
    fake.now = lambda: time.time() + 1_000_000
    assert case.works(fake, token) is (case.fake in {Mailchimp, Notion})


@every
def test_a_wrong_client_is_refused(case: ProviderCase) -> None:
    fake = case.make()
    code = case.consent(fake)["code"]
    fake.client_secret = "another-secret"
    assert "access_token" not in answer(case.exchange(fake, code))
    fake.client_secret, fake.client_id = SECRET, "another-client"
    assert "access_token" not in answer(case.exchange(fake, code))
    assert fake.refused == ["secret", "client"]


@every
def test_a_client_with_the_wrong_authentication_method_is_refused(case: ProviderCase) -> None:
    fake = case.make()
    fields = {"grant_type": "authorization_code", "code": case.consent(fake)["code"], **case.code}
    fields |= {} if case.another_style else ({"client_id": ID} if case.client else CLIENT)
    reply = ask(fake, "POST", case.token, body=fields, media=case.body, **case.another_style)
    assert (
        "access_token" not in answer(reply)
        if reply.body.startswith(b"{")
        else b"access_token" not in reply.body
    )
    assert fake.refused == ["style"]


@every
def test_a_client_that_is_named_twice_is_a_fault(case: ProviderCase) -> None:
    fake = case.make()
    fields = {"grant_type": "authorization_code", "code": case.consent(fake)["code"], **CLIENT, **case.code}
    fields |= case.client
    if case.fake is Zalo:
        return  # there the secret in the body is the wrong way
    with pytest.raises(AssertionError, match=r"in the Authorization header and in the body|does not know"):
        ask(fake, "POST", case.token, body=fields, media=case.body, **BASIC)


@every
def test_every_parameter_of_the_authorization_request_counts(case: ProviderCase) -> None:
    fake = case.make()
    optional = {"user_scope", "response_mode", "access_type"}
    optional |= {"code_challenge_method"} if case.fake is Zalo else set()
    for name in case.params():
        without = {key: value for key, value in case.params().items() if key != name}
        if name in optional or (case.fake is GitHub and name == "scope"):
            assert ask(fake, "GET", case.page, query=without).status == 302
            continue
        if case.fake is Slack and name == "scope":
            without.pop("user_scope")
        if case.fake in {Atlassian, TikTok} and name == "code_challenge":
            assert ask(fake, "GET", case.page, query={**case.asks, **PLAIN[case.fake]}).status == 302
            continue
        with pytest.raises(AssertionError):
            ask(fake, "GET", case.page, query=without)
    wrong = {
        case.fake.client_field: "another",
        "redirect_uri": f"{BACK}/",
        "state": "s" * 15,
        "response_type": "token",
        "code_challenge": "short",
        "nonsense": "1",
    }
    for name, value in wrong.items():
        with pytest.raises(AssertionError):
            ask(fake, "GET", case.page, query=case.params() | {name: value})
    with pytest.raises(AssertionError, match="501 characters"):
        ask(fake, "GET", case.page, query=case.params() | {"state": "s" * 501})


@every
def test_scopes_are_joined_as_the_provider_joins_them(case: ProviderCase) -> None:
    fake, separator = case.make(), case.fake.separator
    wrong = "one two" if separator in {",", None} else "one,two"
    with pytest.raises(AssertionError, match=r"not joined|scope, which"):
        ask(fake, "GET", case.page, query=case.params() | {"scope": wrong})


@every
def test_the_verifier_has_to_fit_the_challenge(case: ProviderCase) -> None:
    fake = case.make()
    code = case.consent(fake)["code"]
    if not case.pkce:
        with pytest.raises(AssertionError, match="code_verifier"):
            case.exchange(fake, code, code_verifier=VERIFIER)
        return
    assert "access_token" not in answer(case.exchange(fake, code, code_verifier="v" * 43))
    assert fake.refused == ["verifier"]
    with pytest.raises(AssertionError, match="RFC 7636"):
        case.exchange(fake, code, code_verifier="short")
    assert "access_token" in answer(case.exchange(fake, code))


@every
def test_a_person_can_deny(case: ProviderCase) -> None:
    fake = case.make()
    fake.denies = True
    back = case.consent(fake)
    assert (back["error"], back["state"]) == ("access_denied", STATE)
    assert "code" not in back


@every
def test_the_page_asks_and_follows_the_click(case: ProviderCase) -> None:
    fake = case.make()
    fake.asks = True
    for decision, given in (("allow", "code"), ("deny", "error")):
        page = ask(fake, "GET", case.page, query=case.params())
        link = re.search(rf'<a id="{decision}" href="([^"]+)"', page.body.decode())
        assert link
        host = urlsplit(case.page).netloc
        reply = ask(fake, "GET", f"https://{host}{link[1]}")
        assert given in came_back(reply)
        with pytest.raises(AssertionError, match="nobody was asked"):
            ask(fake, "GET", f"https://{host}{link[1]}")


@every
def test_nothing_works_after_the_person_takes_the_access_away(case: ProviderCase) -> None:
    fake = case.make()
    tokens = case.tokens(fake)
    fake.withdraw("somebody-else")
    assert case.works(fake, tokens["access_token"])
    fake.withdraw(fake.accounts[0].id)
    assert not case.works(fake, tokens["access_token"])
    if case.refreshes:
        assert "access_token" not in answer(case.refresh(fake, tokens["refresh_token"]))
        assert fake.refused == ["revoked refresh"]


@every
def test_the_switches_of_the_token_endpoint(case: ProviderCase) -> None:
    fake = case.make()
    code = case.consent(fake)["code"]
    fake.fail_next = [Reply(503), fake.refusal("secret"), Reply.gone()]
    assert [case.exchange(fake, code).status for _ in "123"] == [503, fake.refusal("secret").status, 0]
    fake.lose_next = 1
    assert case.exchange(fake, code).status == 0
    assert (fake.exchanges, fake.refused) == (1, [])  # it did its work
    fake.slow_s = 0.02
    began = time.monotonic()
    case.exchange(fake, code)
    assert time.monotonic() - began >= 0.02


@every
def test_an_unknown_path_is_a_fault(case: ProviderCase) -> None:
    fake = case.make()
    with pytest.raises(AssertionError, match="has no GET /nowhere"):
        ask(fake, "GET", f"https://{urlsplit(case.token).netloc}/nowhere")
    with pytest.raises(AssertionError, match=r"not JSON|not a form"):
        ask(fake, "POST", case.token, body={"code": "1"}, media="text/plain", **case.headers)


@every
def test_the_next_account_logs_in(case: ProviderCase) -> None:
    fake = case.make()
    fake.accounts = [fake.account(1), fake.account(2)]
    case.tokens(fake)
    case.tokens(fake)
    assert [account.id for account in fake.accounts] == [fake.account(2).id]


# What one platform does.


def test_the_challenge_is_that_of_rfc_7636() -> None:
    assert s256(VERIFIER) == CHALLENGE


def test_slack_bot_and_user_have_tokens_of_their_own() -> None:
    case = CASES["slack"]
    fake = Slack(ID, SECRET, BACK)
    fake.user_lifetime_s = 100
    both = case.tokens(fake)
    user = both["authed_user"]
    assert (both["token_type"], both["scope"], both["expires_in"]) == ("bot", "chat:write,team:read", 43200)
    assert (user["token_type"], user["scope"], user["expires_in"]) == ("user", "search:read", 100)
    again = answer(case.refresh(fake, user["refresh_token"]))
    assert (again["token_type"], again["ok"]) == ("user", True)
    alone = case.tokens(fake, scope="")
    assert "access_token" not in alone
    assert alone["authed_user"]["access_token"].startswith("xoxe.xoxp")


def test_slack_without_rotation_gives_the_same_token_again() -> None:
    case = CASES["slack"]
    fake = Slack(ID, SECRET, BACK)
    fake.lifetime_s = None
    first, second = case.tokens(fake), case.tokens(fake)
    assert first["access_token"] == second["access_token"]
    assert not {"refresh_token", "expires_in"} & set(first)


def test_slack_errors_are_200_and_a_token_is_revoked_with_its_refresh_token() -> None:
    case = CASES["slack"]
    fake = Slack(ID, SECRET, BACK)
    reply = case.exchange(fake, "nonsense")
    assert (reply.status, answer(reply)) == (200, {"ok": False, "error": "invalid_code"})
    tokens = case.tokens(fake)
    revoke = "https://slack.com/api/auth.revoke"
    gone = answer(ask(fake, "POST", revoke, **with_bearer(tokens["access_token"])))
    assert gone == {"ok": True, "revoked": True}
    assert (
        answer(ask(fake, "POST", case.who, **with_bearer(tokens["access_token"])))["error"] == "token_revoked"
    )
    assert answer(case.refresh(fake, tokens["refresh_token"]))["error"] == "invalid_refresh_token"
    assert case.works(fake, tokens["authed_user"]["access_token"])
    assert answer(ask(fake, "POST", revoke, body={"token": tokens["authed_user"]["access_token"]}))["ok"]
    assert fake.revocations == 2


def test_github_answers_a_form_unless_json_is_asked_for() -> None:
    case = CASES["github"]
    fake = GitHub(ID, SECRET, BACK)
    fields = {**CLIENT, "code": case.consent(fake)["code"], "code_verifier": VERIFIER}
    reply = ask(fake, "POST", case.token, body=fields)
    found = dict(parse_qsl(reply.body.decode(), keep_blank_values=True))
    assert (found["expires_in"], found["scope"]) == ("28800", "")
    wrong = case.exchange(fake, "nonsense")
    assert (wrong.status, answer(wrong)["error"]) == (200, "bad_verification_code")


def test_github_refresh_ends_the_old_access_token_and_an_oauth_app_has_none() -> None:
    case = CASES["github"]
    fake = GitHub(ID, SECRET, BACK)
    first = case.tokens(fake)
    assert case.works(fake, first["access_token"])
    case.refresh(fake, first["refresh_token"])
    assert not case.works(fake, first["access_token"])
    assert answer(case.refresh(fake, first["refresh_token"]))["error"] == "bad_refresh_token"
    fake.lifetime_s = None
    tokens = case.tokens(fake)
    assert tokens["scope"] == "read:user,repo"
    assert "refresh_token" not in tokens
    assert ask(fake, "GET", case.who, authorization=f"Bearer {tokens['access_token']}").status == 403


def test_github_tokens_are_deleted_with_the_client_and_json() -> None:
    case = CASES["github"]
    fake = GitHub(ID, SECRET, BACK)
    token = case.tokens(fake)["access_token"]
    url = f"https://api.github.com/applications/{ID}/token"
    assert ask(fake, "DELETE", url, body={"access_token": token}, media=JSON).status == 404
    assert ask(fake, "DELETE", url, body={"access_token": token}, media=JSON, **BASIC).status == 204
    assert ask(fake, "DELETE", url, body={"access_token": token}, media=JSON, **BASIC).status == 422
    assert not case.works(fake, token)


def test_atlassian_sites_offline_access_and_grace() -> None:
    case = CASES["atlassian"]
    fake = Atlassian(ID, SECRET, BACK)
    fake.accounts = [fake.account(1, places=2)]
    tokens = case.tokens(fake)
    url = "https://api.atlassian.com/oauth/token/accessible-resources"
    reply = ask(fake, "GET", url, **with_bearer(tokens["access_token"]))
    sites = json.loads(reply.body)
    assert [site["id"] for site in sites] == [place.id for place in fake.accounts[0].places]
    mine = f"https://api.atlassian.com/ex/jira/{sites[1]['id']}/rest/api/3/myself"
    assert answer(ask(fake, "GET", mine, **with_bearer(tokens["access_token"])))["accountId"]
    assert answer(case.refresh(fake, tokens["refresh_token"]))["refresh_token"]
    assert answer(case.refresh(fake, tokens["refresh_token"]))["refresh_token"]  # within the grace
    fake.now = lambda: time.time() + 700
    refused = case.refresh(fake, tokens["refresh_token"])
    assert (refused.status, answer(refused)["error"]) == (403, "invalid_grant")
    assert "refresh_token" not in case.tokens(fake, scope="read:me")
    as_form = {**CLIENT, "grant_type": "refresh_token", "refresh_token": "nonsense"}
    assert ask(fake, "POST", case.token, body=as_form).status == 403


def test_google_issues_a_refresh_token_with_the_first_consent_or_on_request() -> None:
    case = CASES["google"]
    fake = Google(ID, SECRET, BACK)
    assert "refresh_token" not in case.tokens(fake, access_type="online")
    assert "refresh_token" not in case.tokens(fake)
    tokens = case.tokens(fake, prompt="consent")
    assert "refresh_token" not in answer(case.refresh(fake, tokens["refresh_token"]))
    assert tokens["scope"].split()[1] == "https://www.googleapis.com/auth/userinfo.email"
    fake.max_refresh_tokens = 1
    case.tokens(fake, prompt="consent")
    assert answer(case.refresh(fake, tokens["refresh_token"]))["error"] == "invalid_grant"


def test_google_scopes_may_be_unticked_and_added() -> None:
    case = CASES["google"]
    fake = Google(ID, SECRET, BACK)
    case.tokens(fake)
    fake.unticked = {"email"}
    assert case.tokens(fake, scope="openid email")["scope"] == "openid"
    more = case.tokens(fake, scope="openid email", include_granted_scopes="true")["scope"]
    assert more.split()[1:] == [
        f"https://www.googleapis.com/auth/userinfo.{it}" for it in ("email", "profile")
    ]


def test_google_revocation_ends_all_of_the_grant() -> None:
    case = CASES["google"]
    fake = Google(ID, SECRET, BACK)
    tokens = case.tokens(fake)
    url = "https://oauth2.googleapis.com/revoke"
    assert ask(fake, "POST", url, body={"token": tokens["refresh_token"]}).status == 200
    assert not case.works(fake, tokens["access_token"])
    assert ask(fake, "POST", url, body={"token": tokens["access_token"]}).status == 400
    assert (fake.revocations, "refresh_token" in case.tokens(fake)) == (1, True)


def test_microsoft_numbers_tenants_and_scopes() -> None:
    case = CASES["microsoft"]
    fake = Microsoft(ID, SECRET, BACK)
    tokens = case.tokens(fake)
    assert tokens["scope"] == "openid User.Read"
    claims = json.loads(base64.urlsafe_b64decode(tokens["id_token"].split(".")[1] + "=="))
    assert claims["tid"] == fake.accounts[0].place.id
    wrong = answer(case.refresh(fake, "nonsense"))
    assert wrong["error_codes"] == [9002313]
    more = case.post(
        fake,
        {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], "scope": "Mail.Send"},
    )
    assert answer(more)["suberror"] == "consent_required"
    assert "refresh_token" not in case.tokens(fake, scope="User.Read")
    unread = case.tokens(fake, scope="Mail.Send")["access_token"]
    assert ask(fake, "GET", case.who, **with_bearer(unread)).status == 403
    fake.fail_next = [fake.error(50076)]
    assert answer(case.refresh(fake, tokens["refresh_token"]))["error"] == "interaction_required"
    fake.secret_expired = True
    assert answer(case.refresh(fake, tokens["refresh_token"]))["error_codes"] == [7000222]
    with pytest.raises(AssertionError, match="has no POST"):
        ask(fake, "POST", case.token.replace("common", "organizations"), body=CLIENT)


def test_shopify_signs_what_comes_back() -> None:
    fake = Shopify(ID, SECRET, BACK)
    back = CASES["shopify"].consent(fake)
    signature = back.pop("hmac")
    signed = "&".join(f"{name}={back[name]}" for name in sorted(back))
    assert signature == hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).hexdigest()
    assert back["shop"] == "one.myshopify.com"


def test_shopify_shops_are_apart_and_tokens_expire_when_asked() -> None:
    case = CASES["shopify"]
    fake = Shopify(ID, SECRET, BACK)
    other = SHOP.replace("one", "two")
    fields = {**CLIENT, "code": case.consent(fake)["code"]}
    assert "error" in answer(ask(fake, "POST", case.token.replace(SHOP, other), body=fields))
    forever = answer(ask(fake, "POST", case.token, body=fields))
    assert set(forever) == {"access_token", "scope"}
    assert ask(fake, "GET", case.who, **case.bears(forever["access_token"])).status == 200
    assert (
        ask(fake, "GET", case.who.replace(SHOP, other), **case.bears(forever["access_token"])).status == 401
    )
    fake.shops = {"two"}
    assert ask(fake, "GET", case.page, query=case.params()).status == 404
    with pytest.raises(AssertionError, match="is not a shop"):
        ask(fake, "GET", "https://-.myshopify.com/admin/oauth/authorize", query=case.params())


def test_shopify_keeps_a_used_refresh_token_until_its_replacement_is_used() -> None:
    case = CASES["shopify"]
    fake = Shopify(ID, SECRET, BACK)
    old = case.tokens(fake)["refresh_token"]
    case.refresh(fake, old)
    new = answer(case.refresh(fake, old))["refresh_token"]
    assert answer(case.refresh(fake, new))["refresh_token"]
    assert answer(case.refresh(fake, old))["error"] == "invalid_grant"


def test_shopify_uninstalls() -> None:
    case = CASES["shopify"]
    fake = Shopify(ID, SECRET, BACK)
    token = case.tokens(fake)["access_token"]
    url = f"{SHOP}/admin/api_permissions/current.json"
    assert ask(fake, "DELETE", url, **case.bears(token)).status == 200
    assert not case.works(fake, token)
    assert ask(fake, "GET", case.who, **with_bearer(token)).status == 401


def test_zalo_numbers_strings_and_the_account() -> None:
    case = CASES["zalo"]
    fake = Zalo(ID, SECRET, BACK)
    back = case.consent(fake)
    assert back["oa_id"] == fake.accounts[0].place.id
    tokens = answer(case.exchange(fake, back["code"]))
    assert tokens["expires_in"] == "90000"
    case.refresh(fake, tokens["refresh_token"])
    used = case.refresh(fake, tokens["refresh_token"])
    assert (used.status, answer(used)["error"]) == (200, -14020)
    refused = ask(fake, "GET", case.who, **with_bearer(tokens["access_token"]))
    assert (refused.status, answer(refused)["error"]) == (200, -216)


def test_tiktok_codes_are_decoded_and_errors_have_a_log_id() -> None:
    case = CASES["tiktok"]
    fake = TikTok(ID, SECRET, BACK)
    fake.unticked = {"video.list"}
    location = dict(ask(fake, "GET", case.page, query=case.params()).fields)["location"]
    raw = re.search(r"code=([^&]+)", location)
    assert raw
    assert "%2A" in raw[1]
    refused = case.exchange(fake, raw[1])
    assert (refused.status, answer(refused)["error"]) == (200, "invalid_grant")
    assert answer(refused)["log_id"]
    tokens = answer(case.exchange(fake, parse_qs(raw[0])["code"][0]))
    assert (tokens["scope"], tokens["refresh_expires_in"]) == ("user.info.basic", 180 * 86400)
    fields = {**case.client, "token": tokens["access_token"]}
    gone = ask(fake, "POST", "https://open.tiktokapis.com/v2/oauth/revoke/", body=fields)
    assert (gone.status, gone.body) == (200, b"")
    assert not case.works(fake, tokens["access_token"])
    with pytest.raises(AssertionError, match="has no POST"):
        ask(fake, "POST", case.token.rstrip("/"), body=fields)


def test_mailchimp_never_expires_and_says_where_the_account_is() -> None:
    case = CASES["mailchimp"]
    fake = Mailchimp(ID, SECRET, BACK)
    tokens = case.tokens(fake)
    assert tokens["expires_in"] == 0
    found = answer(ask(fake, "GET", case.who, **case.bears(tokens["access_token"])))
    assert found["dc"] == "us19"
    assert (
        ask(fake, "GET", f"{found['api_endpoint']}/3.0/", **case.bears(tokens["access_token"])).status == 200
    )
    assert ask(fake, "GET", "https://us1.api.mailchimp.com/3.0/", **case.bears("x")).status == 401
    assert answer(ask(fake, "GET", case.who, **case.bears("x"))) == {"error": "invalid_token"}
    with pytest.raises(AssertionError, match="no refresh tokens"):
        case.refresh(fake, "nonsense")


def test_notion_says_who_it_is_and_keeps_its_bot() -> None:
    case = CASES["notion"]
    fake = Notion(ID, SECRET, BACK)
    first, second = case.tokens(fake), case.tokens(fake)
    assert first["bot_id"] == second["bot_id"]
    assert first["workspace_id"] == fake.accounts[0].place.id
    assert "expires_in" not in first
    unversioned = ask(fake, "GET", case.who, **with_bearer(first["access_token"]))
    assert (unversioned.status, answer(unversioned)["code"]) == (400, "missing_version")
    base = "https://api.notion.com/v1/oauth"
    token = {"token": first["access_token"]}
    assert answer(ask(fake, "POST", f"{base}/introspect", body=token, media=JSON, **BASIC))["active"] is True
    assert ask(fake, "POST", f"{base}/revoke", body=token, media=JSON, **BASIC).status == 200
    assert not case.works(fake, first["access_token"])
    assert case.works(fake, second["access_token"])
    with pytest.raises(AssertionError, match="lacks redirect_uri"):
        case.exchange(fake, case.consent(fake)["code"], redirect_uri="")
