"""Metadata of outgoing webhooks, and the search for webhooks by it, by name and by URL."""

from typing import Any

import pytest

from tests.support.backends import Bus, Store
from tests.support.hub import Hub, hub_with
from tests.support.second_process import second_process

PATH = "/api/outgoing-webhooks"

BODY: dict[str, Any] = {"name": "x", "url": "https://example.com/", "events": ["never.sent"]}
hub = hub_with(services=("delivery",), workspace="search")


def make(hub: Hub, name: str, url: str = "https://example.com/", **fields: Any) -> dict[str, Any]:
    body = {"name": name, "url": url, "events": ["never.sent"], "enabled": False, **fields}
    made: dict[str, Any] = hub.call("POST", f"{PATH}?force=true", body, expect=201)
    return made


def found(hub: Hub, query: str, limit: int = 50) -> list[str]:
    """The names on all pages."""
    names: list[str] = []
    cursor = ""
    while True:
        page = hub.call("GET", f"{PATH}?{query}&limit={limit}{cursor}")
        assert len(page["items"]) <= limit
        names += [item["name"] for item in page["items"]]
        if page["next_cursor"] is None:
            return names
        cursor = f"&cursor={page['next_cursor']}"


@pytest.fixture(scope="module")
def webhooks(hub: Hub) -> list[dict[str, Any]]:
    return [
        make(hub, "Orders one", "https://one.example/Hook", metadata={"customer": "c_1", "plan": "free"}),
        make(hub, "Orders two", "https://two.example/hook", metadata={"customer": "c_2", "plan": "free"}),
        make(hub, "Bills two", "https://two.example/bill", metadata={"customer": "c_2"}),
        make(hub, "Bare"),
    ]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name=orders", ["Orders two", "Orders one"]),
        ("url=TWO.example", ["Bills two", "Orders two"]),
        ("url=/hook", ["Orders two", "Orders one"]),
        ("metadata=customer:c_2", ["Bills two", "Orders two"]),
        ("metadata=customer:c_2&metadata=plan:free", ["Orders two"]),
        ("metadata=customer:c_2&metadata=customer:c_1", ["Orders one"]),
        ("metadata=customer:", []),
        ("name=orders&url=one&metadata=plan:free", ["Orders one"]),
        ("name=nothing", []),
        ("name=", ["Bare", "Bills two", "Orders two", "Orders one"]),
    ],
)
def test_webhooks_are_found(hub: Hub, webhooks: list[dict[str, Any]], query: str, names: list[str]) -> None:
    for limit in (1, 2, 50):
        assert found(hub, query, limit) == names


def test_webhooks_are_found_by_status(hub: Hub, webhooks: list[dict[str, Any]]) -> None:
    own = hub.other_workspace()
    wanted: dict[str, dict[str, Any]] = {
        "active": {"customer": "c_1"},
        "second": {"name": "second"},
        "paused": {},
        "disabled": {"enabled": False},
    }
    made = {
        name: hub.call("POST", f"{PATH}?force=true", BODY | fields, key=own, expect=201)["id"]
        for name, fields in wanted.items()
    }
    hub.call("POST", f"{PATH}/{made['paused']}/pause", key=own)

    def of(query: str) -> list[str]:
        page = hub.call("GET", f"{PATH}?{query}", key=own)
        return [item["id"] for item in page["items"]]

    assert of("status=active") == [made["second"], made["active"]]
    assert of("status=active&order=oldest&name=second") == [made["second"]]
    assert (of("status=paused"), of("status=disabled")) == ([made["paused"]], [made["disabled"]])
    assert (of("status=active&customer=c_1"), of("status=failing")) == ([made["active"]], [])
    first = hub.call("GET", f"{PATH}?status=active&limit=1", key=own)["next_cursor"]
    last = hub.call("GET", f"{PATH}?status=active&limit=1&cursor={first}", key=own)
    assert ([item["id"] for item in last["items"]], last["next_cursor"]) == ([made["active"]], None)


def test_a_change_is_found_at_once_by_every_process(
    hub: Hub, bus: Bus, store: Store, webhooks: list[dict[str, Any]], tmp_path: Any
) -> None:
    with second_process("delivery", hub, tmp_path, bus, store) as other:
        path = f"{PATH}/{webhooks[3]['id']}"
        for value in ("a", "b", "c"):
            changed = hub.call("PATCH", path, {"metadata": {"turn": value}, "name": f"Turn {value}"})
            assert changed["metadata"] == {"turn": value}
            assert found(other, f"metadata=turn:{value}") == found(other, f"name=TURN%20{value}")
            assert found(other, f"metadata=turn:{value}") == [f"Turn {value}"]
        assert hub.call("PATCH", path, {"metadata": {}, "name": "Bare"})["metadata"] == {}
        assert found(other, "metadata=turn:c") == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"a.b": "x"},
        {"$a": "x"},
        {"": "x"},
        {"a" * 41: "x"},
        {"a": "x" * 501},
        {"a": 1},
        {f"n{number}": "x" for number in range(51)},
        {f"n{number}": "x" * 499 for number in range(9)},
        [],
    ],
)
def test_metadata_that_is_not_acceptable(hub: Hub, metadata: Any) -> None:
    body = {"name": "x", "url": "https://example.com/", "events": ["never.sent"], "metadata": metadata}
    answer = hub.call("POST", f"{PATH}?force=true", body, expect=422)
    assert all(error["field"].startswith("metadata") for error in answer["errors"])


@pytest.mark.parametrize(
    "query",
    [
        "metadata=plan",
        "metadata=a.b:c",
        "metadata=:c",
        "&".join(["metadata=a:b"] * 11),
        "name=" + "x" * 201,
        "name=x&cursor=nonsense",
    ],
)
def test_a_search_that_is_not_acceptable(hub: Hub, query: str) -> None:
    hub.call("GET", f"{PATH}?{query}", expect=400 if "cursor" in query else 422)


def test_another_workspace_finds_nothing(hub: Hub, webhooks: list[dict[str, Any]]) -> None:
    with hub.client("delivery", hub.other_workspace()) as stranger:
        assert stranger.get(f"{PATH}?name=orders").json()["items"] == []
