"""The one address of an app: who signs, for whom an event is, and that nobody gets another's.

Slack is connected by the whole dance; other accounts are put into the store as the dance writes them.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_hex, token_urlsafe
from time import monotonic, sleep, time
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from pymongo import MongoClient

from interlink.embedded import EmbeddedPair, EmbeddedServer
from interlink.provider.checker import check
from services.gateway.ingest.app_webhooks import alias_provider
from services.gateway.ingest.body import client_address
from services.gateway.ingest.rate_limit import TokenBuckets
from shared.manifests.registry import registry
from shared.runtime.configuration import announce_changes
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.oauth_hub import OAuthHub
from tests.support.hub import Hub
from tests.support.ports import free_port
from tests.support.recorded_secrets import record_secret
from tests.support.tap import Tap, TopicRecord

PROVIDERS = Path(__file__).parents[2] / "shared" / "providers"
INSTALLATION = ""
SEEN_S = 2.5
"""After so long everybody knows who is connected."""


@dataclass
class World:
    """A hub with oauth and gateway, two workspaces with a key each, and what the gateway puts on Kafka."""

    oauth_hub: OAuthHub
    tap: Tap
    keys: Mapping[str, str]
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def hub(self) -> Any:
        return self.oauth_hub.hub

    def url(self, provider: str) -> str:
        return f"{self.hub.url('gateway')}/api/webhooks/{provider}"

    def register(
        self, provider: str, *, workspace: str = INSTALLATION, client: str = "", **fields: Any
    ) -> dict[str, Any]:
        """An app of the installation, or of a workspace, with new secrets where none are given."""
        body = {
            "client_id": client or f"app-of-{provider}",
            "client_secret": fields.pop("client_secret", None) or new_secret(),
            "verified": True,
            "scope": "workspace" if workspace else "installation",
            **fields,
        }
        record_secret(
            "an app's secret", *(body[name] for name in ("client_secret", "signing_secret") if name in body)
        )
        key = self.keys[workspace or "default"]
        self.hub.call("PUT", f"/api/platform-credentials/{provider}", body, key=key)
        return body

    def connected(
        self,
        workspace: str,
        provider: str,
        account: str,
        *,
        app: Sequence[str] | None,
        choice: str = "",
        **changed: Any,
    ) -> str:
        """An integration as the oauth service writes it, without what only tokens need; its id."""
        name, now = f"int_{token_hex(16)}", datetime.now(UTC)
        document: dict[str, Any] = {
            "_id": name,
            "workspace": workspace,
            "provider": provider,
            "kind": "oauth2",
            "name": provider,
            "status": "connected",
            "reason": "",
            "account": {"id": account, "label": account, "url": "", "kept": {}},
            "params": {},
            "scopes": [],
            "created_at": now,
            "changed_at": now,
            "deleted_at": None,
            "version": 1,
            "fence": 0,
            "settled_fence": 0,
            "credential": None,
            "open": False,
            "due_at": None,
            "events": [],
            "untold": False,
        }
        if choice:
            document["account"]["choice"] = {"id": choice, "label": choice}
        if app is not None:
            document["app"] = list(app)
        with self.integrations() as collection:
            collection.insert_one(document | changed)
        asyncio.run(self.announced(name))
        return name

    async def announced(self, integration: str) -> None:
        """Record a change of an integration, as the oauth service does before it answers."""
        mongo = Mongo(MongoSettings(uri=SecretStr(self.hub.env["MONGODB_URI"])), app="test")
        try:
            await announce_changes(mongo, "integrations", integration)
        finally:
            mongo.close()

    @contextmanager
    def integrations(self) -> Iterator[Any]:
        with MongoClient[dict[str, Any]](self.hub.env["MONGODB_URI"]) as mongo:
            yield mongo.get_default_database()["integrations"]

    def send(
        self, provider: str, body: bytes, headers: Mapping[str, str], *, url: str = "", method: str = "POST"
    ) -> httpx.Response:
        values = {"content-type": "application/json", **headers}
        return httpx.request(method, url or self.url(provider), content=body, headers=values, timeout=10)

    def put(self, count: int) -> list[TopicRecord]:
        """What was put on the topic since the last look: so many, and no more a moment later."""
        before = len(self.tap.records)
        eventually(lambda: len(self.tap.look()) - before >= count)
        if not count:
            sleep(0.3)
        return self.tap.look()[before:]

    def unconnected(self, provider: str) -> float:
        results: float = self.hub.metric("gateway", "interlink_unconnected_events_total", provider=provider)
        return results


def new_secret() -> str:
    return token_hex(20)


def sample(provider: str, case: str) -> dict[str, Any]:
    """The body of a fixture of the provider's folder."""
    text = (PROVIDERS / provider / "fixtures" / case / "body.json").read_text("utf-8")
    results: dict[str, Any] = json.loads(text)
    return results


def of_slack(secret: str, team: str, **changed: Any) -> tuple[bytes, dict[str, str]]:
    """A message in a team, as Slack sends it."""
    content = sample("slack", "message") | {"team_id": team, "event_id": f"Ev{token_hex(6)}", **changed}
    content["authorizations"][0]["team_id"] = changed.get("installed", team)
    body = json.dumps(content).encode()
    return body, signed_by_slack(secret, body)


