"""Track the open records of a partition, and the offset that may be committed. Pure: no client, no clock."""

from collections import deque
from collections.abc import Callable
from typing import Final

from aiokafka import TopicPartition

MAX_UNCOMMITTABLE: Final = 5_000
"""Records of one partition from the watermark on, above which no more are polled. A killed process repeats
them."""


class TrackedRecord:
    """A record from its poll to its completion. `size` is in bytes."""

    __slots__ = ("is_open", "offset", "size", "tracker")

    def __init__(self, tracker: "PartitionTracker", offset: int, size: int) -> None:
        self.tracker = tracker
        self.offset = offset
        self.size = size
        self.is_open = True


class PartitionTracker:
    """The records of one partition, for as long as one assignment of it lasts.

    `max_bytes` bounds the bytes of open records. `on_progress` is called when records are completed, with
    their number.
    """

    def __init__(
        self,
        partition: TopicPartition,
        offset: int,
        *,
        max_bytes: int,
        on_progress: Callable[["PartitionTracker", int], None],
    ) -> None:
        self.partition = partition
        self.committed = offset
        """The offset that was committed last, or at which the assignment started."""
        self.is_revoked = False
        self.is_paused = False
        """True if the consumer fetches no more records of the partition."""
        self.is_full = False
        """True if a bound was reached. Ends when the records are below half of both bounds.

        Not at the bound itself: a fetch of other partitions that is under way delays the next one of this
        partition, and meanwhile there should be work left.
        """
        self.open_count = 0
        self.open_bytes = 0
        self._next = offset
        self._records: deque[TrackedRecord] = deque()
        self._max_bytes = max_bytes
        self._on_progress = on_progress

    @property
    def watermark(self) -> int:
        """The offset before which every record is complete."""
        return self._records[0].offset if self._records else self._next

    def add(self, record: TrackedRecord) -> None:
        """Track a record that was polled; records are added in the order of the poll."""
        self._records.append(record)
        self._next = record.offset + 1
        self.open_count += 1
        self.open_bytes += record.size
        if len(self._records) >= MAX_UNCOMMITTABLE or self.open_bytes >= self._max_bytes:
            self.is_full = True

    def complete(self, *records: TrackedRecord) -> None:
        """Complete records of this tracker, in any order.

        Has no effect for records that are complete already, and after `revoke`.
        """
        if self.is_revoked:
            return
        completed = 0
        for record in records:
            if record.is_open:
                record.is_open = False
                completed += 1
                self.open_bytes -= record.size
        if not completed:
            return
        self.open_count -= completed
        while self._records and not self._records[0].is_open:
            self._records.popleft()
        if (
            self.is_full
            and len(self._records) <= MAX_UNCOMMITTABLE // 2
            and self.open_bytes <= self._max_bytes // 2
        ):
            self.is_full = False
        self._on_progress(self, completed)

    def revoke(self) -> None:
        """Ignore every later completion: another member may own the partition."""
        self.is_revoked = True
        self._records.clear()
