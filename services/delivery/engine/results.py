"""Results of attempts, written together: many attempts end within a few milliseconds of each other."""

import asyncio
from collections.abc import Sequence
from typing import Final

from services.delivery.log.deliveries import Deliveries
from shared.runtime.mongo import Write

_GATHER_DELAY_S: Final = 0.005


class ResultWriter:
    """Writes results in bulk. What was sent must not be sent again because the store was away."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._pending: list[tuple[Write, asyncio.Future[None]]] = []
        self._has_pending = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.wake = asyncio.Event()
        """Set when the log may hold something that is due."""

    async def start(self) -> None:
        self._task = asyncio.create_task(self._flush())

    async def stop(self) -> None:
        """Write what is there, once, and end."""
        self._stopping.set()
        self._has_pending.set()
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)

    async def write(self, result: Write) -> None:
        """Write one result with others of this moment; returns when it is in the log."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((result, done))
        self._has_pending.set()
        await done

    async def write_with_retry(self, writes: Sequence[Write]) -> None:
        """Write a batch's entries, however long the store is away."""
        await self._deliveries.write_with_retry(lambda: self._deliveries.write(writes), self._stopping)

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
        """Write these; one that the store's driver cannot take must cost neither the others nor this task."""
        try:
            await self.write_with_retry([result for result, _ in pending])
        except Exception as error:  # noqa: BLE001 -- told to whoever waits for it
            if len(pending) > 1:
                for item in pending:
                    await self._write_batch([item])
            elif not pending[0][1].done():
                pending[0][1].set_exception(error)
        else:
            for _, done in pending:
                if not done.done():
                    done.set_result(None)
