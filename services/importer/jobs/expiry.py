"""Delete what was stored for imports that ended long ago. Their ledgers stay, for later imports."""

from typing import Final, Protocol

from services.importer.jobs.import_job import dry_run_id
from services.importer.jobs.imports import Imports

_AT_ONCE: Final = 500


class ImportStore(Protocol):
    """A repository of documents that belong to imports."""

    async def delete_run(self, import_id: str) -> None:
        """Delete every document of an import."""


class Expiry:
    """Deletes contents, issues and reports of imports that the database is about to delete.

    Of the ledger, only the parts of dry runs are deleted.
    """

    def __init__(self, imports: Imports, ledger: ImportStore, *stores: ImportStore) -> None:
        self._imports = imports
        self._ledger = ledger
        self._stores = stores
        self._swept: set[str] = set()
        """Imports that expire, and have nothing left."""

    async def sweep(self) -> None:
        """Delete what is left of imports that are about to expire, at most 500 at a time.

        Raises `DatabaseUnavailable`.
        """
        expiring = await self._imports.expiring()
        self._swept.intersection_update(expiring)
        for import_id in [item for item in expiring if item not in self._swept][:_AT_ONCE]:
            await self._ledger.delete_run(dry_run_id(import_id))
            for store in self._stores:
                await store.delete_run(import_id)
                await store.delete_run(dry_run_id(import_id))
            self._swept.add(import_id)
