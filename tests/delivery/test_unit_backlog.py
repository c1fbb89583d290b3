"""Which event is taken for one that waits in the backlog already: without network or store."""

import pytest

from services.delivery.engine.backlog import Backlog
from services.delivery.engine.backlog_queue import BacklogChunk
from services.delivery.model.delivery import order_of
from shared.contracts.envelope import Event
from shared.contracts.ids import EventId, WorkspaceId
from shared.runtime.kafka.batch import ConsumedEvent

SOURCE = ("chat.events", 0)
WAITING = (10, 1_700_000_000_500)
"""Offset and broker's time of the last event that waits."""


def received(offset: int, at_ms: int) -> ConsumedEvent:
    event = Event(EventId(f"e{offset}"), "t", "/s", WorkspaceId("w"), "2026-01-01T00:00:00Z", b"{}")
    return ConsumedEvent(event, *SOURCE, offset, at_ms, b"")


@pytest.mark.parametrize(
    ("offset", "at_ms", "waits"),
    [
        (10, 1_700_000_000_500, True),
        (9, 1_700_000_000_400, True),
        (11, 1_700_000_000_600, False),
        (11, 1_700_000_000_300, False),
        (3, 1_700_000_900_000, False),
    ],
    ids=[
        "itself",
        "an earlier one",
        "a later one",
        "later on a clock that fell back",
        "of a topic made again",
    ],
)
def test_only_what_waits_is_taken_for_waiting(offset: int, at_ms: int, waits: bool) -> None:
    backlog = Backlog.__new__(Backlog)
    backlog._queues = {}
    last = received(*WAITING)
    backlog._queue("w", SOURCE).append_stored(BacklogChunk("c", order_of(last), last.offset, 1, 1))
    assert backlog.contains(received(offset, at_ms)) is waits
