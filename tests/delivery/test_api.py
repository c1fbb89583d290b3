"""Delivery's management API: outgoing webhooks, the delivery log, and bodies that are not as they should."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from secrets import token_hex
from threading import Barrier
from time import sleep
from typing import Any

import httpx
import pytest
from aiohttp import web
from pymongo import MongoClient

from shared.webhooks.filters import FilterSettings
from shared.webhooks.signatures import new_standard_secret
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.subscriber import Subscriber

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
WEBHOOK: dict[str, Any] = {"name": "x", "url": "http://127.0.0.1:9/", "events": ["never.sent"]}
PATH = "/api/outgoing-webhooks"
CREATE = f"{PATH}?force=true"


hub = hub_with(services=("delivery",), workspace="delivery")


@pytest.fixture(scope="module")
def client(hub: Hub) -> Iterator[httpx.Client]:
    """Calls delivery with the admin key."""
    with hub.client("delivery") as client:
        yield client


@pytest.fixture(autouse=True)
def unbroken(hub: Hub) -> Iterator[None]:
    with hub.unbroken("delivery"):
        yield


def test_a_webhook_whose_secret_does_not_open_is_shown_and_takes_a_new_one(
    hub: Hub, client: httpx.Client
) -> None:
    made = client.post(CREATE, json={**WEBHOOK, "profile": "standard_v1a"}).json()
    path = f"{PATH}/{made['id']}"
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        webhooks = mongo.get_default_database()["outgoing_webhooks"]
        gone = {"secrets.0.sealed.k": "00000000", "changed_at": datetime.now(UTC)}
        assert webhooks.update_one({"_id": made["id"]}, {"$set": gone}).modified_count == 1
    assert client.get(path).json()["public_keys"] == []
    assert client.get(PATH).status_code == 200
    eventually(lambda: client.get(path).json()["unreadable"])
    [fault] = client.get(path).json()["unreadable"]
    assert fault["part"] == "secret"
    assert client.post(f"{path}/test").json()["detail"] == fault["reason"]
    assert client.post(f"{path}/rotate-secret", json={}).status_code == 200
    assert client.get(path).json()["unreadable"] == []
    assert len(client.get(path).json()["public_keys"]) == 1
    assert client.delete(path).status_code == 204


def _problem(answer: httpx.Response, status: int, *fields: str) -> None:
    """A problem document with this status that names at least these fields."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert {"type", "title", "status", "detail"} <= body.keys()
    assert body["status"] == status
    found = [error["field"] for error in body.get("errors", [])]
    for field in fields:
        assert field in found, (field, found)


# An outgoing webhook


