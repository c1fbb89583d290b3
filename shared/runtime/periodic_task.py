"""Something that is done again and again while a service runs, and once more when it stops."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from shared.runtime.logs import Log


class PeriodicTask:
    """A part of a service: calls `do` every `every_s` seconds. What it raises is logged, and it goes on."""

    def __init__(self, do: Callable[[], Awaitable[None]], every_s: float, log: Log) -> None:
        self._action = do
        self._interval_s = every_s
        self._log = log
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Call it a last time, and end."""
        self._stopping.set()
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._interval_s)
            try:
                await self._action()
            except Exception as error:  # noqa: BLE001 -- one bad turn must not be the last
                self._log.error(
                    "not done, and tried again", what=self._action.__qualname__, error=repr(error)
                )
