"""What the gateway stores: as an earlier release stored it, field by field, and its documents are read."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import json_util
from pymongo import MongoClient

from services.gateway.api.event_type_records import EventTypeRecord
from services.gateway.api.execution_schemas import ExecutionOut
from services.gateway.ingest.endpoint_records import IncomingWebhook, ProviderEndpoint, endpoint_record
from services.gateway.ingest.execution_records import ExecutionRecord
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub

NOW = datetime(2026, 5, 4, tzinfo=UTC)
_EARLIER = json_util.loads(
    (Path(__file__).parents[1] / "upgrade" / "records-0.4.0.json").read_text("utf-8"),
    json_options=json_util.JSONOptions(tz_aware=True),
)["records"]
_BASE = {
    "_id": "exe_1",
    "endpoint_id": "ep_1",
    "workspace": "w",
    "created_at": NOW,
    "expires_at": NOW,
    "outcome": "accepted",
    "status": 202,
    "ms": 1.5,
    "bytes": 10,
}
_EVENTS = {"events": 1, "types": ["push"], "event_ids": ["evt_1"], "triggers": []}
EXECUTIONS: tuple[dict[str, Any], ...] = (
    _BASE,
    _BASE | {"verdict": "verified"} | _EVENTS | {"places": [[3, 99]]},
    _BASE
    | {"verdict": "verified", "test": True}
    | _EVENTS
    | {
        "accounts": ["acme"],
        "occurred_at": "2026-05-04T00:00:00Z",
        "delivery_ids": ["dlv"],
        "places": [[3, 99], []],
        "replays": 2,
    },
    _BASE | {"verdict": "wrong_secret", "detail": "no", "body": b"\xff{", "content_type": "application/json"},
)


@pytest.mark.parametrize("document", EXECUTIONS)
def test_executions_are_stored_as_they_were(document: dict[str, Any]) -> None:
    record = ExecutionRecord.from_document(document | {"field_of_a_later_release": 1})
    assert record.document() == document
    current = ExecutionOut.of(record).model_dump()
    assert (current["bytes"], current["duration_ms"]) == (10, 1.5)
    assert (current["events"], current["replays"]) == (document.get("events", 0), document.get("replays", 0))
    assert record.positions == ({"evt_1": (3, 99)} if "places" in document else {})


@pytest.mark.parametrize("document", _EARLIER["inbound_endpoints"], ids=lambda item: item["provider"])
def test_endpoints_of_an_earlier_release_are_stored_as_they_were(document: dict[str, Any]) -> None:
    counted = {"trigger_count": 3, "error_count": 2, "error_streak": 5, "last_triggered": NOW}
    for more in ({}, counted, {"deleted_at": NOW}):
        record = endpoint_record(document | more | {"field_of_a_later_release": 1})
        assert record.document() == document | more
        assert record.is_failing == (more is counted)


def test_endpoints_without_the_fields_of_this_release_are_read() -> None:
    """As the first release stored them."""
    common: dict[str, Any] = {
        "_id": "ep_1",
        "workspace": "w",
        "name": "n",
        "channel_id": None,
        "rate_limit": 60,
        "enabled": True,
        "created_at": NOW,
        "changed_at": NOW,
        "secrets": [],
        "allow_ips": [],
    }
    endpoint = endpoint_record(common | {"provider": "github"})
    assert isinstance(endpoint, ProviderEndpoint)
    assert (endpoint.require_signature, endpoint.events, endpoint.settings) == (True, ("*",), {})
    assert (endpoint.body_limit, endpoint.source, endpoint.public_url) == (None, None, None)
    webhook = endpoint_record(common | {"provider": "incoming", "token_digest": "x"})
    assert isinstance(webhook, IncomingWebhook)
    assert not webhook.allow_mass_mentions


def test_event_types_of_an_earlier_release_are_stored_as_they_were() -> None:
    for document in _EARLIER["event_types"]:
        record = EventTypeRecord.from_document(document | {"field_of_a_later_release": 1})
        assert record.document() == document


def test_what_the_api_creates_has_the_fields_of_an_earlier_release(hub: Hub) -> None:
    """No field is missing, none is new, and null is stored where it was."""
    endpoint = hub.github_endpoint()
    incoming = hub.call("POST", "/api/incoming-webhooks", {"name": "records", "target_channel_id": "general"})
    hub.call("POST", "/api/event-types", {"name": "records.placed", "about": "A test."})
    body = b'{"zen":"x"}'
    url = f"{hub.url('gateway')}/api/webhooks/github/{endpoint['id']}"
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"], tz_aware=True) as mongo:
        database = mongo.get_default_database()
        for created, provider in ((endpoint, "github"), (incoming, "incoming")):
            stored = database["inbound_endpoints"].find_one({"_id": created["id"]})
            [earlier] = [item for item in _EARLIER["inbound_endpoints"] if item["provider"] == provider]
            assert stored
            assert _shape(stored) == _shape(earlier)
        event_type = database["event_types"].find_one({"name": "records.placed"})
        assert event_type
        assert _shape(event_type | {"schema": ""}) == _shape(_EARLIER["event_types"][0])
        for secret, status in ((endpoint["secret"], 202), ("wrong", 401)):
            assert httpx.post(url, content=body, headers=signed(secret, "ping", body)).status_code == status
        executions = database["webhook_executions"]
        eventually(lambda: executions.count_documents({"endpoint_id": endpoint["id"]}) == 2)
        accepted = executions.find_one({"endpoint_id": endpoint["id"], "status": 202})
        rejected = executions.find_one({"endpoint_id": endpoint["id"], "status": 401})
        assert accepted
        assert rejected
        listed = {"events", "types", "event_ids", "triggers", "delivery_ids", "places"}
        found_by = {"trace_id", "related_ids"}  # a reader of the earlier release leaves them alone
        assert accepted.keys() == _BASE.keys() | {"verdict"} | listed | found_by
        assert rejected.keys() == _BASE.keys() | {"verdict", "detail", "body", "content_type"}
        counted = database["inbound_endpoints"].find_one({"_id": endpoint["id"]})
        assert counted
        assert (counted["trigger_count"], counted["error_count"]) == (1, 1)


def _shape(document: Mapping[str, Any]) -> dict[str, bool]:
    """The names of a document's fields, and which of them are null."""
    return {name: value is None for name, value in document.items()}
