"""What earlier releases stored works: secrets open, deliveries go on, tokens refresh, offsets are kept.

Each file of this folder is the database of a release, stopped in the middle of its work (`write.py`). Every
document gets a field that this release does not know, as during a rolling upgrade.
"""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from bson import json_util
from pymongo import MongoClient
from standardwebhooks import Webhook

from shared.contracts.topics import CHAT_EVENTS
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import publish, read
from tests.support.recorded_secrets import record_secret
from tests.support.subscriber import Subscriber, WebhookRequest

FILES = sorted(Path(__file__).parent.glob("records-*.json"))
GROUP = "delivery-fanout"
"""The consumer group of fan-out, as earlier releases named it."""
HANDLED_ID = "evt-handled-by-the-earlier-release"


@dataclass
class Upgraded:
    """A hub of this release on the database of an earlier one."""

    hub: Hub
    known: dict[str, Any]
    subscriber: Subscriber
    provider: Subscriber

    def sent_to(self, path: str) -> list[WebhookRequest]:
        """What the subscriber got at a path."""
        return [got for got in self.subscriber.got if got.path == f"/hook/{path}"]


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def upgraded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store
) -> Iterator[Upgraded]:
    with Subscriber() as subscriber, Subscriber(_tokens) as provider:
        text = request.param.read_text(encoding="utf-8")
        text = text.replace("{subscriber}", subscriber.url).replace("{provider}", provider.url)
        document = json_util.loads(text, json_options=json_util.JSONOptions(tz_aware=True))
        known = document["known"]
        for name in ("encryption_key", "admin_key", "api_key", "client_secret", "refresh_token"):
            record_secret("a secret of stored records", known[name])
        hub = Hub(
            tmp_path_factory.mktemp("hub"),
            bus,
            store,
            services=("gateway", "delivery", "oauth"),
            env={
                "INTERLINK_ENCRYPTION_KEY": known["encryption_key"],
                "INTERLINK_BOOTSTRAP_ADMIN_KEY": known["admin_key"],
            },
        )
        hub.admin_key = known["admin_key"]
        _load(hub, document)
        hub.init(hub.workspace)
        asyncio.run(_commit_past_an_event(bus))
        try:
            yield Upgraded(hub.start(), known, subscriber, provider)
        finally:
            hub.stop()


def _load(hub: Hub, document: dict[str, Any], *, ago: timedelta = timedelta()) -> None:
    """Store the records as if written `ago` before now, each with a field of a later release."""
    passed = datetime.now(UTC) - ago - document["written_at"]
    client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
    with client:
        database = client.get_default_database()
        for name, records in document["records"].items():
            if records:
                later = {"field_of_a_later_release": {"any": ["value"]}}
                database[name].insert_many([_moved(record, passed) | later for record in records])


def _moved(value: Any, passed: Any) -> Any:
    if isinstance(value, datetime):
        return value + passed
    if isinstance(value, dict):
        return {name: _moved(item, passed) for name, item in value.items()}
    return [_moved(item, passed) for item in value] if isinstance(value, list) else value


async def _commit_past_an_event(bus: Bus) -> None:
    """Publish an event, and commit the offset behind it for the group: the earlier release has handled it."""
    bootstrap = bus.env["KAFKA_BOOTSTRAP_SERVERS"]
    headers = {
        "ce_specversion": "1.0",
        "ce_id": HANDLED_ID,
        "ce_type": "order.placed",
        "ce_source": "/tests",
        "ce_time": datetime.now(UTC).isoformat(),
        "content-type": "application/json",
        "workspace": "default",
    }
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        sent = await producer.send_and_wait(
            CHAT_EVENTS.name,
            b'{"number": 1}',
            key=b"orders",
            headers=[(name, value.encode()) for name, value in headers.items()],
        )
    place = TopicPartition(sent.topic, sent.partition)
    async with AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=GROUP, enable_auto_commit=False
    ) as consumer:
        consumer.assign([place])
        await consumer.commit({place: sent.offset + 1})


def _tokens(got: WebhookRequest) -> web.Response:
    """The provider's token endpoint: every request gets new tokens."""
    del got
    answer = {"access_token": f"access-{token_hex(8)}", "refresh_token": "next", "expires_in": 3600}
    return web.json_response(answer | {"token_type": "Bearer"})


def _published(upgraded: Upgraded, **data: Any) -> str:
    [event_id] = publish(upgraded.hub, "order.placed", data)
    return event_id


def _body_of(got: WebhookRequest) -> dict[str, Any]:
    return dict(json.loads(got.body))


def _got(upgraded: Upgraded, path: str, event_id: str) -> WebhookRequest:
    """The request of an event at a path, once it is there."""

    def look() -> WebhookRequest | None:
        return next((got for got in upgraded.sent_to(path) if event_id.encode() in got.body), None)

    found = eventually(look)
    assert found
    return found


