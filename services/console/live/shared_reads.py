"""Read once for all who look: what N viewers see costs the calls of one."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from time import monotonic
from typing import Any


class SharedReads:
    """Results by name, each read at most once in `fresh_s` seconds."""

    def __init__(self, fresh_s: float) -> None:
        self._fresh_s = fresh_s
        self._stored: dict[Hashable, tuple[float, asyncio.Task[Any]]] = {}

    async def get(self, name: Hashable, read: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Return what was read for somebody else just now, or is being read; else read it.

        Raises what `read` raises, to all who wait for it.
        """
        now = monotonic()
        at, task = self._stored.get(name, (0.0, None))
        if task is None or now - at > self._fresh_s:
            # Results may have megabytes: none is held for a workspace that nobody looks at.
            self._stored = {key: one for key, one in self._stored.items() if now - one[0] <= self._fresh_s}
            task = asyncio.create_task(read())
            self._stored[name] = now, task
        return await asyncio.shield(task)
