"""The gateway's management API: what it promises, and what it says to callers who do not keep to it."""

import contextlib
import gzip
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from secrets import token_hex
from threading import Barrier
from typing import Any, cast

import httpx
import psutil
import pytest
from fastapi.openapi.models import OpenAPI
from pymongo import MongoClient

from shared.contracts.envelope import parse_event
from shared.contracts.topics import TOPICS
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub, hub_with
from tests.support.second_process import second_process
from tests.support.tap import Tap

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
BODY = b'{"zen":"x"}'


hub = hub_with(services=("gateway", "delivery"), workspace="api")


@pytest.fixture(scope="module")
def entrance(hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A second gateway on the same store, which forwards what is delivery's."""
    peers = json.dumps({"delivery": hub.url("delivery")})
    folder = tmp_path_factory.mktemp("entrance")
    with second_process("gateway", hub, folder, bus, store, INTERLINK_PEERS=peers) as other:
        yield other


@pytest.fixture(scope="module")
def client(hub: Hub) -> Iterator[httpx.Client]:
    """Calls the gateway with the admin key."""
    with hub.client("gateway") as client:
        yield client


@pytest.fixture(autouse=True)
def unbroken(hub: Hub) -> Iterator[None]:
    with hub.unbroken("gateway"):
        yield


def _problem(answer: httpx.Response, status: int, *fields: str) -> None:
    """A problem document with this status that names at least these fields."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (
        {"type", "title", "status", "detail"}
        <= body.keys()
        <= {"type", "title", "status", "detail", "errors"}
    )
    assert body["status"] == status
    assert isinstance(body["detail"], str)
    assert body["detail"]
    results = [error["field"] for error in body.get("errors", [])]
    assert all(error.keys() == {"field", "message"} and error["message"] for error in body.get("errors", []))
    for field in fields:
        assert field in results, (field, results)


def _post(client: httpx.Client, path: str, raw: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(path, content=raw, headers={"content-type": "application/json", **named})


# Inbound endpoints


def test_an_endpoints_life(hub: Hub, client: httpx.Client) -> None:
    expected = {
        "provider": "github",
        "name": "Our repositories",
        "channel_id": "general",
        "allow_ips": ["192.0.2.7/24", "2001:db8::1", "127.0.0.1"],
        "rate_limit": 100,
    }
    created = client.post("/api/inbound-endpoints", json=expected)
    assert created.status_code == 201
    registered = created.json()
    assert re.fullmatch(r"ep_[0-9a-f]{32}", registered["id"])
    assert registered["url"] == f"{hub.url('gateway')}/api/webhooks/github/{registered['id']}"
    assert len(registered["secret"]) >= 32
    assert registered["status"] == "active"
    assert registered["allow_ips"] == ["192.0.2.0/24", "2001:db8::1/128", "127.0.0.1/32"]
    assert {registered[name] for name in ("provider", "name", "channel_id")} == {
        "github",
        "Our repositories",
        "general",
    }
    assert registered["rate_limit"] == 100
    assert "github.push" in registered["trigger_types"]
    assert any(registered["url"] in step for step in registered["setup_steps"])
    assert TIME.fullmatch(registered["created_at"])
    assert registered["created_at"] == registered["updated_at"]

    path = f"/api/inbound-endpoints/{registered['id']}"
    current = {**registered, "secret": None}
    assert client.get(path).json() == current
    assert client.get("/api/inbound-endpoints?limit=1").json()["items"] == [current]

    changes: tuple[dict[str, Any], ...] = (
        {"name": "Renamed"},
        {"channel_id": None},
        {"channel_id": "other"},
        {"allow_ips": []},
        {"rate_limit": 1},
        {"name": "Both", "rate_limit": 2},
        {},
    )
    for change in changes:
        changed = client.patch(path, json=change)
        assert changed.status_code == 200
        current = {**current, **change, "updated_at": changed.json()["updated_at"]}
        current["version"] += bool(change)
        assert changed.json() == current
        assert changed.json()["updated_at"] >= registered["updated_at"]
    outdated = client.patch(path, json={"name": "late"}, headers={"If-Match": '"1"'})
    assert (outdated.status_code, f"version {current['version']}" in outdated.text) == (412, True)
    based = {"If-Match": f'"{current["version"]}"'}
    assert client.patch(path, json={"name": "Both"}, headers=based).status_code == 200
    disabled = client.patch(path, json={"enabled": False}).json()
    assert (disabled["status"], disabled["version"]) == ("inactive", current["version"] + 1)
    assert client.get(path).json()["status"] == "inactive"
    assert client.patch(path, json={"name": None, "rate_limit": None}).json()["name"] == "Both"

    rotated = client.post(f"{path}/rotate-secret", json={}).json()
    assert rotated["secret"] not in (None, registered["secret"])
    own = client.post(f"{path}/rotate-secret", json={"secret": "chosen by me", "overlap_hours": 168}).json()
    assert own["secret"] == "chosen by me"
    assert client.get(path).json()["secret"] is None

    assert client.delete(path).status_code == 204
    for method, where, body in (
        ("GET", path, None),
        ("PATCH", path, {"name": "x"}),
        ("DELETE", path, None),
        ("POST", f"{path}/rotate-secret", {}),
    ):
        _problem(client.request(method, where, json=body), 404)
    assert registered["id"] not in client.get("/api/inbound-endpoints?limit=500").text


def test_a_secret_of_ones_own(client: httpx.Client) -> None:
    body = {"provider": "github", "name": "x", "secret": "sécret of my own"}
    registered = client.post("/api/inbound-endpoints", json=body).json()
    assert registered["secret"] == "sécret of my own"
    headers = signed("sécret of my own", "ping", BODY)
    assert (
        client.post(f"/api/webhooks/github/{registered['id']}", content=BODY, headers=headers).status_code
        == 202
    )


def test_an_incoming_webhooks_life(hub: Hub, client: httpx.Client) -> None:
    created = client.post("/api/incoming-webhooks", json={"name": "Deploys", "target_channel_id": "ops"})
    assert created.status_code == 201
    registered = created.json()
    assert registered["url"] == f"{hub.url('gateway')}/api/webhooks/incoming/{registered['token']}"
    assert len(registered["token"]) >= 43
    assert registered["enabled"] is True
    path = f"/api/incoming-webhooks/{registered['id']}"
    current = {**registered, "token": None, "url": None}
    assert client.get(path).json() == current
    assert client.get("/api/incoming-webhooks?limit=1").json()["items"] == [current]
    answer = client.post(registered["url"], json={"text": "done"})
    assert answer.status_code == 200
    assert answer.json()["success"] is True
    assert answer.json()["channel_id"] == "ops"
    assert TIME.fullmatch(answer.json()["timestamp"])
    changed = client.patch(path, json={"name": "x", "target_channel_id": "general", "rate_limit": 7}).json()
    assert (changed["name"], changed["target_channel_id"], changed["rate_limit"]) == ("x", "general", 7)
    assert client.post(registered["url"], json={"text": "done"}).json()["channel_id"] == "general"
    client.patch(path, json={"enabled": False})
    _problem(client.post(registered["url"], json={"text": "done"}), 410)
    assert client.patch(path, json={"enabled": None, "target_channel_id": None}).json()["enabled"] is False
    assert client.delete(path).status_code == 204
    _problem(client.get(path), 404)
    _problem(client.delete(path), 404)
    _problem(client.post(registered["url"], json={"text": "done"}), 404)


def test_endpoints_and_incoming_webhooks_are_not_each_other(hub: Hub, client: httpx.Client) -> None:
    endpoint = hub.github_endpoint()["id"]
    body = {"name": "x", "target_channel_id": "c"}
    incoming = client.post("/api/incoming-webhooks", json=body).json()["id"]
    for path in (f"/api/incoming-webhooks/{endpoint}", f"/api/inbound-endpoints/{incoming}"):
        _problem(client.get(path), 404)
        _problem(client.patch(path, json={"name": "y"}), 404)
        _problem(client.delete(path), 404)
    _problem(client.post(f"/api/inbound-endpoints/{incoming}/rotate-secret", json={}), 404)
    assert incoming not in client.get("/api/inbound-endpoints?limit=500").text
    assert endpoint not in client.get("/api/incoming-webhooks?limit=500").text


def test_an_api_keys_life(client: httpx.Client) -> None:
    later = "2999-01-01T00:00:00+02:00"
    body = {"name": "CI", "scopes": ["webhooks:read", "events:write", "events:write"], "expires_at": later}
    created = client.post("/api/api-keys", json=body)
    assert created.status_code == 201
    registered = created.json()
    assert re.fullmatch(r"ilk_[A-Za-z0-9_-]{43}", registered["key"])
    assert registered["scopes"] == ["events:write", "webhooks:read"]
    assert registered["expires_at"] == "2998-12-31T22:00:00.000Z"
    assert client.get("/api/api-keys?limit=1").json()["items"] == [{**registered, "key": None}]
    assert client.delete(f"/api/api-keys/{registered['id']}").status_code == 204
    _problem(client.delete(f"/api/api-keys/{registered['id']}"), 404)
    assert registered["id"] not in client.get("/api/api-keys?limit=500").text


# Bodies that are not as they should be

ENDPOINT = {"provider": "github", "name": "x"}
INCOMING = {"name": "x", "target_channel_id": "c"}
KEY = {"name": "x", "scopes": ["admin"]}
FAULTS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    *(("/api/inbound-endpoints", ENDPOINT, change, next(iter(change))) for change in (
        {"provider": None},
        {"provider": "nobody"},
        {"provider": ""},
        {"provider": 1},
        {"provider": "github\0"},
        {"provider": ["github"]},
        {"name": ""},
        {"name": None},
        {"name": "x" * 201},
        {"name": {"$gt": ""}},
        {"secret": "short"},
        {"secret": "x" * 501},
        {"secret": 12345678},
        {"channel_id": ""},
        {"channel_id": "x" * 201},
        {"channel_id": 1},
        {"rate_limit": 0},
        {"rate_limit": -1},
        {"rate_limit": 100_000_001},
        {"rate_limit": 1.5},
        {"rate_limit": "many"},
        {"rate_limit": 10**400},
        {"allow_ips": "127.0.0.1"},
        {"allow_ips": ["192.0.2.1"] * 101},
        {"unknown": 1},
        {"_id": "ep_mine"},
        {"workspace": "other"},
        {"enabled": False},
    )),
    *(("/api/inbound-endpoints", ENDPOINT, {"allow_ips": ["192.0.2.1", cidr]}, "allow_ips.1") for cidr in (
        "", "x", "192.0.2.0/33", "192.0.2.1/-1", "192.0.2", "::/129", "192.0.2.1 ", "0x7f.0.0.1", "\0", 1,
    )),
    *(("/api/incoming-webhooks", INCOMING, change, next(iter(change))) for change in (
        {"name": 1},
        {"target_channel_id": None},
        {"target_channel_id": ""},
        {"target_channel_id": "x" * 201},
        {"enabled": "perhaps"},
        {"enabled": 2},
        {"rate_limit": 0},
        {"token": "mine"},
    )),
    *(("/api/api-keys", KEY, change, field) for change, field in (
        ({"scopes": []}, "scopes"),
        ({"scopes": None}, "scopes"),
        ({"scopes": "admin"}, "scopes"),
        ({"scopes": ["root"]}, "scopes.0"),
        ({"scopes": ["admin", "Admin"]}, "scopes.1"),
        ({"scopes": [["admin"]]}, "scopes.0"),
        ({"name": ""}, "name"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": ""}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
        ({"key": "ilk_mine"}, "key"),
    )),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "good", "change", "field"), FAULTS, ids=[f"{p} {str(c)[:40]!r}" for p, _, c, _ in FAULTS]
)
def test_a_field_that_is_not_acceptable(
    client: httpx.Client, path: str, good: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    _problem(client.post(path, json={**good, **change}), 422, field)


@pytest.mark.parametrize(
    ("path", "good"), [("inbound-endpoints", ENDPOINT), ("incoming-webhooks", INCOMING), ("api-keys", KEY)]
)
def test_a_field_that_is_missing(client: httpx.Client, path: str, good: dict[str, Any]) -> None:
    for name in good:
        body = {other: value for other, value in good.items() if other != name}
        _problem(client.post(f"/api/{path}", json=body), 422, name)


def test_changes_are_held_to_the_same(hub: Hub, client: httpx.Client) -> None:
    path = f"/api/inbound-endpoints/{hub.github_endpoint()['id']}"
    before = client.get(path).json()
    for change, field in (
        ({"name": ""}, "name"),
        ({"provider": "github"}, "provider"),
        ({"secret": "x" * 20}, "secret"),
        ({"rate_limit": 0}, "rate_limit"),
        ({"allow_ips": ["x"]}, "allow_ips.0"),
        ({"workspace": "x"}, "workspace"),
        ({"name": "good", "enabled": "no way"}, "enabled"),
    ):
        _problem(client.patch(path, json=change), 422, field)
    for body in (
        {"overlap_hours": -1},
        {"overlap_hours": 169},
        {"overlap_hours": 0.5},
        {"overlap_hours": None},
    ):
        _problem(client.post(f"{path}/rotate-secret", json=body), 422, "overlap_hours")
    _problem(client.post(f"{path}/rotate-secret", json={"secret": "short"}), 422, "secret")
    assert client.get(path).json() == before


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"provider=github",
    "half": b'{"provider":"github",',
    "not UTF-8": b'{"provider":"github","name":"\xff"}',
    "a list": b'[{"provider":"github","name":"x"}]',
    "a string": b'"x"',
    "null": b"null",
    "a number": b"1",
    "NaN": b'{"provider":"github","name":"x","rate_limit":NaN}',
    "infinity": b'{"provider":"github","name":"x","rate_limit":1e999}',
    "minus infinity": b'{"provider":"github","name":"x","rate_limit":-Infinity}',
    "a number of 5000 digits": b'{"provider":"github","name":"x","rate_limit":' + b"9" * 5000 + b"}",
    "half of a pair in a value": b'{"provider":"github","name":"\\ud800"}',
    "half of a pair in a key": b'{"provider":"github","name":"x","\\udfff":1}',
    "half of a pair in a list": b'{"provider":"github","name":"x","allow_ips":["\\ud800"]}',
    "10,000 levels": b'{"provider":"github","name":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "500 levels": b'{"provider":"github","name":' + b"[" * 500 + b"]" * 500 + b"}",
    "a key of a megabyte": b'{"provider":"github","name":"x","' + b"a" * 2**20 + b'":1}',
    "a value of a megabyte": b'{"provider":"github","name":"' + b"a" * 2**20 + b'"}',
    "20,000 unknown fields": b"{" + b",".join(b'"f%d":1' % n for n in range(20_000)) + b"}",
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("path", ["/api/inbound-endpoints", "/api/incoming-webhooks", "/api/api-keys"])
def test_a_hostile_body(client: httpx.Client, path: str, what: str) -> None:
    """Refused as a problem, in few words, and nothing is made of it."""
    before = client.get(f"{path}?limit=1").json()
    answer = _post(client, path, HOSTILE[what])
    assert answer.status_code in (400, 422), answer.text
    _problem(answer, answer.status_code)
    assert len(answer.content) < 20_000
    assert client.get(f"{path}?limit=1").json() == before


def test_text_of_any_kind_is_stored_unchanged(client: httpx.Client) -> None:
    name = 'NUL \0, \u202e turned, 😀, \u0007, \ufffe, <script>, "quotes", {{ x }}, $ne, ünï'
    registered = client.post(
        "/api/inbound-endpoints", json={**ENDPOINT, "name": name, "channel_id": name}
    ).json()
    current = client.get(f"/api/inbound-endpoints/{registered['id']}").json()
    assert current["name"] == current["channel_id"] == name


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", ""]
)
def test_another_content_type(client: httpx.Client, media: str) -> None:
    """JSON under another name is not taken for JSON: a form of a foreign page cannot make things."""
    answer = _post(client, "/api/inbound-endpoints", json.dumps(ENDPOINT).encode(), content_type=media)
    assert answer.status_code in (415, 422), answer.text
    _problem(answer, answer.status_code)


def test_a_body_that_is_too_large_is_refused_without_a_key(hub: Hub) -> None:
    """Whoever it is: the gateway does not hold more than it will take."""
    process = psutil.Process(hub.pid("gateway"))
    before = process.memory_info().rss

    def endless() -> Iterator[bytes]:
        yield b'{"name":"'
        for _ in range(64):
            yield b"x" * 2**20

    url = hub.url("gateway") + "/api/inbound-endpoints"
    try:
        answer = httpx.post(url, content=endless(), headers={"content-type": "application/json"}, timeout=30)
        _problem(answer, 413)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # it hung up on us, which is as good
    assert process.memory_info().rss - before < 32 * 2**20


PATHS = (
    "%00",
    "%ff%fe",
    "ep_%0a",
    "..%2f..%2fetc",
    "$ne",
    '{"$ne":1}',
    "ep_" + "a" * 5000,
    "%F0%9F%98%80",
    "%ed%a0%80",
    " ",
    "*",
)


@pytest.mark.parametrize("name", PATHS)
def test_an_id_that_is_none(client: httpx.Client, name: str) -> None:
    status = 400 if "%2f" in name else 404
    for kind in ("inbound-endpoints", "incoming-webhooks"):
        _problem(client.get(f"/api/{kind}/{name}"), status)
        _problem(client.patch(f"/api/{kind}/{name}", json={"name": "x"}), status)
        _problem(client.delete(f"/api/{kind}/{name}"), status)
    _problem(client.delete(f"/api/api-keys/{name}"), status)


def test_what_is_no_route(client: httpx.Client) -> None:
    for path in ("/api", "/api/", "/api/nothing", "/", "/api/inbound-endpoints/a/b", "/favicon.ico", "/docs"):
        _problem(client.get(path), 404)
    for method, path in (
        ("PUT", "/api/inbound-endpoints"),
        ("DELETE", "/api/api-keys"),
        ("GET", "/api/events"),
    ):
        answer = client.request(method, path)
        _problem(answer, 405)
        assert answer.headers["allow"]


# Lists


@pytest.fixture(scope="module")
def many(hub: Hub) -> tuple[str, list[str]]:
    """A workspace with 120 endpoints and their ids, some made in the same millisecond."""
    key = hub.other_workspace()
    with hub.client("gateway", key) as client:
        eventually(lambda: client.get("/api/inbound-endpoints").status_code == 200)
        with ThreadPoolExecutor(8) as pool:
            registered = list(
                pool.map(
                    lambda number: client.post(
                        "/api/inbound-endpoints", json={**ENDPOINT, "name": f"number {number}"}
                    ).json(),
                    range(120),
                )
            )
    registered.sort(key=lambda item: (item["created_at"], item["id"]), reverse=True)
    return key, [item["id"] for item in registered]


@pytest.mark.parametrize("limit", [1, 7, 50, 119, 120, 121, 500])
def test_a_list_is_walked_page_by_page(hub: Hub, many: tuple[str, list[str]], limit: int) -> None:
    """Each once, newest first, whatever the pages' size; the last page says that it is the last."""
    key, ids = many
    if limit == 1:
        ids = ids[:10]
    results: list[str] = []
    params: dict[str, Any] = {"limit": limit}
    while len(results) < len(ids):
        page = hub.call("GET", "/api/inbound-endpoints", key=key, params=params)
        assert page.keys() == {"items", "next_cursor"}
        assert 0 < len(page["items"]) <= limit
        results += [item["id"] for item in page["items"]]
        params["cursor"] = page["next_cursor"]
    assert results == ids
    if limit != 1:
        assert params["cursor"] is None


def test_a_page_has_fifty_items_by_default(hub: Hub, many: tuple[str, list[str]]) -> None:
    key, ids = many
    page = hub.call("GET", "/api/inbound-endpoints", key=key)
    assert [item["id"] for item in page["items"]] == ids[:50]
    assert page["next_cursor"]


def test_what_is_new_does_not_shift_the_pages(hub: Hub, many: tuple[str, list[str]]) -> None:
    key, ids = many
    page = hub.call("GET", "/api/inbound-endpoints?limit=50", key=key)
    new = hub.call("POST", "/api/inbound-endpoints", ENDPOINT, key=key)["id"]
    params = {"limit": 50, "cursor": page["next_cursor"]}
    rest = hub.call("GET", "/api/inbound-endpoints", key=key, params=params)
    assert [item["id"] for item in rest["items"]] == ids[50:100]
    hub.call("DELETE", f"/api/inbound-endpoints/{new}", key=key, expect=204)


@pytest.mark.parametrize("limit", ["0", "-1", "501", "abc", "", "1.5", "1e2", "9" * 30, "%00", "null"])
def test_a_limit_that_is_none(client: httpx.Client, limit: str) -> None:
    for path in ("inbound-endpoints", "incoming-webhooks", "api-keys"):
        _problem(client.get(f"/api/{path}?limit={limit}"), 422, "query.limit")


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "garbage!!",
        "%00",
        "%ff",
        "é",
        "bnVsbA==",  # null
        "W10=",  # []
        "WzFd",  # [1]
        "WyJhIiwiYiJd",  # ["a","b"]
        "W251bGwsImIiXQ==",  # [null,"b"]
        "WzFlMzAwLCJiIl0=",  # [1e300,"b"]
        "Wy0xZTE4LCJiIl0=",  # [-1e18,"b"]
        "WzEsImEiLDNd",  # [1,"a",3]
        "eyIkZ3QiOjF9",  # {"$gt":1}
        "WzEsImEi",
        "a" * 200,
    ],
)
def test_a_cursor_that_is_none(client: httpx.Client, cursor: str) -> None:
    for path in ("inbound-endpoints", "incoming-webhooks", "api-keys"):
        _problem(client.get(f"/api/{path}?cursor={cursor}"), 400)


