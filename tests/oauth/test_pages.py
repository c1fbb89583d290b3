"""Pages of Facebook and Messenger: one is chosen, its own token is kept and used, and it is subscribed."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.facebook import Facebook
from tests.support.fakes.oauth_hub import OAuthHub
from tests.support.fakes.tokens import Token

FEED = ["feed", "mention", "ratings"]
MESSAGES = [
    "messages",
    "messaging_postbacks",
    "message_reactions",
    "messaging_optins",
    "messaging_referrals",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[OAuthHub]:
    with OAuthHub(tmp_path_factory.mktemp("pages"), bus, store, {}) as oauth_hub:
        oauth_hub.register("facebook", settings={"verify_token": "a-long-verify-token-of-the-test"})
        yield oauth_hub


@pytest.fixture
def oauth_hub(whole: OAuthHub) -> Iterator[OAuthHub]:
    yield whole
    faults, whole.platforms.faults[:] = list(whole.platforms.faults), []
    assert faults == []


def facebook(oauth_hub: OAuthHub, pages: int = 1) -> Facebook:
    """Facebook, where somebody new with so many Pages logs in."""
    fake = oauth_hub.play("facebook")
    assert isinstance(fake, Facebook)
    fake.accounts = [fake.account(oauth_hub.number(), places=pages)]
    return fake


def used(oauth_hub: OAuthHub, fake: Facebook, integration: str) -> Token:
    """The token that another service calls Facebook with, once the hub has called it."""
    oauth_hub.do(integration, "check")
    token = fake.access(oauth_hub.access(integration).token)
    assert token is not None
    return token


def subscription(oauth_hub: OAuthHub, integration: str) -> dict[str, Any]:
    """The integration's automatic one, once it is not pending any more."""

    def found() -> dict[str, Any]:
        [item] = oauth_hub.ask("GET", f"/api/integrations/{integration}/watches")["items"]
        return dict(item) if item["status"] != "pending" else {}

    return eventually(found)


@pytest.mark.parametrize(("provider", "fields"), [("facebook", FEED), ("messenger", MESSAGES)])
def test_a_single_page_is_connected_used_and_subscribed(
    oauth_hub: OAuthHub, provider: str, fields: list[str]
) -> None:
    fake = facebook(oauth_hub)
    page = fake.accounts[0].place
    shown = oauth_hub.connect(provider)
    assert (shown["status"], shown["account"]["choice"]) == ("connected", page.name)
    assert subscription(oauth_hub, shown["id"])["status"] == "active"
    assert fake.subscribed == {page.id: fields}
    assert used(oauth_hub, fake, shown["id"]).role == page.id
    assert used(oauth_hub, fake, shown["id"]).role == page.id
    assert fake.page_tokens <= 2, "it is stored: two processes ask at most once each"
    assert oauth_hub.do(shown["id"], "check")["last_error"] is None
    oauth_hub.do(shown["id"], "disconnect")
    assert fake.revocations == 1


def test_the_chosen_page_gets_its_token_and_its_subscription(oauth_hub: OAuthHub) -> None:
    fake = facebook(oauth_hub, pages=3)
    pages = fake.accounts[0].places
    shown = oauth_hub.connect("facebook")
    assert (shown["status"], len(shown["choices"])) == ("pending", 3)
    assert (fake.page_tokens, fake.subscribed) == (0, {})
    chosen = oauth_hub.do(shown["id"], "choose", {"choice": pages[1].id})
    assert (chosen["status"], chosen["account"]["choice"]) == ("connected", pages[1].name)
    subscription(oauth_hub, shown["id"])
    assert fake.subscribed == {pages[1].id: FEED}
    assert used(oauth_hub, fake, shown["id"]).role == pages[1].id
    # Another choice: the token of the first Page is not used for the second one, which is subscribed too.
    oauth_hub.do(shown["id"], "choose", {"choice": pages[2].id})
    assert used(oauth_hub, fake, shown["id"]).role == pages[2].id
    eventually(lambda: fake.subscribed.get(pages[2].id) == FEED)


def test_a_page_that_is_connected_again_is_subscribed_again(oauth_hub: OAuthHub) -> None:
    """The provider ended the subscription with the grant."""
    fake = facebook(oauth_hub)
    page = fake.accounts[0].place
    shown = oauth_hub.connect("facebook")
    subscription(oauth_hub, shown["id"])
    fake.withdraw()
    fake.subscribed.clear()
    oauth_hub.do(shown["id"], "check", expect=409)
    with oauth_hub.person() as ada:
        ada.go(ada.reconnect(shown["id"])["authorization_url"])
    eventually(lambda: fake.subscribed == {page.id: FEED})
    assert used(oauth_hub, fake, shown["id"]).role == page.id


