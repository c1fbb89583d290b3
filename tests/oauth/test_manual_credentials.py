"""Accounts with manual credentials: bot tokens, API keys, names with passwords, mail logins.

The credentials are checked at servers of the test before they are stored.
"""

import asyncio
import json
import urllib.parse
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from secrets import token_hex
from threading import Barrier
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from pymongo import MongoClient

from shared.connections.app_records import AppRepository
from shared.connections.apps import Apps
from shared.connections.integrations import IntegrationRepository
from shared.connections.refresh_outcome import NotConnected
from shared.connections.tokens import Access, TokenSource
from shared.contracts.topics import TOPICS
from shared.manifests.registry import registry
from shared.runtime.egress.client import create_egress_client
from shared.runtime.mongo import Mongo
from shared.runtime.service import runtime
from shared.runtime.settings import EgressSettings, MongoSettings, load
from shared.runtime.web import api_keys
from shared.runtime.web.api_keys import ApiKeyRecord, generate_key
from shared.runtime.workspaces import Workspaces
from shared.wire.provider_http import ProviderRequest, ProviderResponse, basic_authorization
from tests.support.backends import Bus, Store
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.mail import LoggedIn, Mailbox, MailServers, says
from tests.support.ports import free_port
from tests.support.provider_hosts import Handler, HostRequest, ProviderHosts, Reply
from tests.support.recorded_secrets import record_secret
from tests.support.tap import Tap

_OFTEN = 8
AUTHORITY = Authority("authority of mail servers")


def secret(prefix: str = "") -> str:
    """A new one; it may stand nowhere."""
    made = prefix + token_hex(16)
    record_secret("a secret that was entered", made)
    return made


def user() -> str:
    """Somebody new."""
    return f"{token_hex(4)}@example.com"


class World:
    """The service, twice: one process calls the machine's own servers, the other platforms of the test."""

    def __init__(self, hub: Hub, through: Hub, bus: Bus) -> None:
        self.hub = hub
        self.through = through
        self.taps = {topic.name: Tap(bus, topic.name) for topic in TOPICS}

    def ask(
        self, method: str, path: str, body: Any = None, *, at: Hub | None = None, key: str = "", expect: int
    ) -> Any:
        """A call of the API."""
        url = (at or self.hub).url("oauth") + path
        headers = {"authorization": f"Bearer {key or self.hub.admin_key}"}
        answer = httpx.request(method, url, json=body, headers=headers, timeout=40)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def enter(self, provider: str, fields: Mapping[str, str], *, expect: int = 201, **more: Any) -> Any:
        at, key = more.pop("at", None), more.pop("key", "")
        body = {"provider": provider, "fields": dict(fields), **more}
        return self.ask("POST", "/api/integrations", body, at=at, key=key, expect=expect)

    def do(self, integration: str, what: str, body: Any = None, *, expect: int = 200, **more: Any) -> Any:
        return self.ask("POST", f"/api/integrations/{integration}/{what}", body, expect=expect, **more)

    def shown(self, integration: str) -> Any:
        return self.ask("GET", f"/api/integrations/{integration}", expect=200)

    def count(self) -> int:
        return len(self.ask("GET", "/api/integrations?limit=500", expect=200)["items"])

    def events(self, integration: str) -> list[str]:
        """The types of the events of an integration, each event once, in order."""
        found = {
            record.attributes["ce_id"]: record.attributes["ce_type"].removeprefix("integration.")
            for record in self.taps["integration.events"].look()
            if record.key == integration.encode()
        }
        return list(found.values())

    def other_workspace(self) -> str:
        """The admin key of a new one."""
        key = generate_key()
        record = ApiKeyRecord.of_key(key, f"w-{token_hex(4)}", "test", ["admin"])
        with self.database() as database:
            database[api_keys.COLLECTION].insert_one(record.document())
        headers = {"authorization": f"Bearer {key}"}
        url = self.hub.url("oauth") + "/api/integrations"
        eventually(lambda: httpx.get(url, headers=headers).is_success)
        return key

    @contextmanager
    def database(self) -> Iterator[Any]:
        client: MongoClient[Any] = MongoClient(self.hub.env["MONGODB_URI"])
        with client:
            yield client.get_default_database()

    def stored(self, integration: str) -> dict[str, Any]:
        """What the store has."""
        with self.database() as database:
            return dict(database.integrations.find_one({"_id": integration}) or {})