def signed_by_slack(secret: str, body: bytes) -> dict[str, str]:
    at = str(int(time()))
    mac = hmac.new(secret.encode(), f"v0:{at}:".encode() + body, hashlib.sha256).hexdigest()
    return {"x-slack-request-timestamp": at, "x-slack-signature": f"v0={mac}"}


def signed_by_meta(secret: str, body: bytes) -> dict[str, str]:
    return {"x-hub-signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


def taken(world: World, provider: str, body: bytes, headers: Mapping[str, str]) -> bool:
    return world.send(provider, body, headers).is_success


def routes(results: Sequence[TopicRecord]) -> set[tuple[str, str]]:
    """Workspace and integration of each."""
    return {(item.attributes["workspace"], item.attributes["endpoint_id"]) for item in results}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, pair: EmbeddedPair) -> Iterator[World]:
    """On the embedded store, which a test stops for a moment."""
    store = Store("own", pair.mongodb_uri)
    with OAuthHub(tmp_path_factory.mktemp("stage"), bus, store, {}) as oauth_hub:
        hub = oauth_hub.hub
        keys = {"default": hub.admin_key}
        for name in (f"a-{token_hex(3)}", f"b-{token_hex(3)}"):
            keys[name] = f"ilk_other_{token_urlsafe(24)}"
            hub.init(name, keys[name])
        hub.ports["gateway"] = free_port()
        hub.start_service("gateway")
        hub.wait_ready("gateway")
        yield World(oauth_hub, Tap(bus, "webhooks.received"), keys)


