"""Turns of lanes: each workspace has some at a time, and its lanes take turns."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Final

from services.sync.carry.lane import Lane

_MAX_ACTIVE: Final = 50
"""Lanes of a workspace that carry a change at the same time."""


class Turns:
    """Runs a turn of each lane that is started. Workspaces do not wait for each other."""

    def __init__(self, run: Callable[[Lane], Awaitable[bool]]) -> None:
        """`run` carries some changes of a lane. It returns whether there are more to carry now."""
        self._run = run
        self._active: Counter[str] = Counter()
        self._lines: dict[str, deque[Lane]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, lane: Lane) -> None:
        """Give a lane a turn, at once or when others of its workspace have had theirs."""
        lane.is_running = True
        if self._active[lane.workspace] < _MAX_ACTIVE:
            self._begin(lane)
        else:
            self._lines.setdefault(lane.workspace, deque()).append(lane)

    async def drain(self, timeout_s: float) -> None:
        """Wait for the turns that are under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def stop(self) -> None:
        """End all turns."""
        self._lines.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, lane: Lane) -> None:
        self._active[lane.workspace] += 1
        task = asyncio.create_task(self._turn(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _turn(self, lane: Lane) -> None:
        has_more = False
        try:
            has_more = await self._run(lane)
        finally:
            lane.is_running = False
            self._end(lane.workspace)
            if has_more:
                self.start(lane)

    def _end(self, workspace: str) -> None:
        self._active[workspace] -= 1
        if line := self._lines.get(workspace):
            self._begin(line.popleft())
            if not line:
                del self._lines[workspace]
        elif not self._active[workspace]:
            del self._active[workspace]