class Place:
    """A platform of the test: who has which secret, and how it is asked; anything else is a fault."""

    def __init__(self) -> None:
        self.good: dict[str, str] = {}
        """Names of accounts by secret."""
        self.away = False
        self.together: Barrier | None = None
        """So many are answered at the same moment."""

    def unless_away(self, handler: Handler) -> Handler:
        """The same, but that nobody answers while it is away."""

        def handle(asked: HostRequest) -> Reply:
            if self.together:
                self.together.wait()
            return Reply.gone() if self.away else handler(asked)

        return handle

    def telegram(self, asked: HostRequest) -> Reply:
        assert (asked.method, asked.query, asked.body) == ("GET", {}, b""), "getMe needs nothing"
        assert "authorization" not in asked.headers
        head, method = asked.path.rsplit("/", 1)
        assert head.startswith("/bot")
        assert method == "getMe"
        name = self.good.get(urllib.parse.unquote(head.removeprefix("/bot")))
        if name is None:
            return Reply.json({"ok": False, "error_code": 401, "description": "Unauthorized"}, 401)
        return Reply.json(
            {"ok": True, "result": {"id": int(name), "is_bot": True, "username": f"b{name}_bot"}}
        )

    def slack(self, asked: HostRequest) -> Reply:
        assert (asked.method, asked.path, asked.query) == ("POST", "/api/auth.test", {})
        name = self.good.get(bearer(asked))
        if name is None:
            return Reply.json({"ok": False, "error": "invalid_auth"})
        team = {"team": f"Team {name}", "team_id": name, "url": f"https://{name.lower()}.slack.com/"}
        return Reply.json({"ok": True, "user_id": "U1", "bot_id": "B1", **team})

    def sendgrid(self, asked: HostRequest) -> Reply:
        assert (asked.method, asked.path) == ("GET", "/v3/scopes")
        given = bearer(asked)
        if given not in self.good:  # as a provider that repeats what it received
            return Reply.json({"errors": [{"message": f"the key {given} is wrong"}]}, 401)
        return Reply.json({"scopes": ["mail.send"]})

    def jira(self, asked: HostRequest) -> Reply:
        assert (asked.method, asked.path) == ("GET", "/rest/api/3/myself")
        name = self.good.get(asked.headers["authorization"])
        if name is None:
            return Reply(401, b"Basic authentication failed", {"content-type": "text/plain"})
        return Reply.json(
            {"accountId": name, "displayName": f"Person {name}", "emailAddress": "a@example.com"}
        )


def bearer(asked: HostRequest) -> str:
    scheme, _, token = asked.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    return token


@pytest.fixture(scope="module")
def servers() -> Iterator[MailServers]:
    with MailServers(AUTHORITY) as running:
        yield running


@pytest.fixture(scope="module")
def place() -> Place:
    return Place()


@pytest.fixture(scope="module")
def platforms(place: Place) -> Iterator[ProviderHosts]:
    hosts = {
        "api.telegram.org": place.unless_away(place.telegram),
        "slack.com": place.unless_away(place.slack),
        "api.sendgrid.com": place.unless_away(place.sendgrid),
        "*.atlassian.net": place.unless_away(place.jira),
    }
    with ProviderHosts(hosts) as running:
        yield running
        assert not running.faults


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store, platforms: ProviderHosts
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hub")
    trusted = folder / "mail.pem"
    trusted.write_text(AUTHORITY.pem)
    env = {"INTERLINK_UPKEEP_EVERY_S": "0.3", "INTERLINK_LOG_LEVEL": "debug"}
    hub = Hub(folder, bus, store, services=("oauth",), env={**env, "INTERLINK_EGRESS_CA_FILE": str(trusted)})
    web = {**platforms.env(folder), "INTERLINK_EGRESS_PORTS": "443"}
    through = Hub(folder / "through", bus, store, services=("oauth",), env={**hub.env, **web})
    through.admin_key = hub.admin_key
    try:
        hub.init("default")
        hub.start_service("oauth")
        through.start_service("oauth", module=("tests.support.provider_hosts", "oauth"))
        hub.wait_ready("oauth")
        through.wait_ready("oauth")
        yield World(hub, through, bus)
    finally:
        hub.stop()
        through.stop()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """A mail server's, with one user."""
    made = Mailbox({user(): secret()})
    yield made
    assert not made.faults


def login_of(mailbox: Mailbox, port: int, security: str = "tls") -> dict[str, str]:
    """What is entered for the mailbox's user."""
    ((name, password),) = list(mailbox.users.items())[:1]
    given = {"host": "localhost", "port": str(port), "security": security}
    return {**given, "username": name, "password": password}