@pytest.fixture(autouse=True)
def unbroken(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing that a caller does is an error of ours."""
    if "world" not in request.fixturenames:
        yield
        return
    world: World = request.getfixturevalue("world")
    with world.hub.unbroken("gateway"):
        yield


@pytest.fixture(scope="module")
def a(world: World) -> str:
    return list(world.keys)[1]


@pytest.fixture(scope="module")
def b(world: World) -> str:
    return list(world.keys)[2]


@pytest.fixture(scope="module")
def slack(world: World) -> str:
    """The signing secret of the installation's app of Slack."""
    secret = new_secret()
    world.register("slack", client="slack-of-all", signing_secret=secret)
    ready(world, "slack", secret)
    return secret


@pytest.fixture(scope="module")
def meta(world: World) -> dict[str, Any]:
    """The installation's app of Meta."""
    app = world.register("facebook", settings={"verify_token": f"choose-{token_hex(12)}"})
    body = b'{"object":"page","entry":[]}'
    signed = signed_by_meta(app["client_secret"], body)
    eventually(lambda: world.send("facebook", body, signed).is_success)
    return app


def ready(world: World, provider: str, secret: str) -> None:
    """Until the gateway knows an app's new secret."""
    body = b'{"type":"url_verification","challenge":"x"}'
    eventually(lambda: world.send(provider, body, signed_by_slack(secret, body)).is_success)


OF_ALL = (INSTALLATION, "slack-of-all")


# Who gets what


def test_an_event_goes_to_every_workspace_that_has_connected_its_account(
    world: World, slack: str, a: str, b: str
) -> None:
    team = f"T{token_hex(5).upper()}"
    first = world.connected(a, "slack", team, app=OF_ALL)
    world.connected(a, "slack", team, app=OF_ALL, kind="again")
    second = world.connected(b, "slack", team, app=OF_ALL, status="error")
    for status in ("pending", "disabled", "disconnected", "reauth_required"):
        world.connected("default", "slack", team, app=OF_ALL, status=status)
    world.connected("default", "slack", team, app=OF_ALL, deleted_at=datetime.now(UTC))
    world.connected("default", "hubspot", team, app=OF_ALL)
    body, signed = of_slack(slack, team)
    answer = world.send("slack", body, signed)
    assert (answer.status_code, answer.content) == (200, b"")
    results = world.put(2)
    assert routes(results) == {(a, first), (b, second)}
    for item, integration in zip(
        sorted(results, key=lambda item: item.attributes["workspace"] != a), (first, second), strict=True
    ):
        assert item.key == integration.encode()
        assert item.value == body
        content = item.attributes
        assert (content["ce_type"], content["provider"], content["event"]) == (
            "slack.message",
            "slack",
            "message",
        )
        assert content["ce_source"] == f"/webhooks/slack/{integration}"
        assert content["account"] == team
        assert "channel_id" not in content
    assert len({item.attributes["ce_id"] for item in results}) == 2
    # It came twice: it is the same event, and not put there again.
    assert world.send("slack", body, signed).status_code == 200
    assert world.put(0) == []


def test_a_shared_channel_is_for_the_team_that_has_the_app(world: World, slack: str, a: str, b: str) -> None:
    here, there = f"T{token_hex(5)}", f"T{token_hex(5)}"
    installed = world.connected(a, "slack", here, app=OF_ALL)
    world.connected(b, "slack", there, app=OF_ALL)
    assert world.send("slack", *of_slack(slack, there, installed=here)).status_code == 200
    assert routes(world.put(1)) == {(a, installed)}


def test_events_of_an_account_are_listed_under_its_integration(
    world: World, slack: str, a: str, b: str
) -> None:
    team = f"T{token_hex(5)}"
    own, others = (world.connected(item, "slack", team, app=OF_ALL) for item in (a, b))
    assert world.send("slack", *of_slack(slack, team)).status_code == 200
    results = {item.attributes["workspace"]: item.attributes["ce_id"] for item in world.put(2)}
    path = f"/api/inbound-endpoints/{own}/events"
    [execution] = eventually(lambda: world.hub.call("GET", path, key=world.keys[a])["items"])
    assert (execution["outcome"], execution["verdict"], execution["types"]) == (
        "accepted",
        "verified",
        ["message"],
    )
    assert execution["event_ids"] == [results[a]]
    payload = world.hub.call("GET", f"{path}/{execution['id']}/payload", key=world.keys[a])
    assert json.loads(payload["items"][0]["data"])["team_id"] == team
    replayed = world.hub.call("POST", f"{path}/{execution['id']}/replay", key=world.keys[a])
    [repeat] = world.put(1)
    assert [repeat.attributes["ce_id"]] == replayed["accepted"]
    assert repeat.attributes["workspace"] == a
    for wrong in (path, f"{path}/{execution['id']}", f"{path}/{execution['id']}/payload"):
        world.hub.call("GET", wrong, key=world.keys[b], expect=404)
    world.hub.call("POST", f"{path}/{execution['id']}/replay", key=world.keys[b], expect=404)
    world.hub.call(
        "GET", f"/api/inbound-endpoints/{others}/events/{execution['id']}", key=world.keys[b], expect=404
    )


def test_a_batch_of_two_pages_is_cut_into_what_each_workspace_may_see(
    world: World, meta: dict[str, Any], a: str, b: str
) -> None:
    body = json.dumps(sample("facebook", "batch_of_several_pages")).encode()
    one, other = "1067280970047460", "2067280970047461"
    app = (INSTALLATION, meta["client_id"])
    first = world.connected(a, "facebook", "person-1", app=app, choice=one)
    second = world.connected(b, "facebook", "person-2", app=app, choice=other)
    world.connected("default", "facebook", "person-1", app=app, choice="3067280970047462")
    world.connected("default", "messenger", "person-1", app=app, choice=one)
    answer = world.send("facebook", body, signed_by_meta(meta["client_secret"], body))
    assert (answer.status_code, answer.text) == (200, "EVENT_RECEIVED")
    results = world.put(5)
    assert len(results) == 5
    mine = [item for item in results if item.attributes["workspace"] == a]
    theirs = [item for item in results if item.attributes["workspace"] == b]
    assert (len(mine), len(theirs)) == (3, 2)
    assert routes(mine) == {(a, first)}
    assert routes(theirs) == {(b, second)}
    assert [len(item.data["entry"]) for item in results] == [1] * 5
    assert not any(other.encode() in (item.value or b"") for item in mine)
    assert not any(one.encode() in (item.value or b"") for item in theirs)
    executions = f"/api/inbound-endpoints/{second}/events"
    [current] = eventually(lambda: world.hub.call("GET", executions, key=world.keys[b])["items"])
    assert (current["events"], sorted(current["event_ids"])) == (
        2,
        sorted(item.attributes["ce_id"] for item in theirs),
    )


def test_an_account_with_a_place_gets_what_is_of_it_and_what_names_none(world: World, a: str, b: str) -> None:
    settings = {"config_id": "1234567890"}
    registered = world.register("whatsapp", settings=settings)
    app = (INSTALLATION, registered["client_id"])
    text, account = sample("whatsapp", "text"), sample("whatsapp", "template_approved")
    number = text["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"]
    waba = text["entry"][0]["id"]
    assert account["entry"][0]["id"] == waba
    first = world.connected(a, "whatsapp", waba, app=app, choice=number)
    second = world.connected(b, "whatsapp", waba, app=app, choice="another-number")
    for content, expected in ((text, {(a, first)}), (account, {(a, first), (b, second)})):
        body = json.dumps(content).encode()
        signed = signed_by_meta(registered["client_secret"], body)
        eventually(partial(taken, world, "whatsapp", body, signed))
        assert routes(world.put(len(expected))) == expected


def test_a_meeting_is_for_the_person_whose_it_is(world: World, a: str, b: str) -> None:
    """Two persons of one Zoom account, in two workspaces."""
    secret = new_secret()
    world.register("zoom", signing_secret=secret)
    app = (INSTALLATION, "app-of-zoom")
    content = sample("zoom", "meeting_started")
    host = content["payload"]["object"]["host_id"]
    first = world.connected(a, "zoom", host, app=app)
    world.connected(b, "zoom", "another-person", app=app)
    world.connected(b, "zoom", content["payload"]["account_id"], app=app)

    def signed(body: bytes) -> dict[str, str]:
        at = str(int(time()))
        mac = hmac.new(secret.encode(), f"v0:{at}:".encode() + body, hashlib.sha256).hexdigest()
        return {"x-zm-request-timestamp": at, "x-zm-signature": f"v0={mac}"}

    asked = json.dumps(sample("zoom", "url_validation")).encode()
    eventually(lambda: world.send("zoom", asked, signed(asked)).is_success)
    answer = world.send("zoom", asked, signed(asked))
    token = sample("zoom", "url_validation")["payload"]["plainToken"]
    mac = hmac.new(secret.encode(), token.encode(), hashlib.sha256).hexdigest()
    assert answer.json() == {"plainToken": token, "encryptedToken": mac}
    body = json.dumps(content).encode()
    assert world.send("zoom", body, signed(body)).status_code == 200
    assert routes(world.put(1)) == {(a, first)}


# Whose app


def test_a_workspace_over_its_quota_is_left_out_and_others_get_their_events(
    world: World, slack: str, a: str, b: str
) -> None:
    team = f"T{token_hex(5)}"
    left_out, other = (world.connected(item, "slack", team, app=OF_ALL) for item in (a, b))
    app = world.register("slack", workspace=a, client="over-quota", signing_secret=new_secret())
    ready(world, "slack", app["signing_secret"])
    own = world.connected(a, "slack", team, app=(a, "over-quota"))
    path = f"/api/workspaces/{a}"
    world.hub.call("PATCH", path, {"quotas": {"events": 0}})
    try:
        body, signed = of_slack(slack, team)
        assert world.send("slack", body, signed).status_code == 200
        assert routes(world.put(1)) == {(b, other)}
        listed = partial(world.hub.call, "GET", key=world.keys[a])
        events = f"/api/inbound-endpoints/{left_out}/events"
        [execution] = eventually(lambda: listed(events)["items"])
        assert (execution["outcome"], execution["status"], execution["types"]) == (
            *("over_quota", 429),
            ["message"],
        )
        assert "quota of 0 events a day" in execution["detail"]
        payload = listed(f"{events}/{execution['id']}/payload")
        assert json.loads(body)["event_id"] in payload["items"][0]["data"]
        # The installation's app is never refused, not even if all is left out: it might be disabled.
        with world.integrations() as integrations:
            integrations.update_one({"_id": other}, {"$set": {"status": "disabled"}})
        asyncio.run(world.announced(other))
        assert world.send("slack", *of_slack(slack, team)).status_code == 200
        # An own app is the workspace's alone: its provider may send the event again.
        answer = world.send("slack", *of_slack(app["signing_secret"], team))
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 3600
        # Who has not signed learns nothing, and costs nothing.
        assert world.send("slack", *of_slack(new_secret(), team)).status_code == 401
        assert world.put(0) == []
    finally:
        world.hub.call("PATCH", path, {"quotas": {}})
    assert world.send("slack", *of_slack(app["signing_secret"], team)).status_code == 200
    assert routes(world.put(1)) == {(a, own)}


def test_a_workspaces_own_app_reaches_its_own_accounts_and_no_others(
    world: World, slack: str, a: str, b: str
) -> None:
    team = f"T{token_hex(5)}"
    secret = new_secret()
    world.register("slack", workspace=b, client="slack-of-b", signing_secret=secret)
    ready(world, "slack", secret)
    with_the_installations = world.connected(a, "slack", team, app=OF_ALL)
    body, signed = of_slack(secret, team)
    strange = world.send("slack", body, signed)
    known = world.send("slack", *of_slack(slack, team))
    assert (strange.status_code, strange.content) == (known.status_code, known.content)
    assert routes(world.put(1)) == {(a, with_the_installations)}
    # Now b has connected the same account with its own app, and has it once more by a bot's token.
    own = world.connected(b, "slack", team, app=(b, "slack-of-b"))
    world.connected(b, "slack", team, app=None, kind="bot_token")
    world.connected(a, "slack", team, app=(b, "slack-of-b"), kind="forged")
    world.connected(a, "slack", team, app=None, kind="bot_token")
    assert world.send("slack", *of_slack(secret, team)).status_code == 200
    assert routes(world.put(1)) == {(b, own)}
    assert world.send("slack", *of_slack(slack, team)).status_code == 200
    assert routes(world.put(1)) == {(a, with_the_installations)}


def test_a_bots_token_is_of_the_workspaces_own_app(world: World, slack: str, b: str) -> None:
    team, secret = f"T{token_hex(5)}", new_secret()
    world.register("slack", workspace=b, client="slack-of-b", signing_secret=secret)
    ready(world, "slack", secret)
    manual = world.connected(b, "slack", team, app=None, kind="bot_token")
    assert world.send("slack", *of_slack(slack, team)).status_code == 200
    assert world.put(0) == []
    assert world.send("slack", *of_slack(secret, team)).status_code == 200
    assert routes(world.put(1)) == {(b, manual)}


def test_events_that_a_stranger_provokes_do_not_displace_those_of_others(
    world: World, slack: str, a: str
) -> None:
    """It comes from the same addresses, and anybody may have his own app send to this one."""
    team, stranger = f"T{token_hex(5)}", new_secret()
    world.connected(a, "slack", team, app=OF_ALL)
    body, headers = of_slack(stranger, "T1")
    with httpx.Client(headers={"content-type": "application/json", **headers}) as client:
        assert {client.post(world.url("slack"), content=body).status_code for _ in range(700)} == {401}
    assert world.send("slack", *of_slack(slack, team)).status_code == 200
    world.put(1)


def test_one_app_that_two_workspaces_have_registered_is_for_both(world: World, a: str, b: str) -> None:
    team, secret = f"T{token_hex(5)}", new_secret()
    for item in (a, b):
        world.register("slack", workspace=item, client="slack-of-both", signing_secret=secret)
    created = {(item, world.connected(item, "slack", team, app=(item, "slack-of-both"))) for item in (a, b)}
    ready(world, "slack", secret)

    def both() -> bool:
        assert world.send("slack", *of_slack(secret, team)).is_success
        return routes(world.put(1)) == created

    eventually(both)  # once both are known


def test_a_new_secret_is_known_at_once_and_the_old_one_is_not(world: World, a: str) -> None:
    old, new, team = new_secret(), new_secret(), f"T{token_hex(5)}"
    integration = world.connected(a, "slack", team, app=(a, "slack-that-rotates"))
    world.register("slack", workspace=a, client="slack-that-rotates", signing_secret=old)
    ready(world, "slack", old)
    record_secret("an app's secret", new)
    path = "/api/platform-credentials/slack"
    world.hub.call("PUT", path, {"signing_secret": new, "verified": True}, key=world.keys[a])
    rotated = monotonic()
    ready(world, "slack", new)
    assert monotonic() - rotated < 10
    assert world.send("slack", *of_slack(old, team)).status_code == 401
    assert world.send("slack", *of_slack(new, team)).status_code == 200
    assert routes(world.put(1)) == {(a, integration)}
    world.hub.call("DELETE", path, key=world.keys[a])
    asked = b'{"type":"url_verification","challenge":"x"}'
    eventually(lambda: world.send("slack", asked, signed_by_slack(new, asked)).status_code == 401)
    assert world.send("slack", *of_slack(new, team)).status_code == 401
    assert world.put(0) == []


# Who does not get in


def test_an_event_of_an_unconnected_account_is_answered_and_counted_but_not_stored(
    world: World, slack: str, a: str
) -> None:
    team = f"T{token_hex(5)}"
    world.connected(a, "slack", team, app=OF_ALL)
    known = world.send("slack", *of_slack(slack, team))
    world.put(1)
    before = world.unconnected("slack")
    unknown = world.send("slack", *of_slack(slack, f"T{token_hex(5)}"))
    assert (unknown.status_code, unknown.content) == (known.status_code, known.content)
    assert set(unknown.headers) == set(known.headers)
    assert world.put(0) == []
    assert world.unconnected("slack") == before + 1


def test_an_event_that_names_no_account_is_for_nobody(world: World, slack: str, a: str) -> None:
    world.connected(a, "slack", "", app=OF_ALL)
    before = world.unconnected("slack")
    body = b'{"type":"event_callback","event":{"type":"message"},"event_id":"Ev1"}'
    assert world.send("slack", body, signed_by_slack(slack, body)).status_code == 200
    for name in ("T" * 300, "T\u2028", "T\x00"):
        assert world.send("slack", *of_slack(slack, name)).status_code == 200
    assert world.put(0) == []
    assert world.unconnected("slack") == before + 4


def test_what_no_app_signed_is_refused_and_stored_nowhere(world: World, slack: str, a: str) -> None:
    team = f"T{token_hex(5)}"
    world.connected(a, "slack", team, app=OF_ALL)
    body, signed = of_slack(slack, team)
    mismatches = world.hub.metric(
        "gateway", "interlink_signature_failures_total", provider="slack", reason="mismatch"
    )
    forged = world.send("slack", *of_slack(new_secret(), team))
    changed = world.send("slack", body + b" ", signed)
    assert [item.status_code for item in (forged, changed)] == [401, 401]
    assert forged.headers["content-type"] == "application/problem+json"
    assert forged.content == changed.content
    assert world.send("slack", body, {}).status_code == 401
    old = {**signed, "x-slack-request-timestamp": str(int(time()) - 1000)}
    assert world.send("slack", body, old).status_code == 401
    counted = world.hub.metric(
        "gateway", "interlink_signature_failures_total", provider="slack", reason="mismatch"
    )
    assert counted == mismatches + 3
    assert world.put(0) == []
    [line] = [item for item in world.hub.log_lines("gateway") if item["event"] == "webhook.rejected"][-1:]
    assert (line["route"], line["endpoint_id"], line["status"]) == ("app", "slack", 401)


def test_without_an_app_it_is_the_same_as_with_a_wrong_secret(world: World, slack: str) -> None:
    body = b'[{"portalId":1,"eventId":1,"subscriptionType":"contact.creation"}]'
    signed = {"x-hubspot-signature-v3": "AAAA", "x-hubspot-request-timestamp": str(int(time() * 1000))}
    missing = world.send("hubspot", body, signed)
    assert missing.status_code == 401
    wrong = world.send("slack", *of_slack(new_secret(), "T1"))
    assert missing.json()["type"] == wrong.json()["type"]
    assert missing.json()["status"] == 401


@pytest.mark.parametrize(
    "name", ["incoming", "nobody", "GitHub", "", "slack/", "slack/events", "github/nothing"]
)
def test_who_has_no_such_address_has_nothing_there(world: World, name: str) -> None:
    for method in ("GET", "POST"):
        answer = world.send(name, b"{}", {}, method=method)
        assert answer.status_code == 404, (method, name)
        assert answer.json()["detail"] == "no such endpoint"


NO_ADDRESS = (
    "{} has no app webhook and no default endpoint here: create {} with POST /api/inbound-endpoints, "
    "and use its own address"
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("github", NO_ADDRESS.format("github", "an endpoint")),
        ("discord", NO_ADDRESS.format("discord", "an endpoint of discord_interactions")),
        ("email", "email sends no webhooks"),
    ],
)
def test_a_provider_without_such_an_address_says_what_to_do(world: World, name: str, content: str) -> None:
    """Which providers there are is in the documents: it tells nothing of what anybody has here."""
    for path in (f"/api/webhooks/{name}", f"/integrations/{name}/webhook"):
        for method in ("GET", "POST"):
            if (method, path) == ("POST", "/api/webhooks/discord"):
                continue  # it takes messages: see test_incoming_tokens.py
            answer = world.send(name, b"{}", {}, url=world.hub.url("gateway") + path, method=method)
            assert (answer.status_code, answer.json()["detail"]) == (404, content), (method, path)
            assert answer.headers["content-type"] == "application/problem+json"


