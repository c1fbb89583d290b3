"""Cache reads that are slow, such as counts, for a multiple of the time that they took."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from shared.runtime.limits import WorkspaceLimits

T = TypeVar("T")

_SLOW_S: Final = 0.1
"""Reads that take longer are slow."""
_MAX_CACHED: Final = 500


@dataclass(frozen=True, slots=True)
class _Result(Generic[T]):
    value: T
    began_at: float
    lasts_s: float
    is_slow: bool


class CachedReads(Generic[T]):
    """Results by workspace and name, each read once for all who ask at the same time."""

    def __init__(
        self,
        *,
        min_s: float = 0.0,
        factor: int = 10,
        at_once: int | None = 1,
        max_size: int = _MAX_CACHED,
        size_of: Callable[[T], int] = lambda _: 1,
    ) -> None:
        """Cache a result for `min_s` seconds, and a slow one for `factor` times as long as its read took.

        So readers cost at most 1 / `factor` of a core, whatever they read; with 0, slow reads are as others.
        Of a workspace, `at_once` reads run at a time, all with None. The results have `max_size` together.
        """
        self._min_s = min_s
        self._factor = factor
        self._max_size = max_size
        self._size_of = size_of
        self._cached: OrderedDict[tuple[str, Hashable], _Result[T]] = OrderedDict()
        self._running = WorkspaceLimits(at_once) if at_once else None
        self._tasks: dict[tuple[str, Hashable], asyncio.Task[T]] = {}

    async def get(self, workspace: str, name: Hashable, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the cached result, else that of `read`. Raises the errors of `read`, and caches none.

        After the time for which a slow result is cached, it is returned for as long again while a new one is
        read.
        """
        key = workspace, name
        known = self._cached.get(key)
        if known is not None:
            age = monotonic() - known.began_at
            if age < known.lasts_s:
                return known.value
            if known.is_slow and age < 2 * known.lasts_s:
                self._start(key, read)
                return known.value
        # A caller who gives up does not end the read: the next one finds it.
        return await asyncio.shield(self._start(key, read))

    def refresh(self, workspace: str, name: Hashable, read: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """Start a read for those who ask later, unless a result is cached."""
        known = self._cached.get((workspace, name))
        if known is None or monotonic() - known.began_at >= known.lasts_s:
            self._start((workspace, name), read)

    def _start(
        self, key: tuple[str, Hashable], read: Callable[[], Coroutine[Any, Any, T]]
    ) -> asyncio.Task[T]:
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._run(key, read))
            task.add_done_callback(self._forget_error)
        return task

    @staticmethod
    def _forget_error(task: asyncio.Task[T]) -> None:
        """Take the error of a read for which nobody waits."""
        if not task.cancelled():
            task.exception()

    async def _run(self, key: tuple[str, Hashable], read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            async with self._place(key[0]):
                began = monotonic()
                value = await read()
            took_s = monotonic() - began
            is_slow = bool(self._factor) and took_s > _SLOW_S
            lasts_s = max(self._min_s, self._factor * took_s if is_slow else 0.0)
            self._drop_old()
            self._cached[key] = _Result(value, began, lasts_s, is_slow)
            self._cached.move_to_end(key)
            while len(self._cached) > 1 and self._size() > self._max_size:
                self._cached.popitem(last=False)
            return value
        finally:
            del self._tasks[key]

    def _place(self, workspace: str) -> AbstractAsyncContextManager[None]:
        return self._running.hold(workspace) if self._running else nullcontext()

    def _drop_old(self) -> None:
        """Forget what is not returned any more: results may have megabytes."""
        now = monotonic()
        for key in [key for key, one in self._cached.items() if now - one.began_at > 2 * one.lasts_s]:
            del self._cached[key]

    def _size(self) -> int:
        return sum(self._size_of(one.value) for one in self._cached.values())
