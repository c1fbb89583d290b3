"""Edits of a chat whose times are in whole seconds."""

import orjson

from services.sync.translate.incoming import chat_changes
from shared.contracts.envelope import Event
from shared.manifests.channel_types import MessageWritten


def revision(time: str, edited_at: str | None) -> int:
    """Return the revision of the edit in an event of this time."""
    message = {
        "message_id": "m",
        "channel_id": "c",
        "text": "x",
        "author": {"id": "u"},
        "edited_at": edited_at,
    }
    event = Event("evt_1", "message.updated", "/chat", "ws", time, orjson.dumps(message), "c")
    [found] = chat_changes(event)
    assert isinstance(found.change, MessageWritten)
    return found.change.revision


def test_edits_of_one_second_follow_each_other() -> None:
    edited_at = "2026-11-24T05:00:00Z"
    first = revision("2026-11-24T05:00:00.100Z", edited_at)
    second = revision("2026-11-24T05:00:00.900Z", edited_at)
    third = revision("2026-11-24T05:00:01.000Z", "2026-11-24T05:00:01Z")
    assert first < second < third


def test_an_edit_whose_event_is_late_keeps_its_time() -> None:
    late = revision("2026-11-24T05:10:00.000Z", "2026-11-24T05:00:00Z")
    assert late == revision("2026-11-24T05:00:00.000Z", None) < revision("2026-11-24T05:05:00Z", None)