def test_a_cursor_that_is_too_long(client: httpx.Client) -> None:
    _problem(client.get(f"/api/api-keys?cursor={'a' * 201}"), 422, "query.cursor")


# Idempotency keys


def _once(client: httpx.Client, path: str, body: Any, key: str, method: str = "POST") -> httpx.Response:
    return client.request(method, path, json=body, headers={"idempotency-key": key})


@pytest.mark.parametrize(
    ("path", "body", "secret"),
    [
        ("/api/inbound-endpoints", ENDPOINT, "secret"),
        ("/api/incoming-webhooks", INCOMING, "token"),
        ("/api/api-keys", KEY, "key"),
    ],
)
def test_the_same_call_gets_the_same_answer(
    client: httpx.Client, path: str, body: dict[str, Any], secret: str
) -> None:
    """With the secret that is shown only once: that is what the caller lost."""
    key = token_hex(8)
    name = f"once-{key}"
    answers = [_once(client, path, {**body, "name": name}, key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert answers[0].json()[secret]
    assert {answer.text for answer in answers} == {answers[0].text}
    assert {answer.headers["content-type"] for answer in answers} == {"application/json"}
    items = client.get(f"{path}?limit=500").json()["items"]
    assert sum(item["name"] == name for item in items) == 1


def test_the_key_for_another_call_is_refused(hub: Hub, client: httpx.Client) -> None:
    key, other = token_hex(8), hub.github_endpoint()["id"]
    registered = _once(client, "/api/inbound-endpoints", ENDPOINT, key)
    assert registered.status_code == 201
    for method, path, body in (
        ("POST", "/api/inbound-endpoints", {**ENDPOINT, "name": "y"}),
        ("POST", "/api/incoming-webhooks", ENDPOINT),
        ("PATCH", f"/api/inbound-endpoints/{other}", ENDPOINT),
        ("DELETE", f"/api/inbound-endpoints/{other}", None),
    ):
        _problem(_once(client, path, body, key, method), 422)
    assert client.get(f"/api/inbound-endpoints/{other}").status_code == 200
    assert _once(client, "/api/inbound-endpoints", ENDPOINT, key).text == registered.text


def test_changes_and_removals_too(hub: Hub, client: httpx.Client) -> None:
    path, key = f"/api/inbound-endpoints/{hub.github_endpoint()['id']}", token_hex(8)
    rotations = [_once(client, f"{path}/rotate-secret", {}, key) for _ in range(2)]
    assert rotations[0].json()["secret"]
    assert rotations[0].text == rotations[1].text
    removals = [_once(client, path, None, f"{key}-2", "DELETE") for _ in range(2)]
    assert [answer.status_code for answer in removals] == [204, 204]
    assert removals[1].content == b""
    _problem(client.delete(path), 404)


def test_a_refusal_leaves_the_key_for_the_call_that_succeeds(client: httpx.Client) -> None:
    key, name = token_hex(8), f"order.t{token_hex(4)}"
    path, created = "/api/event-types", {"name": name, "about": "x"}
    _problem(_once(client, path, {"name": name}, key), 422, "about")
    assert client.post(path, json=created).status_code == 201
    _problem(_once(client, path, created, key), 409)
    assert client.delete(f"{path}/{name}").status_code == 204
    answers = [_once(client, path, created, key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].text == answers[1].text


def test_twenty_of_the_same_at_once_make_one(hub: Hub, client: httpx.Client) -> None:
    key, ready = token_hex(8), Barrier(20)
    body = {**ENDPOINT, "name": f"once-{key}"}

    def call(_: int) -> httpx.Response:
        ready.wait(60)
        return _once(client, "/api/inbound-endpoints", body, key)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(call, range(20)))
    registered = {answer.text for answer in answers if answer.status_code == 201}
    assert len(registered) == 1
    for answer in answers:
        if answer.status_code != 201:
            _problem(answer, 409)
            assert answer.headers["retry-after"]
    assert {_once(client, "/api/inbound-endpoints", body, key).text} == registered
    items = client.get("/api/inbound-endpoints?limit=500").json()["items"]
    assert sum(item["name"] == body["name"] for item in items) == 1


def test_another_workspaces_same_key_is_another(
    hub: Hub, client: httpx.Client, many: tuple[str, list[str]]
) -> None:
    key = token_hex(8)
    mine = _once(client, "/api/inbound-endpoints", ENDPOINT, key)
    headers = {"authorization": f"Bearer {many[0]}", "idempotency-key": key}
    url = hub.url("gateway") + "/api/inbound-endpoints"
    theirs = httpx.post(url, json=ENDPOINT, headers=headers)
    assert mine.status_code == theirs.status_code == 201
    assert mine.json()["id"] != theirs.json()["id"]
    assert httpx.post(url, json={**ENDPOINT, "name": "z"}, headers=headers).status_code == 422
    httpx.delete(f"{url}/{theirs.json()['id']}", headers={"authorization": f"Bearer {many[0]}"})


@pytest.mark.parametrize("key", [b"", b"a" * 256])
def test_an_idempotency_key_that_is_none(client: httpx.Client, key: bytes) -> None:
    answer = client.post("/api/inbound-endpoints", json=ENDPOINT, headers={b"idempotency-key": key})
    _problem(answer, 400)


def test_an_idempotency_key_of_any_bytes(client: httpx.Client) -> None:
    """Two keys that differ in a byte are two keys, also where that byte is no ASCII."""
    keys = (b"caf\xe9", b"caf\xe8", b"a" * 255, b"a" * 254 + b"b")
    ids = {
        client.post("/api/inbound-endpoints", json=ENDPOINT, headers={b"idempotency-key": key}).json()["id"]
        for key in keys
    }
    assert len(ids) == 4


def test_without_a_valid_api_key_it_means_nothing(hub: Hub) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}):
        url = hub.url("gateway") + "/api/inbound-endpoints"
        _problem(httpx.post(url, json=ENDPOINT, headers={**headers, "idempotency-key": "x"}), 401)


