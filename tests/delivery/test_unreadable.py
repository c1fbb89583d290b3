"""An outgoing webhook whose secrets do not decrypt: its events wait, nothing is sent, and nothing is lost."""

import asyncio
import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from time import sleep
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.collection import Collection
from standardwebhooks import Webhook

from services.delivery.webhooks import outgoing_webhooks
from services.delivery.webhooks.encryption import WebhookEncryption
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from services.delivery.webhooks.queues import DeliveryQueues
from services.delivery.webhooks.repository import COLLECTION, WebhookRepository
from shared.runtime.configuration import Configuration
from shared.runtime.mongo import Mongo
from shared.runtime.secrets import LocalKeyProvider, UnknownKey, Vault
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.outgoing import Moody, finished, n_of, new_type, numbered, path_of, read, stats
from tests.support.recorded_secrets import record_secret
from tests.support.subscriber import Subscriber

DECRYPTION_FAILED = "webhook.decryption_failed"
LOST = "00000000"
"""The id of a key that is nowhere."""


hub = hub_with(services=("gateway", "delivery"), workspace="unreadable")


@pytest.fixture(autouse=True)
def unbroken(hub: Hub) -> Iterator[None]:
    with hub.unbroken("delivery"):
        yield


def again_with(hub: Hub, **env: str) -> None:
    """The delivery service, restarted."""
    assert hub.stop_service("delivery") == 0
    hub.start_service("delivery", **env)
    hub.wait_ready("delivery")


def parts(hub: Hub, webhook: dict[str, Any]) -> list[str]:
    """What of a webhook does not open."""
    return [item["part"] for item in hub.call("GET", path_of(webhook))["unreadable"]]