# Mail servers


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize("protocol", ["smtp", "imap"])
def test_a_mail_login_is_checked_and_stored(
    world: World, servers: MailServers, mailbox: Mailbox, protocol: str, security: str
) -> None:
    port = servers.smtp(mailbox, security) if protocol == "smtp" else servers.imap(mailbox, security)
    fields = login_of(mailbox, port, security)
    shown = world.enter("email", fields, kind=protocol)
    label = f"{fields['username']} at localhost"
    assert (shown["status"], shown["health"], shown["kind"]) == ("connected", "ok", protocol)
    assert (shown["account"]["label"], shown["name"]) == (label, label)
    assert shown["expires_at"] is None
    assert mailbox.logins == [LoggedIn(fields["username"], "PLAIN", secure=True)]
    assert world.shown(shown["id"]) == shown
    eventually(lambda: world.events(shown["id"]) == ["connected"])


@pytest.mark.parametrize("protocol", ["smtp", "imap"])
def test_a_wrong_password_is_not_stored(
    world: World, servers: MailServers, mailbox: Mailbox, protocol: str
) -> None:
    port = servers.smtp(mailbox, "tls") if protocol == "smtp" else servers.imap(mailbox, "tls")
    before = world.count()
    fields = {**login_of(mailbox, port), "password": secret()}
    answer = world.enter("email", fields, kind=protocol, expect=422)
    (fault,) = answer["errors"]
    assert fault["field"] == "fields"
    assert "rejected user name and password" in fault["message"]
    assert (world.count(), mailbox.logins, mailbox.refused) == (before, [], 1)


@pytest.mark.parametrize(
    ("given", "field", "word"),
    [
        ({"host": "nowhere.invalid"}, "fields.host", "does not resolve"),
        ({"host": "10.0.0.8"}, "fields.host", "internal address"),
        ({"host": "169.254.169.254"}, "fields.host", "internal address"),
        ({"host": "8.8.8.8", "security": "none"}, "fields.security", "without TLS"),
        ({"security": "starttls"}, "fields.security", "offers no STARTTLS"),
        ({"port": "70000"}, "fields.port", "65535"),
        ({"port": "0"}, "fields.port", "65535"),
        ({"port": "x"}, "fields.port", "does not have the expected format"),
        ({"security": "ssl"}, "fields.security", "does not have the expected format"),
        ({"host": "mail.example.com/x"}, "fields.host", "does not have the expected format"),
        ({"host": ""}, "fields.host", "required"),
        ({"username": "a\r\na2 LOGOUT"}, "fields.username", "does not have the expected format"),
        ({"otp": "1"}, "fields.otp", "unknown field"),
    ],
)
def test_an_error_of_a_mail_login_names_its_field(
    world: World, servers: MailServers, mailbox: Mailbox, given: dict[str, str], field: str, word: str
) -> None:
    fields = {**login_of(mailbox, servers.imap(mailbox, "none"), "none"), **given}
    answer = world.enter("email", fields, kind="imap", expect=422)
    (fault,) = answer["errors"]
    assert fault["field"] == field
    assert word in fault["message"]
    assert not mailbox.logins


def test_a_port_that_is_not_for_mail_is_refused_if_ports_are_limited(world: World) -> None:
    fields = {"host": "8.8.8.8", "port": "22", "username": user(), "password": secret()}
    answer = world.enter("email", fields, kind="smtp", at=world.through, expect=422)
    assert answer["errors"][0]["field"] == "fields.port"
    assert "25, 465, 587" in answer["errors"][0]["message"]


def test_a_mail_server_that_is_down_is_not_a_rejected_login(world: World, mailbox: Mailbox) -> None:
    fields = login_of(mailbox, free_port())
    answer = world.enter("email", fields, kind="imap", expect=503)
    assert "cannot be reached" in answer["detail"]


