"""Limits on how much one workspace has under way in this process, so that none can use up what all share.

`quotas.py` limits what it has stored, `jobs.py` its running jobs.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WorkspaceLimits:
    """At most `limit` uses at a time for each workspace; further ones wait, in the order of their calls.

    Workspaces do not wait for each other. A workspace without uses takes no memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._users: dict[str, int] = {}
        self._semaphores: dict[str, asyncio.Semaphore] = {}

    async def acquire(self, workspace: str) -> None:
        """Wait until the workspace may have one more use. The caller ends it with one call of `release`."""
        semaphore = self._semaphores.get(workspace)
        if semaphore is None:
            semaphore = self._semaphores[workspace] = asyncio.Semaphore(self._limit)
        self._users[workspace] = self._users.get(workspace, 0) + 1
        try:
            await semaphore.acquire()
        except BaseException:
            self._leave(workspace)
            raise

    def users(self, workspace: str) -> int:
        """Return how many uses of the workspace there are, those that wait included."""
        return self._users.get(workspace, 0)

    def is_full(self, workspace: str) -> bool:
        """Return whether a further use of the workspace would wait."""
        return self.users(workspace) >= self._limit

    def release(self, workspace: str) -> None:
        self._semaphores[workspace].release()
        self._leave(workspace)

    @asynccontextmanager
    async def hold(self, workspace: str) -> AsyncIterator[None]:
        """Hold one use of the workspace while the context lasts."""
        await self.acquire(workspace)
        try:
            yield
        finally:
            self.release(workspace)

    def _leave(self, workspace: str) -> None:
        self._users[workspace] -= 1
        if not self._users[workspace]:
            del self._users[workspace], self._semaphores[workspace]
