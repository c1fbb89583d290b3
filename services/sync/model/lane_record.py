"""Record of a lane that may have changes in `sync_queue`: new owners need not search the queue."""

from secrets import token_hex
from typing import Final, Self

from shared.runtime.records import Record

LANES: Final = "sync_lanes"


class LaneRecord(Record):
    """A lane that may have waiting changes of a partition, none of them before position `head`.

    It is written with a new `stamp` before changes are stored. It is deleted when a query finds no waiting
    change, unless its stamp differs from that before the query: then changes were stored meanwhile.
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

        The id includes the partition, because an account's partition changes when the topic gets more.
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