# API keys and configuration


def test_api_keys_open_every_service(upgraded: Upgraded) -> None:
    hub, key = upgraded.hub, upgraded.known["api_key"]
    assert hub.call("GET", "/api/outgoing-webhooks", key=key)["items"]
    for path in ("/api/inbound-endpoints", "/api/integrations"):  # an unknown key is 401
        hub.call("GET", path, key=key, expect=403)


def test_signatures_are_checked_with_stored_secrets(upgraded: Upgraded) -> None:
    hub = upgraded.hub
    body = b'{"id": "evt_1", "type": "charge.succeeded", "zen": "Keep it simple."}'

    def post(name: str, headers: dict[str, str]) -> int:
        path = f"/api/webhooks/{upgraded.known[name]['provider']}/{upgraded.known[name]['id']}"
        return httpx.post(hub.url("gateway") + path, content=body, headers=headers).status_code

    def digest(secret: str, text: bytes = body) -> str:
        return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()

    github = upgraded.known["github"]["secret"]
    event = {"x-github-event": "ping", "content-type": "application/json"}
    for signature, status in ((digest(github), 202), (digest("another"), 401)):
        delivery = {"x-github-delivery": token_hex(8), "x-hub-signature-256": f"sha256={signature}"}
        assert post("github", event | delivery) == status
    assert post("generic", {"x-sign": digest("own-secret-of-the-records")}) == 202
    assert post("generic", {"x-sign": digest("another")}) == 401
    now = int(time())
    for secret in (
        "whsec_Zmlyc3RzZWNyZXRvZnJlY29yZHM",
        "whsec_c2Vjb25kc2VjcmV0b2ZyZWNvcmRz",
    ):  # until it ends
        signed = digest(secret, f"{now}.".encode() + body)
        assert post("stripe", {"stripe-signature": f"t={now},v1={signed}"}) == 202, (
            "both, until the overlap ends"
        )


def test_an_incoming_webhook_takes_messages(upgraded: Upgraded) -> None:
    path = httpx.URL(upgraded.known["incoming"]["url"]).path
    answer = httpx.post(upgraded.hub.url("gateway") + path, json={"text": "hello"})
    assert answer.is_success, answer.text


def test_an_event_type_of_a_workspace_is_checked(upgraded: Upgraded) -> None:
    wrong = {
        "specversion": "1.0",
        "id": token_hex(8),
        "type": "order.placed",
        "source": "/tests",
        "data": {"number": "three"},
    }
    upgraded.hub.call("POST", "/api/events", wrong, expect=422)


# Outgoing webhooks and deliveries


def test_deliveries_are_signed_with_stored_secrets(upgraded: Upgraded) -> None:
    webhooks = upgraded.known["webhooks"]
    event_id = _published(upgraded, number=7)
    got = _got(upgraded, "standard", event_id)
    for secret in (webhooks["standard"]["secret"], upgraded.known["standard_new_secret"]):
        Webhook(secret).verify(got.body, got.headers)
    nchat = _got(upgraded, "nchat", event_id)
    expected = hmac.new(webhooks["nchat"]["secret"].encode(), nchat.body, hashlib.sha256).hexdigest()
    assert nchat.headers["x-webhook-signature"] == f"sha256={expected}"
    headers = _got(upgraded, "headers", event_id).headers
    assert headers["x-team"] == "records"
    assert headers["authorization"] == "Basic " + base64.b64encode(b"records:open sesame").decode()
    _got(upgraded, "strict", event_id)
    assert not [got for got in upgraded.sent_to("paused") if event_id.encode() in got.body]
    assert not [got for got in upgraded.sent_to("filtered") if event_id.encode() in got.body]


def test_filters_and_projections_are_read(upgraded: Upgraded) -> None:
    _published(upgraded, number=4321)
    eventually(lambda: {"number": 4321} in [_body_of(got) for got in upgraded.sent_to("filtered")])


def test_what_an_earlier_release_left_open_is_delivered(upgraded: Upgraded) -> None:
    """A retry that is due, and the events beyond the fair share, with the delivery ids of that release."""
    hub, events = upgraded.hub, upgraded.known["events"]
    got = _got(upgraded, "soon", events["soon"])
    [delivery] = hub.deliveries(event_id=events["soon"])
    assert got.headers["webhook-id"] == delivery["id"]
    count = len(upgraded.known["flood"])

    def all_of_the_flood() -> bool:
        paths = ["flood", *(f"flood/{number}" for number in range(count - 1))]
        return all(len({got.headers["webhook-id"] for got in upgraded.sent_to(path)}) > 50 for path in paths)

    eventually(all_of_the_flood, 60)


