"""Keys of customers: the delivery service itself limits them to the customer's webhooks and deliveries."""

import base64
from collections.abc import Sequence
from typing import Any, Final

import pytest

from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.web.service_keys import Customer, service_key
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.subscriber import Subscriber

PATH: Final = "/api/outgoing-webhooks"
EVENTS: Final = ("message.created", "user.*")

hub = hub_with(services=("delivery",), workspace="customers", env={"INTERLINK_WEBHOOKS_PER_CUSTOMER": "3"})


def key(hub: Hub, customer: str, events: Sequence[str] = EVENTS) -> str:
    vault = Vault(LocalKeyProvider([base64.b64decode(hub.env["INTERLINK_ENCRYPTION_KEY"])]))
    return service_key(vault, "console", hub.workspace, [], None, customer=Customer(customer, tuple(events)))


def make(hub: Hub, owner: str, url: str = "https://example.com/", **fields: Any) -> dict[str, Any]:
    body = {"name": "hook", "url": url, "events": ["message.created"], "enabled": True, **fields}
    made: dict[str, Any] = hub.call("POST", PATH, body, key=key(hub, owner), expect=201)
    return made


CALLS: Final[Sequence[tuple[str, str, Any]]] = (
    ("GET", "", None),
    ("PATCH", "", {"name": "mine now"}),
    ("DELETE", "", None),
    ("POST", "/test", None),
    ("POST", "/rotate-secret", {}),
    ("POST", "/enable", None),
    ("POST", "/disable", None),
    ("POST", "/pause", None),
    ("POST", "/resume", None),
    ("GET", "/stats", None),
)


@pytest.mark.parametrize("owner", ["other", None])
def test_webhooks_of_others_are_not_there(hub: Hub, owner: str | None) -> None:
    fields = {"name": "theirs", "url": "https://example.com/theirs", "events": ["message.created"]}
    theirs = hub.call("POST", f"{PATH}?force=true", {**fields, "customer": owner}, expect=201)["id"]
    mine = key(hub, "mine")
    for method, path, body in CALLS:
        hub.call(method, f"{PATH}/{theirs}{path}", body, key=mine, expect=404)
    assert hub.call("GET", f"{PATH}/{theirs}")["name"] == "theirs"
    assert theirs not in [item["id"] for item in hub.call("GET", PATH, key=mine)["items"]]
    hub.call("GET", f"/api/deliveries?webhook_id={theirs}", key=mine, expect=404)


def test_a_customer_has_the_webhooks_that_he_made_and_the_workspace_sees_whose_they_are(hub: Hub) -> None:
    made = make(hub, "ada", customer="another")
    assert made["customer"] == "ada"
    assert [item["id"] for item in hub.call("GET", PATH, key=key(hub, "ada"))["items"]] == [made["id"]]
    assert [item["id"] for item in hub.call("GET", f"{PATH}?customer=ada")["items"]] == [made["id"]]
    hub.call("PATCH", f"{PATH}/{made['id']}", {"customer": "bob"}, expect=422)


def test_urls_of_others_do_not_show(hub: Hub) -> None:
    first, second = make(hub, "url-1", "https://taken.example/"), make(hub, "url-2", "https://taken.example/")
    hub.call("PATCH", f"{PATH}/{second['id']}", {"url": first["url"]}, key=key(hub, "url-2"))
    own: dict[str, Any] = {"name": "own", "url": "https://own.example/", "events": ["message.created"]}
    hub.call("POST", PATH, own, expect=201)
    make(hub, "url-2", own["url"])


@pytest.mark.parametrize("pattern", ["*", "message.*", "message.deleted", "webhook.*", "us.*", "inbound.*"])
def test_events_beyond_those_of_the_key_are_refused(hub: Hub, pattern: str) -> None:
    body = {"name": "n", "url": "https://example.com/", "events": ["message.created", pattern]}
    refused = hub.call("POST", f"{PATH}?force=true", body, key=key(hub, "events"), expect=422)
    assert refused["errors"][0]["field"] == "events.1"
    made = make(hub, f"events-{pattern}", events=["user.created", "user.*"])
    path = f"{PATH}/{made['id']}"
    own = key(hub, made["customer"])
    hub.call("PATCH", f"{path}?force=true", {"events": [pattern]}, key=own, expect=422)
    narrower = key(hub, made["customer"], ["message.created"])
    hub.call("PATCH", path, {"events": ["user.*"], "name": "n"}, key=narrower)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/queue/stats", None),
        ("GET", "/api/dead-letters", None),
        ("POST", "/api/dead-letters/replay", {}),
        ("GET", "/api/deliveries/count", None),
        ("POST", "/api/deliveries/retry", {}),
        ("GET", "/api/delivery-jobs", None),
        ("GET", "/api/events/unmatched", None),
        ("POST", f"{PATH}/{{webhook}}/recover", {"since": "2026-01-01T00:00:00Z"}),
        ("POST", f"{PATH}/{{webhook}}/replay", {"since": "2026-01-01T00:00:00Z"}),
    ],
)
def test_what_is_of_the_whole_workspace_is_refused(hub: Hub, method: str, path: str, body: Any) -> None:
    webhook = hub.call("GET", PATH, key=key(hub, "whole"))["items"] or [make(hub, "whole")]
    filled = path.replace("{webhook}", webhook[0]["id"])
    hub.call(method, filled, body, key=key(hub, "whole"), expect=403)


def test_deliveries_are_those_of_the_customers_webhooks(hub: Hub) -> None:
    with Subscriber() as receiver:
        made = make(hub, "log", receiver.url)
        delivery = hub.call("POST", f"{PATH}/{made['id']}/test", key=key(hub, "log"))["delivery_id"]
        path = f"/api/deliveries/{delivery}"
        own, other = key(hub, "log"), key(hub, "log-2")

        def is_delivered() -> bool:
            items = hub.call("GET", f"/api/deliveries?webhook_id={made['id']}", key=own)["items"]
            return [item["status"] for item in items] == ["delivered"]

        eventually(is_delivered)
        assert hub.call("GET", path, key=own)["attempts"]
        hub.call("GET", "/api/deliveries", key=own, expect=422)
        for method, end in (("GET", ""), ("POST", "/retry"), ("POST", "/resend"), ("POST", "/cancel")):
            hub.call(method, f"{path}{end}", key=other, expect=404)
        again = hub.call("POST", f"{path}/resend", key=own)["id"]

        def is_sent_again() -> bool:
            items = hub.call("GET", f"/api/deliveries?webhook_id={made['id']}", key=own)["items"]
            return {item["id"]: item["status"] for item in items}.get(again) == "delivered"

        eventually(is_sent_again)


def test_a_customer_has_a_maximum_of_his_own(hub: Hub) -> None:
    for _ in range(3):
        make(hub, "many")
    body = {"name": "hook", "url": "https://example.com/", "events": ["message.created"]}
    refused = hub.call("POST", PATH, body, key=key(hub, "many"), expect=409)
    assert "INTERLINK_WEBHOOKS_PER_CUSTOMER" in refused["detail"]
    make(hub, "few")
