"""Accounts are connected and endpoints set up from the catalogue, as a person without script does it."""

import json
from collections.abc import Iterator
from functools import partial
from secrets import token_hex
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from shared.manifests.registry import registry
from tests.console.hostile import SCRIPTS
from tests.console.person import Answer, Person
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.fake import Fake
from tests.support.fakes.oauth_hub import OAuthHub
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.provider_hosts import HostRequest, Reply
from tests.support.recorded_secrets import record_secret

SERVICES = ("gateway", "oauth", "console")
BOT_TOKEN = f"123456789:{token_hex(18)[:35]}"


def telegram(asked: HostRequest) -> Reply:
    """Telegram, where one bot is known."""
    head, _, method = asked.path.rpartition("/")
    assert (asked.method, method) == ("GET", "getMe")
    if unquote(head.removeprefix("/bot")) != BOT_TOKEN:
        return Reply.json({"ok": False, "error_code": 401, "description": "Unauthorized"}, 401)
    return Reply.json({"ok": True, "result": {"id": 123456789, "is_bot": True, "username": "a_bot"}})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[OAuthHub]:
    """The hub's entrance, accounts and console, with strict providers around."""
    record_secret("a bot's token", BOT_TOKEN)
    folder = tmp_path_factory.mktemp("stage")
    with OAuthHub(folder, bus, store, {"api.telegram.org": telegram}, SERVICES) as stage:
        yield stage


@pytest.fixture(scope="module")
def hub(stage: OAuthHub) -> Hub:
    return stage.hub


@pytest.fixture(autouse=True)
def strict(stage: OAuthHub) -> Iterator[None]:
    """Nothing that the hub sends is wrong for a provider."""
    yield
    faults, stage.platforms.faults[:] = list(stage.platforms.faults), []
    assert faults == []


@pytest.fixture(scope="module")
def admin(stage: OAuthHub) -> Iterator[Person]:
    """Somebody with the admin key, whose browser finds the providers."""
    person = Person(stage.hub.url("gateway"), client=stage.browser())
    assert person.sign_in(stage.hub.admin_key).status == 200
    yield person
    person.close()


def away(page: Answer, host: str) -> str:
    """The link of a page that leads to a provider."""
    assert page.status == 200, page.text
    assert not any(urlsplit(form.action).netloc for form in page.forms), "a form may lead nowhere else"
    return next(link for link in page.links if urlsplit(link).netloc == host)


def somebody(stage: OAuthHub, provider: str, places: int = 1) -> Fake:
    fake = stage.play(provider)
    fake.accounts = [fake.account(stage.number(), places=places)]
    return fake


# Accounts by OAuth


def test_an_app_is_registered_by_a_form_that_says_what_to_enter_there(stage: OAuthHub, admin: Person) -> None:
    stage.ask("DELETE", "/api/platform-credentials/notion", expect=204)
    page = admin.open("/console/catalogue/notion")
    assert "First, an admin registers an app" in page.text
    form = admin.open(page.link("/oauth-app"))
    assert f"{admin.base}/api/auth/oauth/callback" in form.text, "to copy to the provider"
    client_id, secret = stage._clients["notion"]
    wrong = admin.send(form, "/oauth-app", client_id=client_id)
    assert (wrong.status, "Client secret: fill it in" in wrong.text) == (422, True)
    saved = admin.send(
        wrong, "/oauth-app", client_id=client_id, client_secret=secret, **{"own-verified": "yes"}
    )
    assert saved.path == "/console/catalogue/notion", saved.text
    assert "Connect" in saved.text
    again = admin.open(saved.link("/oauth-app"))
    assert again.form("/oauth-app").fields["client_id"] == client_id
    assert secret not in again.response.text


def test_an_app_that_the_provider_refuses_says_why_and_what_to_do(stage: OAuthHub, admin: Person) -> None:
    stage.register("hubspot", verified=False)
    try:
        page = admin.open("/console/catalogue/hubspot")
        assert "has not accepted it yet" in page.text
        assert page.link("/hubspot/oauth-app")
        assert "Ask the provider again" in page.text
        assert not any(form.action.endswith("/hubspot/oauth2") for form in page.forms)
    finally:
        stage.register("hubspot")


