"""The OAuth flows of ten providers that deviate from the standard.

The providers are strict fakes written from their documents (`tests/support/fakes`). A request that the real
provider would reject, or answer with an error page, is a fault and fails the test.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from pymongo import MongoClient

from shared.connections.refresh_outcome import NotConnected
from shared.connections.tokens import Access
from tests.support.auth_servers import MockServer
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.atlassian import Atlassian
from tests.support.fakes.fake import Fake
from tests.support.fakes.github import GitHub
from tests.support.fakes.google import Google
from tests.support.fakes.mailchimp import Mailchimp
from tests.support.fakes.microsoft import Microsoft
from tests.support.fakes.notion import Notion
from tests.support.fakes.oauth_hub import FAKES, OAuthHub
from tests.support.fakes.shopify import Shopify
from tests.support.fakes.slack import Slack
from tests.support.fakes.tiktok import TikTok
from tests.support.fakes.tokens import Account, Place
from tests.support.fakes.zendesk import Zendesk
from tests.support.npm import Unavailable
from tests.support.provider_hosts import Forward, Handler, Reply
from tests.support.recorded_secrets import is_recorded
from tests.support.tap import Tap

F = TypeVar("F", bound=Fake)
MOCK = "login.example.com"


@dataclass(frozen=True)
class ProviderCase:
    """What is expected of one platform."""

    account: Callable[[Account], tuple[str, str]]
    """Its id and label."""
    who: tuple[str, str]
    """A call of the API that says whose token it is, below the API's base or as a whole address."""
    named: str
    """Where in the answer the account's id stands."""
    refreshes: bool = True
    revokes: bool = True
    code_refused: str = "code_refused"
    tells: bool = True
    """Whether it can be asked if it takes the app."""


CASES = {
    "slack": ProviderCase(lambda it: (it.place.id, it.place.name), ("POST", "auth.test"), "team_id"),
    "github": ProviderCase(lambda it: (it.id, it.email.partition("@")[0]), ("GET", "/user"), "id"),
    "jira": ProviderCase(
        lambda it: (it.id, it.name), ("GET", "/rest/api/3/myself"), "accountId", revokes=False
    ),
    "google": ProviderCase(
        lambda it: (it.id, it.email), ("GET", "https://openidconnect.googleapis.com/v1/userinfo"), "sub"
    ),
    "microsoft": ProviderCase(lambda it: (it.id, it.email), ("GET", "/me"), "id", revokes=False),
    "shopify": ProviderCase(
        lambda it: (f"shop-{it.place.id}.myshopify.com", f"Shop-{it.place.id}"),
        ("GET", "/shop.json"),
        "shop.myshopify_domain",
        tells=False,
    ),
    "zalo": ProviderCase(
        lambda it: (it.place.id, it.place.name),
        ("GET", "/v2.0/oa/getoa"),
        "data.oa_id",
        revokes=False,
        code_refused="platform_error",
        tells=False,
    ),
    "tiktok": ProviderCase(
        lambda it: (it.id, it.name), ("GET", "/user/info/?fields=open_id"), "data.user.open_id"
    ),
    "mailchimp": ProviderCase(
        lambda it: (it.place.id, it.place.name), ("GET", "/"), "account_id", refreshes=False, revokes=False
    ),
    "notion": ProviderCase(lambda it: ("", it.place.name), ("GET", "/v1/users/me"), "id"),
    "trello": ProviderCase(
        lambda it: (it.id, it.name),
        ("GET", "/members/me?fields=id,username,fullName,url"),
        "id",
        refreshes=False,
    ),
    "zoom": ProviderCase(lambda it: (it.id, it.name), ("GET", "/users/me"), "id"),
    "hubspot": ProviderCase(
        lambda it: (it.place.id, f"HubSpot {it.place.id}"), ("GET", "/account-info/v3/details"), "portalId"
    ),
    "calendly": ProviderCase(lambda it: (it.id, it.name), ("GET", "/users/me"), "resource.uri"),
    "typeform": ProviderCase(lambda it: (it.id, it.name), ("GET", "/me"), "user_id", revokes=False),
    "pagerduty": ProviderCase(lambda it: (it.id, it.name), ("GET", "/users/me"), "user.id", revokes=False),
    "zendesk": ProviderCase(lambda it: (it.id, it.name), ("GET", "/users/me.json"), "user.id", tells=False),
}
HOST_OF_EACH = ("shopify", "zendesk")
"""Providers with a host of each account: nobody can be asked about the app alone."""
every = pytest.mark.parametrize("name", CASES)
refreshing = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refreshes])


@pytest.fixture(scope="module")
def mock() -> Iterator[MockServer | None]:
    try:
        with MockServer() as server:
            yield server
    except Unavailable:
        yield None


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store, mock: MockServer | None
) -> Iterator[OAuthHub]:
    more: dict[str, Handler] = {MOCK: Forward(mock.port)} if mock else {}
    with OAuthHub(tmp_path_factory.mktemp("stage"), bus, store, more) as oauth_hub:
        yield oauth_hub


@pytest.fixture
def oauth_hub(whole: OAuthHub) -> Iterator[OAuthHub]:
    yield whole
    faults, whole.platforms.faults[:] = list(whole.platforms.faults), []
    assert faults == []


@pytest.fixture(scope="module", autouse=True)
def events(whole: OAuthHub, bus: Bus) -> Tap:
    """The events of integrations, from the beginning."""
    return Tap(bus, "integration.events")