def test_other_methods_and_bodies_are_refused_as_at_an_endpoint(world: World, slack: str) -> None:
    refused = world.send("slack", b"{}", {}, method="PUT")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    large = b'{"type":"' + b"x" * (1024 * 1024) + b'"}'
    assert world.send("slack", large, signed_by_slack(slack, large)).status_code == 413
    broken = b'{"type":'
    assert world.send("slack", broken, signed_by_slack(slack, broken)).status_code == 400
    empty = b"{}"
    assert world.send("slack", empty, signed_by_slack(slack, empty)).status_code == 400


# Handshakes, the alias, and what is shown


def test_slack_is_answered_its_challenge_when_an_app_of_ours_has_signed_it(world: World, slack: str) -> None:
    body = json.dumps(sample("slack", "url_verification")).encode()
    answer = world.send("slack", body, signed_by_slack(slack, body))
    assert (answer.status_code, answer.text) == (200, sample("slack", "url_verification")["challenge"])
    assert world.send("slack", body, signed_by_slack(new_secret(), body)).status_code == 401


def test_meta_is_answered_with_the_verify_token_of_any_app(
    world: World, meta: dict[str, Any], a: str
) -> None:
    own = f"another-{token_hex(12)}"
    secret = world.register("facebook", workspace=a, settings={"verify_token": own})["client_secret"]
    body = b'{"object":"page","entry":[]}'
    eventually(lambda: world.send("facebook", body, signed_by_meta(secret, body)).is_success)
    for provider in ("facebook", "messenger"):
        for token in (meta["settings"]["verify_token"], own):
            query = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": token}
            answer = httpx.get(world.url(provider), params=query)
            assert (answer.status_code, answer.text) == (200, "1158201444"), answer.text
        for token in ("", "choose", own + "x"):
            query = {"hub.mode": "subscribe", "hub.challenge": "1", "hub.verify_token": token}
            assert httpx.get(world.url(provider), params=query).status_code == 403
    query = {"hub.mode": "subscribe", "hub.challenge": "1", "hub.verify_token": own}
    assert httpx.get(world.url("whatsapp"), params=query).status_code == 403