def test_several_apps_of_a_provider_are_registered_chosen_and_deleted(
    stage: OAuthHub, admin: Person, hub: Hub, person: Person
) -> None:
    fake = somebody(stage, "slack")
    first, secret = stage._clients["slack"]
    page = admin.open("/console/catalogue/slack")
    form = admin.open(page.link("/slack/oauth-app?new=1"))
    values = {"client_id": first, "client_secret": secret, "own-verified": "yes"}
    wrong = admin.send(form, "/oauth-app", **values, **{"own-app": "Not A Name"})
    assert (wrong.status, wrong.errors) == (422, ["own-app"])
    assert secret not in wrong.response.text
    refused = admin.send(wrong, "/oauth-app", **values, **{"own-app": "second"})
    assert "the default app has this client id already" in refused.text
    # The default app is another one from now on: the second one is the app that the provider knows.
    stage.register("slack", client_id="another", client_secret="another")
    try:
        saved = admin.send(refused, "/oauth-app", **values, **{"own-app": "second"})
        assert saved.path == "/console/catalogue/slack", saved.text
        again = admin.send(form, "/oauth-app", **values, **{"own-app": "second"})
        assert (again.status, again.errors) == (422, ["own-app"])
        known = admin.open(saved.link("oauth-app?app=second")).form("/oauth-app")
        assert (known.fields["client_id"], "own-app" in known.named) == (first, False)

        options = admin.open("/console/catalogue/slack/oauth2")
        chosen = {"own-app": "second", "own-user_scopes": "search:read\r\nusers:read"}
        connected = admin.open(away(admin.send(options, "/oauth2", **chosen), "slack.com"))
        account = urlsplit(connected.path).path
        shown = stage.shown(account.rpartition("/")[2])
        assert (shown["app"], shown["user_scopes"]) == ("second", ["search:read", "users:read"])
        assert "own-user_scopes" in admin.open(f"{account}/reconnect").form("/reconnect").named
        assert "own-user_scopes" not in admin.open("/console/catalogue/github/oauth2").form("/oauth2").named

        apps = admin.open(admin.open("/console").link("/console/apps"))
        assert f"slack second verified workspace {first} api" in apps.text
        asked = admin.open(apps.link("/console/apps/slack/delete?scope=workspace&app=second"))
        assert "that use it: 1 (" in asked.text
        gone = admin.send(asked, "/delete")
        assert gone.path == "/console/apps?done=delete"
        assert not any("app=second" in link for link in gone.links)
        assert "own-app" not in admin.open("/console/catalogue/slack/oauth2").form("/oauth2").named
        assert admin.open(asked.path).status == 404
    finally:
        apps = stage.ask("GET", "/api/platform-credentials")["items"]
        if any(app["app"] == "second" for app in apps):
            stage.ask("DELETE", "/api/platform-credentials/slack?app=second", expect=204)
        stage.register("slack")
    reader = hub.call("POST", "/api/api-keys", {"name": "reader", "scopes": ["integrations:read"]})
    person.sign_in(reader["key"])
    listed = person.open("/console/apps")
    assert not any("/delete" in link or "oauth-app" in link for link in listed.links)
    address = "/console/apps/slack/delete?scope=workspace"
    assert person.open(address).status == 403
    assert person.post(address).status == 403
    assert stage.ask("GET", "/api/platform-credentials/slack")["client_id"] == first
    assert len(fake.accounts) == 1


def test_an_account_is_connected_in_two_clicks_for_what_it_is_used(stage: OAuthHub, admin: Person) -> None:
    fake = somebody(stage, "github")
    page = admin.open("/console/catalogue/github")
    assert "repo" in page.text, "the scopes of each use"
    leave = admin.send(page, "/github/oauth2", **{"own-purpose": "sync"})
    connected = admin.open(away(leave, "github.com"))
    assert connected.path.startswith("/console/integrations/int_"), connected.text
    assert "The account is connected." in connected.text
    shown = stage.shown(urlsplit(connected.path).path.rpartition("/")[2])
    assert (shown["status"], shown["account"]["id"]) == ("connected", fake.accounts[0].id)
    purposes = next(item for item in catalogue(stage, "github")["connect"] if item["kind"] == "oauth2")
    assert set(purposes["purposes"]["sync"]) >= set(shown["scopes"])
    assert shown["name"] in admin.open("/console/catalogue/github").text