def play(oauth_hub: OAuthHub, name: str, kind: type[F]) -> F:
    fake = oauth_hub.play(name)
    assert isinstance(fake, kind)
    return fake


def fields(fake: Fake) -> dict[str, Any]:
    """What has to be said beside the provider."""
    place = fake.accounts[0].place.id
    if isinstance(fake, Shopify):
        return {"params": {"shop": f"shop-{place}"}}
    return {"params": {"subdomain": place}} if isinstance(fake, Zendesk) else {}


def call(oauth_hub: OAuthHub, access: Access, name: str) -> httpx.Response:
    """Ask the platform whose token it is, as another service would."""
    method, path = CASES[name].who
    with oauth_hub.person() as somebody:
        url = path if "://" in path else access.base + path
        return somebody.client.request(method, url, headers=access.headers)


def response_field(answer: httpx.Response, path: str) -> Any:
    value = answer.json()
    for part in path.split("."):
        value = value[part]
    return value


def seconds_until(moment: str) -> float:
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


def ended(page: httpx.Response) -> str:
    """The stable word on the page of somebody whose account was not connected."""
    found = re.search(r'<p class="code">([^<]*)</p>', page.text)
    assert page.status_code == 400, page.text
    assert found, page.text
    return found[1]


def published(events: Tap, integration: str) -> list[str]:
    """The events of an integration, in order."""
    found = [item for item in events.look() if (item.key or b"").decode() == integration]
    return [item.attributes["ce_type"].rpartition("integration.")[2] for item in found]


# What is the same for all.


@every
def test_an_account_is_connected_used_refreshed_and_disconnected(oauth_hub: OAuthHub, name: str) -> None:
    case, fake = CASES[name], oauth_hub.play(name)
    fake.grace_s = 0
    account = fake.accounts[0]
    shown = oauth_hub.connect(name, **fields(fake))
    assert (shown["status"], shown["health"], fake.exchanges) == ("connected", "ok", 1)
    expected = case.account(account)
    if isinstance(fake, Notion):
        expected = fake.bot_id(fake.grants_of(account.id)[0]), expected[1]
    assert (shown["account"]["id"], shown["account"]["label"]) == expected
    assert shown["missing_scopes"] == []
    if fake.lifetime_s is None:
        assert shown["expires_at"] is None
    else:
        assert fake.lifetime_s - 30 < seconds_until(shown["expires_at"]) <= fake.lifetime_s
    first = oauth_hub.access(shown["id"])
    assert str(response_field(call(oauth_hub, first, name), case.named)) == expected[0]
    assert oauth_hub.do(shown["id"], "check")["last_error"] is None
    for count in (1, 2) if case.refreshes else ():
        assert oauth_hub.do(shown["id"], "refresh")["refreshed_at"]
        assert (fake.refreshes, fake.refused) == (count, [])
    if not case.refreshes:
        oauth_hub.do(shown["id"], "refresh", expect=409)
    last = oauth_hub.access(shown["id"])
    assert (last.token != first.token) is case.refreshes
    assert str(response_field(call(oauth_hub, last, name), case.named)) == expected[0]
    gone = oauth_hub.do(shown["id"], "disconnect")
    assert (gone["status"], gone["expires_at"], fake.revocations) == ("disconnected", None, case.revokes)
    if case.revokes:
        with pytest.raises((KeyError, TypeError, AssertionError, ValueError)):
            assert str(response_field(call(oauth_hub, last, name), case.named)) == expected[0]
    with pytest.raises(NotConnected):
        oauth_hub.access(shown["id"])


@refreshing
def test_a_token_that_ended_early_is_refreshed_once(oauth_hub: OAuthHub, name: str) -> None:
    fake = oauth_hub.play(name)
    fake.lifetime_s = fake.lifetime_s or 3600
    shown = oauth_hub.connect(name, **fields(fake))
    later = fake.lifetime_s + 60
    fake.now = lambda: time() + later
    for _ in "ab":
        checked = oauth_hub.do(shown["id"], "check")
        assert (checked["status"], checked["last_error"], fake.refreshes) == ("connected", None, 1)
    assert fake.refused == []


@every
def test_a_revoked_grant_is_published_once_and_connected_again(
    oauth_hub: OAuthHub, events: Tap, name: str
) -> None:
    fake = oauth_hub.play(name)
    shown = oauth_hub.connect(name, **fields(fake))
    fake.withdraw()
    for _ in "ab":
        oauth_hub.do(shown["id"], "check", expect=409)
    assert fake.refused == (["revoked refresh"] if CASES[name].refreshes else [])
    broken = oauth_hub.shown(shown["id"])
    assert (broken["status"], broken["health"]) == ("reauth_required", "broken")
    assert broken["last_error"]["code"] == broken["reason"] != ""
    with oauth_hub.person() as ada:
        page = ada.go(ada.reconnect(shown["id"])["authorization_url"])
    assert page.status_code == 200, page.text
    again = oauth_hub.shown(shown["id"])
    assert (again["status"], again["health"], again["reason"]) == ("connected", "ok", None)
    assert again["account"] == shown["account"]
    assert oauth_hub.do(shown["id"], "check")["status"] == "connected"
    assert published(events, shown["id"]) == ["connected", "reauth_required", "connected"]


@every
def test_a_denied_authorization_leaves_no_integration(oauth_hub: OAuthHub, name: str) -> None:
    fake = oauth_hub.play(name)
    fake.denies = True
    with oauth_hub.person() as ada:
        authorization = ada.connect(name, **fields(fake))
        assert ended(ada.go(authorization["authorization_url"])) == "access_denied"
    oauth_hub.ask("GET", f"/api/integrations/{authorization['integration_id']}", expect=404)


