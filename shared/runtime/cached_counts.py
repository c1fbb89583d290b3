"""Counts that may take long: if they do, they are cached for ten times as long as counting took."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Generic, TypeVar

from shared.runtime.limits import WorkspaceLimits

T = TypeVar("T")

_CACHED_FACTOR: Final = 10
_SLOW_S: Final = 0.1
"""The time from which on a count is slow."""
_MAX_CACHED: Final = 500


@dataclass(frozen=True, slots=True)
class _Counted(Generic[T]):
    value: T
    ended_at: float
    took_s: float


class CachedCounts(Generic[T]):
    """Counts by workspace and scope: a workspace counts one scope at a time, however many ask."""

    def __init__(self, *, min_s: float = 0.0) -> None:
        """Cache a count for at least `min_s` seconds."""
        self._min_s = min_s
        self._cached: OrderedDict[tuple[str, Hashable], _Counted[T]] = OrderedDict()
        self._counting = WorkspaceLimits(1)
        self._tasks: dict[tuple[str, Hashable], asyncio.Task[T]] = {}

    async def get(self, workspace: str, scope: Hashable, count: Callable[[], Coroutine[None, None, T]]) -> T:
        """Return a recent count, else count. Raises the errors of `count`.

        A count that took more than 0.1 s is cached for ten times that duration. For the same time after that,
        the cached value is returned while a new count runs.
        """
        key = workspace, scope
        known = self._cached.get(key)
        if known is not None:
            age = monotonic() - known.ended_at
            is_slow = known.took_s > _SLOW_S
            lasts = max(self._min_s, _CACHED_FACTOR * known.took_s if is_slow else 0.0)
            if age < lasts:
                return known.value
            if is_slow and age < 2 * lasts:
                self._start(key, count)
                return known.value
        # A caller who gives up does not end the count: the next one finds it.
        return await asyncio.shield(self._start(key, count))

    def _start(
        self, key: tuple[str, Hashable], count: Callable[[], Coroutine[None, None, T]]
    ) -> asyncio.Task[T]:
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._count(key, count))
            task.add_done_callback(self._forget_error)
        return task

    @staticmethod
    def _forget_error(task: asyncio.Task[T]) -> None:
        """Take the error of a count for which nobody waits."""
        if not task.cancelled():
            task.exception()

    async def _count(self, key: tuple[str, Hashable], count: Callable[[], Coroutine[None, None, T]]) -> T:
        try:
            async with self._counting.hold(key[0]):
                began = monotonic()
                value = await count()
            ended = monotonic()
            self._cached[key] = _Counted(value, ended, ended - began)
            self._cached.move_to_end(key)
            if len(self._cached) > _MAX_CACHED:
                self._cached.popitem(last=False)
            return value
        finally:
            del self._tasks[key]
