"""The part of a deletion that is the importer's: imports, their contents and results, and uploads."""

from typing import Protocol

from services.importer.jobs.imports import Imports


class WorkspaceStore(Protocol):
    """A repository whose documents belong to workspaces."""

    async def delete_all(self, workspace: str) -> None:
        """Delete every document of a workspace."""


class ImporterData:
    """Deletes what the importer stores of a workspace."""

    def __init__(self, imports: Imports, *others: WorkspaceStore) -> None:
        self._imports = imports
        self._others = others

    async def delete(self, workspace: str) -> None:
        """Delete the imports, so that nothing is published any more, then the rest. Safe to repeat."""
        await self._imports.delete_all(workspace)
        for store in self._others:
            await store.delete_all(workspace)