@every
def test_a_code_that_the_provider_rejects(oauth_hub: OAuthHub, name: str) -> None:
    case, fake = CASES[name], oauth_hub.play(name)
    fake.fail_next = [fake.refusal("used code")]
    with oauth_hub.person() as ada:
        authorization = ada.connect(name, **fields(fake))
        assert ended(ada.go(authorization["authorization_url"])) == case.code_refused
    assert oauth_hub.shown(authorization["integration_id"])["status"] == "pending"
    assert oauth_hub.ask("GET", f"/api/platform-credentials/{name}")["verified"]


@pytest.mark.parametrize("name", [name for name in CASES if name != "trello"])
def test_an_app_that_the_provider_rejects_is_no_longer_verified(oauth_hub: OAuthHub, name: str) -> None:
    fake = oauth_hub.play(name)
    fake.fail_next = refused_twice(fake)
    try:
        with oauth_hub.person() as ada:
            authorization = ada.connect(name, **fields(fake))
            assert ended(ada.go(authorization["authorization_url"])) == "app_refused"
            assert verified(oauth_hub, name) == (name in HOST_OF_EACH)
            if name not in HOST_OF_EACH:
                ada.connect(name, expect=409, **fields(fake))
    finally:
        oauth_hub.register(name)


def refused_twice(fake: Fake) -> list[Reply]:
    """By the account's request, and when it is asked about the app itself, unless each account has a host."""
    return [fake.refusal("secret")] * (1 if isinstance(fake, Shopify | Zendesk) else 2)


def verified(oauth_hub: OAuthHub, name: str) -> bool:
    """Whether the app still is; that it was refused is said."""
    shown = oauth_hub.ask("GET", f"/api/platform-credentials/{name}")
    assert shown["reason"]
    return bool(shown["verified"])


def test_a_rejected_request_token_is_an_error_at_the_start(oauth_hub: OAuthHub) -> None:
    oauth_hub.play("trello")
    try:
        oauth_hub.register("trello", client_secret="not-the-secret-of-the-app")
        with oauth_hub.person() as ada:
            assert "rejects the request: invalid_client" in ada.connect("trello", expect=409)["detail"]
    finally:
        oauth_hub.register("trello")


@every
def test_the_provider_is_asked_whether_it_accepts_the_app(oauth_hub: OAuthHub, name: str) -> None:
    case = CASES[name]
    fake = oauth_hub.play(name)
    try:
        shown = oauth_hub.register(name, verified=None)
        assert (shown["verified"], shown["reason"] is None) == (case.tells, case.tells), shown
        wrong = oauth_hub.register(name, client_secret="not-the-secret-of-the-app", verified=None)
        assert not wrong["verified"]
        assert fake.refused == {"shopify": [], "zendesk": [], "trello": ["secret"]}.get(
            name, ["code", "secret"]
        )
    finally:
        oauth_hub.register(name)


@refreshing
def test_an_app_that_is_rejected_later_does_not_end_its_accounts(oauth_hub: OAuthHub, name: str) -> None:
    fake = oauth_hub.play(name)
    shown = oauth_hub.connect(name, **fields(fake))
    fake.fail_next = refused_twice(fake)
    try:
        oauth_hub.do(shown["id"], "refresh", expect=503)
        assert verified(oauth_hub, name) == (name in HOST_OF_EACH)
        after = oauth_hub.shown(shown["id"])
        assert (after["status"], after["health"]) == ("connected", "at_risk")
    finally:
        oauth_hub.register(name)


def test_a_grant_is_revoked_with_a_fresh_access_token(oauth_hub: OAuthHub) -> None:
    """The access token of an idle account has ended by the time that somebody disconnects it."""
    idle: list[tuple[Fake, str, str]] = []
    began = time()
    for name in ("slack", "github", "shopify", "tiktok"):
        fake = oauth_hub.play(name)
        fake.lifetime_s, fake.now = 1, lambda: began
        shown = oauth_hub.connect(name, **fields(fake))
        idle.append((fake, shown["id"], shown["expires_at"]))
    eventually(lambda: all(seconds_until(ends) < 0 for _, _, ends in idle))
    for fake, integration, _ in idle:
        fake.now = lambda: began + 60
        assert oauth_hub.do(integration, "disconnect")["status"] == "disconnected"
        assert (fake.refreshes, fake.revocations) == (1, 1), fake.name


@pytest.mark.parametrize(
    ("name", "reply", "code"),
    [
        ("slack", Reply.json({"ok": False, "error": "fatal_error"}), "fatal_error"),
        ("tiktok", Reply.json({"error": "invalid_request", "log_id": "1"}), "invalid_request"),
        ("google", Reply.json({"error": "invalid_token"}, 400), "invalid_token"),
        ("github", Reply.json({"message": "Not Found"}, 404), "http_404"),
        ("notion", Reply.gone(), "NoAnswer"),
    ],
)
def test_a_failed_revocation_is_logged_and_does_not_stop_the_disconnect(
    oauth_hub: OAuthHub, name: str, reply: Reply, code: str
) -> None:
    fake = oauth_hub.play(name)
    shown = oauth_hub.connect(name)
    fake.fail_calls = [reply]
    assert oauth_hub.do(shown["id"], "disconnect")["status"] == "disconnected"
    assert (fake.revocations, fake.fail_calls) == (0, [])
    logged = [line for line in oauth_hub.hub.log_lines("oauth") if line.get("integration_id") == shown["id"]]
    assert [line["event"] for line in logged if line["level"] == "warning"] == ["token.revoke_failed"]
    assert code in logged[-1]["error"]


