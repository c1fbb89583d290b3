"""Delete the bytes of files of withdrawn messages, of deleted workspaces, and of expired files."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import Final

from services.importer.files.folder import FileFolder
from services.importer.files.records import ImportFiles

_BATCH: Final = 500
_ORPHAN_AGE_S: Final = 3600.0
"""The phase of files writes to each of its files more often than that."""


class FileCleanup:
    """Deletes bytes in the folder of this process. Every method raises `DatabaseUnavailable`."""

    def __init__(self, files: ImportFiles, folder: FileFolder) -> None:
        self._files = files
        self._folder = folder
        self._checked = ""

    async def sweep(self) -> None:
        """Delete the files that are marked as deleted, and those of imports that are not stored any more."""
        await self.delete_marked()
        imports = await asyncio.to_thread(self._folder.imports)
        # An import is stored before its folder is created.
        existing = await self._files.existing_sets(imports)
        for import_id in set(imports) - existing:
            await asyncio.to_thread(self._folder.delete_import, import_id)
        await self._check_next(sorted(existing))

    async def delete_all(self, workspace: str) -> None:
        """Delete all files of a workspace; those in another folder are deleted by its own sweep."""
        await self._files.delete_all(workspace)
        await self.sweep()

    async def _check_next(self, imports: Sequence[str]) -> None:
        """Delete the files of one import that no record names, such as those of a process that died."""
        import_id = next((item for item in imports if item > self._checked), "")
        self._checked = import_id
        if not import_id:
            return
        before = time() - _ORPHAN_AGE_S
        paths = await asyncio.to_thread(self._folder.written_before, import_id, before)
        stored = await self._files.stored_among(import_id, [path.name for path in paths])
        orphans = [path for path in paths if path.name not in stored]
        if orphans:
            await asyncio.to_thread(_unlink, orphans)
            await self._files.set_partial(import_id, 0)

    async def delete_marked(self) -> None:
        """Delete the files that are marked as deleted: bytes first, so that it can be repeated."""
        while records := await self._files.deleted(self._folder.id, _BATCH):
            await asyncio.to_thread(
                self._folder.delete, [(record.import_id, record.attachment_id) for record in records]
            )
            await self._files.remove(records)
            for import_id in {record.import_id for record in records if record.stored_bytes}:
                await self._files.set_bytes(import_id, (await self._files.totals(import_id)).bytes)


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
