"""Limits on how many documents of a kind a workspace may have stored.

`limits.py` limits what it has under way in one process, `jobs.py` its running jobs.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from shared.contracts.errors import Conflict
from shared.runtime.mongo import Collection, translate_errors


@dataclass(frozen=True, slots=True)
class Quota:
    """The maximum of one kind of documents per workspace.

    `kind` is its plural in error texts, `setting` the environment variable that raises the maximum.
    """

    collection: Collection
    maximum: int
    kind: str
    setting: str

    @asynccontextmanager
    async def reserve(
        self, query: Mapping[str, Any], undo: Callable[[], Awaitable[object]]
    ) -> AsyncIterator[None]:
        """Insert one document inside this context. Raises `Conflict` if the workspace has the maximum.

        `query` finds the documents that count. They are counted before and after the insert: if two processes
        insert at the same time, one that counts more than the maximum awaits `undo` and raises `Conflict`, so
        the maximum is never exceeded.
        """
        if await self._count(query, self.maximum) >= self.maximum:
            raise self._quota_error()
        yield
        if await self._count(query, self.maximum + 1) > self.maximum:
            await undo()
            raise self._quota_error()

    async def _count(self, query: Mapping[str, Any], limit: int) -> int:
        with translate_errors():
            return await self.collection.count_documents(dict(query), limit=limit)

    def _quota_error(self) -> Conflict:
        return Conflict(
            f"this workspace has {self.maximum} {self.kind}, which is the maximum: delete one, "
            f"or have the operator raise {self.setting}"
        )