def test_x_is_answered_for_the_installations_app(world: World, a: str) -> None:
    """Its check (CRC) does not say for which app it is."""
    app = world.register("twitter")
    world.register("twitter", workspace=a)
    mac = hmac.new(app["client_secret"].encode(), b"a-token", hashlib.sha256).digest()
    expected = {"response_token": "sha256=" + base64.b64encode(mac).decode()}

    def answered() -> bool:
        answer = httpx.get(world.url("twitter"), params={"crc_token": "a-token"})
        return answer.is_success and answer.json() == expected

    eventually(answered)
    # What is signed is no body, and nothing that a body is signed with.
    assert httpx.get(world.url("twitter"), params={"crc_token": '{"a":1}'}).status_code == 400


def test_the_other_address_is_the_same_also_where_the_address_is_signed(world: World, a: str) -> None:
    app = world.register("hubspot")
    portal = int(token_hex(4), 16)
    integration = world.connected(a, "hubspot", str(portal), app=(INSTALLATION, "app-of-hubspot"))
    public = world.hub.env["INTERLINK_PUBLIC_URL"]
    for number, path in enumerate(("/api/webhooks/hubspot", "/integrations/hubspot/webhook")):
        event = {"eventId": number, "portalId": portal, "subscriptionType": "contact.creation"}
        body = json.dumps([event | {"subscriptionId": 1, "occurredAt": 1, "objectId": 1}]).encode()

        def signed(path: str = path, body: bytes = body) -> dict[str, str]:
            at = str(int(time() * 1000))
            text = f"POST{public}{path}".encode() + body + at.encode()
            mac = hmac.new(app["client_secret"].encode(), text, hashlib.sha256).digest()
            return {
                "x-hubspot-signature-v3": base64.b64encode(mac).decode(),
                "x-hubspot-request-timestamp": at,
            }

        def sent(path: str = path, body: bytes = body, signed: Any = signed) -> bool:
            url = world.hub.url("gateway") + path
            return world.send("hubspot", body, signed(), url=url).is_success

        eventually(sent)  # once the app is known
        assert routes(world.put(1)) == {(a, integration)}


