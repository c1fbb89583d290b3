"""Which lanes have changes that wait in `sync_queue`, so that nobody has to search the queue for them."""

from typing import Final

from shared.runtime.records import Record

LANES: Final = "sync_lanes"


class LaneRecord(Record):
    """A lane that may have waiting changes of a partition: none of them is before position `head`.

    Whoever stores changes writes it first, with a new `stamp`. Whoever has found no waiting change deletes
    it, if it still has the stamp that it had before the search.
    """

    workspace: str
    lane: str
    partition: int
    head: int
    stamp: str


def lane_record_id(partition: int, lane: str) -> str:
    """Return the id of a lane's record: an account's partition changes when the topic gets more of them."""
    return f"{partition}:{lane}"
