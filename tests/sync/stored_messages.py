"""Synchronized messages as the stages of the service store them, for tests of what is shown of them."""

from datetime import datetime
from secrets import token_hex
from typing import Any, Final

from services.sync.model.lane_record import LANES, LaneRecord
from services.sync.model.mapping import lane_of
from services.sync.model.synced_message import (
    MESSAGES,
    QUEUE,
    QueuedChange,
    SyncedMessage,
    Target,
    TraceEntry,
    synced_id_for,
)
from services.sync.store.messages import expiry
from shared.contracts.chat import ChatAuthor
from shared.contracts.envelope import rfc3339
from shared.contracts.ids import provider_message_id_for
from shared.contracts.sync import Kind, SourceRef, SyncRequested
from shared.runtime.clock import utcnow
from tests.support.hub import Hub

PATH: Final = "/api/synced-messages"
Json = dict[str, Any]


def chat_mapping(hub: Hub, **fields: Any) -> Json:
    """Map two channels of the chat that nothing else uses."""
    legs = [{"provider": "chat", "conversation": f"c-{token_hex(6)}"} for _ in range(2)]
    return dict(hub.call("POST", "/api/mappings", {"legs": legs, **fields}, expect=201))


def target_of(leg: str = "l2", **fields: Any) -> Target:
    """A target in Slack."""
    entry = TraceEntry(at=utcnow(), step="waiting")
    return Target(leg=leg, provider="slack", account="T1", conversation="C1", **{"trace": (entry,), **fields})


def store_message(database: Any, hub: Hub, mapping_id: str, *targets: Target, **fields: Any) -> SyncedMessage:
    """Store a message that was written in the chat."""
    external_id, workspace = f"m-{token_hex(6)}", fields.pop("workspace", hub.workspace)
    message_id = provider_message_id_for("chat", workspace, "general", external_id)
    values = {
        "leg": "l1",
        "provider": "chat",
        "account": workspace,
        "conversation": "general",
        "external_id": external_id,
        "author_id": "usr_ada",
        "author_name": "Ada",
        "excerpt": "hello",
        "parsed_as": "message",
        "received_at": utcnow(),
        "expires_at": expiry(),
        "targets": {target.leg: target for target in targets},
        **fields,
    }
    message = SyncedMessage(
        id=synced_id_for(mapping_id, message_id),
        workspace=workspace,
        mapping_id=mapping_id,
        message_id=message_id,
        **values,
    )
    database[MESSAGES].insert_one(message.document())
    return message


def queued(message: SyncedMessage, leg: str = "l2", kind: Kind = "message", **fields: Any) -> QueuedChange:
    """A change of a message that could not be carried at once."""
    now, request_id = utcnow(), f"req_{token_hex(8)}"
    request = SyncRequested(
        request_id=request_id,
        mapping_id=message.mapping_id,
        leg_id=leg,
        kind=kind,
        synced_id=message.id,
        source=SourceRef(provider="chat", account="a", conversation="general", external_id="m"),
        author=ChatAuthor(id="usr_ada"),
        text="hello",
        occurred_at=rfc3339(now),
        received_at=rfc3339(now),
    )
    values: Json = {
        "lane": lane_of(message.mapping_id, "slack:T1", "C1"),
        "account_key": "slack:T1",
        "partition": 0,
        "position": 1,
        "state": "waiting",
        "due_at": now,
        "give_up_at": now,
        "created_at": now,
        "expires_at": expiry(),
        **fields,
    }
    return QueuedChange(
        id=request_id,
        workspace=message.workspace,
        mapping_id=message.mapping_id,
        synced_id=message.id,
        leg_id=leg,
        request=request.model_dump(),
        **values,
    )


def store_changes(database: Any, *changes: QueuedChange) -> None:
    """Store changes that wait or have failed, with the records of their lanes."""
    database[QUEUE].insert_many([change.document() for change in changes])
    for change in changes:
        found = LaneRecord.of(
            change.workspace, change.lane, change.account_key, change.partition, change.position
        )
        record = found.document()
        database[LANES].replace_one({"_id": record["_id"]}, record, upsert=True)


def at(text: str) -> datetime:
    """The time in an answer."""
    return datetime.fromisoformat(text)