# What one platform does.


def test_slack_issues_tokens_for_the_bot_and_the_person(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "slack", Slack)
    fake.user_lifetime_s = 600
    oauth_hub.register("slack", settings={"user_scope": "search:read"})
    try:
        shown = oauth_hub.connect("slack")
        assert 570 < seconds_until(shown["expires_at"]) <= 600  # the one that ends first
        bot, person = oauth_hub.access(shown["id"]), oauth_hub.access(shown["id"], "user")
        assert call(oauth_hub, bot, "slack").json()["bot_id"]
        assert call(oauth_hub, person, "slack").json()["user_id"] == fake.accounts[0].id
        assert seconds_until(oauth_hub.do(shown["id"], "refresh")["expires_at"]) <= 600
        assert (fake.refreshes, fake.refused) == (2, [])
        renewed = [oauth_hub.access(shown["id"], other).token for other in ("", "user")]
        assert not {bot.token, person.token} & set(renewed)
        oauth_hub.do(shown["id"], "disconnect")
        assert fake.revocations == 2
    finally:
        oauth_hub.register("slack", settings={"user_scope": ""})


def test_each_slack_token_is_revoked_even_if_another_one_fails(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "slack", Slack)
    oauth_hub.register("slack", settings={"user_scope": "search:read"})
    try:
        shown = oauth_hub.connect("slack")
        fake.fail_calls = [Reply.gone()]
        assert oauth_hub.do(shown["id"], "disconnect")["status"] == "disconnected"
        assert fake.revocations == 1
    finally:
        oauth_hub.register("slack", settings={"user_scope": ""})


def test_slack_for_a_person_only_has_no_bot(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "slack", Slack)
    oauth_hub.register("slack", settings={"user_scope": "search:read"})
    try:
        shown = oauth_hub.connect("slack", scopes=[])
        assert (shown["status"], shown["scopes"], shown["missing_scopes"]) == ("connected", [], [])
        assert oauth_hub.do(shown["id"], "check")["last_error"] is None
        oauth_hub.do(shown["id"], "refresh")
        assert (
            call(oauth_hub, oauth_hub.access(shown["id"]), "slack").json()["user_id"] == fake.accounts[0].id
        )
        with oauth_hub.person() as ada:
            page = ada.go(ada.reconnect(shown["id"])["authorization_url"])
            assert page.status_code == 200, page.text
        assert {key for item in fake.grants_of(fake.accounts[0].id) for key in item.query} & {
            "scope"
        } == set()
        oauth_hub.do(shown["id"], "disconnect")
        assert (fake.refreshes, fake.revocations) == (1, 1)
    finally:
        oauth_hub.register("slack", settings={"user_scope": ""})


def test_slack_without_rotation_gives_one_token_that_workspaces_of_the_hub_share(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "slack", Slack)
    fake.lifetime_s = None
    first = oauth_hub.connect("slack")
    assert first["expires_at"] is None
    oauth_hub.do(first["id"], "refresh", expect=409)
    other = oauth_hub.hub.other_workspace()
    oauth_hub.register("slack", scope="installation")
    try:
        second = oauth_hub.connect("slack", key=other)
        oauth_hub.ask("POST", f"/api/integrations/{second['id']}/disconnect", key=other)
        assert fake.revocations == 0
        assert oauth_hub.do(first["id"], "check")["status"] == "connected"
        oauth_hub.do(first["id"], "disconnect")
        assert fake.revocations == 1
    finally:
        oauth_hub.ask("DELETE", "/api/platform-credentials/slack?scope=installation", expect=204)


def test_github_leaves_out_scopes_that_others_include(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "github", GitHub)
    fake.lifetime_s = None
    shown = oauth_hub.connect("github", scopes=["user", "user:email", "repo", "public_repo"])
    assert (shown["scopes"], shown["missing_scopes"]) == (["user", "repo"], [])
    assert shown["expires_at"] is None
    oauth_hub.do(shown["id"], "refresh", expect=409)


def test_jira_with_several_sites_needs_a_selection(oauth_hub: OAuthHub, events: Tap) -> None:
    fake = play(oauth_hub, "jira", Atlassian)
    fake.accounts = [fake.account(oauth_hub.number(), places=3)]
    first, second, third = fake.accounts[0].places
    with oauth_hub.person() as ada:
        authorization = ada.connect("jira")
        assert "choose the Jira site" in ada.go(authorization["authorization_url"]).text
    integration = authorization["integration_id"]
    shown = oauth_hub.shown(integration)
    assert (shown["status"], shown["reason"]) == ("pending", "choice_required")
    assert [item["id"] for item in shown["choices"]] == [first.id, second.id, third.id]
    with pytest.raises(NotConnected, match="send one of its choices to POST"):
        oauth_hub.access(integration)
    oauth_hub.do(integration, "choose", {"choice": "another"}, expect=422)
    chosen = oauth_hub.do(integration, "choose", {"choice": second.id})
    assert (chosen["status"], chosen["account"]["choice"]) == ("connected", second.name)
    access = oauth_hub.access(integration)
    assert access.base.endswith(f"/ex/jira/{second.id}")
    assert call(oauth_hub, access, "jira").json()["accountId"] == fake.accounts[0].id
    with oauth_hub.person() as ada:
        assert ada.go(ada.reconnect(integration)["authorization_url"]).status_code == 200
        assert oauth_hub.shown(integration)["account"]["choice"] == second.name
        fake.withdraw()
        fake.accounts = [replace(fake.accounts[0], places=(first, third))]
        assert ada.go(ada.reconnect(integration)["authorization_url"]).status_code == 200
    assert oauth_hub.shown(integration)["reason"] == "choice_required"
    oauth_hub.do(integration, "choose", {"choice": third.id})
    assert oauth_hub.access(integration).base.endswith(third.id)
    assert published(events, integration) == ["connected", "connected", "connected"]