def test_the_address_says_how_it_is_set_up_and_nothing_of_anybody(
    world: World, meta: dict[str, Any], a: str
) -> None:
    secret = new_secret()
    world.register("zalo", workspace=a, signing_secret=secret, client="123456")
    answer = httpx.get(world.url("messenger"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    current = answer.json()
    url = f"{world.hub.env['INTERLINK_PUBLIC_URL']}/api/webhooks/messenger"
    assert (current["provider"], current["url"], current["registered"]) == ("messenger", url, True)
    assert current["credentials"] == {
        "path": "/api/platform-credentials/facebook",
        "secrets": ["client_secret"],
        "settings": ["verify_token"],
    }
    assert any(url in step for step in current["setup_steps"])
    assert not any("{" in step for step in current["setup_steps"])
    assert httpx.get(world.url("messenger") + "?hub.mode=unsubscribe").json() == current
    assert httpx.get(f"{world.hub.url('gateway')}/integrations/messenger/webhook").json() == current
    head = httpx.head(world.url("messenger"))
    assert (head.status_code, head.content) == (200, b"")
    # A workspace's own app is nobody else's business.
    own = new_secret()
    world.register("tiktok", workspace=a, client_secret=own)
    assert httpx.get(world.url("tiktok")).json()["registered"] is False
    for item in (*current.values(), *httpx.get(world.url("tiktok")).json().values()):
        assert meta["settings"]["verify_token"] not in str(item)
        assert meta["client_id"] not in str(item)
        assert a not in str(item)


def test_an_app_is_registered_there_once_it_has_the_secret_that_signs(world: World) -> None:
    """The gateway looks for changes every second."""

    def registered() -> bool:
        current: bool = httpx.get(world.url("stripe")).json()["registered"]
        return current

    assert httpx.get(world.url("stripe")).json()["credentials"]["secrets"] == ["signing_secret"]
    world.register("stripe")
    sleep(SEEN_S)
    assert not registered()
    world.register("stripe", signing_secret=new_secret())
    eventually(registered)
    world.hub.call("DELETE", "/api/platform-credentials/stripe?scope=installation", expect=204)
    eventually(lambda: not registered())


@pytest.mark.parametrize(
    ("path", "provider"),
    [
        ("/integrations/slack/webhook", "slack"),
        ("/integrations//webhook", ""),
        ("/integrations/slack/more/webhook", ""),
        ("/integrations/slack/webhook/", ""),
        ("/integrations/webhook", ""),
        ("/api/integrations/slack/webhook", ""),
    ],
)
def test_which_paths_are_the_other_address(path: str, provider: str) -> None:
    assert alias_provider(path) == provider


# What may not slow it down


def test_each_caller_has_a_limit_of_his_own() -> None:
    buckets = TokenBuckets(60, max_buckets=2)
    for _ in range(60):
        buckets.of("1.1.1.1").take()
    assert buckets.of("1.1.1.1").wait() > 0
    assert buckets.of("2.2.2.2").wait() == 0
    buckets.of("2.2.2.2").take(100)
    assert buckets.of("2.2.2.2").wait() > 30
    buckets.of("3.3.3.3")
    assert buckets.of("1.1.1.1").wait() == 0, "forgotten: only the last two are known"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("somewhere", ""),
    ],
)
def test_a_caller_is_his_address_or_his_network(address: str, name: str) -> None:
    assert client_address({"type": "http", "client": (address, 1)}) == name
    assert client_address({"type": "http"}) == ""