def test_a_preset_fills_in_fields(world: World, servers: MailServers, mailbox: Mailbox) -> None:
    fields = login_of(mailbox, servers.smtp(mailbox, "starttls"))
    del fields["security"]
    world.enter("email", fields, kind="smtp", expect=422)
    world.enter("email", fields, kind="smtp", preset="icloud")
    assert len(mailbox.logins) == 1, "the preset says starttls, and what is entered goes before it"
    wrong = world.enter("email", fields, kind="smtp", preset="nobody", expect=422)
    assert wrong["errors"][0]["field"] == "preset"
    assert "gmail" in wrong["errors"][0]["message"]
    for name, given in registry().connectors["email"].manual_credentials["smtp"].presets.items():
        assert set(given.values) == {"host", "port", "security"}, name
    alone = {"username": fields["username"], "password": fields["password"]}
    missing = world.enter("email", alone, kind="imap", expect=422)
    assert [fault["field"] for fault in missing["errors"]] == ["fields.host"]
    del alone["password"]
    missing = world.enter("email", alone, kind="smtp", preset="fastmail", expect=422)
    assert [fault["field"] for fault in missing["errors"]] == ["fields.password"], "the host is known"


# What can be done with it


@pytest.fixture
def account(world: World, servers: MailServers, mailbox: Mailbox) -> tuple[str, dict[str, str]]:
    """An integration of a mailbox, and what was entered."""
    fields = login_of(mailbox, servers.imap(mailbox, "tls"))
    return str(world.enter("email", fields, kind="imap")["id"]), fields


Account = tuple[str, dict[str, str]]


def test_new_credentials_keep_the_integration_id(world: World, mailbox: Mailbox, account: Account) -> None:
    integration, fields = account
    mailbox.users[fields["username"]] = new = secret()
    shown = world.do(integration, "fields", {"fields": {"password": new}})
    assert (shown["id"], shown["status"]) == (integration, "connected")
    world.do(integration, "check")
    assert len(mailbox.logins) == 3
    wrong = world.do(integration, "fields", {"fields": {"password": secret()}}, expect=422)
    assert wrong["errors"][0]["field"] == "fields"
    world.do(integration, "check")
    assert world.events(integration) == ["connected"], "nothing of it changed what the others see"


def test_another_user_takes_over_only_with_takeover(world: World, account: Account) -> None:
    integration, fields = account
    assert world.shown(integration)["user"] is None
    for user, then in (("usr_1", "usr_1"), (None, "usr_1")):
        named: dict[str, Any] = {"user": user} if user else {}
        assert world.enter("email", fields, kind="imap", **named)["user"] == then
    body = {"provider": "email", "kind": "imap", "fields": fields, "user": "usr_2"}
    again = {"fields": {}, "user": "usr_2"}
    for refused in (
        world.ask("POST", "/api/integrations", body, expect=409),
        world.do(integration, "fields", again, expect=409),
    ):
        assert refused["errors"] == [{"field": "takeover", "message": "account_in_use"}]
        assert "usr_1" not in str(refused)
    assert world.shown(integration)["user"] == "usr_1"
    taken = world.ask("POST", "/api/integrations", {**body, "takeover": True}, expect=201)
    assert (taken["id"], taken["user"]) == (integration, "usr_2")
    assert world.do(integration, "fields", {**again, "user": "usr_3", "takeover": True})["user"] == "usr_3"
    assert world.do(integration, "fields", {"fields": {}})["user"] == "usr_3"
    found = world.ask("GET", "/api/integrations?user=usr_3&provider=email", expect=200)["items"]
    assert [item["id"] for item in found] == [integration]
    events = ["connected", "connected", *["connected", "taken_over"] * 2]
    eventually(lambda: world.events(integration) == events)


def test_credentials_that_cannot_be_decrypted_are_replaced_as_a_whole(
    world: World, mailbox: Mailbox, account: Account
) -> None:
    """Its encryption key is gone, or it was changed in the store."""
    integration, fields = account
    with world.database() as database:
        database.integrations.update_one({"_id": integration}, {"$set": {"credential.k": "00000000"}})
    assert "cannot be decrypted" in world.do(integration, "check", expect=409)["detail"]
    part = {"fields": {"password": fields["password"]}}
    missing = world.do(integration, "fields", part, expect=422)
    assert [fault["field"] for fault in missing["errors"]] == ["fields.host", "fields.username"]
    assert world.do(integration, "fields", {"fields": fields})["id"] == integration
    assert world.do(integration, "check")["status"] == "connected"