def test_a_webhooks_life(client: httpx.Client) -> None:
    request: dict[str, Any] = {
        "name": "Ours",
        "url": "https://example.com:8443/hook?a=1&b=%20",
        "events": ["github.*", "message.created"],
        "description": "Tells us.",
        "metadata": {"customer": "c_7"},
        "enabled": False,
        "profile": "standard",
        "format": "slack",
        "transform": "{text: text}",
        "filter": {
            **FilterSettings().model_dump(),
            "channels": ["ch-1"],
            "exclude_bots": True,
            "condition": "data.n > `3`",
        },
        "integration_id": "int_1",
        "headers": {"X-Team": "secret-1"},
        "auth": {"type": "bearer", "token": "secret-2"},
        "retry": {
            "schedule": [0, 1.5, 300],
            "jitter": 0.5,
            "client_errors": "retry",
            "max_retry_after_s": 60,
        },
        "rate_limit": {"requests": 5, "period_s": 1},
        "ordering": "strict",
        "max_in_flight": 3,
        "timeout_s": 2.5,
        "disable_after_days": 1.5,
        "circuit_breaker": {
            "enabled": True,
            "failures": 3,
            "failing_s": 1,
            "pause_s": 2,
            "max_pause_s": 5,
            "max_wait_s": 60,
        },
    }
    created = client.post(CREATE, json=request)
    assert created.status_code == 201
    made = created.json()
    assert re.fullmatch(r"wh_[0-9a-f]{32}", made["id"])
    assert made["secret"].startswith("whsec_")
    assert TIME.fullmatch(made["created_at"])
    assert made == {
        **request,
        **{name: made[name] for name in ("id", "secret", "created_at")},
        "updated_at": made["created_at"],
        "customer": None,
        "version": 0,
        "old_secrets_until": [],
        "headers": ["X-Team"],
        "auth": {"type": "bearer", "username": None, "name": None},
        "disabled_reason": "by_hand",
        "paused": False,
        "public_keys": [],
        "health": {"circuit": "closed", "next_probe_at": None, "held_until": None, "failing_since": None},
        "unreadable": [],
        "warnings": [],
    }
    path = f"{PATH}/{made['id']}"
    shown = {**made, "secret": None}
    assert client.get(path).json() == shown
    assert client.get(f"{PATH}?limit=1").json()["items"] == [shown]
    changes: tuple[dict[str, Any], ...] = (
        {"name": "Renamed"},
        {"url": "https://example.com/other"},
        {"events": ["*"]},
        {"description": ""},
        {"enabled": True},
        {"format": "envelope", "transform": None, "filter": None},
        {"integration_id": None, "rate_limit": None, "disable_after_days": 0},
        {"ordering": "none"},
        {"max_in_flight": 500},
        {"timeout_s": 60},
        {"name": "Both", "timeout_s": 1},
        {},
    )
    for change in changes:
        changed = client.patch(path, json=change)
        assert changed.status_code == 200, changed.text
        shown = {**shown, **change, "updated_at": changed.json()["updated_at"]}
        shown["version"] += bool(change.keys() - {"enabled"})
        shown["disabled_reason"] = None if shown["enabled"] else "by_hand"
        assert changed.json() == shown
    for retry, shows in (
        ({"schedule": "standard"}, {**request["retry"], "schedule": "standard"}),
        ({"jitter": 0, "schedule": [5]}, {**request["retry"], "schedule": [5], "jitter": 0}),
    ):
        assert client.patch(path, json={"retry": retry}).json()["retry"] == shows
    limited = client.patch(path, json={"rate_limit": {"requests": 7}})
    assert limited.json()["rate_limit"] == {"requests": 7, "period_s": 1.0}, limited.text
    breaker = client.patch(path, json={"circuit_breaker": {"failures": 4}}).json()["circuit_breaker"]
    assert breaker == {"enabled": True, "failures": 4} | dict.fromkeys(
        ("failing_s", "pause_s", "max_pause_s", "max_wait_s")
    )
    for auth in ({"type": "basic", "username": "u", "password": "p"}, {"type": "none"}):
        shows = {"username": None, "name": None, **auth}
        shows.pop("password", None)
        assert client.patch(path, json={"auth": auth}).json()["auth"] == shows
    assert client.patch(path, json={"headers": {}}).json()["headers"] == []
    assert client.patch(path, json=dict.fromkeys(request.keys() - {"profile"})).json()["name"] == "Both"
    version = client.get(path).json()["version"]
    assert client.post(f"{path}/disable").json()["enabled"] is False
    assert client.post(f"{path}/enable").json()["enabled"] is True
    rotated = client.post(f"{path}/rotate-secret", json={}).json()
    assert client.get(path).json()["version"] == version
    based = {"If-Match": f'"{version}"'}
    assert client.patch(path, json={"name": "Both"}, headers=based).status_code == 200
    late = client.patch(path, json={"name": "late"}, headers=based)
    assert (late.status_code, client.get(path).json()["name"]) == (412, "Both")
    assert rotated["secret"] not in (None, made["secret"])
    own = new_standard_secret()
    assert client.post(f"{path}/rotate-secret", json={"secret": own}).json()["secret"] == own
    assert client.get(path).json()["secret"] is None
    assert client.delete(path).status_code == 204
    for method, where, body in (
        ("GET", path, None),
        ("PATCH", path, {"name": "x"}),
        ("DELETE", path, None),
        ("POST", f"{path}/rotate-secret", {}),
        ("POST", f"{path}/test", None),
        ("POST", f"{path}/enable", None),
        ("POST", f"{path}/disable", None),
    ):
        _problem(client.request(method, where, json=body), 404)
    assert made["id"] not in client.get(f"{PATH}?limit=500").text


