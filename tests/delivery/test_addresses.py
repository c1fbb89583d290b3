"""Which URLs an outgoing webhook may have, how many of them, and each once, as in production."""

from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from threading import Barrier
from typing import Any

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with

PATH = "/api/outgoing-webhooks"
MAX_WEBHOOKS = 6


# The defaults of production, but for one more port and few webhooks.
hub = hub_with(
    services=("delivery",),
    env={
        "INTERLINK_ALLOW_HTTP": "false",
        "INTERLINK_EGRESS_PORTS": "80,443,8443",
        "INTERLINK_WEBHOOKS_PER_WORKSPACE": str(MAX_WEBHOOKS),
    },
    workspace="addresses",
)


@pytest.fixture(scope="module")
def other_key(hub: Hub) -> str:
    """The admin key of another workspace."""
    made = hub.other_workspace()
    headers = {"authorization": f"Bearer {made}"}
    eventually(lambda: httpx.get(hub.url("delivery") + PATH, headers=headers).status_code == 200)
    return made


@pytest.fixture(autouse=True)
def empty(hub: Hub) -> None:
    """Every test begins with a workspace without webhooks."""
    for made in hub.call("GET", PATH)["items"]:
        hub.call("DELETE", f"{PATH}/{made['id']}", expect=204)


def body(url: str, **fields: Any) -> dict[str, Any]:
    return {"name": "x", "url": url, "events": ["never.sent"], **fields}


def make(hub: Hub, url: str, query: str = "", key: str | None = None) -> dict[str, Any]:
    return dict(hub.call("POST", PATH + query, body(url), key=key, expect=201))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com/", "https://"),
        ("http://example.com:443/", "https://"),
        ("https://example.com:8080/", "port 8080"),
        ("https://example.com:25/", "port 25"),
        ("https://user@example.com/", "user name"),
        ("https://10.0.0.1/", "internal"),
    ],
)
def test_an_address_that_is_refused_when_it_is_given_and_when_it_is_changed(
    hub: Hub, url: str, expected: str
) -> None:
    made = make(hub, "https://example.com:8443/")
    for method, path, request in (
        ("POST", PATH, body(url)),
        ("POST", f"{PATH}?force=true", body(url)),
        ("PATCH", f"{PATH}/{made['id']}", {"url": url}),
    ):
        [fault] = hub.call(method, path, request, expect=422)["errors"]
        assert fault["field"] == "url"
        assert expected in fault["message"]
    assert hub.call("GET", f"{PATH}/{made['id']}")["url"] == "https://example.com:8443/"
    assert len(hub.call("GET", PATH)["items"]) == 1


def test_an_address_at_an_allowed_port(hub: Hub) -> None:
    for url in ("https://example.com/", "https://example.com:443/a", "https://example.com:80/b"):
        assert make(hub, url)["url"] == url


def test_no_more_than_so_many_per_workspace(hub: Hub, other_key: str) -> None:
    made = [make(hub, f"https://example.com/{number}") for number in range(MAX_WEBHOOKS)]
    for query in ("", "?force=true"):
        problem = hub.call("POST", PATH + query, body("https://example.com/more"), expect=409)
        assert str(MAX_WEBHOOKS) in problem["detail"]
        assert "INTERLINK_WEBHOOKS_PER_WORKSPACE" in problem["detail"]
    make(hub, "https://example.com/more", key=other_key)  # another workspace has room
    hub.call("DELETE", f"{PATH}/{made[0]['id']}", expect=204)
    make(hub, "https://example.com/more")
    hub.call("POST", PATH, body("https://example.com/0"), expect=409)


def at_once(hub: Hub, urls: list[str]) -> list[int]:
    """The statuses of these webhooks made at the same moment."""
    ready = Barrier(len(urls))

    def call(url: str) -> int:
        with httpx.Client(
            base_url=hub.url("delivery"), headers={"authorization": f"Bearer {hub.admin_key}"}, timeout=30
        ) as client:
            client.get(PATH)
            ready.wait(60)
            return client.post(PATH, json=body(url)).status_code

    with ThreadPoolExecutor(len(urls)) as pool:
        return sorted(pool.map(call, urls))


def test_no_more_than_so_many_when_all_come_at_once(hub: Hub) -> None:
    for number in range(MAX_WEBHOOKS - 1):
        make(hub, f"https://example.com/{number}")
    answers = at_once(hub, [f"https://example.com/at-once-{number}" for number in range(8)])
    assert set(answers) <= {201, 409}
    assert len(hub.call("GET", PATH)["items"]) <= MAX_WEBHOOKS


def test_a_url_is_one_webhooks_unless_forced(hub: Hub) -> None:
    url = "https://example.com/hook"
    first = make(hub, url)
    problem = hub.call("POST", PATH, body(url), expect=409)
    assert "force" in problem["detail"]
    second = make(hub, url, "?force=true")
    assert second["id"] != first["id"]

    other = make(hub, "https://example.com/other")
    hub.call("PATCH", f"{PATH}/{other['id']}", {"url": url}, expect=409)
    assert hub.call("GET", f"{PATH}/{other['id']}")["url"] == "https://example.com/other"
    assert hub.call("PATCH", f"{PATH}/{other['id']}?force=true", {"url": url})["url"] == url
    for webhook in (first, second):  # its own URL is no other's
        assert hub.call("PATCH", f"{PATH}/{webhook['id']}", {"url": url, "name": "same"})["url"] == url
    make(hub, "https://example.com/other")


def test_another_workspace_may_have_the_same_url(hub: Hub, other_key: str) -> None:
    url = f"https://example.com/{token_hex(4)}"
    make(hub, url)
    make(hub, url, key=other_key)


def test_a_url_is_free_again_once_its_webhook_is_deleted_or_has_moved(hub: Hub) -> None:
    url = "https://example.com/hook"
    deleted = make(hub, url)
    hub.call("DELETE", f"{PATH}/{deleted['id']}", expect=204)
    moved = make(hub, url)
    hub.call("PATCH", f"{PATH}/{moved['id']}", {"url": f"{url}/new"})
    make(hub, url)
    hub.call("PATCH", f"{PATH}/{moved['id']}", {"url": url}, expect=409)


def test_a_url_that_only_a_forced_webhook_has_is_taken_too(hub: Hub) -> None:
    url = "https://example.com/hook"
    make(hub, url, "?force=true")
    hub.call("POST", PATH, body(url), expect=409)
    other = make(hub, "https://example.com/other")
    hub.call("PATCH", f"{PATH}/{other['id']}", {"url": url}, expect=409)


def test_of_many_made_at_once_with_one_url_one_is_made(hub: Hub) -> None:
    answers = at_once(hub, ["https://example.com/hook"] * 5)
    assert answers == [201, 409, 409, 409, 409]
    assert len(hub.call("GET", PATH)["items"]) == 1