def test_finished_and_waiting_deliveries_are_shown_and_can_be_sent(upgraded: Upgraded) -> None:
    hub, events = upgraded.hub, upgraded.known["events"]
    delivered = [one for one in hub.deliveries(event_id=events["delivered"]) if one["status"] == "delivered"]
    assert delivered
    shown = read(hub, delivered[0]["id"])
    assert shown["attempts"][0]["status_code"] == 204
    assert shown["body"]
    hub.call("POST", f"/api/deliveries/{delivered[0]['id']}/resend", expect=202)
    [gone] = hub.deliveries(event_id=events["gone"])
    assert gone["status"] == "dead_letter"
    webhook = upgraded.known["webhooks"]["gone"]["id"]
    assert hub.call("GET", f"/api/outgoing-webhooks/{webhook}")["disabled_reason"] == "gone"
    hub.call("POST", f"/api/outgoing-webhooks/{webhook}/enable")
    [later] = hub.deliveries(event_id=events["later"])
    assert later["attempt_count"] == 1
    for name, delivery in (("gone", gone), ("later", later)):
        hub.call("POST", f"/api/deliveries/{delivery['id']}/retry", expect=202)
        assert _got(upgraded, name, events[name]).headers["webhook-id"] == delivery["id"]


def test_what_a_change_does_not_name_stays_as_it_was_stored(upgraded: Upgraded) -> None:
    """Names of fields, nulls, absent fields, and those of a later release."""
    hub = upgraded.hub
    client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
    with client:
        database = client.get_default_database()
        webhooks, queues = database["outgoing_webhooks"], database["delivery_queues"]
        webhook_id = upgraded.known["webhooks"]["headers"]["id"]
        before = webhooks.find_one({"_id": webhook_id})
        assert before
        hub.call(
            "PATCH", f"/api/outgoing-webhooks/{webhook_id}", {"name": "Renamed", "headers": {"X-B": "b"}}
        )
        after = webhooks.find_one({"_id": webhook_id})
        assert after
        changed = {"name": "Renamed", "header_names": ["X-B"], "version": 1}
        assert after == before | changed | {name: after[name] for name in ("headers", "changed_at")}
        hub.call("POST", f"/api/outgoing-webhooks/{webhook_id}/pause")
        hub.call("POST", f"/api/outgoing-webhooks/{webhook_id}/resume")
        resumed = webhooks.find_one({"_id": webhook_id})
        assert resumed
        assert resumed == after | {"lifts": 1, "changed_at": resumed["changed_at"]}

        queue = {"_id": "default", "paused": False, "changed_at": datetime.now(UTC), "later": 1}
        queues.replace_one({"_id": "default"}, queue, upsert=True)
        for action, paused in (("pause", True), ("resume", False)):
            hub.call("POST", f"/api/queue/{action}")
            written = queues.find_one({"_id": "default"})
            assert written
            assert written == queue | {"paused": paused, "changed_at": written["changed_at"]}

        deleted = upgraded.known["webhooks"]["paused"]["id"]
        before = webhooks.find_one({"_id": deleted})
        assert before
        hub.call("DELETE", f"/api/outgoing-webhooks/{deleted}", expect=204)
        after = webhooks.find_one({"_id": deleted})
        assert after
        removed = {"claims_url": False, "secrets": [], "headers": None, "auth": None, "version": 1}
        assert after == before | removed | {name: after[name] for name in ("deleted_at", "changed_at")}


def test_fan_out_goes_on_behind_the_committed_offset(upgraded: Upgraded) -> None:
    event_id = _published(upgraded, number=8)
    _got(upgraded, "standard", event_id)
    assert HANDLED_ID.encode() not in b"".join(got.body for got in upgraded.subscriber.got)


# Accounts


def test_tokens_of_an_account_are_refreshed(upgraded: Upgraded) -> None:
    hub, integration = upgraded.hub, upgraded.known["integration"]
    assert hub.call("GET", f"/api/integrations/{integration}")["status"] == "connected"
    hub.call("POST", f"/api/integrations/{integration}/refresh")
    [asked] = [got for got in upgraded.provider.got if got.path.endswith("/token")]
    assert parse_qs(asked.body.decode())["refresh_token"] == [upgraded.known["refresh_token"]]
    basic = base64.b64encode(f"app:{upgraded.known['client_secret']}".encode()).decode()
    assert asked.headers.get("authorization") == f"Basic {basic}" or b"client_secret" in asked.body


def test_the_result_of_an_authorization_is_shown(upgraded: Upgraded) -> None:
    """State and outcome are sealed. Another browser than the one that started it sees no account."""
    client: MongoClient[Any] = MongoClient(upgraded.hub.env["MONGODB_URI"], tz_aware=True)
    with client:
        states = client.get_default_database()["oauth_states"].find({"outcome": {"$type": "object"}})
        [state] = list(states)
    result = httpx.get(f"{upgraded.hub.url('oauth')}/api/auth/oauth/result/{state['_id']}")
    assert (result.status_code, "This is finished" in result.text) == (200, True)
    assert "ada" not in result.text