def decryption_errors(hub: Hub, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    """What the log says of the webhook's secrets."""
    lines = [line for line in hub.log_lines("delivery") if line["event"] == DECRYPTION_FAILED]
    return [line for line in lines if line["webhook_id"] == webhook["id"]]


@contextmanager
def stored(hub: Hub) -> Iterator[Collection[dict[str, Any]]]:
    """The outgoing webhooks as they are in the store."""
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        yield mongo.get_default_database()["outgoing_webhooks"]


def set_fields(
    hub: Hub, webhook: dict[str, Any], fields: dict[str, Any], changed_at: datetime | None = None
) -> None:
    """Write into a webhook's document, as if it was changed just now, or then."""
    stamp = {"changed_at": changed_at or datetime.now(UTC)}
    with stored(hub) as webhooks:
        assert webhooks.update_one({"_id": webhook["id"]}, {"$set": fields | stamp}).matched_count == 1


def waits(hub: Hub, webhook: dict[str, Any], count: int) -> None:
    """Until so many of the webhook's deliveries wait for their first attempt."""
    eventually(lambda: stats(hub, webhook)["pending"] == count)


def test_with_another_key_everything_waits_and_goes_out_when_the_key_is_back(hub: Hub) -> None:
    certificate, private_key = Authority("clients").pair("client")
    record_secret("a private key", private_key.splitlines()[1])
    secret: dict[str, dict[str, Any]] = {
        "plain": {},
        "strict": {"ordering": "strict"},
        "bearer": {"auth": {"type": "bearer", "token": f"bearer-{token_hex(16)}"}},
        "headers": {"profile": "none", "headers": {"X-Team": f"team-{token_hex(16)}"}},
        "mtls": {"auth": {"type": "mtls", "certificate": certificate, "private_key": private_key}},
        "later": {"retry": {"schedule": [0, 4], "jitter": 0}},
        "open": {"profile": "none"},
    }
    lost = {
        "plain": ["secret"],
        "strict": ["secret"],
        "bearer": ["secret", "auth"],
        "headers": ["headers"],
        "mtls": ["secret", "auth"],
        "later": ["secret"],
        "open": [],
    }
    mood = Moody(500)
    with Subscriber() as subscriber, Subscriber(mood) as moody:
        kind, early = new_type(), new_type()
        webhooks = {
            name: hub.outgoing_webhook(
                f"{(moody if name == 'later' else subscriber).url}/{name}",
                events=[early, kind] if name == "later" else [kind],
                **fields,
            )
            for name, fields in secret.items()
        }
        later = webhooks["later"]
        numbered(hub, early)
        eventually(lambda: stats(hub, later)["delayed"] == 1)
        [tried] = hub.deliveries(webhook_id=later["id"])
        mood.status = 204

        # An operator takes the key away.
        other = base64.b64encode(os.urandom(32)).decode()
        record_secret("a secret setting of the hub", other)
        again_with(hub, INTERLINK_ENCRYPTION_KEY=other)
        numbered(hub, kind, 6)
        for name, webhook in webhooks.items():
            if lost[name]:
                waits(hub, webhook, 6)
        finished(hub, webhooks["open"]["id"], 6)
        sleep(4.5)  # what was tried before is due by now, and stays
        assert {request.path for request in subscriber.got} == {"/hook/open"}
        assert len(moody.got) == 1
        listed = {item["id"]: item for item in hub.call("GET", "/api/outgoing-webhooks")["items"]}
        for name, webhook in webhooks.items():
            here = listed[webhook["id"]]
            assert [item["part"] for item in here["unreadable"]] == lost[name]
            assert all("INTERLINK_ENCRYPTION_KEY" in item["reason"] for item in here["unreadable"])
            assert here["enabled"]
            assert (here["health"]["circuit"], here["health"]["failing_since"]) == ("closed", None)
            lines = decryption_errors(hub, webhook)
            assert [line["level"] for line in lines] == ["error"] * bool(lost[name])
            assert [line["parts"] for line in lines] == [lost[name]] * bool(lost[name])
            if lost[name]:
                waiting = hub.deliveries(webhook_id=webhook["id"], status="pending")
                assert [item["attempt_count"] for item in waiting] == [0] * 6
                assert stats(hub, webhook)["failed"] == 0
        assert read(hub, tried["id"])["status"] == "retrying"
        assert read(hub, tried["id"])["attempt_count"] == 1

        # The key is back.
        again_with(hub)
        for name, webhook in webhooks.items():
            ended = finished(hub, webhook["id"], 7 if name == "later" else 6)
            assert {item["status"] for item in ended} == {"delivered"}
            assert parts(hub, webhook) == []
            assert len(decryption_errors(hub, webhook)) == bool(lost[name])
        assert read(hub, tried["id"])["attempt_count"] == 2
        got = {
            name: [request for request in subscriber.got if request.path == f"/hook/{name}"]
            for name in secret
        }
        assert [n_of(request) for request in got["strict"]] == list(range(6))
        for request in got["plain"]:
            Webhook(webhooks["plain"]["secret"]).verify(request.body, request.headers)
        bearer, team = secret["bearer"]["auth"]["token"], secret["headers"]["headers"]["X-Team"]
        assert [request.headers["authorization"] for request in got["bearer"]] == [f"Bearer {bearer}"] * 6
        assert [request.headers["x-team"] for request in got["headers"]] == [team] * 6


def test_a_process_that_runs_on_finds_out_by_itself(hub: Hub) -> None:
    """As `interlink keys` and a backup do it: the values open again, and `changed_at` says nothing of it."""
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], ordering="strict")
        with stored(hub) as webhooks:
            document = webhooks.find_one({"_id": webhook["id"]})
        assert document is not None
        key = document["secrets"][0]["sealed"]["k"]
        set_fields(hub, webhook, {"secrets.0.sealed.k": LOST})
        eventually(lambda: parts(hub, webhook) == ["secret"])
        numbered(hub, kind, 3)
        waits(hub, webhook, 3)
        assert hub.call("PATCH", path_of(webhook), {"name": "Renamed"})["unreadable"] != []
        assert subscriber.got == []
        set_fields(hub, webhook, {"secrets.0.sealed.k": key}, datetime.now(UTC) - timedelta(hours=1))
        got = subscriber.wait_for(3)
    assert [n_of(request) for request in got] == [0, 1, 2]
    assert parts(hub, webhook) == []
    assert len(decryption_errors(hub, webhook)) == 1, "once, whatever else of it was changed"


def test_credentials_that_are_set_again_are_used_for_waiting_deliveries(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        auth = {"type": "bearer", "token": f"old-{token_hex(16)}"}
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], auth=auth)
        path, token = path_of(webhook), f"new-{token_hex(16)}"
        set_fields(hub, webhook, dict.fromkeys(("secrets.0.sealed.k", "headers.k", "auth.k"), LOST))
        eventually(lambda: parts(hub, webhook) == ["secret", "auth"])
        numbered(hub, kind, 2)
        waits(hub, webhook, 2)
        bad = {"auth": {"type": "mtls", "certificate": "x", "private_key": "y"}}
        hub.call("PATCH", path, bad, expect=422)
        changed = hub.call("PATCH", path, {"auth": {"type": "bearer", "token": token}})
        assert [item["part"] for item in changed["unreadable"]] == ["secret"]
        assert subscriber.got == []
        rotated = hub.call("POST", f"{path}/rotate-secret", {})
        assert rotated["unreadable"] == []
        got = subscriber.wait_for(2)
        for request in got:
            Webhook(rotated["secret"]).verify(request.body, request.headers)
            assert request.headers["authorization"] == f"Bearer {token}"
        finished(hub, webhook["id"], 2)