# Events


def _event(**fields: Any) -> dict[str, Any]:
    named = {"specversion": "1.0", "id": token_hex(8), "type": "note.written", "source": "/chat"}
    return {**named, "data": {"a": 1}, **fields}


def test_events_are_on_the_topic_when_they_are_accepted(client: httpx.Client, hub: Hub, bus: Bus) -> None:
    tap = Tap(bus, "chat.events")
    trace = token_hex(16)
    event = _event(
        subject="general",
        time="2026-01-02T03:04:05+02:00",
        traceparent=f"00-{trace}-{token_hex(8)}-01",
        data={"text": "ünï 😀", "n": 1.5, "deep": [[[]]], "none": None},
    )
    answer = client.post("/api/events", json=event)
    assert answer.status_code == 202
    assert answer.json() == {"accepted": [event["id"]]}
    [stored] = [stored for stored in tap.look() if stored.attributes["ce_id"] == event["id"]]
    assert stored.key == b"general"
    assert stored.data == event["data"]
    results = parse_event(stored.headers, stored.value)
    assert (results.type, results.source, results.subject) == ("note.written", "/chat", "general")
    assert results.workspace == hub.workspace
    assert results.time == "2026-01-02T01:04:05.000Z"
    assert results.trace_id == trace


def test_a_batch_keeps_its_order(client: httpx.Client, bus: Bus) -> None:
    tap = Tap(bus, "chat.events")
    batch = [_event(subject=f"{token_hex(2)}", data={"n": n}) for n in range(500)]
    for position, event in enumerate(batch):
        event["subject"] = f"channel-{position % 3}"
    answer = client.post("/api/events", json=batch)
    assert answer.status_code == 202
    assert answer.json()["accepted"] == [event["id"] for event in batch]
    ids = {event["id"] for event in batch}
    by_channel: dict[bytes, list[int]] = {}
    for stored in tap.look():
        if stored.attributes["ce_id"] in ids:
            by_channel.setdefault(stored.key or b"", []).append(stored.data["n"])
    assert sorted(by_channel) == [b"channel-0", b"channel-1", b"channel-2"]
    for numbers in by_channel.values():
        assert numbers == sorted(numbers)
    assert sum(map(len, by_channel.values())) == 500