def test_a_page_with_manual_credentials_is_subscribed_again(oauth_hub: OAuthHub) -> None:
    """Disconnecting it has removed the subscription, and another Page has none."""
    fake = facebook(oauth_hub, pages=2)
    first, second = fake.accounts[0].places
    shown, tokens = oauth_hub.connect("facebook"), dict[str, str]()
    for page in (first, second):
        oauth_hub.do(shown["id"], "choose", {"choice": page.id})
        tokens[page.id] = used(oauth_hub, fake, shown["id"]).value
    body = {"provider": "messenger", "kind": "page_token", "fields": {"access_token": tokens[first.id]}}
    integration = oauth_hub.ask("POST", "/api/integrations", body, expect=201)["id"]
    assert subscription(oauth_hub, integration)["status"] == "active"
    oauth_hub.do(integration, "disconnect")
    assert oauth_hub.ask("GET", f"/api/integrations/{integration}/watches")["items"] == []
    fake.subscribed.clear()
    assert oauth_hub.ask("POST", "/api/integrations", body, expect=201)["id"] == integration
    assert subscription(oauth_hub, integration)["status"] == "active"
    assert fake.subscribed == {first.id: MESSAGES}
    other = {"fields": {"access_token": tokens[second.id]}, "any_account": True}
    oauth_hub.do(integration, "fields", other)
    eventually(lambda: fake.subscribed.get(second.id) == MESSAGES)


def test_two_providers_of_one_page_keep_each_others_fields(oauth_hub: OAuthHub) -> None:
    fake = facebook(oauth_hub)
    page = fake.accounts[0].place
    for provider in ("facebook", "messenger"):
        subscription(oauth_hub, oauth_hub.connect(provider)["id"])
    assert set(fake.subscribed[page.id]) == {*FEED, *MESSAGES}
    assert len(fake.subscribed[page.id]) == len({*FEED, *MESSAGES})


def test_new_tokens_of_the_person_bring_a_new_token_of_the_page(oauth_hub: OAuthHub) -> None:
    fake = facebook(oauth_hub)
    page = fake.accounts[0].place
    shown = oauth_hub.connect("facebook")
    before = used(oauth_hub, fake, shown["id"])
    before.live = False
    after = used(oauth_hub, fake, shown["id"])
    assert (after.role, after.value != before.value) == (page.id, True)
    assert oauth_hub.do(shown["id"], "refresh")["status"] == "connected"
    assert used(oauth_hub, fake, shown["id"]).role == page.id


def test_a_page_without_a_role_gives_no_token(oauth_hub: OAuthHub) -> None:
    fake = facebook(oauth_hub)
    page = fake.accounts[0].place
    shown = oauth_hub.connect("facebook")
    used(oauth_hub, fake, shown["id"])
    fake.without_role.add(page.id)
    oauth_hub.do(shown["id"], "refresh")
    refused = oauth_hub.do(shown["id"], "check", expect=409)["detail"]
    assert f"no token of {page.name} (100)" in refused
    assert oauth_hub.shown(shown["id"])["status"] == "connected"
    fake.without_role.clear()
    assert used(oauth_hub, fake, shown["id"]).role == page.id


def test_the_token_of_a_page_is_stored_sealed_and_never_shown(oauth_hub: OAuthHub) -> None:
    fake = facebook(oauth_hub)
    shown = oauth_hub.connect("facebook")
    token = used(oauth_hub, fake, shown["id"]).value
    with MongoClient[dict[str, Any]](oauth_hub.hub.env["MONGODB_URI"], tz_aware=True) as mongo:
        stored = mongo.get_default_database()["integrations"].find_one({"_id": shown["id"]})
    assert stored
    assert token not in str(stored)
    assert token not in str(oauth_hub.shown(shown["id"]))


def test_without_a_verify_token_the_page_waits_for_its_subscription(oauth_hub: OAuthHub) -> None:
    fake = facebook(oauth_hub)
    oauth_hub.register("facebook", settings={"verify_token": ""})
    try:
        shown = oauth_hub.connect("facebook")
        [waiting] = oauth_hub.ask("GET", f"/api/integrations/{shown['id']}/watches")["items"]
        assert (waiting["status"], fake.subscribed) == ("pending", {})
    finally:
        oauth_hub.register("facebook", settings={"verify_token": "a-long-verify-token-of-the-test"})
    assert subscription(oauth_hub, shown["id"])["status"] == "active"
    assert fake.subscribed == {fake.accounts[0].place.id: FEED}