def test_each_jira_site_has_an_integration(oauth_hub: OAuthHub, events: Tap) -> None:
    fake = play(oauth_hub, "jira", Atlassian)
    fake.accounts = [fake.account(oauth_hub.number(), places=2)]
    places = fake.accounts[0].places
    first, second = (oauth_hub.connect("jira")["id"] for _ in places)
    assert first != second
    for integration, place in zip((first, second), places, strict=True):
        assert oauth_hub.do(integration, "choose", {"choice": place.id})["id"] == integration
    refused = oauth_hub.do(first, "choose", {"choice": places[1].id}, expect=409)
    assert f"{places[1].name} is connected already" in refused["detail"]
    again, before = oauth_hub.connect("jira")["id"], oauth_hub.access(first).token
    assert again not in {first, second}
    assert oauth_hub.do(again, "choose", {"choice": places[0].id})["id"] == first
    assert oauth_hub.shown(again)["id"] == first, "its id answers for it"
    assert oauth_hub.access(first).token != before, "with the new grant"
    for integration, place in zip((first, second), places, strict=True):
        assert oauth_hub.access(integration).base.endswith(place.id)
        assert oauth_hub.do(integration, "refresh")["status"] == "connected"
        assert oauth_hub.do(integration, "check")["last_error"] is None
    assert published(events, first) == ["connected", "connected", "refreshed"]
    assert published(events, again) == []
    oauth_hub.do(first, "disable")
    late = oauth_hub.connect("jira")["id"]
    oauth_hub.do(late, "choose", {"choice": places[0].id}, expect=409)
    assert oauth_hub.shown(late)["status"] == "pending"


def test_jira_with_hundreds_of_sites_is_read_completely(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "jira", Atlassian)
    fake.accounts = [fake.account(oauth_hub.number(), places=400)]
    assert len(oauth_hub.connect("jira")["choices"]) == 400


def test_jira_without_a_site_is_not_connected(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "jira", Atlassian)
    fake.accounts = [replace(fake.accounts[0], places=())]
    with oauth_hub.person() as ada:
        page = ada.go(ada.connect("jira")["authorization_url"])
        assert (ended(page), "the Jira site" in page.text) == ("nothing_to_choose", True)


def test_google_names_scopes_otherwise_and_people_untick_them(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "google", Google)
    fake.unticked = {"email", "https://www.googleapis.com/auth/gmail.send"}
    shown = oauth_hub.connect("gmail")
    assert "https://www.googleapis.com/auth/userinfo.profile" in shown["scopes"]
    assert shown["missing_scopes"] == ["email", "https://www.googleapis.com/auth/gmail.send"]
    assert shown["account"]["label"] == fake.accounts[0].name


def test_google_revokes_all_grants_so_only_the_last_integration_revokes(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "google", Google)
    ada = fake.accounts[0]
    mail, sheets = oauth_hub.connect("gmail"), oauth_hub.connect("google-sheets")
    assert mail["id"] != sheets["id"]
    fake.accounts = [fake.account(oauth_hub.number())]
    elses = oauth_hub.connect("gmail")
    with oauth_hub.person() as wrong:  # signs in as somebody whose account is connected already
        fake.accounts = [ada]
        assert ended(wrong.go(wrong.reconnect(elses["id"])["authorization_url"])) == "other_account"
        fake.fail_calls = [Reply(503)]
        assert ended(wrong.go(wrong.reconnect(mail["id"])["authorization_url"])) == "no_account"
    oauth_hub.do(mail["id"], "disconnect")
    assert fake.revocations == 0
    for item in (sheets, elses):
        assert oauth_hub.do(item["id"], "refresh")["status"] == "connected"
    oauth_hub.do(sheets["id"], "disconnect")
    assert fake.revocations == 1
    assert oauth_hub.do(elses["id"], "check")["status"] == "connected"


def test_microsoft_of_one_tenant_names_its_errors_by_number(oauth_hub: OAuthHub) -> None:
    tenant = "33333333-0000-4000-8000-000000000000"
    fake = oauth_hub.play("microsoft", tenant=tenant)
    assert isinstance(fake, Microsoft)
    oauth_hub.register("microsoft", settings={"tenant": tenant})
    try:
        shown = oauth_hub.connect("microsoft-outlook")
        assert ("offline_access" in shown["scopes"], shown["missing_scopes"]) == (False, [])
        fake.secret_expired = True
        oauth_hub.do(shown["id"], "refresh", expect=503)
        app = oauth_hub.ask("GET", "/api/platform-credentials/microsoft")
        assert (app["verified"], "AADSTS7000222" in app["reason"]) == (False, True)
        assert oauth_hub.shown(shown["id"])["status"] == "connected"
        fake.secret_expired = False
        oauth_hub.register("microsoft", settings={"tenant": tenant})
        with oauth_hub.person() as ada:
            assert ada.go(ada.reconnect(shown["id"])["authorization_url"]).status_code == 200
        fake.fail_next = [fake.error(50076)]
        oauth_hub.do(shown["id"], "refresh", expect=409)
        after = oauth_hub.shown(shown["id"])
        assert (after["status"], after["reason"]) == ("reauth_required", "interaction_required")
        assert "AADSTS50076" in after["last_error"]["detail"]
    finally:
        oauth_hub.register("microsoft", settings={"tenant": ""})