@pytest.mark.parametrize("media", ["application/cloudevents+json", "application/cloudevents-batch+json"])
def test_cloudevents_media_types_and_gzip(client: httpx.Client, media: str) -> None:
    body = [_event()] if "batch" in media else _event()
    raw = json.dumps(body).encode()
    assert _post(client, "/api/events", raw, content_type=f"{media}; charset=UTF-8").status_code == 202
    packed = _post(client, "/api/events", gzip.compress(raw), content_type=media, content_encoding="gzip")
    assert packed.status_code == 202


def test_a_repeat_with_an_idempotency_key_publishes_nothing(client: httpx.Client, bus: Bus) -> None:
    tap = Tap(bus, "chat.events")
    event, key = _event(), f"order-{token_hex(8)}"
    headers = {"idempotency-key": key}
    first = client.post("/api/events", json=event, headers=headers)
    again = client.post("/api/events", json=event, headers=headers)
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert first.json() == {"accepted": [event["id"]]}
    _problem(client.post("/api/events", json=_event(), headers=headers), 422)
    assert len([stored for stored in tap.look() if stored.attributes["ce_id"] == event["id"]]) == 1


def test_publishing_has_no_parameters(client: httpx.Client) -> None:
    _problem(client.post("/api/events?dry_run=1", json=_event()), 422, "query.dry_run")