# The whole way


def test_an_account_that_a_person_connects_gets_its_events(world: World) -> None:
    secret = new_secret()
    world.oauth_hub.register("slack", signing_secret=secret)
    record_secret("an app's secret", secret)
    fake = world.oauth_hub.play("slack")
    current = world.oauth_hub.connect("slack")
    team = fake.accounts[0].place.id
    assert current["account"]["id"] == team
    ready(world, "slack", secret)
    assert world.send("slack", *of_slack(secret, team)).status_code == 200
    assert routes(world.put(1)) == {(world.hub.workspace, current["id"])}
    world.oauth_hub.do(current["id"], "disconnect")
    assert world.send("slack", *of_slack(secret, team)).status_code == 200
    assert world.put(0) == []


def test_what_oauth_has_answered_counts_at_every_gateway(world: World, tmp_path: Path, bus: Bus) -> None:
    """Connected and disconnected: both gateways had asked before, and nothing waits in between."""
    secret = new_secret()
    world.oauth_hub.register("slack", signing_secret=secret)
    record_secret("an app's secret", secret)
    hub = world.hub
    store = Store("own", hub.env["MONGODB_URI"])
    second = Hub(tmp_path / "second", bus, store, services=("gateway",), env=hub.env)
    second.start_service("gateway")
    try:
        second.wait_ready("gateway")
        urls = [f"{each.url('gateway')}/api/webhooks/slack" for each in (hub, second)]
        ready(world, "slack", secret)

        def sent(team: str) -> set[tuple[str, str]]:
            """Where a message to each gateway comes out."""
            for url in urls:
                assert world.send("slack", *of_slack(secret, team), url=url).status_code == 200
            return routes(world.put(2 if connected else 0))

        for _ in range(5):
            team, connected = world.oauth_hub.play("slack").accounts[0].place.id, ""
            assert sent(team) == set()
            connected = world.oauth_hub.connect("slack")["id"]
            assert sent(team) == {(hub.workspace, connected)}
            assert sent(team) == {(hub.workspace, connected)}
            world.oauth_hub.do(connected, "disconnect")
            connected = ""
            assert sent(team) == set()
    finally:
        second.stop()


