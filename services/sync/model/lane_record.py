"""Which lanes have changes that wait in `sync_queue`, so that nobody has to search the queue for them."""

from secrets import token_hex
from typing import Final, Self

from shared.runtime.records import Record

LANES: Final = "sync_lanes"


class LaneRecord(Record):
    """A lane that may have waiting changes of a partition: none of them is before position `head`.

    Whoever stores changes writes it first, with a new `stamp`. Whoever has found no waiting change deletes
    it, if it still has the stamp that it had before the search.
    """

    workspace: str
    lane: str
    account_key: str
    partition: int
    head: int
    stamp: str

    @classmethod
    def of(cls, workspace: str, lane: str, account_key: str, partition: int, head: int) -> Self:
        """Return a record with a new stamp.

        The partition is a part of its id: that of an account changes when the topic gets more of them.
        """
        return cls(
            id=f"{partition}:{lane}",
            workspace=workspace,
            lane=lane,
            account_key=account_key,
            partition=partition,
            head=head,
            stamp=token_hex(8),
        )