def test_microsoft_without_the_app_in_one_tenant_is_not_without_it_everywhere(oauth_hub: OAuthHub) -> None:
    """Its administrator has removed the app: that is about his people, and others go on connecting."""
    fake = play(oauth_hub, "microsoft", Microsoft)
    shown = oauth_hub.connect("microsoft-outlook")
    fake.fail_next = [fake.error(700016)]
    oauth_hub.do(shown["id"], "refresh", expect=503)
    after = oauth_hub.shown(shown["id"])
    assert (after["status"], after["last_error"]["code"]) == ("connected", "unauthorized_client")
    assert oauth_hub.ask("GET", "/api/platform-credentials/microsoft")["verified"]
    fake.fail_next = [fake.error(700016)]
    with oauth_hub.person() as ada:
        page = ada.go(ada.connect("microsoft-outlook")["authorization_url"])
        assert (ended(page), "AADSTS700016" in page.text) == ("platform_error", True)
    assert oauth_hub.ask("GET", "/api/platform-credentials/microsoft")["verified"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"hmac": "0" * 64}, "wrong_signature"),
        ({"hmac": None}, "wrong_signature"),
        ({"timestamp": "1"}, "wrong_signature"),
        ({"shop": "another.myshopify.com"}, "wrong_answer"),
        ({"shop": None}, "wrong_answer"),
    ],
)
def test_shopify_signs_what_comes_back(oauth_hub: OAuthHub, change: dict[str, str | None], code: str) -> None:
    fake = play(oauth_hub, "shopify", Shopify)
    with oauth_hub.person() as ada:
        authorization = ada.connect("shopify", **fields(fake))
        back = urlsplit(ada.client.get(authorization["authorization_url"]).headers["location"])
        query = {**dict(parse_qsl(back.query)), **change}
        query = {name: value for name, value in query.items() if value is not None}
        assert ended(ada.go(back._replace(query=urlencode(query)).geturl())) == code
    assert (fake.exchanges, fake.refused) == (0, [])


@pytest.mark.parametrize(
    "shop", ["", "evil.example/", "one.two", "a@b", "-one", "One", "one\n", "one#", "öne", "a" * 61]
)
def test_shopify_has_shops_and_no_other_hosts(oauth_hub: OAuthHub, shop: str) -> None:
    oauth_hub.play("shopify")
    before = len(oauth_hub.platforms.asked)
    with oauth_hub.person() as ada:
        ada.connect("shopify", expect=422, params={"shop": shop})
    assert len(oauth_hub.platforms.asked) == before


def test_each_shopify_shop_has_an_integration(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "shopify", Shopify)
    shops = [f"shop-{oauth_hub.number()}" for _ in "ab"]
    scopes = ["write_products", "read_products", "read_orders"]
    found = [oauth_hub.connect("shopify", params={"shop": shop}, scopes=scopes) for shop in shops]
    assert [item["account"]["id"] for item in found] == [f"{shop}.myshopify.com" for shop in shops]
    assert all((len(item["scopes"]), item["missing_scopes"]) == (2, []) for item in found)
    for item, shop in zip(found, shops, strict=True):
        assert (
            call(oauth_hub, oauth_hub.access(item["id"]), "shopify").json()["shop"]["domain"].startswith(shop)
        )
    oauth_hub.do(found[0]["id"], "disconnect")
    assert fake.revocations == 1
    assert oauth_hub.do(found[1]["id"], "check")["status"] == "connected"


def test_tiktok_people_allow_some_of_it(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "tiktok", TikTok)
    fake.unticked = {"video.list"}
    shown = oauth_hub.connect("tiktok")
    assert shown["missing_scopes"] == ["video.list"]
    fake.unticked = {"user.info.basic"}
    fake.accounts = [fake.account(oauth_hub.number())]
    with oauth_hub.person() as ada:
        assert ended(ada.go(ada.connect("tiktok")["authorization_url"])) == "no_account"


def test_mailchimp_is_in_a_data_center(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "mailchimp", Mailchimp)
    fake.dc = "us7"
    access = oauth_hub.access(oauth_hub.connect("mailchimp")["id"])
    assert access.base == "https://us7.api.mailchimp.com/3.0"
    assert call(oauth_hub, access, "mailchimp").json()["account_id"] == fake.accounts[0].place.id


def test_notion_has_one_bot_in_a_workspace(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "notion", Notion)
    place = fake.accounts[0].place
    fake.accounts += [
        replace(fake.account(oauth_hub.number()), places=(place,)),
        fake.account(oauth_hub.number()),
    ]
    first = oauth_hub.connect("notion")
    with oauth_hub.person() as colleague:
        authorization = colleague.connect("notion")
        assert colleague.go(authorization["authorization_url"]).status_code == 200
    assert oauth_hub.shown(authorization["integration_id"])["id"] == first["id"]
    assert oauth_hub.connect("notion")["account"]["id"] != first["account"]["id"]
    again = oauth_hub.shown(first["id"])
    assert (again["account"], again["status"]) == (first["account"], "connected")
    assert again["connected_at"] > first["connected_at"]


