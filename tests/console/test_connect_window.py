"""Windows to connect accounts for a chat, as a browser without script, and what they refuse."""

import json
from collections.abc import Iterator
from secrets import token_hex
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from pymongo import MongoClient

from services.console.embedding.records import COLLECTION, MAX_ATTEMPTS
from shared.runtime.clock import utcnow
from tests.console.guest import Guest
from tests.console.person import Answer
from tests.console.test_connect import BOT_TOKEN, somebody, telegram
from tests.support.backends import Bus, Store
from tests.support.fakes.oauth_hub import OAuthHub
from tests.support.hub import Hub
from tests.support.recorded_secrets import record_secret

CHAT: Final = "https://chat.example.com"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[OAuthHub]:
    record_secret("a bot's token", BOT_TOKEN)
    services = ("gateway", "oauth", "console")
    folder = tmp_path_factory.mktemp("stage")
    with OAuthHub(folder, bus, store, {"api.telegram.org": telegram}, services) as stage:
        yield stage


@pytest.fixture(scope="module")
def hub(stage: OAuthHub) -> Hub:
    return stage.hub


def connect(hub: Hub, **fields: Any) -> dict[str, Any]:
    body = {"user": "ada", "providers": ["github", "telegram"], "origin": CHAT, **fields}
    made: dict[str, Any] = hub.call("POST", "/api/connect-sessions", body, expect=201)
    return made


def window_of(made: dict[str, Any]) -> str:
    """The address that the element opens."""
    name, _, code = made["session"].partition(".")
    return f"/console/connect/{name}/open?code={code}"


@pytest.fixture
def guest(hub: Hub) -> Iterator[Guest]:
    guest = Guest(hub.url("gateway"))
    yield guest
    guest.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": "https://evil.example"},
        {"providers": ["nothing"]},
        {"providers": ["github"], "scopes": {"slack": ["chat:write"]}},
        {"scopes": {"github": ["a b"]}},
        {"scopes": {"github": ["s" * 200] * 50}},
    ],
)
def test_sessions_that_are_not_created(hub: Hub, fields: dict[str, Any]) -> None:
    body: dict[str, Any] = {"user": "ada", "providers": ["github"], "origin": CHAT}
    hub.call("POST", "/api/connect-sessions", {**body, **fields}, expect=422)


def report_of(page: Answer) -> dict[str, Any]:
    """What the script of a page of the window gets."""
    attributes = next(attributes for _, attributes in page.elements if attributes.get("id") == "window")
    report: dict[str, Any] = json.loads(attributes["data-report"] or "")
    return report


def test_an_account_is_connected_in_the_window_and_confirmed_by_the_chat(stage: OAuthHub) -> None:
    hub = stage.hub
    fake = somebody(stage, "github")
    made = connect(hub, scopes={"github": ["read:user"]})
    guest = Guest(hub.url("gateway"), stage.browser())
    page = guest.open(window_of(made))
    assert page.path == f"/console/connect/{made['id']}"
    assert report_of(page) == {"origin": CHAT, "session": made["id"], "result": None}
    ticket = guest.send(page, "/github/oauth2")
    assert "/api/auth/oauth/start" in ticket.path, ticket.text
    assert "ada" in ticket.text
    guest.client.follow_redirects = False
    asked = guest.client.post(ticket.path, headers={"origin": guest.base})
    assert parse_qs(urlsplit(asked.headers["location"]).query)["scope"] == ["read:user"]
    guest.client.follow_redirects = True
    done = guest.open(asked.headers["location"])
    assert "/done" in done.path, done.text
    result = report_of(done)["result"]
    assert (result["status"], result["error"]) == ("confirmation_required", None)
    body = {"confirmation_code": result["confirmationCode"], "user": "ada"}
    confirmed = hub.call("POST", "/api/auth/oauth/confirm", body)
    assert (confirmed["id"], confirmed["status"]) == (result["integrationId"], "connected")
    assert (confirmed["user"], confirmed["account"]["id"]) == ("ada", fake.accounts[0].id)
    foreign = guest.open(f"/console/connect/{made['id']}/done?integration_id=int_x&confirmation_code=stolen")
    assert (foreign.status, "stolen" in foreign.response.text) == (403, False)
    guest.close()