def test_omitted_fields_have_defaults(client: httpx.Client) -> None:
    made = client.post(CREATE, json=WEBHOOK).json()
    assert {name: made[name] for name in ("enabled", "profile", "ordering", "retry", "description")} == {
        "enabled": True,
        "profile": "standard",
        "ordering": "none",
        "retry": {
            "schedule": "nchat",
            "jitter": 0.1,
            "client_errors": "final",
            "max_retry_after_s": 900,
        },
        "description": "",
    }


def test_an_empty_retry_changes_nothing_and_breaks_nothing(client: httpx.Client) -> None:
    made = client.post(CREATE, json={**WEBHOOK, "retry": {"schedule": [7]}}).json()
    changed = client.patch(f"{PATH}/{made['id']}", json={"retry": {}})
    assert changed.json()["retry"] == made["retry"]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/",
        "http://example.com:1/",
        "https://example.com:65535/x",
        "https://EXAMPLE.com/ünï".encode("ascii", "ignore").decode(),
        "https://example.com/%C3%BC?q=%00#".rstrip("#"),
        "https://xn--bcher-kva.example/",
        "https://8.8.8.8/",
        "https://[2001:4860:4860::8888]:8443/",
        "http://127.0.0.1:9/",
        "https://example.com/" + "a" * 1900,
    ],
)
def test_an_address_that_is_taken(client: httpx.Client, url: str) -> None:
    made = client.post(CREATE, json={**WEBHOOK, "url": url, "enabled": False})
    assert made.status_code == 201, made.text
    assert made.json()["url"] == url


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://b\u00fccher.example/a?b=%C3%BC", "https://xn--bcher-kva.example/a?b=%C3%BC"),
        ("https://B\u00dcCHER.example:8443/", "https://xn--bcher-kva.example:8443/"),
        ("https://\u4f8b\u3048\u3002\u30c6\u30b9\u30c8/", "https://xn--r8jz45g.xn--zckzah/"),
    ],
)
def test_a_host_name_in_unicode_is_stored_in_its_ascii_form(
    client: httpx.Client, url: str, stored: str
) -> None:
    made = client.post(CREATE, json={**WEBHOOK, "url": url, "enabled": False})
    assert made.status_code == 201, made.text
    path = f"{PATH}/{made.json()['id']}"
    assert made.json()["url"] == client.get(path).json()["url"] == stored
    assert client.patch(path, json={"url": url}).json()["url"] == stored


BAD_URLS = (
    "",
    " ",
    "example.com",
    "//example.com/",
    "/hook",
    "javascript:alert(1)",
    "data:text/plain,x",
    "file:///etc/passwd",
    "ftp://example.com/",
    "gopher://example.com/",
    "ws://example.com/",
    "http:",
    "http://",
    "http:///x",
    "http://:80/",
    "https://user@example.com/",
    "https://user:secret@example.com/",
    "https://@example.com/",
    "https://:@example.com/",
    "https://example.com\\@127.0.0.1/",
    "https://exam ple.com/",
    "https://example.com/a b",
    " https://example.com/",
    "https://example.com/\n",
    "https://example.com/\r\nx: y",
    "https://example.com/\t",
    "https://exa\tmple.com/",
    "https://example.com/\0",
    "https://example.com/#part",
    "https://b\u00fccher.example/\u00fc",
    "https://b\u00fccher..example/",
    "https://user@b\u00fccher.example/",
    "https://\uff45xample.com/",
    "https://example.com/\u00fc",
    "https://\u2460\u2461\u2466.0.0.1/",
    "https://example.com:99999/",
    "https://example.com:-1/",
    "https://example.com:http/",
    "https://example.com:80:80/",
    "https://[::1/",
    "https://[nothing]/",
    "https://[::ffff:10.0.0.1]/",
    "https://10.0.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://2852039166/",
    "https://0xa9fea9fe/",
    "https://127.1/",
    "https://0/",
    "https://exa<mple.com/",
    "https://exa\\mple.com/",
    "https://exa^mple.com/",
    "https://exam%70le.com/",
    "https://example..com/",
    "https://.example.com/",
    "https://" + "a" * 64 + ".com/",
    "https://" + ".".join(["a" * 60] * 5) + "/",
    "https://example.com/" + "a" * 2000,
    1,
    None,
    ["https://example.com/"],
    {"$ne": ""},
)


