"""Limits on how much of a kind a workspace may have."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from shared.contracts.errors import Conflict
from shared.runtime.mongo import Collection, translate_errors


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that a workspace may have of one kind. `setting` is the variable that raises it."""

    collection: Collection
    maximum: int
    kind: str
    setting: str

    @asynccontextmanager
    async def reserve(
        self, alive: Mapping[str, Any], undo: Callable[[], Awaitable[object]]
    ) -> AsyncIterator[None]:
        """Insert one document inside this block. Raises `Conflict` if there is no room for it.

        `alive` finds what the workspace has. It is counted before and after: of two processes that insert at
        the same moment, the one that counts more than `most` calls `undo`, so the limit is never passed.
        """
        if await self._count(alive, self.maximum) >= self.maximum:
            raise self._full()
        yield
        if await self._count(alive, self.maximum + 1) > self.maximum:
            await undo()
            raise self._full()

    async def _count(self, alive: Mapping[str, Any], limit: int) -> int:
        with translate_errors():
            return await self.collection.count_documents(dict(alive), limit=limit)

    def _full(self) -> Conflict:
        return Conflict(
            f"this workspace has {self.maximum} {self.kind}, which is the most: delete one, "
            f"or have the operator raise {self.setting}"
        )
