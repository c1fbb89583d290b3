"""Uploads as they are stored: what was announced. How much has arrived, the file itself says."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from secrets import token_hex
from time import time
from typing import Final

from services.importer.uploads.folder import UploadFolder
from shared.contracts.errors import Conflict, NotFound
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Index, Mongo, translate_errors
from shared.runtime.records import Record
from shared.runtime.web.paging import Page, Paging, page

COLLECTION: Final = "uploads"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("expires_at", 1),), ttl_s=0),
    )
}
_MAX_COUNT: Final = 100
_ORPHAN_AGE_S: Final = 3600.0
"""A file without a record is deleted when nothing was written to it for so long."""


class Upload(Record):
    """An announced upload. `size` is in bytes; `folder` is the id of the folder with its file."""

    workspace: str
    name: str
    size: int
    folder: str
    created_at: datetime
    expires_at: datetime


class Uploads:
    """The uploads of all workspaces. Every method raises `DatabaseUnavailable`."""

    def __init__(
        self, mongo: Mongo, folder: UploadFolder, *, max_bytes: int, bytes_per_workspace: int, days: int
    ) -> None:
        self._collection = mongo.collection(COLLECTION)
        self._folder = folder
        self._bytes_per_workspace = bytes_per_workspace
        self._days = days
        self.max_bytes = max_bytes

    async def create(self, workspace: str, name: str, size: int) -> Upload:
        """Announce an upload. Raises `Conflict` if the workspace, or the disk, has no room for it."""
        now = utcnow()
        upload = Upload(
            id=f"upl_{token_hex(16)}",
            workspace=workspace,
            name=name,
            size=size,
            folder=self._folder.id,
            created_at=now,
            expires_at=now + timedelta(days=self._days),
        )
        if not self._folder.has_room(size):
            raise Conflict("the hub's disk has no room for this upload: ask the operator for more")
        with translate_errors():
            await self._collection.insert_one(upload.document())
        # Counted after the insert: of two uploads at the same time, none exceeds the limit.
        sizes = [other.size for other in await self._all(workspace)]
        if sum(sizes) > self._bytes_per_workspace or len(sizes) > _MAX_COUNT:
            await self.delete(upload.id, workspace)
            raise Conflict(
                f"the workspace has {_MAX_COUNT} uploads or more than {self._bytes_per_workspace} bytes of "
                "them: delete one that is imported (DELETE /api/uploads/{id})"
            )
        return upload

    async def find(self, upload_id: str, workspace: str) -> Upload:
        """Return an upload of a workspace. Raises `NotFound`, also for one that has expired."""
        with translate_errors():
            document = await self._collection.find_one({"_id": upload_id, "workspace": workspace})
        if document is None or document["expires_at"] <= utcnow():
            raise NotFound("no such upload: it was deleted, or has expired")
        return Upload.from_document(document)

    async def page(self, workspace: str, paging: Paging) -> Page[Upload]:
        """Return a page of a workspace's uploads, newest first. Raises `Malformed`."""
        return await page(self._collection, {"workspace": workspace}, Upload.from_document, paging)

    async def delete(self, upload_id: str, workspace: str) -> None:
        """Delete an upload and its file. Raises `NotFound`."""
        with translate_errors():
            result = await self._collection.delete_one({"_id": upload_id, "workspace": workspace})
        if not result.deleted_count:
            raise NotFound("no such upload")
        await asyncio.to_thread(self._folder.delete, upload_id)

    async def delete_all(self, workspace: str) -> None:
        """Delete every upload of a workspace; `sweep` deletes the files of other folders."""
        for upload in await self._all(workspace):
            await asyncio.to_thread(self._folder.delete, upload.id)
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})

    async def sweep(self) -> None:
        """Delete the files of this folder whose upload has expired or was deleted."""
        for upload_id in await asyncio.to_thread(self._folder.older_than, time() - _ORPHAN_AGE_S):
            with translate_errors():
                document = await self._collection.find_one({"_id": upload_id}, {"expires_at": 1})
            if document is None or document["expires_at"] <= utcnow():
                await asyncio.to_thread(self._folder.delete, upload_id)

    async def _all(self, workspace: str) -> list[Upload]:
        with translate_errors():
            documents = (
                await self._collection.find({"workspace": workspace}).limit(2 * _MAX_COUNT).to_list(None)
            )
        return [Upload.from_document(document) for document in documents]