def test_another_account_is_refused_without_any_account(
    world: World, mailbox: Mailbox, account: Account
) -> None:
    integration, fields = account
    other = {"username": user(), "password": secret()}
    mailbox.users[other["username"]] = other["password"]
    answer = world.do(integration, "fields", {"fields": other}, expect=409)
    assert other["username"] in answer["detail"]
    assert world.shown(integration)["account"]["id"] == f"{fields['username']}@localhost"
    shown = world.do(integration, "fields", {"fields": other, "any_account": True})
    assert (shown["id"], shown["account"]["id"]) == (integration, f"{other['username']}@localhost")
    assert shown["name"] == f"{other['username']} at localhost"
    eventually(lambda: world.events(integration) == ["connected"] * 2)
    first = world.enter("email", fields, kind="imap")["id"]
    assert first != integration
    taken = {"fields": other, "any_account": True}
    assert "another integration" in world.do(first, "fields", taken, expect=409)["detail"]


def test_the_same_account_twice_is_one_integration(
    world: World, mailbox: Mailbox, account: Account, servers: MailServers
) -> None:
    integration, fields = account
    mailbox.users[fields["username"]] = fields["password"] = secret()
    shown = world.enter("email", {**fields, "port": str(servers.imap(mailbox, "tls"))}, kind="imap")
    assert shown["id"] == integration
    sending = world.enter("email", {**fields, "port": str(servers.smtp(mailbox, "tls"))}, kind="smtp")
    assert sending["id"] != integration, "reading and sending are two"


def test_a_changed_password_is_detected_and_published_once(
    world: World, mailbox: Mailbox, account: Account
) -> None:
    integration, fields = account
    mailbox.users[fields["username"]] = new = secret()
    shown = world.do(integration, "check")
    assert (shown["status"], shown["reason"]) == ("reauth_required", "credentials_refused")
    assert (shown["health"], shown["last_error"]["code"]) == ("broken", "login_refused")
    assert "reauth required" in world.do(integration, "check", expect=409)["detail"]
    eventually(lambda: world.events(integration) == ["connected", "reauth_required"])
    shown = world.do(integration, "fields", {"fields": {"password": new}})
    assert (shown["status"], shown["reason"], shown["last_error"]) == ("connected", None, None)
    eventually(lambda: world.events(integration) == ["connected", "reauth_required", "connected"])


def test_a_server_in_trouble_is_no_reason_to_ask_for_the_password(
    world: World, servers: MailServers, mailbox: Mailbox, account: Account
) -> None:
    integration, fields = account
    broken = servers.talking(says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), tls=True)
    mailbox.users[other := user()] = fields["password"]
    wrong = {**fields, "username": other, "port": str(broken)}
    world.enter("email", wrong, kind="imap", expect=422)
    port = free_port()
    with MailServers(AUTHORITY) as own:
        port = own.imap(mailbox, "tls")
        second = world.enter("email", {**wrong, "port": str(port)}, kind="imap")["id"]
    before = world.shown(second)
    world.do(second, "check", expect=503)
    assert world.shown(second) == before, "away is neither right nor wrong"
    assert world.do(integration, "check")["status"] == "connected"


def test_a_disabled_integration_is_not_changed(world: World, mailbox: Mailbox, account: Account) -> None:
    integration, fields = account
    assert world.do(integration, "disable")["status"] == "disabled"
    assert world.do(integration, "disable")["status"] == "disabled"
    seen = len(mailbox.logins)
    for what, body in (("check", None), ("refresh", None), ("fields", {"fields": {}})):
        assert "disabled" in world.do(integration, what, body, expect=409)["detail"]
    assert integration in world.enter("email", fields, kind="imap", expect=409)["detail"]
    with pytest.raises(NotConnected, match="disabled"):
        asyncio.run(opened(world.hub, integration))
    assert world.do(integration, "enable")["status"] == "connected"
    assert world.do(integration, "enable")["status"] == "connected"
    assert world.do(integration, "check")["status"] == "connected"
    assert len(mailbox.logins) <= seen + 3
    assert world.events(integration) == ["connected"]


def test_an_enabled_integration_has_its_previous_error_again(
    world: World, mailbox: Mailbox, account: Account
) -> None:
    integration, fields = account
    mailbox.users[fields["username"]] = secret()
    assert world.do(integration, "check")["status"] == "reauth_required"
    world.do(integration, "disable")
    assert world.do(integration, "enable")["status"] == "reauth_required"


def test_a_disconnected_integration_has_no_secrets_and_can_be_connected_again(
    world: World, mailbox: Mailbox, account: Account
) -> None:
    integration, fields = account
    shown = world.do(integration, "disconnect")
    assert (shown["status"], shown["account"]["id"]) == ("disconnected", f"{fields['username']}@localhost")
    assert world.stored(integration)["credential"] is None
    assert "disconnected" in world.do(integration, "check", expect=409)["detail"]
    missing = world.do(integration, "fields", {"fields": {"password": fields["password"]}}, expect=422)
    assert missing["errors"], "nothing of what was entered is left"
    assert world.enter("email", fields, kind="imap")["id"] == integration
    eventually(lambda: world.events(integration) == ["connected", "disconnected", "connected"])


