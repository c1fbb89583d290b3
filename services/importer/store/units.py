"""Store the parts of imports that are done: counts by day for the report, and the ledger of message ids.

The ledger says which messages an import added, 16 bytes each, and which of its messages the chat had. An undo
takes the first away, unless a later import has them among the second. A later import of the same conversation
finds them as duplicates.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Final, TypeVar

from services.importer.store.unit_record import (
    ID_BYTES,
    MARK_BYTES,
    Claims,
    Undone,
    UnitRecord,
    ledger_fields,
    marked_ids,
    removal,
    split_ids,
)
from shared.contracts.errors import DatabaseUnavailable
from shared.contracts.ids import derive
from shared.runtime.mongo import Index, Mongo, ReplaceOne, translate_errors

COLLECTION: Final = "import_units"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("source", 1), ("first", 1))),
        Index((("import_id", 1), ("conversation", 1), ("_id", 1))),
        Index((("import_id", 1), ("_id", 1))),
    )
}
T = TypeVar("T")
_MAX_ATTEMPTS: Final = 10
_READ_AT_ONCE: Final = 200
_MAX_IDS_PER_QUERY: Final = 50
"""The embedded database takes quadratic time in the number of ids of a query."""
_WITHOUT_IDS: Final = {"ids": 0, "marks": 0, "changed": 0, "duplicates": 0}


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
            marks = split_ids(document.get("marks", b""), MARK_BYTES)
            pairs = zip(split_ids(document["ids"]), marks, strict=False)
            found |= {packed_id: mark for packed_id, mark in pairs if packed_id in among}
            for pair in split_ids(document.get("changed", b""), ID_BYTES + MARK_BYTES):
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
    ) -> Claims:
        """Return which of these messages other imports have found or added, around these times.

        They are in the order of the imports' ids.
        """
        fields = {"ids": 1, "duplicates": 1}
        found: dict[str, set[bytes]] = {}
        async for document in self._around(workspace, source, first, last, other_than, fields):
            claimed = split_ids(document["ids"]) + split_ids(document.get("duplicates", b""))
            if shared := among.intersection(claimed):
                found.setdefault(document["import_id"], set()).update(shared)
        return sorted(found.items(), key=itemgetter(0))

    async def ids_of_others(
        self, workspace: str, source: str, *, other_than: str
    ) -> AsyncIterator[list[bytes]]:
        """Yield the ids of messages that other imports added to a conversation, part by part."""
        always = float("-inf"), float("inf")
        async for document in self._around(workspace, source, *always, other_than, {"ids": 1}):
            yield split_ids(document["ids"])

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
            found.update(among.intersection(split_ids(document["ids"])))
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
                yield split_ids(document["ids"]) + split_ids(document.get("duplicates", b""))

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

    async def undone(self, import_id: str) -> Undone:
        """Return what undos have taken out of the ledger of an import."""
        fields = {"withdrawn": 1, "left": 1, "lost": 1}
        withdrawn, left, lost = 0, Counter[str](), Counter[str]()
        with translate_errors():
            async for document in self._collection.find({"import_id": import_id}, fields):
                withdrawn += document.get("withdrawn", 0)
                left.update(document.get("left", {}))
                lost.update(document.get("lost", {}))
        return Undone(withdrawn, left, lost)

    async def withdraw(self, record_id: str, ids: Collection[bytes], claims: Claims) -> set[bytes]:
        """Take messages of a part out of the ledger that the chat has removed; return those that it had.

        They are counted on the part, for the imports in `claims`, too, with the same write: whatever is
        repeated, `undone` has each once.
        """

        def change(record: UnitRecord) -> tuple[set[bytes], dict[str, Any]]:
            removed, changes = removal(record, ids)
            lost = Counter({other: len(claimed & removed) for other, claimed in claims})
            changes["withdrawn"] = record.withdrawn + len(removed)
            changes["lost"] = dict(Counter(record.lost) + lost)
            return removed, changes

        return await self._change(record_id, change) or set()

    async def leave(self, record: UnitRecord, ids: Collection[bytes], heir: str) -> int:
        """Move messages of a part to the ledger of another import; return how many the part had.

        They are counted as those that `withdraw` takes. Doing it again changes nothing.
        """
        await self._leave_to(heir, record, ids)

        def change(current: UnitRecord) -> tuple[int, dict[str, Any]]:
            removed, changes = removal(current, ids)
            changes["left"] = dict(Counter(current.left) + Counter({heir: len(removed)}))
            return len(removed), changes

        return await self._change(record.id, change) or 0

    async def take(self, record_id: str, duplicates: Collection[bytes], rejected: Collection[bytes]) -> int:
        """Take messages of a part out of the ledger, and return how many: the import has not added them."""

        def change(record: UnitRecord) -> tuple[int, dict[str, Any]]:
            pairs = marked_ids(record)
            left = [pair for pair in pairs if pair[0] not in duplicates and pair[0] not in rejected]
            found = [packed_id for packed_id, _ in pairs if packed_id in duplicates]
            changes = {**ledger_fields(left), "duplicates": record.duplicates + b"".join(found)}
            return len(pairs) - len(left), changes if len(left) < len(pairs) else {}

        return await self._change(record_id, change) or 0

    async def give_back(self, record_id: str, ids: Sequence[bytes], source: str) -> int:
        """Add withdrawn messages of a part to the ledger again, and return how many were missing.

        The marks of their contents are unknown by then. `source` is what the part had before.
        """

        def change(record: UnitRecord) -> tuple[int, dict[str, Any]]:
            known = set(split_ids(record.ids))
            missing = [packed_id for packed_id in ids if packed_id not in known]
            changes = {
                "ids": record.ids + b"".join(missing),
                "marks": record.marks + bytes(MARK_BYTES * len(missing)),
                "added": len(known) + len(missing),
                "withdrawn": record.withdrawn - len(missing),
                "source": source,
            }
            return len(missing), changes

        return await self._change(record_id, change) or 0

    async def _change(
        self, record_id: str, change: Callable[[UnitRecord], tuple[T, Mapping[str, Any]]]
    ) -> T | None:
        """Change fields of a part as it is now; return what `change` has returned, None if there is no part.

        `change` may be called again: an undo and a late confirmation may change a part at the same time.
        """
        for _ in range(_MAX_ATTEMPTS):
            with translate_errors():
                document = await self._collection.find_one({"_id": record_id})
            if document is None:
                return None
            record = UnitRecord.from_document(document)
            result, changes = change(record)
            if not changes:
                return result
            query = {"_id": record_id, "ids": record.ids}
            with translate_errors():
                if (await self._collection.update_one(query, {"$set": changes})).matched_count:
                    return result
        raise DatabaseUnavailable("a part of an import is changed all the time: try again")

    async def _leave_to(self, heir: str, record: UnitRecord, ids: Collection[bytes]) -> None:
        """Give messages of a part to the ledger of another import. Doing it again changes nothing."""
        copy = record.model_copy(
            update={
                "id": f"{heir}:left:{derive(record.id)}",
                "import_id": heir,
                "added_by": record.adder,
                **ledger_fields([pair for pair in marked_ids(record) if pair[0] in ids]),
                "changed": b"",
                "duplicates": b"",
                "outside": b"",
                "days": {},
                "withdrawn": 0,
                "left": {},
                "lost": {},
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
