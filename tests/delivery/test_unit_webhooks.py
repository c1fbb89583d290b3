"""Records of outgoing webhooks and deferred events: what earlier and later releases store is read."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from bson import encode, json_util

from services.delivery.engine.deferred_events import ChunkRecord
from services.delivery.log.deliveries import MAX_STORED_ATTEMPTS, ClaimedDelivery, Deliveries
from services.delivery.model.circuit_breaker import BreakerPolicy
from services.delivery.model.retry_policy import Attempt, AttemptOutcome
from services.delivery.webhooks.encryption import WebhookEncryption
from services.delivery.webhooks.outgoing_webhooks import compile_webhook
from services.delivery.webhooks.repository import WebhookRecord
from shared.contracts.errors import Misconfigured
from shared.contracts.topics import DELIVERY_REQUESTED
from shared.runtime.egress.client import EgressResponse
from shared.runtime.records import Record
from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.webhooks.backoff import MAX_ATTEMPTS, SCHEDULES

FILES = sorted((Path(__file__).parent.parent / "upgrade").glob("records-*.json"))
NOW = datetime(2026, 1, 2, tzinfo=UTC)
ENCRYPTION = WebhookEncryption(Vault(LocalKeyProvider([bytes(32)])))

OLDEST: dict[str, Any] = {
    "_id": "wh_1",
    "workspace": "w",
    "name": "x",
    "url": "https://example.com/",
    "events": ["message.*"],
    "enabled": True,
    "profile": "none",
    "secrets": [],
    "schedule": "nchat",
    "ordering": "none",
    "max_in_flight": 1,
    "timeout_s": 30,
    "created_at": NOW,
    "changed_at": NOW,
}
"""The fields that every release has stored."""
ALL: dict[str, Any] = OLDEST | {
    "claims_url": True,
    "description": "",
    "disabled_reason": None,
    "enabled_at": NOW,
    "paused": True,
    "format": "nchat",
    "transform": "{text: text}",
    "filter": {"channels": ["general"], "exclude_bots": True},
    "integration_id": "int_1",
    "headers": {"k": "00000000", "w": b"w", "n": b"n", "c": b"c"},
    "header_names": ["X-Team"],
    "auth": {"k": "00000000", "w": b"w", "n": b"n", "c": b"c"},
    "auth_shown": {"type": "basic", "username": "ada"},
    "schedule": [0, 1.5, 300],
    "jitter": 0.1,
    "client_errors": "retry",
    "max_retry_after_s": 60,
    "rate_limit": {"requests": 5, "period_s": 2},
    "disable_after_days": 1.5,
    "circuit_breaker": {"enabled": False, "failures": 3, "pause_s": 0.5},
    "lifts": 2,
}


def test_what_a_hostile_receiver_answers_at_every_attempt_fits_into_a_document() -> None:
    headers = {f"{number:03}" + "\u00e9" * 5000: "\u00e9" * 8000 for number in range(100)}
    response = EgressResponse(500, None, "x" * 300, headers, b"\xff" * 100_000, 1.0, None)
    own = {f"{number:03}".rjust(200, "x"): "[hidden]" for number in range(20)}
    deliveries = Deliveries.__new__(Deliveries)  # what is built needs neither database nor settings
    outcome = AttemptOutcome("retrying", NOW)
    update: Any = deliveries.result_update(
        ClaimedDelivery(Mock()), Attempt(1, NOW, {**own, "traceparent": "x" * 55}, response), outcome
    )
    [attempt] = update._doc["$push"]["attempts"]["$each"]
    body = DELIVERY_REQUESTED.max_message_bytes
    assert len(encode({"attempts": [attempt] * MAX_STORED_ATTEMPTS})) + body < 16 * 1024 * 1024
    assert MAX_ATTEMPTS <= MAX_STORED_ATTEMPTS


def stored(collection: str) -> Iterator[dict[str, Any]]:
    for file in FILES:
        options = json_util.JSONOptions(tz_aware=True)
        yield from json_util.loads(file.read_text("utf-8"), json_options=options)["records"][collection]


def bson(document: Any) -> str:
    """The document with the types of its numbers, in any order of its fields."""
    return json.dumps(json.loads(json_util.dumps(document)), sort_keys=True)


def opened(document: dict[str, Any]) -> Any:
    record = WebhookRecord.from_document(document)
    return compile_webhook(record, ENCRYPTION.decrypt(record))


@pytest.mark.parametrize(
    ("model", "document"),
    [
        *((WebhookRecord, document) for document in (ALL, *stored("outgoing_webhooks"))),
        *((ChunkRecord, document) for document in stored("deferred_events")),
    ],
    ids=lambda value: value["_id"] if isinstance(value, dict) else value.__name__,
)
def test_a_record_is_stored_as_earlier_releases_stored_it(
    model: type[Record], document: dict[str, Any]
) -> None:
    record = model.from_document(document | {"field_of_a_later_release": {"any": ["value"]}})
    assert bson(record.document()) == bson(
        {name: value for name, value in document.items() if name != "events" or model is WebhookRecord}
    )


def test_fields_that_an_earlier_release_did_not_store_have_their_defaults() -> None:
    webhook = opened(OLDEST)
    assert (webhook.paused, webhook.integration_id, webhook.format, webhook.resets) == (
        False,
        "",
        "envelope",
        0,
    )
    assert (webhook.filter, webhook.transform, webhook.rate_limit, webhook.breaker) == (None,) * 4
    assert (webhook.enabled_at, webhook.disable_after.days) == (NOW, 5)
    assert (webhook.policy.schedule, webhook.policy.jitter) == (SCHEDULES["nchat"], 0.0)
    assert webhook.policy.max_retry_after_s == 900
    assert webhook.unreadable == {}
    assert not WebhookRecord.from_document(OLDEST).claims_url


def test_settings_reach_the_webhook_in_memory() -> None:
    webhook = opened(ALL)
    assert webhook.breaker == {"enabled": False, "failures": 3, "pause_s": 0.5}
    assert (webhook.rate_limit.requests, webhook.rate_limit.period_s, webhook.resets) == (5, 2, 2)
    assert webhook.policy.schedule == (0, 1.5, 300)
    assert set(webhook.unreadable) == {"headers", "auth"}


@pytest.mark.parametrize(
    "damaged",
    [
        {"headers": "no longer sealed", "header_names": ["X-Team"]},
        {"auth": {"k": 5}, "auth_shown": {"type": "basic"}},
        {"profile": "nchat", "secrets": [{"sealed": {}, "expires_at": None}]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_part_that_makes_no_sense_does_not_hide_the_webhook(damaged: dict[str, Any]) -> None:
    """A webhook that is not in memory matches no event, and its events would be lost."""
    assert opened(OLDEST | damaged).unreadable


def test_a_value_of_a_later_release_does_not_hide_the_webhook() -> None:
    webhook = opened(OLDEST | {"profile": "later", "format": "later", "client_errors": "later"})
    assert (webhook.profile, webhook.format, webhook.patterns) == ("later", "later", ("message.*",))


def test_a_change_is_checked_as_it_will_be_stored() -> None:
    record = WebhookRecord.from_document(ALL)
    changed = record.changed({"rate_limit": {"requests": 7}, "filter": None, "auth_summary": None})
    assert changed.rate_limit is not None
    assert (changed.rate_limit.requests, changed.rate_limit.period_s) == (7, 1.0)
    assert changed.filter is None
    assert changed.name == record.name
    with pytest.raises(Misconfigured):
        record.changed({"events": 5})


@pytest.mark.parametrize(("pause_s", "max_pause_s"), [(30, 60), (0.1, 3600), (60, 5)])
def test_pauses_of_a_circuit_double_up_to_their_bound(pause_s: float, max_pause_s: float) -> None:
    policy = BreakerPolicy(
        enabled=True, failures=1, failing_s=0, pause_s=pause_s, max_pause_s=max_pause_s, max_wait_s=1
    )
    bound = max(pause_s, max_pause_s)
    assert [policy.pause(number) for number in range(40)] == [
        min(pause_s * 2.0**number, bound) for number in range(40)
    ]
