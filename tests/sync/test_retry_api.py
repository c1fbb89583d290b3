"""Retries, discards and conflicts: what a person decides about messages that did not arrive."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from services.sync.model.conflict import COLLECTION, Conflict, conflict_id_for
from services.sync.model.mapping import lane_of
from services.sync.model.synced_message import QUEUE, SyncedMessage
from shared.contracts.topics import CHAT_INBOUND
from shared.runtime.clock import utcnow
from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.tap import Tap
from tests.sync.stored_messages import PATH, chat_mapping, queued, store_changes, store_message, target_of

Json = dict[str, Any]
hub = hub_with(services=("gateway", "sync"))


@pytest.fixture(scope="module")
def database(hub: Hub) -> Iterator[Any]:
    with MongoClient[Json](hub.env["MONGODB_URI"], tz_aware=True) as client:
        yield client.get_default_database()


def failed_message(database: Any, hub: Hub, leg: str, state: str = "failed") -> SyncedMessage:
    """A message with a target in Slack that has failed, in a mapping of channels of the chat."""
    mapping = chat_mapping(hub, options={"retry_for_s": 600})
    target = target_of(leg or mapping["legs"][1]["id"], state=state, code="x", reason="It was refused.")
    return store_message(database, hub, mapping["id"], target)


def only_leg(message: SyncedMessage) -> str:
    return next(iter(message.targets))


def act(hub: Hub, message: SyncedMessage, action: str, body: Any = None, *, expect: int = 200) -> Json:
    return dict(hub.call("POST", f"{PATH}/{message.id}/{action}", body, expect=expect))


@pytest.mark.parametrize(("state", "after"), [("failed", "waiting"), ("unknown", "sending")])
def test_what_has_failed_is_tried_again(hub: Hub, database: Any, state: str, after: str) -> None:
    message = failed_message(database, hub, "", state)
    leg = only_leg(message)
    # No process owns this partition, so what is stored stays as it is.
    failed = queued(message, leg, state="failed", attempts=9, partition=999)
    edit = queued(message, leg, "edit", state="failed", partition=999)
    store_changes(database, failed, edit)
    before = utcnow()
    shown = act(hub, message, "retry")
    [target] = shown["targets"]
    assert (target["state"], target["reason"], target["attempts"]) == (after, None, 0)
    assert target["trace"][-1]["step"] == "retried"
    for change in database[QUEUE].find({"synced_id": message.id}):
        assert (change["state"], change["attempts"]) == ("aside", 0)
        assert change["due_at"] <= utcnow()
        assert timedelta(0) <= change["give_up_at"] - before - timedelta(seconds=600) < timedelta(seconds=30)
        assert change["expires_at"] > change["give_up_at"]
    answer = act(hub, message, "retry", expect=409)
    assert "tried by itself" in answer["detail"]


def test_the_owner_of_the_account_takes_a_retry_up(hub: Hub, database: Any) -> None:
    message = failed_message(database, hub, "")
    leg = only_leg(message)
    store_changes(database, queued(message, leg, state="failed"))
    act(hub, message, "retry", {"leg": leg})
    # The leg is a channel of the chat, for which nothing is carried: the account is not found.
    eventually(
        lambda: (
            hub.call("GET", f"{PATH}/{message.id}")["targets"][0]["reason"] is not None
            or database[QUEUE].count_documents({"synced_id": message.id}) == 0
        ),
        10,
    )


def test_what_cannot_be_retried(hub: Hub, database: Any) -> None:
    message = failed_message(database, hub, "l9")
    assert "not stored any more" in act(hub, message, "retry", expect=409)["detail"]
    act(hub, message, "retry", {"leg": "l8"}, expect=404)
    act(hub, message, "retry", {"legs": "l8"}, expect=422)
    store_changes(database, queued(message, "l9", state="failed"))
    assert "no leg l9" in act(hub, message, "retry", expect=409)["detail"]
    hub.call("DELETE", f"/api/mappings/{message.mapping_id}", expect=204)
    assert "mapping was deleted" in act(hub, message, "retry", expect=409)["detail"]
    assert database[QUEUE].find_one({"synced_id": message.id})["state"] == "failed"
    sent = store_message(database, hub, message.mapping_id, target_of(state="sent"))
    assert "nothing of the message has failed" in act(hub, sent, "retry", expect=409)["detail"]
    foreign = store_message(database, hub, "map_x", target_of(state="failed"), workspace="ws-other")
    for action in ("retry", "discard"):
        act(hub, foreign, action, expect=404)


def test_what_waits_is_discarded(hub: Hub, database: Any) -> None:
    mapping = chat_mapping(hub)["id"]
    targets = [target_of("l2"), target_of("l3", state="failed"), target_of("l4", state="sent")]
    message = store_message(database, hub, mapping, *targets)
    store_changes(
        database,
        queued(message, "l2", partition=999),
        queued(message, "l3", state="failed"),
        queued(message, "l4", "edit", state="aside", partition=999),
    )
    first = act(hub, message, "discard", {"leg": "l3"})["targets"]
    assert [target["state"] for target in first] == ["waiting", "discarded", "sent"]
    assert database[QUEUE].count_documents({"synced_id": message.id}) == 2
    every = act(hub, message, "discard")["targets"]
    assert [target["state"] for target in every] == ["discarded", "discarded", "sent"]
    assert [target["trace"][-1]["step"] for target in every] == ["discarded"] * 3
    assert database[QUEUE].count_documents({"synced_id": message.id}) == 0
    assert "nothing to discard" in act(hub, message, "discard", expect=409)["detail"]
    sending = store_message(database, hub, mapping, target_of(state="sending"), target_of("l3"))
    assert "being sent" in act(hub, sending, "discard", expect=409)["detail"]
    assert act(hub, sending, "discard", {"leg": "l3"})["targets"][1]["state"] == "discarded"


def test_the_queue_is_counted_by_conversation(hub: Hub, database: Any) -> None:
    mapping, other = chat_mapping(hub)["id"], chat_mapping(hub)["id"]
    message, now = store_message(database, hub, mapping, target_of()), utcnow()
    old = now - timedelta(hours=1)
    store_changes(
        database,
        queued(message, partition=999, created_at=old, reason="Too many calls."),
        queued(message, partition=999),
        queued(message, partition=999, state="aside"),
        queued(message, state="failed", lane=lane_of(message.mapping_id, "slack:T1", "C2")),
        queued(store_message(database, hub, other, target_of()), partition=999),
    )
    stats = hub.call("GET", f"/api/sync/queue/stats?mapping_id={mapping}")
    assert [stats[name] for name in ("waiting", "aside", "failed")] == [2, 1, 1]
    first, second = stats["conversations"]
    assert 3600 <= first.pop("oldest_s") < 3700
    assert first == {
        "provider": "slack",
        "account": "T1",
        "conversation": "C1",
        "waiting": 2,
        "aside": 1,
        "failed": 0,
        "reason": "Too many calls.",
    }
    assert (second["conversation"], second["failed"], second["reason"]) == ("C2", 1, None)
    assert hub.call("GET", "/api/sync/queue/stats")["waiting"] >= 3
    hub.call("GET", "/api/sync/queue/stats?mapping_id=map_nothing", expect=404)


# Conflicts


def conflicting(database: Any, hub: Hub) -> tuple[Conflict, list[Json]]:
    """An edit that waits, of a message between two channels of the chat."""
    mapping = chat_mapping(hub, options={"conflicts": "manual"})
    first, second = mapping["legs"]
    target = target_of(second["id"], state="sent").model_copy(
        update={"provider": "chat", "account": hub.workspace, "conversation": second["conversation"]}
    )
    message = store_message(
        database,
        hub,
        mapping["id"],
        target,
        leg=first["id"],
        conversation=first["conversation"],
        revision=7,
        edited_leg=second["id"],
    )
    now = utcnow()
    conflict = Conflict(
        id=conflict_id_for(message.id, first["id"], 6),
        workspace=hub.workspace,
        mapping_id=mapping["id"],
        synced_id=message.id,
        leg=first["id"],
        other_leg=second["id"],
        text="as I _meant_ it",
        revision=6,
        author_id="usr_ada",
        author_name="Ada",
        created_at=now,
        expires_at=now + timedelta(days=1),
    )
    database[COLLECTION].insert_one(conflict.document())
    return conflict, mapping["legs"]


def resolve(hub: Hub, conflict: Conflict, use: str, *, expect: int = 200) -> Json:
    return dict(hub.call("POST", f"/api/conflicts/{conflict.id}/resolve", {"use": use}, expect=expect))


def test_the_edit_that_a_person_chooses_is_published(hub: Hub, database: Any, bus: Bus) -> None:
    conflict, legs = conflicting(database, hub)
    listed = hub.call("GET", f"/api/conflicts?mapping_id={conflict.mapping_id}&state=open")["items"]
    assert [(one["id"], one["text"]) for one in listed] == [(conflict.id, "as I _meant_ it")]
    tap = Tap(bus, CHAT_INBOUND.name)
    shown = resolve(hub, conflict, "this")
    assert shown["state"] == "applied"
    assert resolve(hub, conflict, "this") == shown, "repeated"
    events = [one for one in tap.wait_for(2) if one.data["channel_id"] == legs[1]["conversation"]]
    assert {one.attributes["ce_type"] for one in events} == {"inbound.message.updated"}
    assert len({one.attributes["ce_id"] for one in events}) == 1, "the same event"
    assert events[0].data["text"] == "as I _meant_ it"
    message = database["synced_messages"].find_one({"_id": conflict.synced_id})
    assert (message["revision"], message["edited_leg"]) == (8, conflict.leg)
    assert "applied already" in resolve(hub, conflict, "other", expect=409)["detail"]
    assert hub.call("GET", f"/api/conflicts?mapping_id={conflict.mapping_id}&state=open")["items"] == []


def test_an_edit_that_is_dropped_is_published_nowhere(hub: Hub, database: Any, bus: Bus) -> None:
    conflict, _ = conflicting(database, hub)
    tap = Tap(bus, CHAT_INBOUND.name)
    assert resolve(hub, conflict, "other")["state"] == "dropped"
    assert resolve(hub, conflict, "other")["state"] == "dropped"
    assert "dropped already" in resolve(hub, conflict, "this", expect=409)["detail"]
    resolve(hub, conflict, "mine", expect=422)
    assert [one for one in tap.look() if one.data.get("text") == conflict.text] == []
    assert database["synced_messages"].find_one({"_id": conflict.synced_id})["revision"] == 7
    foreign = conflict.model_copy(update={"id": "cfl_foreign", "workspace": "ws-other"})
    database[COLLECTION].insert_one(foreign.document())
    resolve(hub, foreign, "this", expect=404)


def test_an_edit_cannot_be_published_without_its_mapping(hub: Hub, database: Any) -> None:
    conflict, _ = conflicting(database, hub)
    hub.call("DELETE", f"/api/mappings/{conflict.mapping_id}", expect=204)
    assert "mapping was deleted" in resolve(hub, conflict, "this", expect=409)["detail"]
    assert resolve(hub, conflict, "other")["state"] == "dropped"