def test_a_server_that_accepts_everything(oauth_hub: OAuthHub, mock: MockServer | None) -> None:
    """npm's oauth2-mock-server by TLS: no rotation, and a refresh token for whoever asks."""
    if mock is None:
        pytest.skip("node or npm is not here")
    at = f"https://{MOCK}"
    settings = {
        "authorize_url": at + mock.authorize_path,
        "token_url": at + mock.token_path,
        "userinfo_url": at + mock.userinfo_path,
        "revoke_url": at + mock.revoke_path,
    }
    body = {
        "client_id": "hub",
        "client_secret": "a-secret-for-the-mock",
        "settings": settings,
        "verified": True,
    }
    oauth_hub.ask("PUT", "/api/platform-credentials/oidc", body)
    before = mock.stats()
    shown = oauth_hub.connect("oidc")
    assert (shown["status"], shown["account"]["id"]) == ("connected", "johndoe")
    assert oauth_hub.do(shown["id"], "refresh")["refreshed_at"] > shown["connected_at"]
    mock.fail_next(500)
    oauth_hub.do(shown["id"], "refresh", expect=503)
    assert oauth_hub.shown(shown["id"])["health"] == "at_risk"
    assert oauth_hub.do(shown["id"], "check")["status"] == "connected"
    oauth_hub.do(shown["id"], "disconnect")
    done = mock.stats().since(before)
    assert (done.granted, done.revoked) == ({"authorization_code": 1, "refresh_token": 1}, 1)


# And nothing of it is seen.


def test_issued_secrets_are_searched_for_in_logs_and_answers(oauth_hub: OAuthHub) -> None:
    """At the end of the run, in all that it has left behind."""
    for name in FAKES:
        fake = oauth_hub.play(name)
        shown = oauth_hub.connect(name, **fields(fake))
        if name not in CASES or CASES[name].refreshes:
            oauth_hub.do(shown["id"], "refresh")
        assert len(fake.tokens_seen) >= 2
        assert all(map(is_recorded, fake.tokens_seen)), f"a secret of {name} is too short"


def test_a_grant_without_a_selection_is_revoked(oauth_hub: OAuthHub) -> None:
    """Its tokens would be kept for good, and nobody could use them."""
    fake = play(oauth_hub, "jira", Atlassian)
    account = fake.accounts[0]
    fake.accounts = [replace(account, places=(*account.places, Place("second-site", "Second")))]
    with oauth_hub.person() as person:
        authorization = person.connect("jira")
        person.go(authorization["authorization_url"])
    shown = oauth_hub.shown(authorization["integration_id"])
    assert (shown["status"], len(shown["choices"])) == ("pending", 2)
    week = timedelta(days=7, minutes=1)
    with MongoClient[dict[str, Any]](oauth_hub.hub.env["MONGODB_URI"], tz_aware=True) as mongo:
        found = mongo.get_default_database()["integrations"]
        stored = found.find_one({"_id": shown["id"]})
        assert stored
        earlier = {name: stored[name] - week for name in ("connected_at", "due_at") if stored[name]}
        found.update_one({"_id": shown["id"]}, {"$set": earlier})
        eventually(lambda: found.find_one({"_id": shown["id"], "deleted_at": {"$ne": None}}))
    oauth_hub.ask("GET", f"/api/integrations/{shown['id']}", expect=404)


def test_the_owner_of_a_grant_is_warned_before_it_ends(oauth_hub: OAuthHub, events: Tap) -> None:
    """Atlassian ends every grant a year after the consent."""
    fake, year_s = play(oauth_hub, "jira", Atlassian), 365 * 86400
    shown = oauth_hub.connect("jira")
    assert year_s - 60 < seconds_until(shown["reconnect_by"]) <= year_s
    assert shown["health"] == "ok"
    with MongoClient[dict[str, Any]](oauth_hub.hub.env["MONGODB_URI"], tz_aware=True) as mongo:
        now = datetime.now(UTC)
        passed = {"connected_at": now - timedelta(days=355), "grant_ends_at": now + timedelta(days=10)}
        integrations = mongo.get_default_database()["integrations"]
        integrations.update_one({"_id": shown["id"]}, {"$set": {**passed, "open": True, "due_at": now}})
    # The warning, and then the refresh that keeps the grant alive until its end.
    eventually(lambda: published(events, shown["id"]) == ["connected", "expiring", "refreshed"])
    after = oauth_hub.shown(shown["id"])
    assert (after["status"], after["health"], fake.refreshes) == ("connected", "at_risk", 1)
    assert abs(seconds_until(after["reconnect_by"]) - 10 * 86400) < 60
    assert seconds_until(after["refresh_expires_at"]) < 10 * 86400
    assert oauth_hub.do(shown["id"], "refresh")["health"] == "at_risk"
    [warning] = [
        item for item in events.look() if item.attributes["ce_type"].endswith("integration.expiring")
    ]
    assert json.loads(warning.value or b"")["reconnectBy"].startswith(str(now.date() + timedelta(days=10)))
    with oauth_hub.person() as ada:
        ada.go(ada.reconnect(shown["id"])["authorization_url"])
    again = oauth_hub.shown(shown["id"])
    assert (again["health"], seconds_until(again["reconnect_by"]) > year_s - 60) == ("ok", True)
    gone = oauth_hub.do(shown["id"], "disconnect")
    assert gone["reconnect_by"] is None


