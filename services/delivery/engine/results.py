"""Group commit of the delivery log: one bulk write is in flight, and the next has what came meanwhile."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from services.delivery.engine.attempt_spans import OnWritten, trace_write
from services.delivery.log.deliveries import Deliveries
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime import metrics, tracing
from shared.runtime.failpoints import failpoint
from shared.runtime.logs import Log
from shared.runtime.mongo import Write, is_refused
from shared.runtime.retry import Backoff

_GATHER_DELAY_S: Final = 0.04
"""Seconds for which a write waits for others. A killed process repeats what is not written."""
_BLOCKING_DELAY_S: Final = 0.01
"""The same for writes for which other work waits."""
_ENOUGH: Final = 64
"""Pending writes that wait for no others."""
_MAX_BULK: Final = 200
"""Writes of one bulk: encoding them holds up the event loop."""
_RETRY: Final = Backoff(first_s=0.2, max_s=5.0)


class WriteRefused(Exception):
    """MongoDB refuses this write, and would refuse it again."""


class LostPartition(Exception):
    """Another process owns the partition by now, and writes the log entry of this request."""


@dataclass(slots=True)
class _PendingWrite:
    write: Write
    on_written: OnWritten
    is_lost: Callable[[], bool] | None


class ResultWriter:
    """Writes log entries and results in the order in which they came, and retries without a limit.

    Without the retries, a delivery that was sent would be sent again.
    """

    def __init__(self, deliveries: Deliveries, log: Log) -> None:
        self._deliveries = deliveries
        self._log = log
        self._pending: deque[_PendingWrite] = deque()
        self._bulk_size = 0
        """Writes of the bulk in flight."""
        self._has_pending = asyncio.Event()
        self._is_due = asyncio.Event()
        """Set when what is pending waits for no other writes."""
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.wake = asyncio.Event()
        """Set when the log may have due deliveries."""

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what is pending once, and end."""
        self._stopping.set()
        self._has_pending.set()
        self._is_due.set()
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)

    def put(
        self,
        write: Write,
        on_written: OnWritten,
        *,
        is_lost: Callable[[], bool] | None = None,
        blocks: bool = False,
        traceparent: str = "",
    ) -> None:
        """Write this with others of this moment, then call `on_written`.

        If `is_lost` returns True when the write's turn comes, it is left out. `blocks` says that other work
        waits for it. `traceparent` is the context of what is written, if it may be traced.
        """
        if traceparent and tracing.tracer is not None:
            on_written = trace_write(tracing.tracer, on_written, traceparent)
        self._pending.append(_PendingWrite(write, on_written, is_lost))
        self._note_unacknowledged()
        self._has_pending.set()
        if len(self._pending) >= _ENOUGH:
            self._is_due.set()
        elif blocks:
            asyncio.get_running_loop().call_later(_BLOCKING_DELAY_S, self._is_due.set)

    async def write(self, result: Write, *, traceparent: str = "") -> None:
        """Write one result with others of this moment; return when it is in the log. See `put`."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_written(error: Exception | None) -> None:
            if written.done():
                return
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

        self.put(result, on_written, blocks=True, traceparent=traceparent)
        await written

    async def _run(self) -> None:
        while not (self._stopping.is_set() and not self._pending):
            await self._has_pending.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_DELAY_S):
                    await self._is_due.wait()
            bulk = [self._pending.popleft() for _ in range(min(_MAX_BULK, len(self._pending)))]
            if not self._pending and not self._stopping.is_set():
                self._has_pending.clear()
                self._is_due.clear()
            current: list[_PendingWrite] = []
            for item in bulk:
                if item.is_lost is not None and item.is_lost():
                    item.on_written(LostPartition("another process owns the partition"))
                else:
                    current.append(item)
            has_first_results = any(item.is_lost is not None for item in current)
            if has_first_results:
                failpoint("attempt.before_write")
            self._bulk_size = len(current)
            if current:
                await self._write(current)
            self._bulk_size = 0
            self._note_unacknowledged()
            if has_first_results:
                failpoint("attempt.written")

    def _note_unacknowledged(self) -> None:
        metrics.UNACKNOWLEDGED_RESULTS.set(len(self._pending) + self._bulk_size)

    async def _write(self, bulk: Sequence[_PendingWrite]) -> None:
        """Write these. One that the driver or MongoDB rejects fails alone."""
        try:
            await self._write_with_retry([item.write for item in bulk])
        except Exception as error:  # noqa: BLE001 -- passed on
            if len(bulk) > 1 and not isinstance(error, DatabaseUnavailable):
                for item in bulk:
                    await self._write([item])
            else:
                for item in bulk:
                    item.on_written(error)
        else:
            for item in bulk:
                item.on_written(None)

    async def _write_with_retry(self, writes: Sequence[Write]) -> None:
        """Write, however long MongoDB is unavailable.

        Raises `WriteRefused`, and `DatabaseUnavailable` only while the service stops.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                return await self._deliveries.write(writes)
            except DatabaseUnavailable as error:
                if is_refused(error):
                    raise WriteRefused(str(error)) from error
                if self._stopping.is_set():
                    raise
                self._log.warning("delivery.write_retried", error=str(error))
                await asyncio.sleep(_RETRY.pause_s(attempts))