def test_a_deleted_integration_releases_its_account(world: World, account: Account) -> None:
    integration, fields = account
    world.ask("DELETE", f"/api/integrations/{integration}", expect=204)
    world.ask("GET", f"/api/integrations/{integration}", expect=404)
    world.ask("DELETE", f"/api/integrations/{integration}", expect=404)
    world.do(integration, "fields", {"fields": fields}, expect=404)
    # A thousand deleted records with the account would hide its others, and their grant would be revoked.
    assert (world.stored(integration)["credential"], world.stored(integration)["account"]) == (None, None)
    assert world.enter("email", fields, kind="imap")["id"] != integration
    eventually(lambda: world.events(integration) == ["connected", "disconnected"])


def test_accounts_of_a_deleted_workspace_are_disconnected_and_deleted(world: World, account: Account) -> None:
    integration, fields = account
    own = world.enter("email", fields, kind="imap", key=world.other_workspace())["id"]
    workspace = world.stored(own)["workspace"]

    async def delete() -> None:
        mongo = Mongo(MongoSettings(uri=SecretStr(world.hub.env["MONGODB_URI"])), app="test")
        try:
            await Workspaces(mongo).create(workspace, "x")
            await Workspaces(mongo).delete(workspace)
        finally:
            mongo.close()

    asyncio.run(delete())
    eventually(lambda: world.stored(own)["deleted_at"])
    assert world.stored(own)["credential"] is None
    eventually(lambda: world.events(own) == ["connected", "disconnected"])
    assert world.shown(integration)["status"] == "connected"


def test_another_workspace_does_not_find_the_integration(world: World, account: Account) -> None:
    integration, fields = account
    other = world.other_workspace()
    routes: list[Any] = [
        ("GET", "", None),
        ("GET", "/status", None),
        ("DELETE", "", None),
        ("PATCH", "", {"name": "x"}),
    ]
    routes += [("POST", f"/{what}", None) for what in ("check", "refresh", "disable", "enable", "disconnect")]
    routes += [("POST", "/fields", {"fields": {}}), ("POST", "/choose", {"choice": "x"})]
    for method, path, body in routes:
        world.ask(method, f"/api/integrations/{integration}{path}", body, key=other, expect=404)
    assert world.ask("GET", "/api/integrations", key=other, expect=200)["items"] == []
    own = world.enter("email", fields, kind="imap", key=other)
    assert own["id"] != integration
    assert world.shown(integration)["status"] == "connected"


# ProviderHosts


def credential(provider: str, place: Place) -> tuple[dict[str, str], str]:
    """Fields that the platform takes, and the account that they are of."""
    number = str(int(token_hex(4), 16) + 1)
    if provider == "telegram":
        fields = {"access_token": f"{number}:{secret('AA')}"}
        place.good[fields["access_token"]] = number
        return fields, number
    if provider == "slack":
        fields = {"access_token": secret("xoxb-1-")}
        place.good[fields["access_token"]] = f"T{number}"
        return fields, f"T{number}"
    if provider == "sendgrid":
        fields = {"access_token": f"SG.key-{number}.{secret()}"}
        place.good[fields["access_token"]] = ""
        return fields, f"key-{number}"
    fields = {"site": "example", "email": "ada@example.com", "api_token": secret()}
    login = basic_authorization(fields["email"], fields["api_token"])
    place.good[login] = number
    return fields, number


KINDS = {
    "telegram": "bot_token",
    "slack": "bot_token",
    "sendgrid": "api_key",
    "jira": "api_token",
}


@pytest.mark.parametrize("provider", KINDS)
def test_a_providers_secret_is_checked_and_stored(world: World, place: Place, provider: str) -> None:
    fields, account = credential(provider, place)
    shown = world.enter(provider, fields, kind=KINDS[provider], at=world.through, name="Of the team")
    assert (shown["status"], shown["kind"], shown["name"]) == ("connected", KINDS[provider], "Of the team")
    assert shown["account"]["id"] == account
    assert shown["account"]["label"]
    assert world.do(shown["id"], "check", at=world.through)["status"] == "connected"
    again = world.enter(provider, fields, at=world.through)
    assert (again["id"], again["name"]) == (shown["id"], "Of the team")


