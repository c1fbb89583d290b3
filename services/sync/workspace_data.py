"""The part of a deletion that is sync's: mappings, what they forwarded, and person links."""

from typing import Protocol

from services.sync.store.mappings import MappingRepository


class WorkspaceStore(Protocol):
    """A repository whose documents belong to workspaces."""

    async def delete_all(self, workspace: str) -> None:
        """Delete every document of a workspace."""


class SyncData:
    """Deletes what sync stores of a workspace."""

    def __init__(self, mappings: MappingRepository, *others: WorkspaceStore) -> None:
        self._mappings = mappings
        self._others = others

    async def delete(self, workspace: str) -> None:
        """Delete the mappings, so that nothing is forwarded any more, then the rest. Safe to repeat."""
        await self._mappings.delete_all(workspace)
        for store in self._others:
            await store.delete_all(workspace)
