"""Events that no outgoing webhook got can be found: which, how many, and why."""

from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import pytest

from services.delivery.log.unmatched import MAX_LISTED, MAX_TYPES, OTHER_TYPES
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import new_type, path_of, publish
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber

PATH = "/api/events/unmatched"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    """Gateway and two delivery processes, in a workspace of their own."""
    folder = tmp_path_factory.mktemp("hub")
    workspace = f"unmatched-{token_hex(4)}"
    with (
        Hub(folder, bus, store, services=("gateway", "delivery"), workspace=workspace) as started,
        second_process("delivery", started, folder / "other", bus, store),
    ):
        yield started


def counted(hub: Hub, key: str, kinds: set[str], count: int) -> dict[str, Any]:
    """What is answered once so many events of these types are counted."""

    def check() -> dict[str, Any] | None:
        """All are counted."""
        unmatched: dict[str, Any] = hub.call("GET", PATH, key=key)
        total = sum(item["count"] for item in unmatched["types"] if item["type"] in kinds)
        assert total <= count, "nothing is counted twice"
        return unmatched if total == count else None

    return eventually(check, 30) or {}


def test_each_reason_is_shown(hub: Hub) -> None:
    key = hub.other_workspace()
    unsubscribed, other, subscribed, off = new_type(), new_type(), new_type(), new_type()
    first = publish(hub, unsubscribed, {"n": 1}, key=key)
    unmatched = counted(hub, key, {unsubscribed}, 1)
    assert [(item["id"], item["reason"]) for item in unmatched["events"]] == [(first[0], "no_webhook")]
    with Subscriber() as sink:
        body = {
            "name": "one",
            "url": sink.url,
            "events": [subscribed, off],
            "filter": {"condition": "data.n > `5`"},
        }
        webhook = hub.call("POST", "/api/outgoing-webhooks", body, key=key)
        eventually(lambda: publish(hub, subscribed, {"n": 7}, subject="one", key=key) and sink.got, 30)
        sent = {event["id"] for event in hub.call("GET", PATH, key=key)["events"]}
        ids = {
            "no_pattern": publish(hub, other, {"n": 1}, subject="one", key=key),
            "filtered": publish(hub, subscribed, {"n": 2}, subject="one", key=key),
        }
        eventually(lambda: len(listed(hub, key) - sent) >= 2)
        hub.call("POST", f"{path_of(webhook)}/disable", key=key)
        eventually(lambda: not hub.call("GET", path_of(webhook), key=key)["enabled"])
        ids["disabled"] = eventually(lambda: disabled(hub, key, off))
    events = hub.call("GET", PATH, key=key)["events"]
    assert listed(hub, key) >= {event_id for (event_id,) in ids.values()}
    for reason, (event_id,) in ids.items():
        assert [item["reason"] for item in events if item["id"] == event_id] == [reason]
    assert events == sorted(events, key=lambda entry: entry["at"], reverse=True)


def listed(hub: Hub, key: str) -> set[str]:
    """The ids of the workspace's last unmatched events."""
    return {event["id"] for event in hub.call("GET", PATH, key=key)["events"]}


def disabled(hub: Hub, key: str, kind: str) -> list[str]:
    """An event that met the webhook disabled, in either process: each learns it within a second."""
    [event_id] = publish(hub, kind, {"n": 9}, key=key)

    def check() -> list[str]:
        """The event is decided on."""
        events = hub.call("GET", PATH, key=key)["events"]
        return [item["reason"] for item in events if item["id"] == event_id]

    try:
        return [event_id] if eventually(check, 3) == ["disabled"] else []
    except AssertionError:
        return []


def test_counts_of_two_processes_add_up_and_lists_are_bounded(hub: Hub) -> None:
    key = hub.other_workspace()
    kinds = [new_type() for _ in range(3)]
    total = 0
    for kind in kinds:
        for _conversation in range(60):
            publish(hub, kind, {"n": 1}, subject=token_hex(4), key=key)
            total += 1
    unmatched = counted(hub, key, set(kinds), total)
    assert {item["type"]: item["count"] for item in unmatched["types"]} == dict.fromkeys(kinds, 60)
    assert len(unmatched["events"]) == MAX_LISTED
    assert all(item["reason"] == "no_webhook" for item in unmatched["events"])


def test_types_without_end_are_counted_together(hub: Hub) -> None:
    key = hub.other_workspace()
    prefix = f"t{token_hex(4)}"
    count = MAX_TYPES + 100
    events = [
        {
            "specversion": "1.0",
            "id": f"evt-{token_hex(8)}",
            "type": f"{prefix}.n{number}",
            "source": "/t",
            "data": {},
        }
        for number in range(count)
    ]
    for start in range(0, count, 500):
        hub.call("POST", "/api/events", events[start : start + 500], key=key, expect=202)

    def check() -> list[dict[str, Any]] | None:
        """All are counted."""
        types: list[dict[str, Any]] = hub.call("GET", PATH, key=key)["types"]
        return types if sum(item["count"] for item in types) == count else None

    types = eventually(check, 30) or []
    assert len(types) <= 2 * MAX_TYPES + 1, "each process has room for so many"
    assert [item for item in types if item["type"] == OTHER_TYPES] or len(types) == count


def test_another_workspace_sees_none_of_it(hub: Hub) -> None:
    key, other = hub.other_workspace(), hub.other_workspace()
    kind = new_type()
    publish(hub, kind, {"n": 1}, key=key)
    counted(hub, key, {kind}, 1)
    assert hub.call("GET", PATH, key=other) == {"types": [], "events": []}
    assert hub.metric("delivery", "interlink_unmatched_events_total") >= 0