@pytest.mark.parametrize("url", BAD_URLS, ids=[repr(url)[:60] for url in BAD_URLS])
def test_an_address_that_is_not_taken(client: httpx.Client, url: Any) -> None:
    """Refused when it is given, not found out at the first event."""
    _problem(client.post(CREATE, json={**WEBHOOK, "url": url}), 422, "url")


def test_a_change_of_address_is_held_to_the_same(client: httpx.Client) -> None:
    path = f"{PATH}/{client.post(CREATE, json=WEBHOOK).json()['id']}"
    for url in ("javascript:x", "https://user@example.com/", "https://10.0.0.1/", "https://127.1/"):
        _problem(client.patch(path, json={"url": url}), 422, "url")
    assert client.get(path).json()["url"] == WEBHOOK["url"]


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "x" * 201}, "name"),
    ({"name": 1}, "name"),
    ({"events": []}, "events"),
    ({"events": "github.push"}, "events"),
    ({"events": None}, "events"),
    ({"events": ["github.push"] * 101}, "events"),
    *(({"events": ["*", pattern]}, "events.1") for pattern in (
        "", "**", "*.push", "github.", "GitHub.push", "github.*.x", "a b", "a\n", "\0", "a" * 201, 1, None,
    )),
    ({"description": "x" * 2001}, "description"),
    ({"enabled": "perhaps"}, "enabled"),
    ({"profile": "svix"}, "profile"),
    ({"profile": None}, "profile"),
    ({"secret": "short"}, "secret"),
    ({"secret": "x" * 501}, "secret"),
    ({"secret": "whsec_" + "!" * 40}, "secret"),
    ({"secret": "whsec_c2hvcnQgYWZ0ZXIgYWxs"}, "secret"),
    ({"profile": "nchat", "secret": "short"}, "secret"),
    ({"retry": "nchat"}, "retry"),
    ({"retry": {"schedule": "nobody"}}, "retry.schedule"),
    ({"retry": {"schedule": []}}, "retry.schedule"),
    ({"retry": {"schedule": [0] * 51}}, "retry.schedule"),
    ({"retry": {"schedule": [-1]}}, "retry.schedule"),
    ({"retry": {"schedule": [604801]}}, "retry.schedule"),
    ({"retry": {"schedule": ["x"]}}, "retry.schedule.0"),
    ({"retry": {"schedule": [0], "attempts": 3}}, "retry.attempts"),
    ({"ordering": "loose"}, "ordering"),
    ({"max_in_flight": 0}, "max_in_flight"),
    ({"max_in_flight": 501}, "max_in_flight"),
    ({"max_in_flight": 1.5}, "max_in_flight"),
    ({"timeout_s": 0.5}, "timeout_s"),
    ({"timeout_s": 61}, "timeout_s"),
    ({"timeout_s": "soon"}, "timeout_s"),
    ({"timeout_s": 10**400}, "timeout_s"),
    ({"workspace": "other"}, "workspace"),
    ({"_id": "wh_mine"}, "_id"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field"), FAULTS, ids=[str(change)[:60] for change, _ in FAULTS])
def test_a_field_that_is_not_acceptable(client: httpx.Client, change: dict[str, Any], field: str) -> None:
    """On making one and on changing one; the field is named as the caller wrote it."""
    _problem(client.post(CREATE, json={**WEBHOOK, **change}), 422, field)
    name = next(iter(change))
    if change[name] is not None and name not in ("profile", "secret"):
        made = client.post(CREATE, json=WEBHOOK).json()
        _problem(client.patch(f"{PATH}/{made['id']}", json=change), 422, field)
        assert client.get(f"{PATH}/{made['id']}").json() == {**made, "secret": None}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"name=x",
        b'{"name":"\xff"}',
        b'{"name":"\\ud800","url":"https://example.com/","events":["*"]}',
        b'{"name":"x","url":"https://example.com/\\udfff","events":["*"]}',
        b'{"name":"x","url":"https://example.com/","events":["\\ud800"]}',
        b'{"name":"x","url":"https://example.com/","events":["*"],"\\ud800":1}',
        b'{"name":"x","url":"https://example.com/","events":["*"],"secret":"\\ud800aaaaaaaaaaaaaaaa"}',
        b'{"name":"x","url":"https://example.com/","events":["*"],"timeout_s":NaN}',
        b'{"name":"x","url":"https://example.com/","events":["*"],"timeout_s":Infinity}',
        b'{"name":"x","url":"https://example.com/","events":["*"],"max_in_flight":1e999}',
        b'{"name":"x","url":"https://example.com/","events":["*"],"retry":{"schedule":[NaN]}}',
        b'{"name":"x","url":"https://example.com/","events":["*"],"retry":{"schedule":[1e400]}}',
        b'{"name":"x","url":"https://example.com/","events":["*"],"max_in_flight":' + b"9" * 5000 + b"}",
        b'{"name":"x","url":"https://example.com/","events":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b"[]",
        b"null",
        b'"x"',
    ],
)
def test_a_hostile_body(client: httpx.Client, raw: bytes) -> None:
    before = client.get(f"{PATH}?limit=1").json()
    answer = client.post(CREATE, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    _problem(answer, answer.status_code)
    assert client.get(f"{PATH}?limit=1").json() == before


def test_text_of_any_kind_is_stored_unchanged(client: httpx.Client) -> None:
    text = 'NUL \0, \u202e turned, 😀, <script>, "quotes", $ne, ünï'
    made = client.post(CREATE, json={**WEBHOOK, "name": text, "description": text}).json()
    shown = client.get(f"{PATH}/{made['id']}").json()
    assert shown["name"] == shown["description"] == text


@pytest.mark.parametrize("profile", ["standard", "nchat"])
def test_a_secret_of_ones_own(client: httpx.Client, profile: str) -> None:
    secret = new_standard_secret() if profile == "standard" else "a sécret of my own"
    made = client.post(CREATE, json={**WEBHOOK, "profile": profile, "secret": secret})
    assert made.json()["secret"] == secret


@pytest.mark.parametrize("name", ["%00", "%ff%fe", "$ne", "wh_" + "a" * 5000, "..%2f..", "%F0%9F%98%80", "*"])
def test_an_id_that_is_none(client: httpx.Client, name: str) -> None:
    for method, path in (
        ("GET", f"{PATH}/{name}"),
        ("DELETE", f"{PATH}/{name}"),
        ("POST", f"{PATH}/{name}/test"),
        ("POST", f"{PATH}/{name}/enable"),
        ("GET", f"/api/deliveries/{name}"),
    ):
        _problem(client.request(method, path), 400 if "%2f" in name else 404)


# Lists


@pytest.fixture(scope="module")
def many(hub: Hub) -> tuple[str, list[str]]:
    """A workspace with 120 webhooks and their ids, newest first; some made in the same millisecond."""
    key = hub.other_workspace()
    with hub.client("delivery", key) as client:
        eventually(lambda: client.get(PATH).status_code == 200)
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: client.post(CREATE, json=WEBHOOK).json(), range(120)))
    made.sort(key=lambda entry: (entry["created_at"], entry["id"]), reverse=True)
    return key, [item["id"] for item in made]