def asked(authorization: dict[str, Any], parameter: str = "scope") -> list[str]:
    """What an authorization request asks for."""
    query = urlsplit(str(authorization["authorization_url"])).query
    text = dict(parse_qsl(query)).get(parameter, "")
    return text.replace(",", " ").split()


def test_a_purpose_asks_for_its_scopes(oauth_hub: OAuthHub) -> None:
    oauth_hub.play("slack")
    with oauth_hub.person() as ada:
        basic, several = asked(ada.connect("slack", purpose="basic")), ["basic", "import"]
        assert {"chat:write", "users:read.email"} <= set(basic)
        authorization = ada.connect("slack", purpose=several, scopes=["emoji:read", "usergroups:read"])
        both = asked(authorization)
        assert set(basic) | {"channels:history", "reactions:read", "files:read", "emoji:read"} <= set(both)
        assert len(both) == len(set(both))
        assert both[-1] == "usergroups:read"
        assert {"chat:write.customize", "im:history"} <= set(asked(ada.connect("slack", purpose="sync")))
        assert ada.go(authorization["authorization_url"]).status_code == 200
        shown = oauth_hub.shown(authorization["integration_id"])
        assert (shown["scopes"], shown["missing_scopes"]) == (both, [])
        # Without a purpose, connecting again asks for the same.
        assert asked(ada.reconnect(shown["id"])) == both
        assert asked(ada.reconnect(shown["id"], purpose="basic")) == basic
        # The scopes of the shared app come first, whatever the purpose is.
        gmail = asked(ada.connect("gmail", purpose="import"))
        assert gmail == ["openid", "email", "profile", "https://www.googleapis.com/auth/gmail.readonly"]


@pytest.mark.parametrize(
    ("provider", "fields", "name"),
    [
        ("notion", {"purpose": "sync"}, "purpose"),
        ("slack", {"purpose": "everything"}, "purpose"),
        ("slack", {"purpose": []}, "purpose"),
        ("github", {"user_scopes": ["repo"]}, "user_scopes"),
        ("slack", {"user_scopes": ["a b"]}, "user_scopes"),
    ],
)
def test_an_unknown_purpose_and_scopes_of_nobody_are_refused(
    oauth_hub: OAuthHub, provider: str, fields: dict[str, Any], name: str
) -> None:
    with oauth_hub.person() as ada:
        refused = ada.connect(provider, expect=422, **fields)
    assert any(name in error["field"] for error in refused["errors"]), refused


def test_the_scopes_of_a_person_are_those_of_the_connection(oauth_hub: OAuthHub) -> None:
    fake = play(oauth_hub, "slack", Slack)
    wanted = ["search:read", "users.profile:write"]
    shown = oauth_hub.connect("slack", user_scopes=wanted)
    assert shown["user_scopes"] == wanted
    assert call(oauth_hub, oauth_hub.access(shown["id"], "user"), "slack").json()["user_id"]
    assert oauth_hub.do(shown["id"], "refresh")["user_scopes"] == wanted
    with oauth_hub.person() as ada:
        assert asked(ada.reconnect(shown["id"]), "user_scope") == wanted
        fake.accounts = [fake.account(oauth_hub.number())]
        oauth_hub.register("slack", settings={"user_scope": "search:read"})
        try:
            assert asked(ada.connect("slack"), "user_scope") == ["search:read"]
            assert asked(ada.connect("slack", user_scopes=[]), "user_scope") == []
            # A scope cannot add a parameter of its own.
            hostile = ada.connect("slack", user_scopes=["search:read&redirect_uri=https://evil.example"])
            query = parse_qsl(urlsplit(hostile["authorization_url"]).query, strict_parsing=True)
            assert [value for name, value in query if name == "redirect_uri"] == [fake.redirect_uri]
        finally:
            oauth_hub.register("slack", settings={"user_scope": ""})


def test_an_account_of_another_zendesk_is_not_reached_by_a_code(oauth_hub: OAuthHub) -> None:
    """Each Zendesk account is a host of its own, named by a parameter that cannot name anything else."""
    fake = play(oauth_hub, "zendesk", Zendesk)
    with oauth_hub.person() as ada:
        for subdomain in ("evil.example/x", "a.b", "a@evil", "-a", "A", "a#", ""):
            refused = ada.connect("zendesk", expect=422, params={"subdomain": subdomain})
            assert any("subdomain" in error["field"] for error in refused["errors"]), subdomain
        authorization = ada.connect("zendesk", **fields(fake))
        place = fake.accounts[0].place.id
        assert authorization["authorization_url"].startswith(f"https://{place}.zendesk.com/oauth/")
        assert ada.go(authorization["authorization_url"]).status_code == 200
    access = oauth_hub.access(authorization["integration_id"])
    assert access.base == f"https://{place}.zendesk.com/api/v2"


@pytest.mark.parametrize(
    ("name", "host"), [("typeform", "api.eu.typeform.com"), ("pagerduty", "api.eu.pagerduty.com")]
)
def test_an_account_in_the_eu_has_another_address_of_the_api(
    oauth_hub: OAuthHub, name: str, host: str
) -> None:
    fake = oauth_hub.play(name)
    shown = oauth_hub.connect(name, params={"host": host})
    assert shown["account"]["id"] == fake.grants_of(shown["account"]["id"])[0].account.id
    assert oauth_hub.access(shown["id"]).base == f"https://{host}"
    with oauth_hub.person() as ada:
        ada.connect(name, expect=422, params={"host": "api.example.com"})
