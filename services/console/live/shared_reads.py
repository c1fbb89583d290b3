"""Share the results of reads: many viewers cost the calls of one."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from time import monotonic
from typing import Any


class SharedReads:
    """Read results by name, each at most once in `fresh_s` seconds."""

    def __init__(self, fresh_s: float) -> None:
        self._fresh_s = fresh_s
        self._stored: dict[Hashable, tuple[float, asyncio.Task[Any]]] = {}

    async def get(self, name: Hashable, read: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Return the result of a recent or running read of this name; else read it.

        Raises the error of `read`, to every caller that shares the read.
        """
        now = monotonic()
        at, task = self._stored.get(name, (0.0, None))
        if task is None or now - at > self._fresh_s:
            # Results may have megabytes: drop those of workspaces without viewers.
            self._stored = {key: one for key, one in self._stored.items() if now - one[0] <= self._fresh_s}
            task = asyncio.create_task(read())
            self._stored[name] = now, task
        return await asyncio.shield(task)