EVENT_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"specversion": "0.3"}, "0.specversion"),
    ({"specversion": 1.0}, "0.specversion"),
    ({"id": ""}, "0.id"),
    ({"id": None}, "0.id"),
    ({"id": 1}, "0.id"),
    ({"id": "x" * 201}, "0.id"),
    ({"type": ""}, "0.type"),
    ({"type": "Message.Created"}, "0.type"),
    ({"type": "message created"}, "0.type"),
    ({"type": "message.created\n"}, "0.type"),
    ({"type": "message..created"}, "0.type"),
    ({"type": "*"}, "0.type"),
    ({"type": "a" * 201}, "0.type"),
    ({"type": "github.push"}, "0.type"),
    ({"source": ""}, "0.source"),
    ({"source": "x" * 501}, "0.source"),
    ({"subject": "x" * 501}, "0.subject"),
    ({"subject": 1}, "0.subject"),
    ({"subject": None}, "0.subject"),
    ({"time": "yesterday"}, "0.time"),
    ({"time": "2026-13-01T00:00:00Z"}, "0.time"),
    ({"time": "0001-01-01T00:00:00+14:00"}, "0.time"),
    ({"time": "9999-12-31T23:59:59-14:00"}, "0.time"),
    ({"traceparent": 1}, "0.traceparent"),
    ({"workspace": 1}, "0.workspace"),
]