def catalogue(stage: OAuthHub, provider: str) -> dict[str, Any]:
    items = stage.hub.call("GET", "/api/catalog", params={"q": provider})["items"]
    return dict(next(item for item in items if item["id"] == provider))


def test_a_resource_is_chosen_by_its_name(stage: OAuthHub, admin: Person) -> None:
    fake = somebody(stage, "jira", places=3)
    leave = admin.send(admin.open("/console/catalogue/jira"), "/jira/oauth2")
    page = admin.open(away(leave, "auth.atlassian.com"))
    assert "choose what it is connected for" in page.text
    second = fake.accounts[0].places[1]
    assert second.name in page.text
    refused = admin.send(page, "/choose", choice="another")
    assert refused.status == 422
    chosen = admin.send(admin.open(page.path), "/choose", choice=second.id)
    assert "The account is connected." in chosen.text
    assert stage.shown(urlsplit(chosen.path).path.rpartition("/")[2])["account"]["choice"] == second.name


def test_a_page_shows_how_to_go_on_after_a_refusal(stage: OAuthHub, admin: Person) -> None:
    fake = somebody(stage, "github")
    fake.asks = True
    leave = admin.send(admin.open("/console/catalogue/github"), "/github/oauth2")
    consent = admin.open(away(leave, "github.com"))
    back = admin.client.get(f"https://github.com{consent.link('/deny')}")
    page = Answer(back)
    assert "Access was denied at the provider" in page.text
    assert admin.open(page.link("/console/catalogue/github")).status == 200


def test_an_account_is_connected_again_and_another_one_is_refused(stage: OAuthHub, admin: Person) -> None:
    somebody(stage, "github")
    leave = admin.send(admin.open("/console/catalogue/github"), "/github/oauth2")
    account = urlsplit(admin.open(away(leave, "github.com")).path).path
    again = admin.send(admin.open(account), "/reconnect")
    assert "The account is connected." in admin.open(away(again, "github.com")).text
    somebody(stage, "github")
    options = admin.open(f"{account}/reconnect")
    page = admin.open(away(admin.send(options, "/reconnect", **{"own-purpose": "import"}), "github.com"))
    assert "Another account than before" in page.text
    assert admin.open(page.link(account)).status == 200
    options = admin.open(f"{account}/reconnect")
    accepted = admin.send(options, "/reconnect", **{"own-any_account": "yes"})
    assert urlsplit(admin.open(away(accepted, "github.com")).path).path == account


def test_an_account_is_checked_disabled_enabled_and_disconnected(stage: OAuthHub, admin: Person) -> None:
    fake = somebody(stage, "github")
    leave = admin.send(admin.open("/console/catalogue/github"), "/github/oauth2")
    account = urlsplit(admin.open(away(leave, "github.com")).path).path
    assert "the status is up to date" in admin.send(admin.open(account), "/do/check").text
    disabled = admin.send(admin.open(f"{account}/do/disable"), "/do/disable")
    assert "enable it to use it again" in disabled.text
    assert not any(form.action.endswith("/reconnect") for form in disabled.forms)
    assert "It can be used again." in admin.send(disabled, "/do/enable").text
    fake.withdraw()
    admin.send(admin.open(account), "/do/check")
    ended = admin.open(account)
    assert "Its access has ended" in ended.text
    assert "Connect it again" in ended.text
    asked = admin.open(f"{account}/do/disconnect")
    assert "Tokens are revoked at the provider and deleted" in asked.text
    assert "It is disconnected" in admin.send(asked, "/do/disconnect").text


def test_a_link_to_a_provider_works_in_no_other_browser(stage: OAuthHub, admin: Person) -> None:
    somebody(stage, "github")
    leave = admin.send(admin.open("/console/catalogue/github"), "/github/oauth2")
    other = Person(admin.base, client=stage.browser())
    assert other.open(away(leave, "github.com")).status == 403
    other.close()