def test_a_secret_that_has_ended_need_not_open(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        hub.call("POST", f"{path_of(webhook)}/rotate-secret", {"overlap_hours": 0})
        set_fields(hub, webhook, {"secrets.1.sealed.k": LOST, "name": "Renamed"})
        sleep(2.5)  # by then every process has seen it
        assert parts(hub, webhook) == []
        numbered(hub, kind)
        subscriber.wait_for(1)


def test_what_waits_for_a_webhook_that_cannot_be_read_at_all_is_not_cancelled(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        hub.call("POST", f"{path_of(webhook)}/pause")
        numbered(hub, kind, 2)
        waits(hub, webhook, 2)
        set_fields(hub, webhook, {"transform": "[", "paused": False})
        eventually(lambda: [x for x in hub.log_lines("delivery") if x.get("id") == webhook["id"]])
        sleep(2.5)
        assert stats(hub, webhook)["pending"] == 2
        set_fields(hub, webhook, {"transform": None})
        subscriber.wait_for(2)
        assert {delivery["status"] for delivery in finished(hub, webhook["id"], 2)} == {"delivered"}


class Service:
    """Keys that another process holds, as a key management service does."""

    current = "theirs"

    def __init__(self) -> None:
        self.answers = True
        self.asked = 0
        self._own = LocalKeyProvider([os.urandom(32)])

    def wrap(self, data_key: bytes) -> bytes:
        return self._own.wrap(data_key)

    def unwrap(self, _key: str, wrapped: bytes) -> bytes:
        self.asked += 1
        if not self.answers:
            raise UnknownKey
        return self._own.unwrap(self._own.current, wrapped)


async def test_a_key_that_comes_to_a_process_opens_documents_that_did_not_change(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing_webhooks, "_DECRYPT_RETRY_INTERVAL_S", 0.05)
    keys, mongo = Service(), Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    log = structlog.get_logger()
    configuration, encryption = Configuration(mongo, log), WebhookEncryption(Vault(keys))
    webhooks_in_memory = OutgoingWebhooks(
        WebhookRepository(mongo, per_workspace=1, per_customer=1),
        DeliveryQueues(mongo, configuration, log),
        encryption,
        configuration,
        log,
    )
    moment = datetime.now(UTC) - timedelta(days=1)
    document: dict[str, Any] = {
        "_id": "wh_1",
        "workspace": "w",
        "name": "x",
        "url": "https://example.com/",
        "events": ["message.*"],
        "filter": {"condition": "data.n == `1`"},
        "enabled": True,
        "profile": "nchat",
        "secrets": [encryption.new_secret("w", "wh_1", "secret-of-the-test")],
        "schedule": [0],
        "ordering": "none",
        "max_in_flight": 1,
        "timeout_s": 1,
        "created_at": moment,
        "changed_at": moment,
    }
    await mongo.collection(COLLECTION).insert_one(document)
    keys.answers = False
    await webhooks_in_memory.start()
    try:
        [webhook] = webhooks_in_memory.matching("w", "message.created")
        assert webhook.filter is not None
        assert not webhooks_in_memory.may_send(webhook)
        assert json.dumps(dict(webhooks_in_memory.unreadable_parts("wh_1"))).startswith('{"secret": ')
        keys.answers = True
        for _ in range(500):
            await asyncio.sleep(0.01)
            if webhooks_in_memory.may_send(webhooks_in_memory.matching("w", "message.created")[0]):
                break
        [webhook] = webhooks_in_memory.matching("w", "message.created")
        assert webhooks_in_memory.may_send(webhook)
        assert webhook.valid_keys() == [b"secret-of-the-test"]
        asked = keys.asked
        await asyncio.sleep(0.2)
        assert keys.asked == asked, "what opens is not opened again"
    finally:
        await webhooks_in_memory.stop()
        mongo.close()