@pytest.mark.parametrize("provider", KINDS)
def test_a_secret_that_the_provider_rejects(world: World, place: Place, provider: str) -> None:
    fields, _ = credential(provider, place)
    place.good.clear()
    before = world.count()
    answer = world.enter(provider, fields, at=world.through, expect=422)
    (fault,) = answer["errors"]
    assert fault["field"] == "fields"
    assert "the provider rejected it" in fault["message"]
    assert provider != "slack" or "invalid_auth" in fault["message"], "in the words of the provider"
    assert provider != "sendgrid" or "the key [hidden] is wrong" in fault["message"], "but for the secret"
    assert world.count() == before


@pytest.mark.parametrize("provider", KINDS)
def test_a_revoked_secret_is_detected(world: World, place: Place, provider: str) -> None:
    fields, account = credential(provider, place)
    integration = world.enter(provider, fields, at=world.through)["id"]
    place.good.clear()
    shown = world.do(integration, "check", at=world.through)
    assert (shown["status"], shown["reason"]) == ("reauth_required", "credentials_refused")
    eventually(lambda: world.events(integration) == ["connected", "reauth_required"])
    new, _ = credential(provider, place)
    (name,) = place.good
    if provider != "sendgrid":  # its keys are their own accounts
        place.good[name] = account
    if provider == "telegram":  # and a bot's id stands in its token
        new, place.good = {"access_token": f"{account}:{secret('AA')}"}, {}
        place.good[new["access_token"]] = account
    body = {"fields": new, "any_account": provider == "sendgrid"}
    shown = world.do(integration, "fields", body, at=world.through)
    assert (shown["id"], shown["status"], shown["last_error"]) == (integration, "connected", None)


@pytest.mark.parametrize("provider", KINDS)
def test_a_provider_that_does_not_answer(world: World, place: Place, provider: str) -> None:
    fields, _ = credential(provider, place)
    integration = world.enter(provider, fields, at=world.through)["id"]
    before = world.shown(integration)
    place.away = True
    try:
        world.enter(provider, credential(provider, place)[0], at=world.through, expect=503)
        world.do(integration, "check", at=world.through, expect=503)
    finally:
        place.away = False
    assert world.shown(integration) == before


def test_concurrent_requests_make_one_integration(world: World, place: Place) -> None:
    fields, _ = credential("telegram", place)
    before = world.count()
    place.together = Barrier(_OFTEN, timeout=20)
    try:
        with ThreadPoolExecutor(_OFTEN) as pool:
            made = [pool.submit(world.enter, "telegram", fields, at=world.through) for _ in range(_OFTEN)]
            (integration,) = {item.result()["id"] for item in made}
    finally:
        place.together = None
    assert world.count() == before + 1
    world.do(integration, "check", at=world.through)
    eventually(lambda: world.events(integration) == ["connected"])


def test_bots_of_two_workspaces_are_two_accounts(world: World, place: Place) -> None:
    first, second = (
        world.enter("slack", credential("slack", place)[0], at=world.through)["id"] for _ in range(2)
    )
    assert first != second
    stolen, _ = credential("slack", place)
    answer = world.do(first, "fields", {"fields": stolen}, at=world.through, expect=409)
    assert "this integration is for Team" in answer["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"provider": "nobody", "fields": {}}, "provider"),
        ({"provider": "google", "fields": {}}, "provider"),
        ({"provider": "email", "fields": {}}, "kind"),
        ({"provider": "email", "kind": "pop3", "fields": {}}, "kind"),
        ({"provider": "telegram", "fields": {}}, "fields.access_token"),
        ({"provider": "telegram", "fields": {"access_token": "1:short"}}, "fields.access_token"),
        ({"provider": "telegram", "fields": {"access_token": "x" * 5000}}, "fields.access_token"),
        ({"provider": "telegram", "fields": {"access_token": 1}}, "fields.access_token"),
        ({"provider": "telegram", "fields": {"access_token": "1:\x00"}}, "fields.access_token"),
        (
            {"provider": "jira", "fields": {"site": "a/b", "email": "a@b", "api_token": "x" * 20}},
            "fields.site",
        ),
        ({"provider": "telegram", "preset": "x", "fields": {}}, "preset"),
    ],
)
def test_invalid_fields_are_refused_without_a_check(
    world: World, platforms: ProviderHosts, body: dict[str, Any], field: str
) -> None:
    asked = len(platforms.asked)
    answer = world.ask("POST", "/api/integrations", body, at=world.through, expect=422)
    assert [fault["field"] for fault in answer["errors"]] == [field]
    assert len(platforms.asked) == asked
    for value in body["fields"].values():
        assert len(str(value)) < 5 or str(value) not in json.dumps(answer), "what was entered is not repeated"


