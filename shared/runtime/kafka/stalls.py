"""Notice partitions that stand still: their first record is with the handler, and is never complete."""

from collections.abc import Mapping
from time import monotonic

from aiokafka import TopicPartition


class Stalls:
    """Compares the watermarks of partitions from one look to the next, so that records cost nothing."""

    def __init__(self) -> None:
        self._since: dict[TopicPartition, tuple[int, float]] = {}
        """Per partition, the watermark, and the time at which it was first seen."""

    def max_s(self, watermarks: Mapping[TopicPartition, int], now: float | None = None) -> float:
        """Return for how many seconds the watermark of one of these partitions is the same.

        `watermarks` are those of the partitions with records at the handler. A partition that was not among
        them at the last call begins anew. `now` is on the monotonic clock, by default its time.
        """
        now = monotonic() if now is None else now
        before = self._since
        self._since = {
            partition: since
            if (since := before.get(partition)) is not None and since[0] == watermark
            else (watermark, now)
            for partition, watermark in watermarks.items()
        }
        return max((now - since for _, since in self._since.values()), default=0.0)
