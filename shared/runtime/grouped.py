"""Group calls: what is asked for while a call is under way is asked for together by the next one.

A database answers one call for fifty documents in about the time of one call for one. Nobody waits for others
to come: the first item of an idle group is handled at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Grouped(Generic[T, R]):
    """Handles items in calls of up to `max_items`, one call at a time, in the order in which they came."""

    def __init__(self, run: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, max_items: int) -> None:
        """`run` gets items and returns one result for each, in their order."""
        self._run = run
        self._max_items = max_items
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """Return the result of an item. Raises what the call of its group raises."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[: self._max_items], self._waiting[self._max_items :]
            try:
                results = await self._run([item for item, _ in group])
            except Exception as error:  # noqa: BLE001 -- it is raised to each caller
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), result in zip(group, results, strict=True):
                    if not future.done():
                        future.set_result(result)
