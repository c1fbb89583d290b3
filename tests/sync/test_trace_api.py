"""`/api/synced-messages`: what is shown of messages, to whom, and what a list selects."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from pymongo import MongoClient

from services.sync.model.synced_message import MESSAGES, TraceEntry
from shared.contracts.envelope import rfc3339
from shared.runtime.clock import utcnow
from tests.support.hub import Hub, hub_with
from tests.support.roles import role_key
from tests.sync.stored_messages import PATH, chat_mapping, store_message, target_of

Json = dict[str, Any]
hub = hub_with(services=("gateway", "sync"))


@pytest.fixture(scope="module")
def database(hub: Hub) -> Iterator[Any]:
    with MongoClient[Json](hub.env["MONGODB_URI"], tz_aware=True) as client:
        yield client.get_default_database()


def listed(hub: Hub, query: str) -> list[str]:
    """The messages of all pages of a list."""
    found: list[str] = []
    cursor = ""
    while True:
        page = hub.call("GET", f"{PATH}?{query}{cursor}")
        found += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={quote(page['next_cursor'])}"


def test_a_message_shows_where_it_was_written_and_what_became_of_it(hub: Hub, database: Any) -> None:
    mapping, now = chat_mapping(hub), utcnow()
    trace = (
        TraceEntry(at=now + timedelta(seconds=1), step="waiting", attempt=1, detail="Too many calls."),
        TraceEntry(at=now + timedelta(seconds=2), step="sent", attempt=2),
    )
    sent = target_of(
        state="sent", parts=("1.1", "1.2"), permalink="https://slack.example/1", sent_at=now, trace=trace
    )
    is_sent = target_of("l3", state="sending", attempts=1, sending_at=now + timedelta(seconds=3), trace=())
    failed = target_of("l4", state="failed", code="too_long", reason="It is too long.", fix="Shorten it.")
    message = store_message(database, hub, mapping["id"], sent, is_sent, failed, received_at=now)
    shown = hub.call("GET", f"{PATH}/{message.id}")
    assert shown["source"] == {
        "leg": "l1",
        "provider": "chat",
        "account": hub.workspace,
        "conversation": "general",
        "thread": None,
        "external_id": message.external_id,
        "author": {"id": "usr_ada", "name": "Ada"},
        "permalink": None,
    }
    assert (shown["excerpt"], shown["parsed_as"], shown["received_at"]) == ("hello", "message", rfc3339(now))
    first, second, third = shown["targets"]
    assert (first["leg"], first["state"], first["ids"]) == ("l2", "sent", ["1.1", "1.2"])
    assert [(one["step"], one["attempt"], one["detail"]) for one in first["trace"]] == [
        ("received", 0, "from chat"),
        ("parsed", 0, "message"),
        ("waiting", 1, "Too many calls."),
        ("sent", 2, "https://slack.example/1"),
    ]
    assert [one["step"] for one in second["trace"]] == ["received", "parsed", "sending"]
    assert [third[name] for name in ("code", "reason", "fix")] == [
        "too_long",
        "It is too long.",
        "Shorten it.",
    ]
    [item] = hub.call("GET", f"{PATH}?mapping_id={mapping['id']}")["items"]
    for target in shown["targets"]:
        del target["trace"]
    assert item == shown, "a list shows the same but the traces"


def test_a_viewer_sees_messages_without_their_text(hub: Hub, database: Any) -> None:
    message = store_message(database, hub, chat_mapping(hub)["id"], target_of())
    for path in (f"{PATH}/{message.id}", f"{PATH}?message_id={message.message_id}", PATH):
        assert "hello" in str(hub.call("GET", path, key=role_key(hub, "operator")))
        masked = str(hub.call("GET", path, key=role_key(hub, "viewer")))
        assert message.id in masked
        assert "hello" not in masked


def test_a_list_selects_by_mapping_state_and_time(hub: Hub, database: Any) -> None:
    mapping, other, now = chat_mapping(hub)["id"], chat_mapping(hub)["id"], utcnow()
    ids = [
        store_message(
            database,
            hub,
            mapping,
            target_of(state="failed" if number % 5 == 0 else "sent"),
            target_of("l3", state="sent"),
            received_at=now + timedelta(seconds=number // 2),  # two have the same time
        ).id
        for number in range(10)
    ]
    store_message(database, hub, mapping, target_of(), has_come=False)
    of_other = store_message(database, hub, other, target_of(), received_at=now + timedelta(hours=1)).id
    of_mapping = f"mapping_id={mapping}"
    assert sorted(listed(hub, f"{of_mapping}&limit=3")) == sorted(ids)
    assert [id_ in (ids[8], ids[9]) for id_ in listed(hub, of_mapping)][:2] == [True, True], "newest first"
    assert set(listed(hub, f"{of_mapping}&state=failed&limit=1")) == {ids[0], ids[5]}
    assert listed(hub, f"{of_mapping}&state=unknown") == []
    since = quote(rfc3339(now + timedelta(seconds=4)))
    assert set(listed(hub, f"{of_mapping}&since={since}&limit=1")) == {ids[8], ids[9]}
    assert listed(hub, f"{of_mapping}&order=oldest&limit=3") == listed(hub, of_mapping)[::-1]
    early = listed(hub, f"{of_mapping}&order=oldest&until={since}&limit=3")
    assert (set(early), early) == (set(ids[:8]), listed(hub, f"{of_mapping}&until={since}")[::-1])
    shown = database[MESSAGES].find_one({"_id": ids[3]})["message_id"]
    assert listed(hub, f"message_id={shown}") == listed(hub, f"message_id={shown}&{of_mapping}") == [ids[3]]
    assert listed(hub, f"message_id={shown}&mapping_id={other}") == listed(hub, "message_id=msg_x") == []
    every = listed(hub, "limit=4")
    assert every[0] == of_other
    assert set(ids) < set(every)


def test_a_list_with_a_state_reads_a_bounded_number(hub: Hub, database: Any) -> None:
    mapping, hour_ago = chat_mapping(hub)["id"], utcnow() - timedelta(hours=1)
    failed, deleted = (
        store_message(database, hub, mapping, target_of(state=state), received_at=hour_ago)
        for state in ("failed", "deleted")
    )
    for _ in range(401):
        store_message(database, hub, mapping, target_of(state="sent"))
    page = hub.call("GET", f"{PATH}?mapping_id={mapping}&state=failed")
    assert [item["id"] for item in page["items"]] == [failed.id], "an index has messages with a problem"
    page = hub.call("GET", f"{PATH}?mapping_id={mapping}&state=deleted")
    assert (page["items"], page["next_cursor"] is None) == ([], False)
    assert listed(hub, f"mapping_id={mapping}&state=deleted") == [deleted.id]


def test_what_is_not_found_or_malformed(hub: Hub, database: Any) -> None:
    mapping = chat_mapping(hub)["id"]
    foreign = store_message(database, hub, "map_foreign", target_of(), workspace="ws-other")
    absent = store_message(database, hub, mapping, target_of(), has_come=False)
    for missing in (foreign.id, absent.id, "syn_nothing"):
        hub.call("GET", f"{PATH}/{missing}", expect=404)
    for missing in ("map_foreign", "map_nothing"):
        hub.call("GET", f"{PATH}?mapping_id={missing}", expect=404)
    assert foreign.id not in listed(hub, "limit=500")
    for query in ("state=open", "since=yesterday", "limit=0", "order=name"):
        hub.call("GET", f"{PATH}?{query}", expect=422)
    hub.call("GET", f"{PATH}?cursor=x", expect=400)