@pytest.mark.parametrize(
    ("change", "field"), EVENT_FAULTS, ids=[str(change)[:50] for change, _ in EVENT_FAULTS]
)
def test_an_event_that_is_not_acceptable(client: httpx.Client, change: dict[str, Any], field: str) -> None:
    _problem(client.post("/api/events", json=_event(**change)), 422, field)


def test_one_bad_event_spoils_the_batch(client: httpx.Client, bus: Bus) -> None:
    """All or nothing, and every fault with its place."""
    tap = Tap(bus, "chat.events")
    batch = [_event(), _event(id=""), _event(), _event(type="x y", source="")]
    _problem(client.post("/api/events", json=batch), 422, "1.id", "3.type", "3.source")
    # Written out, 1e15 has 18 bytes: this event fits into the body, and not into Kafka.
    items = b",".join([b"1e15"] * 460_000)
    large = json.dumps(_event(data=["@"])).encode().replace(b'"@"', items)
    small = [_event() for _ in range(3)]
    raw = b"[%s, %s]" % (json.dumps(small)[1:-1].encode(), large)
    _problem(_post(client, "/api/events", raw), 422, "3.data")
    published = {stored.attributes["ce_id"] for stored in tap.look()}
    assert not {event["id"] for event in batch + small} & published


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"null", 422),
        (b"1", 422),
        (b"[1]", 422),
        (b"[[]]", 422),
        (b"{}", 422),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"id":"\\ud800"}', 400),
        (b"[" * 10_000 + b"]" * 10_000, 400),
        (json.dumps([_event() for _ in range(501)]).encode(), 413),
    ],
)
def test_events_that_are_none(client: httpx.Client, raw: bytes, status: int) -> None:
    _problem(_post(client, "/api/events", raw), status)


def test_other_forms_of_events(client: httpx.Client) -> None:
    raw = json.dumps(_event()).encode()
    for media in ("text/plain", "application/xml", "application/x-www-form-urlencoded"):
        _problem(_post(client, "/api/events", raw, content_type=media), 415)
    _problem(_post(client, "/api/events", raw, content_encoding="br"), 415)
    _problem(_post(client, "/api/events", raw, content_encoding="gzip"), 400)
    _problem(_post(client, "/api/events", gzip.compress(bytes(2**23)), content_encoding="gzip"), 413)


AWKWARD: list[dict[str, Any]] = [
    {"data": None},
    {"data": "text"},
    {"data": json.loads("[" * 200 + "]" * 200)},
    {"data": json.loads("[" * 900 + "]" * 900)},
    {"data": {"n": 2**63}},
    {"data": {"n": 2**64}},
    {"data": {"n": -(2**64)}},
    {"data": {"\0": "\0"}},
    {"id": "😀" * 200},
    {"source": "😀" * 400},
    {"subject": "😀" * 400},
    {"subject": "a\r\nb\0c"},
    {"id": "a\r\nb"},
    {"time": 0},
    {"time": "2026-01-02"},
    {"traceparent": "x" * 5000},
    {"traceparent": "\r\nx: y"},
    {"extension": {"any": "thing"}},
]


@pytest.mark.parametrize("change", AWKWARD, ids=[str(change)[:50] for change in AWKWARD])
def test_an_accepted_event_can_be_read_by_everybody(
    client: httpx.Client, bus: Bus, change: dict[str, Any]
) -> None:
    """Refused with its field, or on the topic in a form that no consumer dead-letters."""
    tap = Tap(bus, "chat.events")
    event = _event(**change)
    answer = client.post("/api/events", json=event)
    if answer.status_code != 202:
        assert answer.status_code == 422
        _problem(answer, 422, f"0.{next(iter(change))}")
        return
    [stored] = [stored for stored in tap.look() if (b"ce_id", event["id"].encode()) in _raw(stored.headers)]
    results = parse_event(stored.headers, stored.value)
    assert results.id == event["id"]
    if "n" not in str(event["data"]):  # a number beyond 64 bits is rounded, as everywhere in JSON
        assert json.loads(results.data) == event["data"]


def _raw(headers: Any) -> list[tuple[bytes, bytes | None]]:
    return [(name.encode(), value) for name, value in headers]


# What one process does, the others know


def _deliver(hub: Hub, endpoint: dict[str, Any], secret: str | None = None) -> int:
    headers = signed(secret or endpoint["secret"], "ping", BODY)
    url = hub.url("gateway") + f"/api/webhooks/github/{endpoint['id']}"
    return httpx.post(url, content=BODY, headers=headers, timeout=10).status_code


