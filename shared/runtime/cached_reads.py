"""Cache reads that are slow, such as counts, for ten times as long as they took."""

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
"""Reads that take longer are slow."""
_MAX_CACHED: Final = 500


@dataclass(frozen=True, slots=True)
class _Result(Generic[T]):
    value: T
    ended_at: float
    took_s: float


class CachedReads(Generic[T]):
    """Results by workspace and name: of a workspace, one read runs at a time, however many callers ask."""

    def __init__(self, *, min_s: float = 0.0) -> None:
        """Cache a result for at least `min_s` seconds."""
        self._min_s = min_s
        self._cached: OrderedDict[tuple[str, Hashable], _Result[T]] = OrderedDict()
        self._running = WorkspaceLimits(1)
        self._tasks: dict[tuple[str, Hashable], asyncio.Task[T]] = {}

    async def get(self, workspace: str, name: Hashable, read: Callable[[], Coroutine[None, None, T]]) -> T:
        """Return the cached result, else that of `read`. Raises the errors of `read`.

        A read that took more than 0.1 s is cached for ten times that duration. For the same time after that,
        the cached result is returned while a new read runs.
        """
        key = workspace, name
        known = self._cached.get(key)
        if known is not None:
            age = monotonic() - known.ended_at
            is_slow = known.took_s > _SLOW_S
            lasts = max(self._min_s, _CACHED_FACTOR * known.took_s if is_slow else 0.0)
            if age < lasts:
                return known.value
            if is_slow and age < 2 * lasts:
                self._start(key, read)
                return known.value
        # A caller who gives up does not end the read: the next one finds it.
        return await asyncio.shield(self._start(key, read))

    def _start(
        self, key: tuple[str, Hashable], read: Callable[[], Coroutine[None, None, T]]
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

    async def _run(self, key: tuple[str, Hashable], read: Callable[[], Coroutine[None, None, T]]) -> T:
        try:
            async with self._running.hold(key[0]):
                began = monotonic()
                value = await read()
            ended = monotonic()
            self._cached[key] = _Result(value, ended, ended - began)
            self._cached.move_to_end(key)
            if len(self._cached) > _MAX_CACHED:
                self._cached.popitem(last=False)
            return value
        finally:
            del self._tasks[key]
