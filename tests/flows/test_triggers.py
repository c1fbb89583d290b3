"""What a provider says of an event beside its payload reaches subscribers, people and the chat."""

import json
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Any

import httpx

import shared.providers
from services.delivery.engine.fanout import event_fields_of
from shared.contracts.envelope import Event
from shared.manifests.fixtures import read_fixture
from shared.manifests.registry import registry
from shared.manifests.scheme_signers import SchemeSigner, scheme_signers
from shared.webhooks.formats import render_body
from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.subscriber import Subscriber
from tests.support.tap import Tap

PAYMENT = "payment_intent_succeeded_of_connected_account"
FAILED = "payment_intent_failed"
TRIGGER = "stripe_trigger_new_payment"
HOOKS = "/api/outgoing-webhooks"


hub = hub_with(services=("gateway", "delivery", "sync"), workspace="triggers")


class Stripe:
    """An endpoint for Stripe's webhooks, and Stripe that calls it."""

    def __init__(self, hub: Hub, channel: str) -> None:
        self._provider = registry().providers["stripe"]
        self._signing: SchemeSigner = scheme_signers(self._provider)[0]
        body = {"provider": "stripe", "name": "pay", "channel_id": channel, "secret": self._signing.secret}
        self.endpoint: dict[str, Any] = hub.call("POST", "/api/inbound-endpoints", body, expect=201)

    def send(self, name: str) -> dict[str, Any]:
        """Send a recorded webhook; what expected.json says of its event."""
        case = Path(next(iter(shared.providers.__path__)), "stripe", "fixtures", name)
        fixture = read_fixture(case)
        request = fixture.request(self._provider, address=self.endpoint["url"])
        signed = self._signing.sign(request, time())
        headers = {key.decode(): values[0].decode() for key, values in signed.headers.items()}
        httpx.post(self.endpoint["url"], content=signed.body, headers=headers).raise_for_status()
        expected: dict[str, Any] = fixture.expected["events"][0]
        return expected


def test_a_trigger_fires_and_tells_account_and_time(hub: Hub, bus: Bus) -> None:
    channel = f"c-{token_hex(4)}"
    stripe = Stripe(hub, channel)
    tap = Tap(bus, "chat.inbound")
    account = "acct_"
    names = ("trigger", "several", "other", "condition", "nchat", "nobody")
    with Subscriber() as subscriber:
        secret = f"whsec_{'A' * 32}"
        requested: dict[str, dict[str, Any]] = {
            "trigger": {"events": [TRIGGER]},
            "several": {"events": ["*", "stripe.*", TRIGGER, "stripe.payment_intent.succeeded"]},
            "other": {"events": ["stripe_trigger_payment_failed"]},
            "condition": {
                "events": ["stripe.*"],
                "filter": {
                    "condition": f"contains(data.triggers, '{TRIGGER}')"
                    f" && starts_with(data.account, '{account}') && occurred_at != data.received_at"
                },
            },
            "nchat": {"events": [TRIGGER], "format": "nchat"},
            "nobody": {"events": ["stripe.charge.failed"]},
        }
        for name in names:
            hub.outgoing_webhook(f"{subscriber.url}/{name}", secret=secret, **requested[name])
        subscriber.secret = secret
        paid, failed = stripe.send(PAYMENT), stripe.send(FAILED)
        assert paid["triggers"] == [TRIGGER]
        assert paid["account"].startswith(account)
        subscriber.wait_for(6)

        def to(name: str) -> list[dict[str, Any]]:
            return [json.loads(got.body) for got in subscriber.got if got.path.endswith(f"/{name}")]

        def counts() -> bool:
            return {name: len(to(name)) for name in names} == {
                **dict.fromkeys(names, 1),
                "several": 2,
                "nobody": 0,
            }

        eventually(counts)
        for name in ("trigger", "condition", "nchat"):
            [body] = to(name)
            data = body["data"]
            assert (data["triggers"], data["account"]) == (paid["triggers"], paid["account"]), name
            assert body["timestamp" if name == "nchat" else "occurred_at"] == paid["occurred_at"], name
            assert data["received_at"] not in (paid["occurred_at"], None), name
            assert (data["test"], data["replay_of"]) == (False, None), name
            assert data["payload"]["account"] == paid["account"], name
        # In any order: the webhook asks for none.
        triggers = [item["data"]["triggers"] for item in to("several")]
        assert sorted(triggers) == sorted([paid["triggers"], failed["triggers"]])
        assert to("other")[0]["data"]["account"] == failed.get("account")
        assert to("nobody") == []
        assert len(subscriber.got) == 6, "a webhook gets an event once, however many of its patterns match"

    def executions() -> list[dict[str, Any]]:
        path = f"/api/inbound-endpoints/{stripe.endpoint['id']}/events"
        results: list[dict[str, Any]] = hub.call("GET", path)["items"]
        return results

    eventually(lambda: len(executions()) == 2)
    current = executions()
    assert current[1]["triggers"] == [TRIGGER]
    assert current[1]["accounts"] == [paid["account"]]
    assert current[1]["occurred_at"] == paid["occurred_at"]
    assert current[0]["accounts"] == []

    def origins() -> list[dict[str, Any]]:
        return [item.data["origin"] for item in tap.look() if item.data["channel_id"] == channel]

    eventually(lambda: len(origins()) == 2)
    message = [(item["account"], item["occurred_at"]) for item in origins()]
    assert message == [(paid["account"], paid["occurred_at"]), (None, failed["occurred_at"])]