# A server of one's own, and other services


class GitLab:
    """A GitLab at an address of its own; `asked` are the requests that had the right token."""

    def __init__(self, servers: MailServers) -> None:
        self.token = secret()
        self.asked: list[str] = []
        self.url = f"https://localhost:{servers.talking(self._talk, tls=True)}"

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").lower()
        right = f"authorization: bearer {self.token}\r\n" in head
        answer = {"username": "ada", "web_url": f"{self.url}/ada"} if right else {"error": "invalid_token"}
        if right:
            self.asked.append(head.split(" ", 2)[1])
        body = json.dumps(answer).encode()
        status = b"200 OK" if right else b"401 Unauthorized"
        fields = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + fields % len(body) + body)
        await writer.drain()


@asynccontextmanager
async def another_service(hub: Hub) -> AsyncIterator[TokenSource]:
    """What every service has that calls platforms."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hub.env.items():
            patch.setenv(name, value)
        async with runtime("test") as here, AsyncExitStack() as parts:
            client = create_egress_client(load(EgressSettings), max_connections=10)
            app_repository = AppRepository(here.mongo, here.vault, registry().connectors, here.log)
            apps = Apps(app_repository, {}, here.configuration)
            known = IntegrationRepository(here.mongo, here.vault, here.producer, here.log)
            tokens = TokenSource(
                known, apps, registry().connectors, here.configuration, client, here.log, redirect_uri=""
            )
            await client.start()
            await apps.start()
            for part in (client, apps, tokens):
                parts.push_async_callback(part.stop)
            await here.producer.wait_ready(30)
            yield tokens


async def opened(hub: Hub, integration: str) -> Access:
    """Another service asks for an account's credential."""
    async with another_service(hub) as tokens:
        return await tokens.access(integration)


async def called(hub: Hub, integration: str, path: str) -> ProviderResponse:
    """Another service calls the platform with it."""
    async with another_service(hub) as tokens:
        return await tokens.call(
            integration, lambda found: ProviderRequest("GET", found.base + path, found.headers)
        )


def test_other_services_use_manual_credentials(world: World, servers: MailServers) -> None:
    gitlab = GitLab(servers)
    fields = {"base_url": gitlab.url, "access_token": gitlab.token}
    shown = world.enter("gitlab", fields)
    assert (shown["account"]["id"], shown["account"]["label"]) == (f"{gitlab.url}/ada", "ada")
    found = asyncio.run(opened(world.hub, shown["id"]))
    assert (found.token, found.values["field:base_url"]) == (gitlab.token, gitlab.url)
    assert gitlab.token not in repr(found)
    assert asyncio.run(called(world.hub, shown["id"], "/projects")).status == 200
    assert gitlab.asked == ["/api/v4/user", "/api/v4/projects"]
    gitlab.token = secret()
    with pytest.raises(NotConnected):
        asyncio.run(called(world.hub, shown["id"], "/projects"))
    assert world.shown(shown["id"])["status"] == "reauth_required"
    eventually(lambda: world.events(shown["id"]) == ["connected", "reauth_required"])
    back = world.do(shown["id"], "fields", {"fields": {"access_token": gitlab.token}})
    assert back["status"] == "connected"


def test_other_services_log_in_to_mail_servers(world: World, servers: MailServers, account: Account) -> None:
    integration, fields = account
    stored = asyncio.run(opened(world.hub, integration)).values
    assert {name: stored[f"field:{name}"] for name in fields} == fields


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("https://nowhere.invalid", "dns"),
        ("https://10.0.0.8", "internal address"),
        ("https://169.254.169.254", "internal address"),
        ("https://localhost", "reached"),
    ],
)
def test_a_self_hosted_server_cannot_be_an_internal_address(world: World, url: str, word: str) -> None:
    fields = {"base_url": url, "access_token": secret()}
    refused = word != "reached"
    answer = world.enter("gitlab", fields, expect=422 if refused else 503)
    detail = answer["errors"][0]["message"] if refused else answer["detail"]
    assert word in detail or (word == "dns" and "does not resolve" in detail)