def test_a_change_is_known_to_another_gateway_at_once(hub: Hub, entrance: Hub) -> None:
    registered = hub.github_endpoint()
    assert _deliver(entrance, registered) == 202
    path = f"/api/inbound-endpoints/{registered['id']}"
    hub.call("PATCH", path, {"enabled": False})
    assert _deliver(entrance, registered) == 410
    entrance.call("PATCH", path, {"enabled": True})
    assert _deliver(hub, registered) == 202
    rotated = hub.call("POST", f"{path}/rotate-secret", {"overlap_hours": 0})
    assert _deliver(entrance, rotated) == 202
    assert _deliver(entrance, registered) == 401
    hub.call("DELETE", path, expect=204)
    assert _deliver(entrance, rotated) == 404


def test_a_token_is_known_to_another_gateway_at_once(hub: Hub, entrance: Hub) -> None:
    registered = hub.call("POST", "/api/incoming-webhooks", INCOMING)
    url = entrance.url("gateway") + f"/api/webhooks/incoming/{registered['token']}"
    assert httpx.post(url, json={"text": "x"}).status_code == 200
    hub.call("DELETE", f"/api/incoming-webhooks/{registered['id']}", expect=204)
    assert httpx.post(url, json={"text": "x"}).status_code == 404


def test_two_changes_in_the_same_millisecond_are_two(hub: Hub, entrance: Hub) -> None:
    """The second one bears the time of the first, and nobody records it: it must not be taken for known."""
    registered = hub.github_endpoint()
    assert _deliver(entrance, registered) == 202
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        collection = mongo.get_default_database()["inbound_endpoints"]
        collection.update_one({"_id": registered["id"]}, {"$set": {"enabled": False}})
    eventually(lambda: _deliver(entrance, registered) == 410)


def test_a_document_that_cannot_be_read_blinds_nobody(hub: Hub, entrance: Hub) -> None:
    """Somebody's repair by hand, or another version's document: it is skipped, the others are followed."""
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        collection = mongo.get_default_database()["inbound_endpoints"]
        good = collection.find_one({"provider": "github"})
        assert good
        bad: tuple[dict[str, Any], ...] = (
            {"secrets": [{"sealed": {"k": "x"}}]},
            {"secrets": None},
            {"rate_limit": "x"},
            {"allow_ips": ["x"]},
        )
        for position, change in enumerate(bad):
            now = datetime.now(UTC)
            collection.insert_one({**good, "_id": f"ep_bad{position}", **change, "changed_at": now})
        collection.insert_one({"_id": "ep_empty", "changed_at": datetime.now(UTC)})
    registered = hub.github_endpoint()
    assert _deliver(entrance, registered) == 202
    eventually(lambda: "ep_empty" in entrance.log_text("gateway"))
    entrance.stop_service("gateway")
    entrance.start_service("gateway")
    entrance.wait_ready("gateway")
    assert _deliver(entrance, registered) == 202
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        collection = mongo.get_default_database()["inbound_endpoints"]
        collection.delete_many({"_id": {"$regex": "^ep_(bad|empty)"}})


# Documents


def test_asyncapi_names_every_topic(hub: Hub) -> None:
    document = httpx.get(hub.url("gateway") + "/api/asyncapi.json").json()
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["title"]
    assert document["info"]["version"]
    assert {item["address"] for item in document["channels"].values()} == {topic.name for topic in TOPICS}
    for topic in TOPICS:
        [(name, channel)] = [
            pair for pair in document["channels"].items() if pair[1]["address"] == topic.name
        ]
        assert topic.about in channel["description"]
        assert topic.key in channel["description"]
        assert channel["bindings"]["kafka"] == {"topic": topic.name, "partitions": topic.partitions}
        for message in channel["messages"].values():
            headers = _resolve(document, message["headers"])
            assert {"ce_id", "ce_type", "ce_source", "workspace"} <= set(headers["required"])
            assert ("payload" in message) is (topic.payload is not None or bool(topic.types))
        uses = [
            item for item in document["operations"].values() if item["channel"]["$ref"].endswith(f"/{name}")
        ]
        assert sum(item["action"] == "send" for item in uses) == len(topic.producers)
        assert sum(item["action"] == "receive" for item in uses) == len(topic.consumers)
    for name in (*document["channels"], *document["operations"], *document["components"]["schemas"]):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
    _all_resolve(document)


