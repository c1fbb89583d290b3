"""One check that many callers share, with a bound on how long each of them waits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

_STALL_THRESHOLD_S: Final = 0.1
"""A timer that is late by more shows that this process was stopped or blocked."""


class SharedCheck:
    """Runs one check for many callers: each gets the result of a run that started after its call.

    At most one run is under way, and all calls meanwhile share the next one, which starts `interval_s`
    seconds after the one before at the earliest. A caller that waits longer than `wait_s` seconds gets False,
    and `late` is called. There is no task, timer or thread per caller, because every hot path comes through
    here.
    """

    def __init__(
        self,
        run: Callable[[], Awaitable[bool]],
        *,
        wait_s: float,
        late: Callable[[], None],
        interval_s: float = 0.0,
    ) -> None:
        """Set the check that `run` does. It returns its result and must not raise."""
        self._run = run
        self._wait_s = wait_s
        self._late = late
        self._interval_s = interval_s
        self._next_run = 0.0
        self._waiting: list[asyncio.Future[bool]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> bool:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(waiter)
        if len(self._waiting) == 1:
            self._schedule_give_up(loop.time() + self._wait_s, self._waiting)
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        return await waiter

    async def stop(self) -> None:
        """Cancel the run under way."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                pause = self._next_run - loop.time()
                if pause > 0:
                    await asyncio.sleep(pause)
                self._next_run = loop.time() + self._interval_s
                waiting, self._waiting = self._waiting, []
                result = await self._run()
                for waiter in waiting:
                    if not waiter.done():
                        waiter.set_result(result)
        finally:
            self._task = None

    def _schedule_give_up(self, due: float, waiting: Sequence["asyncio.Future[bool]"]) -> None:
        asyncio.get_running_loop().call_at(due, self._give_up, due, waiting)

    def _give_up(self, due: float, waiting: Sequence["asyncio.Future[bool]"]) -> None:
        now = asyncio.get_running_loop().time()
        if now - due > _STALL_THRESHOLD_S:
            # This process was stopped: the answer may have arrived and not been read. Wait once more.
            self._schedule_give_up(now + self._wait_s, waiting)
            return
        late = [waiter for waiter in waiting if not waiter.done()]
        if late:
            self._late()
        for waiter in late:
            waiter.set_result(False)
