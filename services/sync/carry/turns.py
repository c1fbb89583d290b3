"""Fair scheduling of lanes: a workspace runs a bounded number of them at a time, the others queue."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Final

from services.sync.carry.lane import Lane

_MAX_ACTIVE: Final = 50
"""Maximum number of lanes of a workspace that run at the same time."""


class Turns:
    """Runs turns of started lanes, in a queue for each workspace. Workspaces do not wait for each other."""

    def __init__(self, run: Callable[[Lane], Awaitable[bool]]) -> None:
        """`run` applies some changes of a lane, and returns True if it has more that can be applied now."""
        self._run = run
        self._active: Counter[str] = Counter()
        self._lines: dict[str, deque[Lane]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, lane: Lane) -> None:
        """Schedule a turn of a lane: now, or when a running lane of its workspace ends its turn."""
        lane.is_running = True
        if self._active[lane.workspace] < _MAX_ACTIVE:
            self._begin(lane)
        else:
            self._lines.setdefault(lane.workspace, deque()).append(lane)

    async def drain(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` seconds for the turns that are running."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def stop(self) -> None:
        """Cancel all turns."""
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