# Manifests


def test_every_provider_with_such_an_address_can_be_served() -> None:
    results = {
        name for name, item in registry().providers.items() if (it := item.manifest.webhook) and it.app
    }
    assert {"slack", "facebook", "messenger", "instagram", "whatsapp", "zoom"} <= results
    assert all(registry().connectors[name].app in registry().connectors for name in results)


APP = (
    "  setup_steps:\n",
    '  app:\n    secrets: [signing_secret]\n    setup_steps: ["{url}"]\n  setup_steps:\n',
)
"""Gives a manifest an address for its app."""
CHOICE = "    setup_steps:\n      - On", '    choice: "{json:x}"\n    setup_steps:\n      - On'
ANOTHER = (
    "    verify_token:\n      name: Verify token\n      about: For",
    "    other:\n      name: x\n      about: For",
)
UNKNOWN = (
    '{url}. Press Validate."\n      - Add Events, choose',
    '{uri}. Press Validate."\n      - Add Events, choose',
)


@pytest.mark.parametrize(
    ("provider", "change", "fault"),
    [
        ("telegram", APP, ": accounts are connected without an OAuth app"),
        ("asana", APP, ".account: missing: say which account"),
        ("asana", APP, ": a handshake hands over a secret"),
        ("zoom", CHOICE, ".choice: connect has no choices"),
        ("facebook", ANOTHER, ": {setting:verify_token} has no default"),
        ("zoom", UNKNOWN, ".setup_steps: {uri} is not a placeholder"),
        ("zoom", UNKNOWN, ".setup_steps: no step shows the URL"),
    ],
)
def test_the_checker_says_what_an_address_of_an_app_lacks(
    tmp_path: Path, provider: str, change: tuple[str, str], fault: str
) -> None:
    folder = tmp_path / provider
    folder.mkdir()
    for file in ("README.md", "connect.yaml"):
        folder.joinpath(file).write_bytes(PROVIDERS.joinpath(provider, file).read_bytes())
    folder.joinpath("fixtures").symlink_to(PROVIDERS / provider / "fixtures")
    text = PROVIDERS.joinpath(provider, "manifest.yaml").read_text("utf-8")
    assert change[0] in text
    folder.joinpath("manifest.yaml").write_text(text.replace(*change), "utf-8")
    content = [item for item in check(folder) if "webhook.app" in item]
    assert any(f"manifest.yaml: webhook.app{fault}" in item for item in content), content


# Without the store, and without the bus


def test_503_while_the_store_is_away(world: World, slack: str, a: str, pair: EmbeddedPair) -> None:
    team = f"T{token_hex(5)}"
    integration = world.connected(a, "slack", team, app=OF_ALL)
    body, signed = of_slack(slack, team)
    with away(pair.database.child.pid):
        refused(world, body, signed)
        verification = b'{"type":"url_verification","challenge":"x"}'
        assert world.send("slack", verification, signed_by_slack(slack, verification)).text == "x"
    eventually(lambda: world.send("slack", body, signed).status_code == 200)
    assert routes(world.put(1)) == {(a, integration)}


def test_503_while_the_bus_is_away(world: World, slack: str, a: str, bus: Bus) -> None:
    team = f"T{token_hex(5)}"
    integration = world.connected(a, "slack", team, app=OF_ALL)
    body, signed = of_slack(slack, team)
    assert isinstance(bus.broker, EmbeddedServer)
    with away(bus.broker.child.pid):
        refused(world, body, signed)
        refused(world, body, signed)
        # What is for nobody needs no bus.
        assert world.send("slack", *of_slack(slack, f"T{token_hex(5)}")).status_code == 200
    eventually(lambda: world.send("slack", body, signed).status_code == 200)
    results = world.put(1)
    assert routes(results) == {(a, integration)}
    assert len({item.attributes["ce_id"] for item in results}) == 1, "what came twice is one event"


@contextmanager
def away(process: int | None) -> Iterator[None]:
    """It does not answer."""
    assert process
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def refused(world: World, body: bytes, signed: Mapping[str, str]) -> None:
    """Within seconds, and it may come again."""
    started = monotonic()
    answer = world.send("slack", body, signed)
    assert (answer.status_code, monotonic() - started < 5) == (503, True)
    assert answer.headers["retry-after"]
