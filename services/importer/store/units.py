"""Store the parts of imports that are done: counts by day for the report, and the ledger of message ids.

The ledger says which messages an import added, 16 bytes each, and which of its messages the chat had. An undo
takes the first away, unless a later import has them among the second. A later import of the same conversation
finds them as duplicates.
"""

import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from pydantic import Field

from shared.contracts.errors import DatabaseUnavailable
from shared.contracts.ids import derive
from shared.runtime.mongo import Index, Mongo, ReplaceOne, translate_errors
from shared.runtime.records import Record

COLLECTION: Final = "import_units"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("source", 1), ("first", 1))),
        Index((("import_id", 1), ("conversation", 1), ("_id", 1))),
        Index((("import_id", 1), ("_id", 1))),
    )
}
ID_BYTES: Final = 16
MARK_BYTES: Final = 4
_PREFIX: Final = "msg_"
_DERIVED: Final = re.compile(f"{_PREFIX}[0-9a-f]{{{2 * ID_BYTES}}}")
_MAX_ATTEMPTS: Final = 10
_READ_AT_ONCE: Final = 200
_MAX_IDS_PER_QUERY: Final = 50
"""The embedded database takes quadratic time in the number of ids of a query."""
_WITHOUT_IDS: Final = {"ids": 0, "marks": 0, "changed": 0, "duplicates": 0}


class UnitRecord(Record):
    """A part of a unit that is done, or messages that an undone import left to this one.

    `unit` is the unit's id, `position` and `offset` are where it begins. `source` is the conversation that it
    was read from, with provider and account; empty for a dry run. `ids` are the messages that the import
    added, `marks` those of their contents, `duplicates` those that the chat had, and `changed` the ones of
    these that were updated, each with its mark. `outside` has the parents of replies which are not in this
    part. `first` and `last` are Unix times of all these messages, 0 without any.

    `days` has by day: found, selected, imported, duplicate, skipped, failed, changed; and `first`, `last` and
    `digest` (`add_digest`) of the messages that the chat has. `added_by` is the import that added `ids`, if
    it is not this one.
    """

    import_id: str
    workspace: str
    position: int
    offset: int = 0
    unit: str = ""
    source: str
    conversation: str
    channel_id: str
    first: float = 0.0
    last: float = 0.0
    added: int = 0
    ids: bytes = b""
    marks: bytes = b""
    changed: bytes = b""
    duplicates: bytes = b""
    outside: bytes = b""
    days: dict[str, dict[str, Any]] = Field(default={})
    added_by: str | None = None

    @property
    def adder(self) -> str:
        """The import that added the messages."""
        return self.added_by or self.import_id