def _resolve(document: Any, schema: Any) -> Any:
    """The schema without references, as deep as they go."""
    if isinstance(schema, list):
        return [_resolve(document, item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        results = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            results = results[part.replace("~1", "/").replace("~0", "~")]
        return _resolve(document, results)
    return {name: _resolve(document, item) for name, item in schema.items()}


def _all_resolve(document: Any) -> None:
    _resolve(document, {name: item for name, item in document.items() if name != "components"})
    _resolve(document, document.get("components", {}))


STRANGERS = {
    "/api/webhooks/{provider}/{endpoint_id}",
    "/api/webhooks/{provider}",
    "/integrations/{provider}/webhook",
    "/api/webhooks/incoming/{token}",
    "/api/webhooks/discord",
    "/api/webhooks/incoming/{token}/slack",
}


def test_openapi_of_one_gateway(hub: Hub) -> None:
    document = httpx.get(hub.url("gateway") + "/api/openapi.json").json()
    OpenAPI.model_validate(document)
    _all_resolve(document)
    own = httpx.get(hub.url("gateway") + "/openapi/gateway.json").json()
    assert document["paths"].keys() == own["paths"].keys() | STRANGERS
    called = document["paths"]["/api/webhooks/{provider}/{endpoint_id}"]
    assert called.keys() == {"get", "post"}
    answers = called["post"]["responses"]
    assert {"200", "202", "401", "410", "429", "503"} <= answers.keys()
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert all(answer["content"] == problem for status, answer in answers.items() if status >= "300")
    assert "Retry-After" in answers["429"]["headers"]
    assert all(item["security"] == [] for path in STRANGERS for item in document["paths"][path].values())


def test_openapi_is_merged_over_the_services(hub: Hub, entrance: Hub) -> None:
    """Every route of every service, each with its own schemas, also where two use one name."""
    merged = httpx.get(entrance.url("gateway") + "/api/openapi.json").json()
    OpenAPI.model_validate(merged)
    _all_resolve(merged)
    own = {name: httpx.get(f"{hub.url(name)}/openapi/{name}.json").json() for name in ("gateway", "delivery")}
    routes = own["gateway"]["paths"].keys() | own["delivery"]["paths"].keys()
    assert merged["paths"].keys() == routes | STRANGERS
    for document in own.values():
        for path, operations in document["paths"].items():
            assert _resolve(merged, merged["paths"][path]) == _resolve(document, operations), path
    ids = [item["operationId"] for operations in merged["paths"].values() for item in operations.values()]
    assert len(ids) == len(set(ids))
    for path, operations in merged["paths"].items():
        for operation in operations.values():
            named = {item["name"] for item in operation.get("parameters", []) if item["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path


# One entrance


def _alike(
    hub: Hub, entrance: Hub, method: str, path: str, **kwargs: Any
) -> tuple[httpx.Response, httpx.Response]:
    """The same call to delivery itself and through the entrance."""
    headers = {"authorization": f"Bearer {hub.admin_key}", **kwargs.pop("headers", {})}
    return cast(
        "tuple[httpx.Response, httpx.Response]",
        tuple(
            httpx.request(method, base + path, headers=headers, timeout=30, **kwargs)
            for base in (hub.url("delivery"), entrance.url("gateway"))
        ),
    )


WEBHOOK = {"name": "x", "url": "http://127.0.0.1:9/", "events": ["never.sent"]}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/outgoing-webhooks", None),
        ("GET", "/api/outgoing-webhooks?limit=1", None),
        ("GET", "/api/outgoing-webhooks?limit=0", None),
        ("GET", "/api/outgoing-webhooks?cursor=%00%ff", None),
        ("GET", "/api/deliveries?event_type=a%20b&status=delivered&limit=3", None),
        ("GET", "/api/deliveries?since=2026-01-01T00:00:00%2B01:00", None),
        ("GET", "/api/delivery-jobs", None),
        ("GET", "/api/outgoing-webhooks/nothing", None),
        ("GET", "/api/outgoing-webhooks/%2e%2e%2f%00%ff", None),
        ("GET", "/api/outgoing-webhooks/a/b", None),
        ("DELETE", "/api/outgoing-webhooks/nothing", None),
        ("POST", "/api/outgoing-webhooks", {}),
        ("POST", "/api/outgoing-webhooks", {**WEBHOOK, "url": "javascript:x"}),
        ("PUT", "/api/outgoing-webhooks", {}),
        ("HEAD", "/api/outgoing-webhooks", None),
        ("OPTIONS", "/api/outgoing-webhooks", None),
    ],
)
def test_what_is_deliverys_is_passed_on(hub: Hub, entrance: Hub, method: str, path: str, body: Any) -> None:
    """Status, headers and body as if delivery had been asked."""
    direct, through = _alike(hub, entrance, method, path, json=body)
    assert through.status_code == direct.status_code
    assert through.content == direct.content
    dropped = {"date", "connection"}
    assert {k: v for k, v in through.headers.items() if k not in dropped} == {
        k: v for k, v in direct.headers.items() if k not in dropped
    }


def test_a_webhooks_life_through_the_entrance(hub: Hub, entrance: Hub) -> None:
    headers = {"authorization": f"Bearer {hub.admin_key}"}
    with httpx.Client(base_url=entrance.url("gateway"), headers=headers) as client:
        once = {"idempotency-key": token_hex(8)}
        registered = [client.post("/api/outgoing-webhooks", json=WEBHOOK, headers=once) for _ in range(2)]
        assert [answer.status_code for answer in registered] == [201, 201]
        assert registered[0].text == registered[1].text
        path = f"/api/outgoing-webhooks/{registered[0].json()['id']}"
        assert client.patch(path, json={"name": "ünï"}).json()["name"] == "ünï"
        removed = client.delete(path)
        assert removed.status_code == 204
        assert removed.content == b""
        assert "content-length" not in removed.headers
        _problem(client.get(path), 404)


def test_what_cannot_be_passed_on_is_refused(hub: Hub, entrance: Hub) -> None:
    """An address that is too long, a body that is too large, a call without a key."""
    url = entrance.url("gateway")
    headers = {"authorization": f"Bearer {hub.admin_key}"}
    _problem(httpx.get(f"{url}/api/deliveries/{'a' * 63_000}", headers=headers), 414)
    for path in (f"/api/deliveries/{'a' * 70_000}", f"/api/deliveries?webhook_id={'a' * 70_000}"):
        with socket.create_connection(("127.0.0.1", entrance.ports["gateway"]), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert connection.recv(100).split()[1] in (b"400", b"414", b"431")
    large = b'{"name":"' + b"x" * 2**23 + b'"}'
    with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):  # it hung up
        _problem(httpx.post(f"{url}/api/outgoing-webhooks", content=large, headers=headers), 413)
    _problem(httpx.get(f"{url}/api/deliveries"), 401)
    assert "Traceback" not in entrance.log_text("gateway")


def test_what_is_the_gateways_own_is_not_passed_on(hub: Hub, entrance: Hub) -> None:
    """A path that only begins like a peer's is not a peer's."""
    headers = {"authorization": f"Bearer {hub.admin_key}"}
    for path in ("/api/outgoing-webhooksx", "/api/queuex/stats", "/api/outgoing-webhook"):
        _problem(httpx.get(entrance.url("gateway") + path, headers=headers), 404)
    assert httpx.get(entrance.url("gateway") + "/api/api-keys", headers=headers).status_code == 200


def test_a_peer_that_is_down_is_503(hub: Hub, entrance: Hub) -> None:
    """The last test here: it stops delivery. The gateway's own routes go on."""
    assert hub.stop_service("delivery") == 0
    headers = {"authorization": f"Bearer {hub.admin_key}"}
    url = entrance.url("gateway")
    for method, path in (("GET", "/api/deliveries"), ("POST", "/api/outgoing-webhooks")):
        answer = httpx.request(method, url + path, json=WEBHOOK, headers=headers)
        _problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        assert "127.0.0.1" not in answer.text
    assert httpx.get(url + "/api/inbound-endpoints", headers=headers).status_code == 200
    assert "/api/api-keys" in httpx.get(url + "/api/openapi.json").json()["paths"]