@pytest.mark.parametrize("error", ["account_in_use", "platform_error", "nothing_known", SCRIPTS[0]])
def test_every_failure_names_the_next_step(admin: Person, error: str) -> None:
    answer = admin.client.get("/console/connected", params={"error": error, "provider": "slack"})
    page = Answer(answer)
    assert error in page.text
    assert len(page.text.partition("Not connected")[2].split()) > 8
    assert page.link("/console/catalogue/slack")


# Accounts by tokens


def test_an_account_is_connected_by_a_token_and_gets_a_new_one(admin: Person) -> None:
    form = admin.open(admin.open("/console/catalogue/telegram").link("/bot_token"))
    wrong = admin.send(form, "/bot_token", access_token="987654321:" + "x" * 35)
    assert (wrong.status, "the provider rejected it" in wrong.text) == (422, True)
    page = admin.send(wrong, "/bot_token", access_token=BOT_TOKEN, **{"own-name": "the bot"})
    assert "The account is connected." in page.text
    assert "the bot" in page.text
    renew = admin.open(page.link("/reconnect"))
    assert renew.form("/reconnect").fields["access_token"] == ""
    refused = admin.send(renew, "/reconnect", access_token="987654321:" + "y" * 35)
    assert refused.status == 422
    assert "The account is connected." in admin.send(refused, "/reconnect", access_token=BOT_TOKEN).text


def test_a_mail_login_of_a_known_service_needs_no_host(admin: Person) -> None:
    form = admin.open("/console/catalogue/email/imap")
    fields = form.form("/imap")
    assert "own-preset" in fields.named
    assert "gmail" in form.text
    wrong = admin.send(form, "/imap", username="ada@example.com", password=token_hex(8))
    assert wrong.status == 422
    assert "ada@example.com" in wrong.response.text


# The catalogue


def test_every_provider_and_each_of_its_forms_is_shown(admin: Person) -> None:
    page = admin.open("/console/catalogue")
    for provider in registry().providers:
        shown = admin.open(page.link(f"/console/catalogue/{provider}"))
        assert shown.status == 200
        for link in shown.links:
            if link.startswith((f"/console/catalogue/{provider}/", "/console/endpoints/new/")):
                assert admin.open(link).status == 200, link
    assert admin.open("/console/catalogue/none").status == 404
    assert admin.open("/console/catalogue/github/none").status == 404
    assert admin.open("/console/endpoints/new/oidc").status == 404


def test_a_search_and_a_category_stand_in_the_address(admin: Person) -> None:
    page = admin.open("/console/catalogue?q=slack&category=communication")
    assert page.link("/console/catalogue/slack")
    assert not any(link.endswith("/catalogue/github") for link in page.links)
    assert '<option value="communication" selected>' in page.response.text
    assert '<option value="crm">' in page.response.text, "all categories stay there to choose"
    for ability in ("webhooks", "OAuth", "mapped conversations", "import of an export", "4 actions"):
        assert ability in page.text
    assert "generic" in admin.open("/console/catalogue?q=nothing+like+this").text
    assert admin.open("/console/catalogue?category=none").status == 422
    senders = admin.open("/console/endpoints/new?q=google")
    assert not any(link.endswith("/new/google") for link in senders.links), "it sends no webhooks"


def test_a_member_who_may_only_read_gets_no_form(hub: Hub, stage: OAuthHub) -> None:
    made = hub.call("POST", "/api/api-keys", {"name": "reader", "scopes": ["integrations:read"]})
    reader = Person(hub.url("gateway"))
    reader.sign_in(made["key"])
    page = reader.open("/console/catalogue/github")
    assert page.status == 200
    assert [form.action for form in page.forms if "/catalogue/" in form.action] == []
    assert "integrations:write" in page.text
    token = reader.open("/console").form("/sign-out").fields["token"]
    for path in ("/console/catalogue/github/oauth2", "/console/endpoints/new/github"):
        answer = reader.client.post(
            path, data={"token": token, "own-name": "x"}, headers={"origin": reader.base}
        )
        assert answer.status_code == 403, path
    reader.close()


# Endpoints