@pytest.mark.parametrize("limit", [7, 50, 120, 500])
def test_a_list_is_walked_page_by_page(hub: Hub, many: tuple[str, list[str]], limit: int) -> None:
    key, ids = many
    found: list[str] = []
    params: dict[str, Any] = {"limit": limit}
    while len(found) < len(ids):
        page = hub.call("GET", PATH, key=key, params=params)
        assert 0 < len(page["items"]) <= limit
        found += [item["id"] for item in page["items"]]
        params["cursor"] = page["next_cursor"]
    assert found == ids
    assert params["cursor"] is None


@pytest.mark.parametrize("path", [PATH, "/api/deliveries"])
def test_a_page_that_is_none(client: httpx.Client, path: str) -> None:
    for limit in ("0", "-1", "501", "abc", "", "1.5", "9" * 30):
        _problem(client.get(f"{path}?limit={limit}"), 422, "query.limit")
    for cursor in ("x", "%00", "%ff", "bnVsbA==", "W10=", "WyJhIiwiYiJd", "WzFlMzAwLCJiIl0=", "eyIkZ3QiOjF9"):
        _problem(client.get(f"{path}?cursor={cursor}"), 400)


# Idempotency keys


def test_the_same_call_gets_the_same_answer(client: httpx.Client) -> None:
    headers = {"idempotency-key": token_hex(8)}
    body = {**WEBHOOK, "name": f"once-{headers['idempotency-key']}"}
    answers = [client.post(CREATE, json=body, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert answers[0].json()["secret"]
    assert len({answer.text for answer in answers}) == 1
    _problem(client.post(CREATE, json={**body, "name": "y"}, headers=headers), 422)
    items = client.get(f"{PATH}?limit=500").json()["items"]
    assert sum(item["name"] == body["name"] for item in items) == 1


def test_twenty_of_the_same_at_once_make_one(client: httpx.Client) -> None:
    headers, ready = {"idempotency-key": token_hex(8)}, Barrier(20)
    body = {**WEBHOOK, "name": f"once-{headers['idempotency-key']}"}

    def call(_: int) -> httpx.Response:
        ready.wait(60)
        return client.post(CREATE, json=body, headers=headers)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(call, range(20)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.text for answer in answers if answer.status_code == 201}) == 1
    items = client.get(f"{PATH}?limit=500").json()["items"]
    assert sum(item["name"] == body["name"] for item in items) == 1


def test_a_test_event_is_sent_once(client: httpx.Client) -> None:
    with Subscriber() as subscriber:
        made = client.post(CREATE, json={**WEBHOOK, "url": subscriber.url}).json()
        headers = {"idempotency-key": token_hex(8)}
        sent = [client.post(f"{PATH}/{made['id']}/test", headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in sent] == [202] * 3
        assert len({answer.text for answer in sent}) == 1
        subscriber.wait_for(1)
        sleep(0.5)
        assert len(subscriber.got) == 1


# The log


@pytest.fixture(scope="module")
def log(hub: Hub) -> dict[str, Any]:
    """A webhook with five deliveries, three made and two dead, and when each was made."""
    refuse = iter([False, True, False, True, False])

    def answer(_: object) -> web.StreamResponse | None:
        return web.Response(status=400, text="ünï \0 no") if next(refuse) else None

    with Subscriber(answer) as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url, events=["webhook.test"])
        ids = []
        for _ in range(5):
            ids.append(hub.call("POST", f"{PATH}/{webhook['id']}/test", expect=202)["delivery_id"])
            eventually(lambda: hub.call("GET", f"{PATH}/{webhook['id']}") and _finished(hub, ids[-1]))
    return {"webhook": webhook["id"], "ids": ids, "all": hub.deliveries(webhook_id=webhook["id"])}


def _finished(hub: Hub, delivery: str) -> bool:
    return any(item["id"] == delivery and item["finished_at"] for item in hub.deliveries())


def test_one_delivery(hub: Hub, log: dict[str, Any]) -> None:
    shown = hub.call("GET", f"/api/deliveries/{log['ids'][1]}")
    assert shown["status"] == "dead_letter"
    assert shown["webhook_id"] == log["webhook"]
    assert shown["event_type"] == "webhook.test"
    assert shown["attempt_count"] == 1
    assert re.fullmatch(r"[0-9a-f]{32}", shown["trace_id"])
    for name in ("occurred_at", "created_at", "finished_at"):
        assert TIME.fullmatch(shown[name])
    assert shown["next_attempt_at"] is None
    [attempt] = shown["attempts"]
    assert attempt["number"] == 1
    assert attempt["status_code"] == 400
    assert attempt["response_body"] == "ünï \0 no"
    assert attempt["error"] == "status"
    assert attempt["duration_ms"] > 0
    assert attempt["address"] == "127.0.0.1"
    assert attempt["request_headers"]["webhook-id"] == shown["id"]
    assert "content-type" in {name.lower() for name in attempt["response_headers"]}
    assert json.loads(shown["body"])["id"] == shown["event_id"]


def test_the_log_is_newest_first_without_bodies(log: dict[str, Any]) -> None:
    assert [delivery["id"] for delivery in log["all"]] == log["ids"][::-1]
    for delivery in log["all"]:
        assert delivery["attempts"] is delivery["body"] is None


def test_the_log_is_filtered(hub: Hub, client: httpx.Client, log: dict[str, Any]) -> None:
    ids = log["ids"]
    at = {delivery["id"]: delivery["created_at"] for delivery in log["all"]}

    def found(**query: str) -> list[str]:
        answer = client.get("/api/deliveries", params={"webhook_id": log["webhook"], **query})
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert found(status="delivered") == [ids[4], ids[2], ids[0]]
    assert found(status="dead_letter") == [ids[3], ids[1]]
    assert found(status="pending") == []
    assert found(event_type="webhook.test") == ids[::-1]
    assert found(event_type="webhook.*") == []
    assert found(since=at[ids[3]]) == [ids[4], ids[3]]
    assert found(until=at[ids[1]]) == [ids[0]]
    assert found(since=at[ids[1]], until=at[ids[3]], status="delivered") == [ids[2]]
    assert found(since="2999-01-01T00:00:00Z") == []
    assert found(webhook_id="nothing") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=done", "query.status.0"),
        ("status=", "query.status.0"),
        ("since=yesterday", "query.since"),
        ("since=2026-01-01T00:00:00", "query.since"),
        ("until=", "query.until"),
        ("since=0001-01-01T00:00:00%2B14:00", "query.since"),
        ("until=9999-12-31T23:59:59-14:00", "query.until"),
    ],
)
def test_a_filter_that_is_none(client: httpx.Client, query: str, field: str) -> None:
    _problem(client.get(f"/api/deliveries?{query}"), 422, field)


