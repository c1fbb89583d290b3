"""Share the results of reads: many viewers cost the calls of one."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

_PAUSE_FACTOR: Final = 20
_SLOW_S: Final = 0.1
"""The time from which on a read takes long."""


@dataclass(eq=False)
class _Read:
    """A read in progress or completed. Until it completes, callers get the result of `previous`."""

    began: float
    task: asyncio.Task[Any]
    took_s: float = 0.0
    previous: asyncio.Task[Any] | None = None

    def end(self, task: asyncio.Task[Any]) -> None:
        """Store how long the read took. The error of one for which nobody waits is taken here."""
        self.took_s = monotonic() - self.began
        self.previous = None
        if not task.cancelled():
            task.exception()


class SharedReads:
    """Read results by name, each at most once in `fresh_s` seconds."""

    def __init__(self, fresh_s: float, *, spares: bool = False) -> None:
        """Create it without results.

        With `spares`, a result that took long is read again after twenty times as long only, so that viewers
        cost a service 5 % of a core whatever they read, and callers get the last one meanwhile.
        """
        self._fresh_s = fresh_s
        self._spares = spares
        self._stored: dict[Hashable, _Read] = {}

    async def get(self, name: Hashable, read: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Return the result of a recent or running read of this name; else read it.

        Raises the error of `read`, to every caller that shares the read.
        """
        now = monotonic()
        last = self._stored.get(name)
        if last is None or now - last.began > self._lasts_s(last):
            # Results may have megabytes: drop those of workspaces without viewers.
            self._stored = {
                key: one for key, one in self._stored.items() if now - one.began <= 2 * self._lasts_s(one)
            }
            one = self._stored[name] = _Read(now, asyncio.create_task(read()))
            one.task.add_done_callback(one.end)
            if last and self._is_slow(last) and now - last.began <= 2 * self._lasts_s(last):
                one.previous = last.task
        else:
            one = last
        if one.previous is not None and not one.task.done():
            return one.previous.result()
        return await asyncio.shield(one.task)

    def _lasts_s(self, one: _Read) -> float:
        return max(self._fresh_s, _PAUSE_FACTOR * one.took_s if self._is_slow(one) else 0.0)

    def _is_slow(self, one: _Read) -> bool:
        return self._spares and one.took_s > _SLOW_S
