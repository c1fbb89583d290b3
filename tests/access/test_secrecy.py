"""Expired and revoked keys, separation of workspaces, and secrets that are nowhere in clear."""

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from time import sleep
from typing import Any
from urllib.parse import parse_qs, urlsplit

import bson
import httpx
import pytest
from pymongo import MongoClient

from shared.contracts.routes import service_for_path
from shared.contracts.topics import TOPICS
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import SERVICES, Hub, hub_with
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber
from tests.support.tap import Tap

LISTING = ("gateway", "delivery", "oauth")
"""Those with a route that reads."""
CALLBACK = "/api/auth/oauth/callback"
OPEN = {
    ("get", CALLBACK),
    ("get", "/api/files/{token}"),
    ("get", "/api/files/imported/{token}"),
    ("options", "/api/uploads"),
}
"""Operations without a key. A state or an address lets somebody in; the last one tells limits of tus."""
LISTS = (
    "/api/inbound-endpoints",
    "/api/incoming-webhooks",
    "/api/api-keys",
    "/api/outgoing-webhooks",
    "/api/deliveries",
    "/api/integrations",
    "/api/platform-credentials",
    "/api/audit",
)


hub = hub_with(services=SERVICES, workspace="secrecy")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def routes(hub: Hub, client: httpx.Client) -> list[tuple[str, str]]:
    """Every route that needs a key, with its parameters filled."""
    paths: list[tuple[str, str]] = []
    for service in SERVICES:
        document = client.get(f"{hub.url(service)}/openapi/{service}.json").json()
        for path, operations in document["paths"].items():
            assert service_for_path(path) == service
            concrete = "/".join("x" if part.startswith("{") else part for part in path.split("/"))
            needing = [method for method in operations if (method, path) not in OPEN]
            paths += [(method.upper(), hub.url(service) + concrete) for method in needing]
    assert len(paths) > 20
    return paths


@pytest.fixture(scope="module")
def stranger(hub: Hub) -> str:
    """The admin key of another workspace."""
    return hub.other_workspace()


# Keys


@pytest.fixture(scope="module")
def invalid_keys(hub: Hub) -> dict[str, str]:
    """A key that expired and one that was revoked. Every service accepted both before."""
    soon = datetime.now(UTC) + timedelta(seconds=3)
    expiring = {"name": "expiring", "scopes": ["admin"], "expires_at": soon.isoformat()}
    expired = hub.call("POST", "/api/api-keys", expiring, expect=201)
    revoked = hub.call("POST", "/api/api-keys", {"name": "revoked", "scopes": ["admin"]}, expect=201)
    for created in (expired, revoked):
        for service in LISTING:
            assert hub.knows(service, created["key"])
    hub.call("DELETE", f"/api/api-keys/{revoked['id']}", expect=204)
    assert not any(hub.knows(service, revoked["key"]) for service in LISTING)
    sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()))
    return {"expired": expired["key"], "revoked": revoked["key"]}


def test_no_route_accepts_an_invalid_key(
    hub: Hub, routes: list[tuple[str, str]], invalid_keys: dict[str, str], client: httpx.Client
) -> None:
    """Expired, revoked, misspelt, of another scheme: the response is the same for all."""
    admin = hub.admin_key
    none: list[str | bytes] = [
        *(f"Bearer {key}" for key in invalid_keys.values()),
        f"Bearer {admin[:-1]}",
        f"Bearer {admin}x",
        f"Bearer {admin.swapcase()}",
        f"Bearer {admin},{admin}",
        b"Bearer \xff\xfe",
    ]
    texts: dict[bool, set[str]] = {True: set(), False: set()}
    for method, url in routes:
        for item in none:
            answer = client.request(method, url, headers=[(b"authorization", _raw(item))], json={})
            assert answer.status_code == 401, (method, url, item)
            assert answer.headers["www-authenticate"].startswith("Bearer"), (method, url, item)
            texts[method == "HEAD"].add(answer.text)
    assert len(texts[False]) == 1
    assert texts[True] == {""}  # HTTP gives a response to HEAD no body
    unread: list[str | bytes] = [
        f"Basic {base64.b64encode(admin.encode()).decode()}",
        f"Token {admin}",
        admin,
        "Bearer",
        b"\xff" * 100,
    ]
    for method, url in routes:
        for item in unread:
            answer = client.request(method, url, headers=[(b"authorization", _raw(item))], json={})
            assert answer.status_code == 401, (method, url, item)


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def test_a_key_in_the_url_is_not_accepted(hub: Hub) -> None:
    for name in ("key", "api_key", "access_token", "token", "authorization"):
        answer = httpx.get(hub.url("gateway") + f"/api/api-keys?{name}={hub.admin_key}", timeout=10)
        assert answer.status_code == 401