def test_manual_credentials_connect_an_account_in_the_window(stage: OAuthHub) -> None:
    made = connect(stage.hub, user="bob")
    guest = Guest(stage.hub.url("gateway"))
    page = guest.open(window_of(made))
    form = guest.open(page.link("/telegram/"))
    here = form.path
    [field] = [name for name in form.form(here).named if name != "token" and "own" not in name]
    wrong = guest.send(form, here, **{field: f"1:{token_hex(17)}a"})
    assert (wrong.status, report_of(wrong)["result"]) == (422, None)
    done = guest.send(wrong, here, **{field: BOT_TOKEN})
    result = report_of(done)["result"]
    assert (result["status"], result["provider"]) == ("connected", "telegram")
    assert stage.shown(result["integrationId"])["user"] == "bob"
    guest.close()


def test_a_denied_consent_is_reported_without_a_code(stage: OAuthHub) -> None:
    fake = somebody(stage, "github")
    fake.asks = True
    guest = Guest(stage.hub.url("gateway"), stage.browser())
    page = guest.open(window_of(connect(stage.hub, providers=["github"])))
    ticket = guest.send(page, "/github/oauth2")
    consent = Answer(guest.client.post(ticket.path, headers={"origin": guest.base}))
    back = Answer(guest.client.get(f"https://github.com{consent.link('/deny')}"))
    assert "Access was denied at the provider" in back.text
    result = report_of(back)["result"]
    assert (result["status"], result["error"]) == ("failed", "access_denied")
    assert result["confirmationCode"] is None
    assert result["integrationId"]
    assert guest.open(back.link("/console/connect/")).form("/github/oauth2")
    guest.close()


def changed(hub: Hub, made: dict[str, Any], field: str, value: Any) -> None:
    """Change a session in the database."""
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"], tz_aware=True) as client:
        stored = client.get_default_database()[COLLECTION]
        assert stored.update_one({"_id": made["id"]}, {"$set": {field: value}}).modified_count == 1


def test_an_expired_session_is_reported_and_connects_nothing(hub: Hub, guest: Guest) -> None:
    made = connect(hub, providers=["github"])
    page = guest.open(window_of(made))
    changed(hub, made, "expires_at", utcnow())
    for expired in (guest.open(page.path), guest.send(page, "/github/oauth2"), guest.open(window_of(made))):
        assert expired.status == 410, expired.text
        report = report_of(expired)
        assert (report["origin"], report["result"]["status"]) == (CHAT, "failed")
        assert (report["result"]["error"], report["result"]["integrationId"]) == ("expired", None)


def test_attempts_are_counted_before_a_provider_is_asked(hub: Hub, guest: Guest) -> None:
    made = connect(hub)
    page = guest.open(window_of(made))
    form = guest.open(page.link("/telegram/"))
    changed(hub, made, "connect.attempts", MAX_ATTEMPTS - 1)
    ticket = guest.send(page, "/github/oauth2")
    assert "/api/auth/oauth/start" in ticket.path, ticket.text
    integrations = hub.call("GET", "/api/integrations")["items"]
    [field] = [name for name in form.form(form.path).named if name != "token" and "own" not in name]
    for refused in (guest.send(page, "/github/oauth2"), guest.send(form, form.path, **{field: BOT_TOKEN})):
        assert (refused.status, "too many attempts" in refused.text) == (429, True), refused.text
    assert hub.call("GET", "/api/integrations")["items"] == integrations


def test_what_the_window_refuses(hub: Hub, guest: Guest) -> None:
    made = connect(hub, providers=["github"])
    home = guest.open(window_of(made)).path
    assert Guest(guest.base).open(window_of(made)).status == 403
    assert Guest(guest.base).open(home).status == 401
    assert guest.open(f"{home}/telegram/bot_token").status == 404, "a provider that the session does not have"
    page = guest.open(home)
    token = page.forms[0].fields["token"]
    data = {"token": token, "scopes": "admin:org"}
    sent = guest.client.post(f"{home}/telegram/bot_token", data=data, headers={"origin": guest.base})
    assert sent.status_code == 404
    sent = guest.client.post(f"{home}/github/oauth2", data=data, headers={"origin": CHAT})
    assert sent.status_code == 403
    headers = guest.open(home).response.headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "cross-origin-opener-policy" not in headers
