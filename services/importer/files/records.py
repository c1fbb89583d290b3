"""The files of imports as they are stored: what is known of each, and how many bytes an import has stored."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field

from shared.connections.files.failure import FileReason
from shared.contracts.errors import Malformed
from shared.runtime.mongo import Document, Index, Mongo, UpdateOne, translate_errors
from shared.runtime.records import Record
from shared.runtime.web.paging import Page

FILES: Final = "import_files"
SETS: Final = "import_file_sets"
_DELETED: Final[Mapping[str, Any]] = {"deleted": True}
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    FILES: (
        Index((("import_id", 1), ("position", 1), ("_id", 1))),
        Index((("import_id", 1), ("state", 1), ("position", 1), ("_id", 1))),
        Index((("workspace", 1), ("message_id", 1))),
        Index((("folder", 1), ("_id", 1)), where=_DELETED),
        Index((("workspace", 1), ("folder", 1), ("sha256", 1))),
        Index((("expires_at", 1),), ttl_s=0),
    ),
    SETS: (Index((("workspace", 1),)), Index((("expires_at", 1),), ttl_s=0)),
}
_IDS_PER_QUERY: Final = 50
_POSITION_DIGITS: Final = 8
_POSITIONS: Final = 10**_POSITION_DIGITS
_SPAN_FACTOR: Final = 10
"""Each search for the next files spans so many times as many positions as the one before."""
_SAME_FILES: Final = 10

FileState = Literal["waiting", "stored", "address", "skipped", "failed"]
SkipReason = Literal["larger_than_planned", "only_in_the_archive", "too_many_in_a_message"]
"""Why the plan, or a limit, leaves a file out."""


class FileRecord(Record):
    """A file of a message. The id is that of the import, with the attachment's: it is known beforehand.

    `waiting`: its bytes come in the phase of files. `address`: the chat has an address at which the hub
    streams it from the provider. `position` is that of its unit. `source` is the sealed `FileRef` of a file
    at the provider, `entry` the name of one in the archive. `size` is what was announced, `stored_bytes` and
    `sha256` what was stored, in the folder `folder`.
    """

    import_id: str
    workspace: str
    position: int
    message_id: str
    attachment_id: str
    name: str
    content_type: str | None = None
    size: int | None = None
    state: FileState
    reason: FileReason | SkipReason | None = None
    detail: str = ""
    source: str = ""
    entry: str = ""
    folder: str = ""
    sha256: str = ""
    stored_bytes: int = 0
    is_deleted: bool = Field(default=False, alias="deleted")
    """True if an undo has withdrawn its message. Then the bytes are deleted by a process with the folder."""
    expires_at: datetime


class FileSet(Record):
    """The files of one import in one folder. `bytes` includes what is reserved for files on their way.

    `partial` are the bytes of incomplete files that nobody works on: the import was paused, or it waits.
    """

    workspace: str
    folder: str
    bytes: int = 0
    partial: int = 0
    expires_at: datetime


class FileTotals:
    """The results of the phase of files."""

    def __init__(self) -> None:
        self.stored = 0
        self.bytes = 0
        self.failures: Counter[str] = Counter()

    def add(self, state: str, reason: str | None, stored_bytes: int) -> None:
        """Count a file by its new state."""
        if state == "stored":
            self.stored += 1
            self.bytes += stored_bytes
        elif state == "failed":
            self.failures[reason or ""] += 1


class ImportFiles:
    """Reads and writes of both collections. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._files = mongo.collection(FILES)
        self._sets = mongo.collection(SETS)

    async def add(self, records: Sequence[FileRecord]) -> None:
        """Store the files of messages; one that is stored already stays as it is."""
        for at in range(0, len(records), _IDS_PER_QUERY):
            writes = [
                UpdateOne({"_id": record.id}, {"$setOnInsert": record.document()}, upsert=True)
                for record in records[at : at + _IDS_PER_QUERY]
            ]
            with translate_errors():
                await self._files.bulk_write(writes, ordered=False)

    async def find(self, file_id: str) -> FileRecord | None:
        """Return a file by its id."""
        with translate_errors():
            document = await self._files.find_one({"_id": file_id})
        return None if document is None else FileRecord.from_document(document)

    async def waiting(self, import_id: str, after: FileRecord | None, limit: int) -> list[FileRecord]:
        """Return files without stored bytes that follow another file, in the order of the export."""
        place = (after.position, after.id) if after else None
        while True:
            found = await self._in_order({"import_id": import_id, "state": "waiting"}, place, limit)
            records = [record for record in found if not record.is_deleted]
            if records or len(found) < limit:
                return records
            place = found[-1].position, found[-1].id

    async def _in_order(
        self, query: Mapping[str, Any], after: tuple[int, str] | None, limit: int
    ) -> list[FileRecord]:
        """Return files in the order of the export, behind a position and an id.

        One query for the rest of a position, because the embedded database uses no index for an alternative
        (`$or`); and several for the next positions: without an end, it reads and sorts all that follow.
        """
        documents: list[Document] = []
        start = 0
        with translate_errors():
            if after is not None:
                position, file_id = after
                start = position + 1
                same = {**query, "position": position, "_id": {"$gt": file_id}}
                documents = await self._files.find(same).sort("_id", 1).limit(limit).to_list(limit)
            span = 1
            while len(documents) < limit and start < _POSITIONS:
                left = limit - len(documents)
                # With `$lte`, the embedded database leaves out the last position.
                later = {**query, "position": {"$gte": start, "$lt": start + span}}
                order = [("position", 1), ("_id", 1)]
                documents += await self._files.find(later).sort(order).limit(left).to_list(left)
                start, span = start + span, span * _SPAN_FACTOR
        return [FileRecord.from_document(document) for document in documents]

    async def count_waiting(self, import_id: str) -> int:
        """Return how many files of an import have not got their bytes yet."""
        with translate_errors():
            return await self._files.count_documents({"import_id": import_id, "state": "waiting"})

    async def settle(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Change files that wait, by their ids and the names of the fields."""
        writes = [
            UpdateOne({"_id": file_id, "state": "waiting"}, {"$set": FileRecord.stored_fields(fields)})
            for file_id, fields in results.items()
        ]
        if writes:
            with translate_errors():
                await self._files.bulk_write(writes, ordered=False)

    async def totals(self, import_id: str) -> FileTotals:
        """Return the results of the phase of files until now."""
        totals = FileTotals()
        query = {"import_id": import_id, "state": {"$in": ["stored", "failed"]}}
        fields = {"state": 1, "reason": 1, "stored_bytes": 1}
        with translate_errors():
            async for document in self._files.find(query, fields):
                totals.add(document["state"], document.get("reason"), document.get("stored_bytes", 0))
        return totals

    async def page(
        self, import_id: str, *, state: FileState | None, limit: int, cursor: str | None
    ) -> Page[FileRecord]:
        """Return a page of an import's files, in the order of the export's units. Raises `Malformed`."""
        query: dict[str, Any] = {"import_id": import_id}
        if state is not None:
            query["state"] = state
        after: tuple[int, str] | None = None
        if cursor is not None:
            position, _, attachment = cursor.partition(":")
            if not (position.isascii() and position.isdigit() and len(position) == _POSITION_DIGITS):
                raise Malformed("cursor: send next_cursor of the previous page")
            after = int(position), file_id_of(import_id, attachment)
        found = await self._in_order(query, after, limit + 1)
        records = found[:limit]
        following = None
        if len(found) > limit:
            following = f"{records[-1].position:0{_POSITION_DIGITS}d}:{records[-1].attachment_id}"
        return Page(items=records, next_cursor=following)

    async def withdraw(self, workspace: str, message_ids: Sequence[str]) -> None:
        """Mark the files of messages as deleted, whichever import has stored them."""
        for at in range(0, len(message_ids), _IDS_PER_QUERY):
            part = list(message_ids[at : at + _IDS_PER_QUERY])
            with translate_errors():
                await self._files.update_many(
                    {"workspace": workspace, "message_id": {"$in": part}}, {"$set": dict(_DELETED)}
                )

    async def deleted(self, folder: str, limit: int) -> list[FileRecord]:
        """Return files that are marked as deleted, of a folder, or of none."""
        query = {**_DELETED, "folder": {"$in": [folder, ""]}}
        with translate_errors():
            documents = await self._files.find(query).limit(limit).to_list(limit)
        return [FileRecord.from_document(document) for document in documents]

    async def remove(self, records: Sequence[FileRecord]) -> None:
        """Remove the records of files after their bytes were deleted."""
        ids = [record.id for record in records]
        for at in range(0, len(ids), _IDS_PER_QUERY):
            with translate_errors():
                await self._files.delete_many({"_id": {"$in": ids[at : at + _IDS_PER_QUERY]}})

    async def open_set(self, file_set: FileSet) -> None:
        """Store that an import has files in a folder, unless that is stored already."""
        update = {"$setOnInsert": file_set.document()}
        with translate_errors():
            await self._sets.update_one({"_id": file_set.id}, update, upsert=True)

    async def set_bytes(self, import_id: str, number: int) -> None:
        """Set how many bytes an import has stored, or reserved."""
        await self._set(import_id, {"bytes": number})

    async def set_partial(self, import_id: str, number: int) -> None:
        """Set how many bytes an import has of incomplete files."""
        await self._set(import_id, {"partial": number})

    async def release_bytes(self, import_id: str, number: int, *, granted: int) -> None:
        """Set how many bytes an import has stored, unless another process has changed the number."""
        await self._set(import_id, {"bytes": number}, granted=granted)

    async def _set(self, import_id: str, changes: Mapping[str, int], *, granted: int | None = None) -> None:
        query = {"_id": import_id} | ({} if granted is None else {"bytes": granted})
        with translate_errors():
            await self._sets.update_one(query, {"$set": FileSet.stored_fields(changes)})

    async def bytes_of(self, workspace: str) -> int:
        """Return how many bytes the imports of a workspace have stored, or reserved."""
        with translate_errors():
            found = self._sets.find({"workspace": workspace}, {"bytes": 1, "partial": 1})
            return sum([item["bytes"] + item.get("partial", 0) async for item in found])

    async def existing_sets(self, import_ids: Collection[str]) -> set[str]:
        """Return which of these imports have files."""
        found: set[str] = set()
        ids = list(import_ids)
        for at in range(0, len(ids), _IDS_PER_QUERY):
            query = {"_id": {"$in": ids[at : at + _IDS_PER_QUERY]}}
            with translate_errors():
                found.update([item["_id"] async for item in self._sets.find(query, {"_id": 1})])
        return found

    async def same_file(self, workspace: str, folder: str, sha256: str) -> FileRecord | None:
        """Return a file of a workspace's imports in a folder that has these bytes; None if there is none."""
        query = {"workspace": workspace, "folder": folder, "sha256": sha256}
        with translate_errors():
            documents = await self._files.find(query).limit(_SAME_FILES).to_list(_SAME_FILES)
        records = [FileRecord.from_document(document) for document in documents]
        return next((item for item in records if item.state == "stored" and not item.is_deleted), None)

    async def stored_among(self, import_id: str, attachment_ids: Sequence[str]) -> set[str]:
        """Return which of these attachments of an import are stored."""
        found: set[str] = set()
        for at in range(0, len(attachment_ids), _IDS_PER_QUERY):
            ids = [file_id_of(import_id, item) for item in attachment_ids[at : at + _IDS_PER_QUERY]]
            query = {"_id": {"$in": ids}, "state": "stored"}
            with translate_errors():
                found.update([item["attachment_id"] async for item in self._files.find(query)])
        return found

    async def delete_all(self, workspace: str) -> None:
        """Delete all of a workspace; a sweep of each folder deletes the bytes."""
        for collection in (self._files, self._sets):
            with translate_errors():
                await collection.delete_many({"workspace": workspace})


def file_id_of(import_id: str, attachment_id: str) -> str:
    """Return the id of a file of an import, by that of the attachment."""
    return f"{import_id}:{attachment_id}"
