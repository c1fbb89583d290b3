"""The stream of the overview as raw HTTP: what it brings, its bounds, and when it ends."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from secrets import token_hex
from typing import Any

import httpx
import pytest

from services.console.live.streams import MAX_OF_SESSION
from tests.console.person import Answer, Person
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub


class Stream:
    """An open stream; `messages` grows while it is read."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.messages: list[tuple[str, Any]] = []
        self.ended = threading.Event()
        self.is_complete = False
        """True if the response ended as HTTP does, not by a lost connection."""

    def read(self) -> None:
        event = ""
        try:
            for line in self.response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    self.messages.append((event, json.loads(value)))
            self.is_complete = True
        except (httpx.HTTPError, httpx.StreamError):
            pass
        self.ended.set()

    def rows(self) -> str:
        """The HTML of all events so far."""
        return "".join(data["html"] for name, data in self.messages if name == "events")

    def figures(self) -> list[str]:
        return [data["html"] for name, data in self.messages if name == "figures"]


@contextmanager
def stream(person: Person, query: str = "", base: str = "") -> Iterator[Stream]:
    """Open a stream with the session of somebody, and read it meanwhile."""
    with person.client.stream("GET", f"{base or person.base}/console/live{query}", timeout=60) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        found = Stream(response)
        threading.Thread(target=found.read, daemon=True).start()
        yield found


def publish(hub: Hub, key: str | None = None, kind: str = "") -> str:
    """Publish an event; return its type."""
    kind = kind or f"live.{token_hex(4)}"
    body = {
        "specversion": "1.0",
        "id": token_hex(8),
        "source": "tests",
        "type": kind,
        "data": {"text": f"a secret payload of {kind}"},
    }
    hub.call("POST", "/api/events", body, key=key)
    return kind


def signed_in(hub: Hub, key: str) -> Person:
    person = Person(hub.url("gateway"))
    assert person.sign_in(key).status == 200
    return person


def test_an_event_and_the_figures_come_and_a_payload_does_not(hub: Hub, admin: Person) -> None:
    with stream(admin) as seen:
        eventually(seen.figures)
        assert "delivery <span" in seen.figures()[0]
        kind = publish(hub)
        eventually(lambda: kind in seen.rows())
        assert "a secret payload" not in seen.rows()
        endpoint = hub.github_endpoint(name="seen live")
        hub.call("POST", f"/api/inbound-endpoints/{endpoint['id']}/test", {})
        eventually(lambda: endpoint["id"] in seen.rows())
    with stream(admin, "?type=" + kind[:9]) as filtered:
        eventually(lambda: kind in filtered.rows())
        assert "github." not in filtered.rows()


def test_nothing_of_another_workspace_is_sent(hub: Hub, admin: Person) -> None:
    foreign = hub.other_workspace()
    eventually(lambda: hub.knows("gateway", foreign))
    stranger = signed_in(hub, foreign)
    with stream(admin) as ours, stream(stranger) as theirs:
        eventually(lambda: ours.figures() and theirs.figures())
        kind, other = publish(hub), publish(hub, foreign)
        eventually(lambda: kind in ours.rows())
        eventually(lambda: other in theirs.rows())
        assert other not in ours.rows()
        assert kind not in theirs.rows()
    stranger.close()


def test_a_key_sees_only_events_that_its_scopes_list(hub: Hub, admin: Person) -> None:
    made = hub.call("POST", "/api/api-keys", {"name": "inbound", "scopes": ["integrations:read"]})
    viewer = signed_in(hub, made["key"])
    with stream(admin) as all_of_it, stream(viewer) as some:
        eventually(some.figures)
        assert "Deliveries" not in some.figures()[0]
        kind = publish(hub)
        endpoint = hub.github_endpoint(name="seen by a viewer")
        hub.call("POST", f"/api/inbound-endpoints/{endpoint['id']}/test", {})
        eventually(lambda: kind in all_of_it.rows() and endpoint["id"] in some.rows())
        assert kind not in some.rows()
    viewer.close()


def test_a_stream_ends_with_its_session_and_its_key(hub: Hub, admin: Person) -> None:
    made = hub.call("POST", "/api/api-keys", {"name": "to revoke", "scopes": ["webhooks:read"]})
    first, second = signed_in(hub, made["key"]), signed_in(hub, made["key"])
    with stream(first) as one, stream(second) as other:
        eventually(lambda: one.figures() and other.figures())
        first.send(first.open("/console"), "/console/sign-out")
        assert one.ended.wait(60)
        assert one.messages[-1][0] == "ended"
        assert not other.ended.is_set()
        hub.call("DELETE", f"/api/api-keys/{made['id']}")
        assert other.ended.wait(60)
        assert other.messages[-1][0] == "ended"
    assert first.open("/console/live").status == 401
    first.close()
    second.close()


def test_a_session_has_few_streams_and_one_that_is_left_makes_room(hub: Hub) -> None:
    person = signed_in(hub, hub.admin_key)

    def opened() -> bool:
        with person.client.stream("GET", "/console/live") as response:
            return response.status_code == 200

    with ExitStack() as left, ExitStack() as open_ones:
        left.enter_context(stream(person))
        for _ in range(MAX_OF_SESSION - 1):
            open_ones.enter_context(stream(person))
        refused = person.client.get("/console/live")
        assert refused.status_code == 429
        assert "this session has 4 live streams already" in refused.text
        assert refused.headers["retry-after"]
        left.close()
        eventually(opened)  # through the gateway, which ends its own call at once
    person.close()


