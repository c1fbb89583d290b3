"""Results of attempts, written together: many attempts end within a few milliseconds."""

import asyncio
from collections.abc import Sequence
from typing import Final

from services.delivery.log.deliveries import Deliveries
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.logs import Log
from shared.runtime.mongo import Write
from shared.runtime.retry import Backoff

_GATHER_DELAY_S: Final = 0.005
_RETRY: Final = Backoff(first_s=0.2, max_s=5.0)


class ResultWriter:
    """Writes results in bulk, and retries while MongoDB is unavailable.

    Without the retries, a delivery that was sent would be sent again.
    """

    def __init__(self, deliveries: Deliveries, log: Log) -> None:
        self._deliveries = deliveries
        self._log = log
        self._pending: list[tuple[Write, asyncio.Future[None]]] = []
        self._has_pending = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.wake = asyncio.Event()
        """Set when the log may have due deliveries."""

    async def start(self) -> None:
        self._task = asyncio.create_task(self._flush())

    async def stop(self) -> None:
        """Write the pending results once, and end."""
        self._stopping.set()
        self._has_pending.set()
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)

    async def write(self, result: Write) -> None:
        """Write one result together with others of this moment; return when it is in the log."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((result, done))
        self._has_pending.set()
        await done

    async def write_with_retry(self, writes: Sequence[Write]) -> None:
        """Write the entries of a batch, however long MongoDB is unavailable.

        Raises `DatabaseUnavailable` only while the service stops.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                return await self._deliveries.write(writes)
            except DatabaseUnavailable as error:
                if self._stopping.is_set():
                    raise
                self._log.warning("delivery.write_retried", error=str(error))
                await asyncio.sleep(_RETRY.pause_s(attempts))

    async def _flush(self) -> None:
        while not (self._stopping.is_set() and not self._pending):
            await self._has_pending.wait()
            if not self._stopping.is_set():
                await asyncio.sleep(_GATHER_DELAY_S)
            self._has_pending.clear()
            pending, self._pending = self._pending, []
            if pending:
                await self._write_batch(pending)
            if self._stopping.is_set():
                self._has_pending.set()

    async def _write_batch(self, pending: Sequence[tuple[Write, asyncio.Future[None]]]) -> None:
        """Write these results. A result that the driver rejects fails alone."""
        try:
            await self.write_with_retry([result for result, _ in pending])
        except Exception as error:  # noqa: BLE001 -- passed on to the caller of `write`
            if len(pending) > 1:
                for item in pending:
                    await self._write_batch([item])
            elif not pending[0][1].done():
                pending[0][1].set_exception(error)
        else:
            for _, done in pending:
                if not done.done():
                    done.set_result(None)