def test_a_filter_of_any_text_finds_nothing(client: httpx.Client) -> None:
    for text in ("%00", "%ff", "$ne", '{"$ne":1}', "a" * 5000, "%F0%9F%98%80"):
        for name in ("webhook_id", "event_type"):
            answer = client.get(f"/api/deliveries?{name}={text}")
            assert answer.status_code in (200, 422)
            assert answer.status_code == 422 or answer.json()["items"] == []


def test_the_queue_is_counted(client: httpx.Client, log: dict[str, Any]) -> None:
    counts = client.get(f"/api/queue/stats?webhook_id={log['webhook']}").json()
    assert counts.pop("counted_at")
    assert counts == {
        "total": 5,
        "pending": 0,
        "active": 0,
        "completed": 3,
        "failed": 2,
        "delayed": 0,
        "oldest_due_s": None,
    }
    assert client.get("/api/queue/stats").json()["total"] >= 5
    assert client.get("/api/queue/stats?webhook_id=nothing").json()["total"] == 0
    _problem(client.get(f"/api/queue/stats?webhook_id={'a' * 101}"), 422, "query.webhook_id")


def test_what_is_no_route(client: httpx.Client) -> None:
    for path in ("/api", "/api/nothing", "/", f"{PATH}/a/b", "/api/api-keys", "/api/webhooks/github/x"):
        _problem(client.get(path), 404)
    for method, path in (("PUT", PATH), ("POST", "/api/deliveries"), ("DELETE", "/api/queue/stats")):
        answer = client.request(method, path)
        _problem(answer, 405)
        assert answer.headers["allow"]