@pytest.mark.parametrize("service", ["console", "gateway"])
def test_streams_do_not_delay_a_graceful_stop(hub: Hub, admin: Person, service: str) -> None:
    with stream(admin) as seen:
        eventually(seen.figures)
        assert hub.stop_service(service) == 0
        assert seen.ended.wait(60)
    hub.start_service(service)
    hub.wait_ready(service)
    # After half of INTERLINK_DRAIN_SECONDS, the server would break the response off.
    assert seen.is_complete


def test_statistics_count_events_by_type_and_help_checks_the_hub(hub: Hub, admin: Person) -> None:
    kind = publish(hub)
    eventually(lambda: kind in admin.open("/console/statistics").text)
    counts = hub.call("GET", "/api/statistics")["events"]
    assert {"name": kind, "count": 1} in counts["by_name"]
    assert sum(hour["count"] for hour in counts["hours"]) == counts["total"]
    foreign = hub.other_workspace()
    eventually(lambda: hub.knows("gateway", foreign))
    assert hub.call("GET", "/api/statistics", key=foreign)["events"]["total"] == 0
    for span in ("week", "month", "nonsense"):
        assert admin.open(f"/console/statistics?span={span}").status == 200
    endpoint = hub.github_endpoint(name="counted")
    webhooks = [hub.outgoing_webhook("http://127.0.0.1:9/", name=f"hook {n}")["id"] for n in range(11)]
    for secret, status in ((endpoint["secret"], 202), ("wrong", 401), ("wrong", 401)):
        headers = signed(secret, "ping", b"{}")
        assert httpx.post(endpoint["url"], content=b"{}", headers=headers).status_code == status

    def counted() -> list[dict[str, Any]]:
        items = hub.call("GET", f"/api/statistics/endpoints?endpoint_id={endpoint['id']}")["items"]
        return [item for item in items if item["accepted"] + item["refused"] == 3]

    [item] = eventually(counted)
    assert (item["name"], item["accepted"], item["refused"]) == ("counted", 1, 2)
    assert item["success_rate"] == pytest.approx(1 / 3, abs=0.001)
    assert 0 < item["mean_ms"] < 10_000
    assert 0 < item["p50_ms"] <= item["p95_ms"] < 20_000
    assert item["p95_ms"] <= 2 * 3 * item["mean_ms"] + 1, "none of three takes more than all together"
    others = hub.call("GET", "/api/statistics/endpoints", key=foreign)
    assert (others["items"], others["hours"]) == ([], [])
    quotas = {"events": 1, "stored_bytes": 2**21}
    hub.call("PATCH", f"/api/workspaces/{hub.workspace}", {"quotas": quotas})

    def page_with_use() -> Answer | None:
        used = {item["quota"]: item["used"] for item in hub.call("GET", "/api/usage")["quotas"]}
        page = admin.open("/console/statistics")
        shown = (
            f"Requests with events today {used['requests']:,} none",
            f"Events today {used['events']:,} 1 (used up)",
            " 2.0 MiB",
        )
        return page if used["events"] and all(text in page.text for text in shown) else None

    page = eventually(page_with_use)
    assert page
    hub.call("PATCH", f"/api/workspaces/{hub.workspace}", {"quotas": {}})
    of_endpoint = admin.open(page.link(f"&endpoint={endpoint['id']}"))
    assert "accepted 1 refused 2 turned away 0 succeeded 33.3 %" in of_endpoint.text
    assert re.search(r"mean time [\d.]+ ms time p50 [\d.]+ ms time p95 [\d.]+ ms", of_endpoint.text)
    assert webhooks[0] not in page.response.text, "the tenth of the newest is the last one"
    later = admin.open(page.link("&webhooks="))
    assert "Its deliveries" in admin.open(later.link(f"&webhook={webhooks[0]}")).text
    assert "Events in: " in admin.open("/console").text
    found = admin.open("/console/help")
    assert all(f"{name} ok It is ready." in found.text for name in hub.services if name != "console")
    assert "/api/auth/oauth/callback: enter it at each provider's app" in found.text
    assert "Callback ok It answers." in found.text


def test_retention_shows_what_each_service_keeps(hub: Hub, admin: Person) -> None:
    path = "/console/retention"
    shown = admin.open(path).text
    for service, setting in (("gateway", "EXECUTIONS"), ("delivery", "DELIVERED"), ("importer", "UPLOAD")):
        items = hub.call("GET", f"/api/retention/{service}")["items"]
        [days] = [item["hours"] / 24 for item in items if item["setting"] == f"INTERLINK_{setting}_DAYS"]
        assert f"{days:.0f} days" in shown
        assert f"INTERLINK_{setting}_DAYS" in shown
    assert "400 days" in shown  # of sync
    assert "12 hours" in shown  # of sessions
    hub.stop_service("importer")
    shown = admin.open(path).text
    assert "INTERLINK_UPLOAD_DAYS" not in shown
    assert "INTERLINK_DELIVERED_DAYS" in shown
    hub.start_service("importer")
    hub.wait_ready("importer")