def test_the_scheme_bearer_is_case_insensitive(hub: Hub) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"authorization": f"{scheme} {hub.admin_key}"}
        assert httpx.get(hub.url("gateway") + "/api/api-keys", headers=headers).status_code == 200


def test_last_use_is_stored(
    hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Within half a minute, and when a service stops. An unused key has none."""
    body = {"name": "x", "scopes": ["admin"]}
    unused, used = (hub.call("POST", "/api/api-keys", body, expect=201) for _ in range(2))
    assert unused["last_used_at"] is used["last_used_at"] is None
    before = datetime.now(UTC) - timedelta(seconds=1)
    with second_process("gateway", hub, tmp_path_factory.mktemp("another"), bus, store) as other:
        assert other.call("GET", "/api/api-keys", key=used["key"])["items"]
        assert other.stop_service("gateway") == 0
    last_used = {
        item["id"]: item["last_used_at"] for item in hub.call("GET", "/api/api-keys?limit=500")["items"]
    }
    assert last_used[unused["id"]] is None
    assert before < datetime.fromisoformat(last_used[used["id"]]) < datetime.now(UTC)


def test_lists_show_the_prefix_of_a_key(hub: Hub) -> None:
    """Enough to recognise the key, too little to use it."""
    created = hub.call("POST", "/api/api-keys", {"name": "x", "scopes": ["events:write"]}, expect=201)
    items = hub.call("GET", "/api/api-keys?limit=500")["items"]
    [shown] = [item for item in items if item["id"] == created["id"]]
    assert shown == {**created, "key": None}
    assert created["key"].startswith(shown["prefix"])
    assert len(shown["prefix"]) <= 12
    assert len(created["key"]) >= 43


def test_a_rejected_call_changes_nothing(hub: Hub) -> None:
    reader = hub.call("POST", "/api/api-keys", {"name": "r", "scopes": ["integrations:read"]})["key"]
    path = f"/api/inbound-endpoints/{hub.github_endpoint()['id']}"
    before = hub.call("GET", path)
    for method, suffix, body in (
        ("PATCH", "", {"enabled": False}),
        ("DELETE", "", None),
        ("POST", "/rotate-secret", {}),
    ):
        assert hub.call(method, path + suffix, body, key=reader, expect=403)["status"] == 403
    assert hub.call("GET", path, key=reader) == before


# Workspaces


def test_an_event_for_another_workspace_is_refused(hub: Hub, stranger: str) -> None:
    event = {"specversion": "1.0", "id": token_hex(8), "type": "a.b", "source": "/t"}
    hub.call("POST", "/api/events", event | {"workspace": hub.workspace}, key=stranger, expect=403)
    hub.call("POST", "/api/events", event | {"workspace": hub.workspace}, expect=202)


def test_events_of_another_workspace_are_not_delivered(hub: Hub, stranger: str) -> None:
    """The events differ only in the workspace."""
    with Subscriber() as subscriber:
        hub.outgoing_webhook(subscriber.url, events=["meeting.*"])
        for key, name in ((stranger, "theirs"), (hub.admin_key, "mine")):
            event = {"specversion": "1.0", "id": name, "type": "meeting.held", "source": "/t", "subject": "s"}
            hub.call("POST", "/api/events", event, key=key, expect=202)
        subscriber.wait_for(1)
        sleep(0.3)
        assert [b'"id":"mine"' in got.body for got in subscriber.got] == [True]


def test_a_key_creates_keys_of_its_own_workspace_only(hub: Hub, stranger: str) -> None:
    body = {"name": "x", "scopes": ["admin"]}
    hub.call("POST", "/api/api-keys", body | {"workspace": hub.workspace}, key=stranger, expect=422)
    created = hub.call("POST", "/api/api-keys", body, key=stranger, expect=201)
    hub.github_endpoint()
    assert hub.call("GET", "/api/inbound-endpoints", key=created["key"])["items"] == []
    assert created["id"] not in {item["id"] for item in hub.call("GET", "/api/api-keys?limit=500")["items"]}


# Secrets


def test_no_secret_is_in_clear_anywhere(hub: Hub, bus: Bus, stranger: str, client: httpx.Client) -> None:
    """One secret of each kind is in no document, log, topic, response or metric."""
    taps = [Tap(bus, topic.name) for topic in TOPICS]
    chosen = f"given-{token_hex(12)}"
    secrets = {"admin key": hub.admin_key, "another workspace's key": stranger, "given secret": chosen}
    endpoint = hub.github_endpoint(secret=chosen)
    secrets["generated secret"] = hub.github_endpoint()["secret"]
    rotate = f"/api/inbound-endpoints/{endpoint['id']}/rotate-secret"
    secrets["rotated secret"] = hub.call("POST", rotate, {})["secret"]
    created = hub.call("POST", "/api/api-keys", {"name": "x", "scopes": ["admin"]}, expect=201)
    secrets["made key"] = created["key"]
    incoming = hub.call("POST", "/api/incoming-webhooks", {"name": "x", "target_channel_id": "c"}, expect=201)
    secrets["token"] = incoming["token"]
    once = {"authorization": f"Bearer {hub.admin_key}", "idempotency-key": f"once-{token_hex(8)}"}
    body: dict[str, Any] = {"provider": "github", "name": "kept"}
    replayed = client.post(hub.url("gateway") + "/api/inbound-endpoints", json=body, headers=once)
    secrets |= {
        "stored response's secret": replayed.json()["secret"],
        "idempotency key": once["idempotency-key"],
    }
    app: dict[str, Any] = {
        "client_id": "x",
        "client_secret": f"client-{token_hex(12)}",
        "signing_secret": f"signing-{token_hex(12)}",
        "settings": {"subscription_key": token_hex(16)},
        "verified": True,
    }
    hub.call("PUT", "/api/platform-credentials/blackbaud", app)
    secrets |= {name: app[name] for name in ("client_secret", "signing_secret")} | app["settings"]
    once["idempotency-key"] = f"once-{token_hex(8)}"
    started = [
        client.post(
            hub.url("oauth") + "/api/auth/oauth/connect", json={"provider": "blackbaud"}, headers=once
        )
        for _ in range(2)
    ]
    assert started[0].headers["set-cookie"] == started[1].headers["set-cookie"], "the same answer again"
    query = parse_qs(urlsplit(started[0].json()["authorization_url"]).query)
    [cookie] = started[0].cookies.values()
    client.cookies.clear()
    secrets |= {"state": query["state"][0], "cookie": cookie}
    other_browser = client.get(
        hub.url("oauth") + CALLBACK, params={"state": secrets["state"], "code": chosen}
    )
    assert other_browser.status_code == 403, "another browser"
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url)
        nchat = hub.outgoing_webhook(subscriber.url, profile="nchat")
        secrets |= {"webhook secret": webhook["secret"], "nchat secret": nchat["secret"]}
        rotate = f"/api/outgoing-webhooks/{webhook['id']}/rotate-secret"
        secrets["rotated webhook secret"] = hub.call("POST", rotate, {})["secret"]
        payload = b'{"zen":"x"}'
        url = hub.url("gateway") + f"/api/webhooks/github/{endpoint['id']}"
        for secret, status in ((chosen, 202), ("wrong", 401)):
            answer = client.post(url, content=payload, headers=signed(secret, "ping", payload))
            assert answer.status_code == status
        for text, statuses in (("x", {200}), (["x"], {400, 422})):
            assert client.post(incoming["url"], json={"text": text}).status_code in statuses
        subscriber.wait_for(4)
    eventually(lambda: len(hub.deliveries(webhook_id=webhook["id"])) >= 2)
    raw = {name: secret.encode() for name, secret in secrets.items()}
    raw["webhook key"] = base64.b64decode(webhook["secret"].removeprefix("whsec_"))

    kinds = set()
    for name, document in _documents(hub):
        kinds.add(name)
        _absent(raw, bson.encode(document), f"a document of {name}")
    assert kinds >= {
        "api_keys",
        "inbound_endpoints",
        "outgoing_webhooks",
        "webhook_deliveries",
        "idempotency_keys",
        "integrations",
        "oauth_states",
        "platform_credentials",
        "audit_entries",
    }
    for service in SERVICES:
        _absent(raw, hub.log_text(service).encode(), f"the log of {service}")
        _absent(raw, client.get(hub.url(service) + "/metrics").content, f"the metrics of {service}")
    records = [record for tap in taps for record in tap.look()]
    assert len(records) >= 6
    for record in records:
        headers = b"\n".join(value or b"" for _, value in record.headers)
        _absent(raw, b"\n".join((record.key or b"", record.value or b"", headers)), "a topic")
    deliveries = [f"/api/deliveries/{item['id']}" for item in hub.deliveries(webhook_id=webhook["id"])]
    shown = (
        f"/api/inbound-endpoints/{endpoint['id']}",
        f"/api/incoming-webhooks/{incoming['id']}",
        f"/api/outgoing-webhooks/{webhook['id']}",
        f"/api/outgoing-webhooks/{nchat['id']}",
        f"/api/integrations/{started[0].json()['integration_id']}",
        "/api/platform-credentials/blackbaud",
    )
    lists = (f"{path}?limit=500" if path != "/api/platform-credentials" else path for path in LISTS)
    for path in (*lists, *shown, *deliveries):
        _absent(raw, repr(hub.call("GET", path)).encode(), path)


def _documents(hub: Hub) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every document of the hub's database, by collection."""
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        database = mongo.get_default_database()
        for name in database.list_collection_names():
            for document in database[name].find():
                yield name, document


def _absent(secrets: Mapping[str, bytes], text: bytes, where: str) -> None:
    for name, secret in secrets.items():
        assert secret not in text, f"the {name} is in {where}"
