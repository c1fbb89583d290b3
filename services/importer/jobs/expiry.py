"""Delete what was stored for imports that ended long ago. Their ledgers stay, for later imports."""

from typing import Final, Protocol

from services.importer.jobs.import_job import dry_run_id
from services.importer.jobs.imports import Imports

_AT_ONCE: Final = 20


class ImportStore(Protocol):
    """A repository of documents that belong to imports."""

    async def delete_run(self, import_id: str) -> None:
        """Delete every document of an import."""


class Expiry:
    """Deletes contents, issues and reports of imports that the database is about to delete."""

    def __init__(self, imports: Imports, *stores: ImportStore) -> None:
        self._imports = imports
        self._stores = stores

    async def sweep(self) -> None:
        """Delete what is left of some imports that are about to expire. Raises `DatabaseUnavailable`."""
        for import_id in await self._imports.expiring(_AT_ONCE):
            for store in self._stores:
                await store.delete_run(import_id)
                await store.delete_run(dry_run_id(import_id))