def test_an_endpoint_is_set_up_step_by_step(hub: Hub, admin: Person) -> None:
    picker = admin.open(admin.open("/console/endpoints").link("/console/endpoints/new"))
    form = admin.open(picker.link("/new/github"))
    created = admin.send(form, "/new/github", **{"own-name": "repository"})
    assert created.status == 200, created.text
    assert "shown only now" in created.text
    setup = admin.send(created, "/setup/test")
    assert "answered with status 2" in setup.text
    base = urlsplit(setup.path).path

    def shows(words: str) -> bool:
        return words in admin.open(base).text

    eventually(lambda: shows("The signature is right."))
    endpoint = hub.call("GET", f"/api/inbound-endpoints/{base.split('/')[3]}")
    body = json.dumps({"zen": "Keep it simple", "n": 1}, separators=(",", ":")).encode()
    secret = hub.call("POST", f"/api/inbound-endpoints/{endpoint['id']}/rotate-secret", {"overlap_hours": 0})[
        "secret"
    ]
    for content, key, verdict in (
        (body, "another-secret", "compare the one at the provider"),
        (body.replace(b":", b": "), secret, "a proxy in front of the hub rewrites it"),
    ):
        headers = signed(key, "ping", body)
        assert httpx.post(endpoint["url"], content=content, headers=headers).status_code == 401
        eventually(partial(shows, verdict))
    assert not shows(secret)


def test_a_secret_that_the_provider_shows_later_is_stored_afterwards(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/endpoints/new/stripe")
    assert "enter it in the next step" in form.text
    created = admin.send(form, "/new/stripe", **{"own-name": "payments"})
    assert "It has no secret yet" in created.text
    wrong = admin.send(created, "/setup/secret", secret="no secret of theirs")
    assert wrong.status == 422
    stored = admin.send(wrong, "/setup/secret", secret=f"whsec_{token_hex(16)}")
    assert "It has no secret yet" not in stored.text
    assert not any(form.action.endswith("/setup/secret") for form in stored.forms)
    assert "answered with status 2" in admin.send(stored, "/setup/test").text


def test_a_secret_that_the_provider_hands_over_is_shown_once(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/endpoints/new/notion")
    created = admin.send(form, "/new/notion", **{"own-name": "pages"})
    assert "has not confirmed the address yet" in created.text
    [endpoint] = hub.call("GET", "/api/inbound-endpoints?limit=1")["items"]
    handed = f"secret_{token_hex(24)}"
    assert httpx.post(endpoint["url"], json={"verification_token": handed}).status_code == 200
    setup = f"/console/endpoints/{endpoint['id']}/setup"
    page = admin.open(setup)
    assert "handed over a secret" in page.text
    assert handed not in page.response.text
    assert handed in admin.send(page, "/do/show-secret").text
    for path in (setup, setup.removesuffix("/setup")):
        assert not any(form.action.endswith("/do/show-secret") for form in admin.open(path).forms)


def test_settings_of_a_provider_are_fields_of_the_form(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/endpoints/new/aws-sns")
    wrong = admin.send(form, "/new/aws-sns", topic_arn="not one", **{"own-name": "topic"})
    assert wrong.status == 422
    arn = "arn:aws:sns:eu-central-1:123456789012:topic"
    created = admin.send(wrong, "/new/aws-sns", topic_arn=arn)
    assert created.status == 200, created.text
    endpoint = hub.call("GET", "/api/inbound-endpoints?limit=1")["items"][0]
    assert (endpoint["name"], endpoint["settings"]["topic_arn"]) == ("topic", arn)


def test_a_sender_that_the_catalogue_lacks_is_described_as_json(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/endpoints/new/generic")
    values = {"own-name": "ours", "own-source": "{no json"}
    wrong = admin.send(form, "/new/generic", **values)
    assert (wrong.status, "Sender: this is not JSON" in wrong.text) == (422, True)
    for field, value in (("own-source", "[" * 400 + "]" * 400), ("own-rate_limit", "9" * 30)):
        refused = admin.send(form, "/new/generic", **values | {"own-source": "", field: value})
        name = refused.form("/generic").fields["own-name"]
        assert (refused.status, refused.errors, name) == (422, [field], "ours")
    values["own-source"] = ""
    values["own-unsigned_reason"] = "it is inside our network"
    created = admin.send(wrong, "/new/generic", **values)
    assert created.status == 200, created.text
    assert hub.call("GET", "/api/inbound-endpoints?limit=1")["items"][0]["require_signature"] is False
