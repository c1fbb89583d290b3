"""One check that many callers share, with a bound on how long each of them waits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Final

_STALL_THRESHOLD_S: Final = 0.1
"""A timer that is late by more shows that this process was stopped or blocked."""


class SharedCheck:
    """Runs one check for many callers: each gets that of a run that began shortly before its call, or later.

    A run that succeeds counts for `valid_s` seconds from its start: calls in that time share it, under way
    or done. With 0, each call gets a run that started after it. At most one run is under way. A caller that
    waits longer than `wait_s` seconds gets False, and `late` is called. There is no task, timer or thread per
    caller, because every hot path comes through here.
    """

    def __init__(
        self,
        run: Callable[[], Awaitable[bool]],
        *,
        wait_s: float,
        late: Callable[[], None],
        valid_s: float = 0.0,
    ) -> None:
        """Set the check that `run` does. It returns its result and must not raise."""
        self._run = run
        self._wait_s = wait_s
        self._late = late
        self._valid_s = valid_s
        self._valid_until = 0.0
        """By the clock `monotonic`: until when the last run that succeeded counts."""
        self._run_counts_until = 0.0
        """The same of the run under way."""
        self._sharing: list[asyncio.Future[bool]] = []
        """Callers that wait for the run under way."""
        self._waiting: list[asyncio.Future[bool]] = []
        """Callers that wait for the next run."""
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> bool:
        # Not the loop's clock: it may stand still while the loop is busy.
        now = monotonic()
        if now < self._valid_until:
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        callers = self._sharing if now < self._run_counts_until else self._waiting
        callers.append(waiter)
        if callers is self._waiting and len(callers) == 1:
            self._schedule_give_up(loop.time() + self._wait_s, callers)
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        return await waiter

    async def stop(self) -> None:
        """Cancel the run under way."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        try:
            while self._waiting:
                self._sharing, self._waiting = self._waiting, []
                self._run_counts_until = monotonic() + self._valid_s
                result = await self._run()
                if result:
                    self._valid_until = self._run_counts_until
                self._run_counts_until = 0.0
                for waiter in self._sharing:
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