class Units:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def store(self, records: Sequence[UnitRecord]) -> None:
        """Store parts that are done. Storing one again replaces it."""
        if not records:
            return
        writes = [ReplaceOne({"_id": record.id}, record.document(), upsert=True) for record in records]
        with translate_errors():
            await self._collection.bulk_write(writes, ordered=False)

    # Of all imports of a conversation

    async def has_source(self, workspace: str, source: str, *, other_than: str) -> bool:
        """Return whether another import than this one has messages of a conversation."""
        with translate_errors():
            async for document in self._collection.find(
                {"workspace": workspace, "source": source}, {"import_id": 1}
            ):
                if document["import_id"] != other_than:
                    return True
        return False

    async def added_between(
        self,
        workspace: str,
        source: str,
        first: float,
        last: float,
        *,
        other_than: str,
        among: set[bytes],
    ) -> dict[bytes, bytes]:
        """Return which of these messages other imports added to a conversation, around these times.

        These are ids in 16 bytes, each with the marks of all contents that imports have had of it. `among`
        bounds the result: a hostile export has millions of messages at one time.
        """
        fields = {"ids": 1, "marks": 1, "changed": 1}
        found: dict[bytes, bytes] = {}
        changed: dict[bytes, set[bytes]] = {}
        async for document in self._around(workspace, source, first, last, other_than, fields):
            marks = _split(document.get("marks", b""), MARK_BYTES)
            pairs = zip(_split(document["ids"]), marks, strict=False)
            found |= {packed_id: mark for packed_id, mark in pairs if packed_id in among}
            for pair in _split(document.get("changed", b""), ID_BYTES + MARK_BYTES):
                if pair[:ID_BYTES] in among:
                    changed.setdefault(pair[:ID_BYTES], set()).add(pair[ID_BYTES:])
        return {key: mark + b"".join(changed.get(key, ())) for key, mark in found.items()}

    async def claims_between(
        self,
        workspace: str,
        source: str,
        first: float,
        last: float,
        *,
        other_than: str,
        among: set[bytes],
    ) -> list[tuple[str, set[bytes]]]:
        """Return which of these messages other imports have found or added, around these times.

        Each item has the import's id, and what it has of `among`.
        """
        fields = {"ids": 1, "duplicates": 1}
        found: dict[str, set[bytes]] = {}
        async for document in self._around(workspace, source, first, last, other_than, fields):
            claimed = _split(document["ids"]) + _split(document.get("duplicates", b""))
            if shared := among.intersection(claimed):
                found.setdefault(document["import_id"], set()).update(shared)
        return list(found.items())

    async def ids_of_others(
        self, workspace: str, source: str, *, other_than: str
    ) -> AsyncIterator[list[bytes]]:
        """Yield the ids of messages that other imports added to a conversation, part by part."""
        always = float("-inf"), float("inf")
        async for document in self._around(workspace, source, *always, other_than, {"ids": 1}):
            yield _split(document["ids"])

    async def _around(
        self,
        workspace: str,
        source: str,
        first: float,
        last: float,
        other_than: str,
        fields: Mapping[str, int],
    ) -> AsyncIterator[Mapping[str, Any]]:
        # What the index has not is looked at here: for it, the embedded database would read the collection.
        query = {"workspace": workspace, "source": source, "first": {"$lte": last}}
        with translate_errors():
            found = [
                document["_id"]
                async for document in self._collection.find(query, {"import_id": 1, "last": 1})
                if document["last"] >= first and document["import_id"] != other_than
            ]
        async for document in self._documents(found, {**fields, "import_id": 1}):
            yield document

    # Of one import

    async def own_between(
        self,
        import_id: str,
        conversation: str,
        first: float,
        last: float,
        *,
        before: str,
        among: set[bytes],
    ) -> set[bytes]:
        """Return which of these messages an import added around these times.

        That is in the parts before the one with the id `before`.
        """
        # The times are not in the index: see `_around`.
        query = {"import_id": import_id, "conversation": conversation, "_id": {"$lt": before}}
        with translate_errors():
            parts = [
                document["_id"]
                async for document in self._collection.find(query, {"first": 1, "last": 1})
                if document["first"] <= last and document["last"] >= first
            ]
        found: set[bytes] = set()
        async for document in self._documents(parts, {"ids": 1}):
            found.update(among.intersection(_split(document["ids"])))
        return found

    async def _documents(
        self, ids: Sequence[str], fields: Mapping[str, int]
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Yield fields of parts. Their lists of ids are long: only those of the wanted parts are read."""
        for at in range(0, len(ids), _MAX_IDS_PER_QUERY):
            query = {"_id": {"$in": list(ids[at : at + _MAX_IDS_PER_QUERY])}}
            with translate_errors():
                async for document in self._collection.find(query, fields):
                    yield document

    async def last_time(self, import_id: str, conversation: str, *, before: str) -> float:
        """Return the Unix time of the last message in the parts before one of an import; 0 without any."""
        query = {"import_id": import_id, "conversation": conversation, "_id": {"$lt": before}}
        with translate_errors():
            times = [document["last"] async for document in self._collection.find(query, {"last": 1})]
        return max(times, default=0.0)

    async def read(self, import_id: str, *, after: str, limit: int = _READ_AT_ONCE) -> list[UnitRecord]:
        """Return parts of an import behind the one with the id `after`, in their order."""
        query = {"import_id": import_id, "_id": {"$gt": after}}
        with translate_errors():
            documents = await self._collection.find(query).sort("_id", 1).limit(limit).to_list(limit)
        return [UnitRecord.from_document(document) for document in documents]

    async def of_conversation(self, import_id: str, conversation: str) -> AsyncIterator[UnitRecord]:
        """Yield the parts of a conversation in their order, without ids."""
        query = {"import_id": import_id, "conversation": conversation}
        with translate_errors():
            async for document in self._collection.find(query, _WITHOUT_IDS).sort("_id", 1):
                yield UnitRecord.from_document({**document, "ids": b""})

    async def ids_of_conversation(self, import_id: str, conversation: str) -> AsyncIterator[list[bytes]]:
        """Yield the ids of a conversation's messages that the chat has, part by part."""
        query = {"import_id": import_id, "conversation": conversation}
        with translate_errors():
            async for document in self._collection.find(query, {"ids": 1, "duplicates": 1}):
                yield _split(document["ids"]) + _split(document.get("duplicates", b""))

    async def existing(self, ids: Iterable[str]) -> set[str]:
        """Return which of these parts are stored."""
        found: set[str] = set()
        remaining = iter(ids)
        while batch := list(islice(remaining, _MAX_IDS_PER_QUERY)):
            with translate_errors():
                async for document in self._collection.find({"_id": {"$in": batch}}, {"_id": 1}):
                    found.add(document["_id"])
        return found

    async def count_added(self, import_id: str) -> int:
        """Return how many messages the ledger of an import has."""
        with translate_errors():
            found = self._collection.find({"import_id": import_id}, {"added": 1})
            return sum([document.get("added", 0) async for document in found])

    async def keep(self, record: UnitRecord, ids: Sequence[bytes]) -> None:
        """Leave only these ids of a part in the ledger: others were withdrawn, or left to another import."""
        retained = set(ids)
        pairs = zip(_split(record.ids), _split(record.marks, MARK_BYTES), strict=False)
        marks = [(packed_id, mark) for packed_id, mark in pairs if packed_id in retained]
        changes: dict[str, Any] = {
            "ids": b"".join(packed_id for packed_id, _ in marks),
            "marks": b"".join(mark for _, mark in marks),
            "added": len(marks),
            "changed": b"",
            "duplicates": b"",
        }
        if not marks:
            changes["source"] = ""  # no other import has to know of it
        with translate_errors():
            await self._collection.update_one({"_id": record.id}, {"$set": changes})

    async def take(self, record_id: str, duplicates: Collection[bytes], rejected: Collection[bytes]) -> int:
        """Take messages of a part out of the ledger, and return how many: the import has not added them."""
        for _ in range(_MAX_ATTEMPTS):
            with translate_errors():
                document = await self._collection.find_one({"_id": record_id})
            if document is None:
                return 0
            record = UnitRecord.from_document(document)
            pairs = list(zip(_split(record.ids), _split(record.marks, MARK_BYTES), strict=False))
            left = [pair for pair in pairs if pair[0] not in duplicates and pair[0] not in rejected]
            if len(left) == len(pairs):
                return 0
            found = [packed_id for packed_id, _ in pairs if packed_id in duplicates]
            changes = {
                "ids": b"".join(packed_id for packed_id, _ in left),
                "marks": b"".join(mark for _, mark in left),
                "added": len(left),
                "duplicates": record.duplicates + b"".join(found),
            }
            # Not if an undo has changed it meanwhile.
            with translate_errors():
                query = {"_id": record_id, "ids": record.ids}
                if (await self._collection.update_one(query, {"$set": changes})).matched_count:
                    return len(pairs) - len(left)
        raise DatabaseUnavailable("a part of an import is changed all the time: try again")

    async def give_back(self, record_id: str, ids: Sequence[bytes], source: str) -> int:
        """Add withdrawn messages of a part to the ledger again, and return how many were missing.

        The marks of their contents are unknown by then. `source` is what the part had before.
        """
        for _ in range(_MAX_ATTEMPTS):
            with translate_errors():
                document = await self._collection.find_one({"_id": record_id})
            if document is None:
                return 0
            record = UnitRecord.from_document(document)
            known = set(_split(record.ids))
            missing = [packed_id for packed_id in ids if packed_id not in known]
            changes = {
                "ids": record.ids + b"".join(missing),
                "marks": record.marks + bytes(MARK_BYTES * len(missing)),
                "added": len(known) + len(missing),
                "source": source,
            }
            with translate_errors():
                query = {"_id": record_id, "ids": record.ids}
                if (await self._collection.update_one(query, {"$set": changes})).matched_count:
                    return len(missing)
        raise DatabaseUnavailable("a part of an import is changed all the time: try again")

    async def leave_to(self, heir: str, record: UnitRecord, ids: Iterable[bytes]) -> None:
        """Give messages of a part to the ledger of another import. Doing it again changes nothing."""
        left = set(ids)
        pairs = zip(_split(record.ids), _split(record.marks, MARK_BYTES), strict=False)
        marks = [(packed_id, mark) for packed_id, mark in pairs if packed_id in left]
        copy = record.model_copy(
            update={
                "id": f"{heir}:left:{derive(record.id)}",
                "import_id": heir,
                "added_by": record.adder,
                "ids": b"".join(packed_id for packed_id, _ in marks),
                "marks": b"".join(mark for _, mark in marks),
                "added": len(marks),
                "changed": b"",
                "duplicates": b"",
                "outside": b"",
                "days": {},
            }
        )
        await self.store([copy])

    async def delete_run(self, import_id: str) -> None:
        """Delete all parts of an import."""
        with translate_errors():
            await self._collection.delete_many({"import_id": import_id})

    async def delete_all(self, workspace: str) -> None:
        """Delete all parts of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})


def packed(message_id: str) -> bytes:
    """Return a message id that the hub has derived in 16 bytes; b'' for any other id."""
    return bytes.fromhex(message_id[len(_PREFIX) :]) if _DERIVED.fullmatch(message_id) else b""


def packed_ids(message_ids: Iterable[str]) -> set[bytes]:
    """Return those of these message ids that the hub has derived, in 16 bytes each."""
    return set(map(packed, message_ids)) - {b""}


def unpacked(packed_id: bytes) -> str:
    """Return the message id that 16 bytes are."""
    return _PREFIX + packed_id.hex()


def split_ids(ids: bytes) -> list[bytes]:
    """Return the ids of a ledger, 16 bytes each."""
    return _split(ids)


def has_mark(marks: bytes, mark: bytes) -> bool:
    """Return whether a mark is among those of a message."""
    return mark in _split(marks, MARK_BYTES)


def add_digest(digest: str, ids: Iterable[bytes]) -> str:
    """Return a digest of message ids with more ids added, in whatever order: their sum modulo 2**128."""
    total = int(digest or "0", 16) + sum(int.from_bytes(part) for part in ids)
    return f"{total % (1 << 128):032x}"


def _split(data: bytes, size: int = ID_BYTES) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