def test_a_record_from_before_says_no_less_than_it_did() -> None:
    head = {"provider": "stripe", "endpoint_id": "ep_1", "event": "charge.failed", "delivery_id": "evt_1"}
    event = Event(
        id="evt_2",
        type="stripe.charge.failed",
        source="/webhooks/stripe/ep_1",
        workspace="w",
        time="2026-03-01T09:00:00.000Z",
        data=b'{"n":12345678901234567890}',
        attributes=head,
    )
    body = json.loads(render_body("envelope", event_fields_of(event, event.type, "1", registry().providers)))
    assert body["occurred_at"] == event.time
    assert body["data"] == {
        **head,
        "triggers": [],
        "account": None,
        "received_at": event.time,
        "test": False,
        "replay_of": None,
        "payload": {"n": 12345678901234567890},
    }


def test_a_test_and_a_replay_say_so(hub: Hub) -> None:
    stripe = Stripe(hub, f"c-{token_hex(4)}")
    path = f"/api/inbound-endpoints/{stripe.endpoint['id']}"
    with Subscriber() as subscriber:
        created = hub.outgoing_webhook(subscriber.url, events=["stripe.charge.refunded"])
        subscriber.secret = created["secret"]
        hub.call("POST", f"{path}/test", {"event": "charge.refunded"})
        subscriber.wait_for(1)
        current = eventually(lambda: hub.call("GET", f"{path}/events")["items"])
        hub.call("POST", f"{path}/events/{current[0]['id']}/replay", expect=202)
        subscriber.wait_for(2)
        first, second = (json.loads(got.body) for got in subscriber.got)
    assert (first["data"]["test"], first["data"]["replay_of"]) == (True, None)
    assert (second["data"]["test"], second["data"]["replay_of"]) == (True, first["id"])
    assert second["id"] != first["id"]
    assert second["occurred_at"] == first["occurred_at"]


def test_names_that_the_catalogue_lacks(hub: Hub) -> None:
    def create(*events: str, expect: int, query: str = "") -> dict[str, Any]:
        body = {"name": "n", "url": f"https://a.example/{token_hex(8)}", "events": list(events)}
        answer: dict[str, Any] = hub.call("POST", f"{HOOKS}{query}", body, expect=expect)
        return answer

    rejected = create("message.*", "strype.payment", "stripe_trigger_nope", "stripe.*", expect=422)
    errors = {item["field"]: item["message"] for item in rejected["errors"]}
    assert set(errors) == {"events.1", "events.2"}
    assert "did you mean stripe?" in errors["events.1"]
    assert TRIGGER in errors["events.2"]

    mine = create("*", "stripe.*", "message.*", TRIGGER, "order.paid", "github.pusch", expect=201)
    assert [warning.partition(":")[0] for warning in mine["warnings"]] == ["order.paid", "github.pusch"]
    assert "github.push" in mine["warnings"][1]
    assert create("message.created", "stripe.payment_intent.succeeded", expect=201)["warnings"] == []
    current = hub.call("GET", f"{HOOKS}/{mine['id']}")["warnings"]
    assert [warning.partition(":")[0] for warning in current] == ["order.paid", "github.pusch"]

    path = f"{HOOKS}/{mine['id']}"
    rejected = hub.call("PATCH", path, {"events": ["stripe_trigger_nope"]}, expect=422)
    assert [item["field"] for item in rejected["errors"]] == ["events.0"]
    assert hub.call("PATCH", path, {"events": ["orders.paid"]})["warnings"] != []
    # A type of one's own that is called almost as a provider; what a webhook has, it may keep.
    forced = create("strype.payment", expect=201, query="?force=true")
    assert len(forced["warnings"]) == 1
    stored = hub.call("PATCH", f"{HOOKS}/{forced['id']}", {"events": ["strype.payment", "message.*"]})
    assert stored["events"] == ["strype.payment", "message.*"]


def test_nobody_publishes_a_trigger(hub: Hub) -> None:
    event = {"id": token_hex(8), "type": TRIGGER, "source": "/x", "specversion": "1.0", "data": {}}
    hub.call("POST", "/api/events", event, expect=422)
    hub.call("POST", "/api/event-types", {"name": TRIGGER, "about": "mine"}, expect=422)


def test_event_types_say_which_triggers_they_fire(hub: Hub) -> None:
    current = hub.call("GET", "/api/event-types/stripe.payment_intent.succeeded")
    assert current["triggers"] == [TRIGGER]
    assert current["example"]["triggers"] == [TRIGGER]
    assert {"triggers", "account", "received_at"} <= current["schema"]["properties"].keys()
    assert hub.call("GET", "/api/event-types/message.created")["triggers"] == []
    topics = hub.call("GET", "/api/asyncapi.json")
    headers = topics["channels"]["webhooks_received"]["messages"]["record"]["headers"]
    assert {"triggers", "account", "occurred_at"} <= headers["properties"].keys()


def test_a_preview_knows_triggers(hub: Hub) -> None:
    trial = {"type": "stripe.payment_intent.succeeded", "events": [TRIGGER], "data": {"triggers": [TRIGGER]}}
    assert hub.call("POST", f"{HOOKS}/preview", trial)["wanted"] is True
    assert hub.call("POST", f"{HOOKS}/preview", {**trial, "data": {}})["wanted"] is False
