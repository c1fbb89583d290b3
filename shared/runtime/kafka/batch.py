"""Provide handlers of consumed events with a batch, and with completions of records taken out of it."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from aiokafka import ConsumerRecord

from shared.contracts.envelope import Event
from shared.runtime.kafka.watermark import PartitionTracker, TrackedRecord

if TYPE_CHECKING:
    from shared.runtime.spans import Span


@dataclass(frozen=True, slots=True)
class ConsumedEvent:
    """An event with the position and the key of its record. `at_ms` is the record's Unix time in ms."""

    event: Event
    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes = b""


class OpenRecord(TrackedRecord):
    """A polled record; `event` stays None if it is malformed.

    `finish` gets the record and the error that ended its handling; None means success.
    """

    __slots__ = ("attempts", "event", "finish", "source", "span")

    def __init__(self, tracker: PartitionTracker, source: ConsumerRecord, finish: "Finish") -> None:
        super().__init__(tracker, source.offset, len(source.value or b"") + len(source.key or b""))
        self.source = source
        self.event: ConsumedEvent | None = None
        self.finish = finish
        self.attempts = 0
        """Number of times that the handling ended with `RetryLater`."""
        self.span: Span | None = None
        """The span of its handling, if its trace is recorded."""


Finish = Callable[[OpenRecord, Exception | None], None]


class Completion:
    """The duty to complete one record that a handler took out of its batch.

    Exactly one call of `done` or `fail` ends it, at any time and in any order. Until then no offset from this
    record on is committed. After the partition was revoked, the call has no effect: the next owner of the
    partition handles the record again.
    """

    __slots__ = ("_record",)

    def __init__(self, record: OpenRecord) -> None:
        self._record: OpenRecord | None = record

    @property
    def is_revoked(self) -> bool:
        """True if the partition was revoked: its next owner handles the record again."""
        return self._record is None or self._record.tracker.is_revoked

    def done(self) -> None:
        """Complete the record: its effects are durable. Raises `RuntimeError` at the second completion."""
        self._finish(None)

    def fail(self, error: Exception) -> None:
        """Complete the record with an error, which is classified like one that the handler raises.

        `RetryLater` has the record handled again after a pause of its partition. Later records may be in
        the same call. Any other error dead-letters it. Raises `RuntimeError` at the second completion.
        """
        self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        record, self._record = self._record, None
        if record is None:
            raise RuntimeError("this record is complete already: call done() or fail() once")
        record.finish(record, error)


class Batch(Sequence[ConsumedEvent]):
    """The events of one call of a handler, in the order of their partitions.

    Events that the handler does not take are complete when it returns.
    """

    def __init__(self, records: Sequence[OpenRecord]) -> None:
        self._events = [record.event for record in records if record.event is not None]
        self._records = records
        self._untaken: dict[int, OpenRecord] | None = None
        """The records by the identity of their events, once one was taken: most handlers take none."""
        self._is_closed = False

    def take(self, event: ConsumedEvent) -> Completion:
        """Take an event out of the batch, to complete it later. It stays taken if the handler raises.

        Raises `RuntimeError` after the handler has returned: the event is complete then. Raises `ValueError`
        if the event is not in the batch or was taken before.
        """
        if self._is_closed:
            raise RuntimeError("take events of a batch before the handler returns")
        if self._untaken is None:
            self._untaken = {id(record.event): record for record in self._records}
        record = self._untaken.pop(id(event), None)
        if record is None:
            raise ValueError("this event is not in the batch, or was taken before")
        return Completion(record)

    def close(self) -> Sequence[OpenRecord]:
        """End the call: nothing can be taken any more. Return the records that were not taken, in order."""
        self._is_closed = True
        return self._records if self._untaken is None else list(self._untaken.values())

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[ConsumedEvent]:
        return iter(self._events)

    @overload
    def __getitem__(self, index: int) -> ConsumedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ConsumedEvent]: ...
    def __getitem__(self, index: int | slice) -> ConsumedEvent | Sequence[ConsumedEvent]:
        return self._events[index]


BatchHandler = Callable[[Batch], Awaitable[None]]
