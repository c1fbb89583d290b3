"""An action that is repeated while a service runs, and done once more when it stops."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from shared.runtime.logs import Log


class PeriodicTask:
    """A part of a service that awaits an action every `interval_s` seconds.

    An error of the action is logged, and the next interval starts.
    """

    def __init__(self, action: Callable[[], Awaitable[None]], interval_s: float, log: Log) -> None:
        self._action = action
        self._interval_s = interval_s
        self._log = log
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Run the action a last time and end."""
        self._stopping.set()
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._interval_s)
            try:
                await self._action()
            except Exception as error:  # noqa: BLE001 -- one failed run must not be the last
                self._log.error("periodic_task.failed", action=self._action.__qualname__, error=repr(error))
