"""The conversations and people of the export of an import, as a person sees them before the plan."""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import Field

from shared.manifests.history_types import ConversationKind
from shared.runtime.mongo import Collection as DriverCollection
from shared.runtime.mongo import Document, Index, Mongo, ReplaceOne, UpdateOne, translate_errors
from shared.runtime.records import Record
from shared.runtime.web.paging import Page, decode_position

CHANNELS: Final = "import_channels"
PEOPLE: Final = "import_people"
_BY_POSITION: Final = (Index((("import_id", 1), ("position", 1))), Index((("workspace", 1),)))
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {CHANNELS: _BY_POSITION, PEOPLE: _BY_POSITION}
_BATCH: Final = 500
_MAX_BATCHES: Final = 20
"""Batches that a search reads for one page."""
_MAX_SAMPLES: Final = 300
"""Samples of a dry run in one page of conversations: they have 8 KB each."""
_MAX_IDS_PER_QUERY: Final = 50
_SEARCHED: Final = {"position": 1, "name": 1, "conversation": 1, "person_id": 1, "kind": 1, "matched_by": 1}
_MAX_CREATED: Final = 20_000
GUEST: Final = "guest"
"""The match of a person who is no user of the chat."""


class ContentRecord(Record):
    """A part of an export, in its order."""

    import_id: str
    workspace: str
    position: int


class ChannelRecord(ContentRecord):
    """A conversation of the export. `size` is in bytes; `first` and `last` are days, empty if unknown.

    `mapped_channel_id` is the channel of the chat with which sync joins it. A run leaves where it goes:
    `channel_id`, or in `left_out` why it is not imported. A dry run leaves `samples`: messages as the chat
    would get them.
    """

    conversation: str
    name: str
    kind: ConversationKind
    archived: bool
    members: int
    parent: str | None = None
    units: int
    size: int
    first: str
    last: str
    problem: str = ""
    """The reason why a connected account cannot read it, and the fix."""
    topic: str = ""
    created_at: float = 0.0
    category: str = ""
    member_ids: tuple[str, ...] = ()
    """With the topic and the time, only of a connected account: an upload is read again instead."""
    mapped_channel_id: str | None = None
    mapped_name: str | None = None
    mapping_id: str | None = None
    channel_id: str = ""
    existing: bool = False
    left_out: str | None = None
    samples: list[dict[str, Any]] = Field(default=[])


class PersonRecord(ContentRecord):
    """A person of the export. `email` only if the provider verified it.

    `matched_by` and `user_id` say who the person is in the chat; `proposed_user_id` is the user with the same
    name, for a person to review.
    """

    person_id: str
    name: str
    email: str | None = None
    avatar_url: str | None = None
    bot: bool
    active: bool
    matched_by: str = GUEST
    user_id: str | None = None
    proposed_user_id: str | None = None


R = TypeVar("R", bound=ContentRecord)


@dataclass(frozen=True, slots=True)
class ContentCriteria:
    """Selects conversations or people: by a text in name or id, and by the value of a field."""

    text: str = ""
    field: str = ""
    value: str | None = None

    @property
    def is_empty(self) -> bool:
        """True if it selects everything."""
        return not self.text and self.value is None

    def matches(self, document: Document) -> bool:
        """Return whether a stored conversation or person meets all criteria."""
        if self.value is not None and document.get(self.field) != self.value:
            return False
        wanted = self.text.casefold()
        ids = document.get("conversation"), document.get("person_id")
        return wanted in document["name"].casefold() or self.text in ids


class Contents:
    """Reads and writes of both collections. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._channels = mongo.collection(CHANNELS)
        self._people = mongo.collection(PEOPLE)

    async def delete_run(self, import_id: str) -> None:
        """Delete the contents of an import."""
        for collection in (self._channels, self._people):
            with translate_errors():
                await collection.delete_many({"import_id": import_id})

    async def add_channels(self, records: Sequence[ChannelRecord]) -> None:
        """Store some hundred conversations; storing one again replaces it."""
        await _store(self._channels, records)

    async def add_people(self, records: Sequence[PersonRecord]) -> None:
        """Store some hundred people; storing one again replaces it."""
        await _store(self._people, records)

    async def each_channel(self, import_id: str) -> AsyncIterator[ChannelRecord]:
        """Yield the conversations in the order of the export, without samples."""
        async for document in _each(self._channels, import_id, {"samples": 0}):
            yield ChannelRecord.from_document(document)

    async def each_person(self, import_id: str) -> AsyncIterator[PersonRecord]:
        """Yield the people in the order of the export."""
        async for document in _each(self._people, import_id, None):
            yield PersonRecord.from_document(document)

    async def new_channels(self, import_id: str) -> AsyncIterator[str]:
        """Yield the ids of the channels that the last run has published as new."""
        fields = {"position": 1, "channel_id": 1, "existing": 1, "left_out": 1}
        async for document in _each(self._channels, import_id, fields):
            if document["channel_id"] and not document["existing"] and document.get("left_out") is None:
                yield document["channel_id"]

    async def guests(self, import_id: str) -> AsyncIterator[str]:
        """Yield the ids of the people who are no users of the chat, and are not left out."""
        fields = {"position": 1, "person_id": 1, "matched_by": 1}
        async for document in _each(self._people, import_id, fields):
            if document["matched_by"] == GUEST:
                yield document["person_id"]

    async def count_people(self, import_id: str) -> dict[str, int]:
        """Return the number of people by `matched_by`."""
        counts: Counter[str] = Counter()
        with translate_errors():
            async for document in self._people.find({"import_id": import_id}, {"matched_by": 1}):
                counts[document["matched_by"]] += 1
        return dict(counts)

    async def unknown_ids(
        self, import_id: str, conversations: Collection[str], people: Collection[str]
    ) -> tuple[list[str], list[str]]:
        """Return which of these ids of conversations and of people the export does not have."""
        parts = ((self._channels, "conversation", conversations), (self._people, "person_id", people))
        unknown: list[list[str]] = []
        for collection, field, ids in parts:
            left = dict.fromkeys(ids)
            if left:
                with translate_errors():
                    async for document in collection.find({"import_id": import_id}, {field: 1}):
                        left.pop(document[field], None)
            unknown.append(list(left))
        return unknown[0], unknown[1]

    async def channels(
        self, import_id: str, criteria: ContentCriteria, *, limit: int, cursor: str | None
    ) -> Page[ChannelRecord]:
        """Return a page of the conversations that meet all criteria, in the order of the export.

        With criteria, it may have fewer than `limit` items, and a next page. Raises `Malformed`.
        """
        return await _page(self._channels, ChannelRecord, import_id, criteria, limit, cursor)

    async def people(
        self, import_id: str, criteria: ContentCriteria, *, limit: int, cursor: str | None
    ) -> Page[PersonRecord]:
        """Return a page of the people who meet all criteria, like `channels`."""
        return await _page(self._people, PersonRecord, import_id, criteria, limit, cursor)

    async def created_channels(self, workspace: str, *, other_than: str) -> dict[str, str]:
        """Return the channels that other imports of a workspace have made, by name in lower case."""
        query = {"workspace": workspace, "existing": False, "import_id": {"$ne": other_than}}
        found: dict[str, str] = {}
        with translate_errors():
            documents = self._channels.find(query, {"name": 1, "channel_id": 1}).limit(_MAX_CREATED)
            async for document in documents:
                if document["channel_id"]:
                    found.setdefault(document["name"].casefold(), document["channel_id"])
        return found

    async def set_samples(self, import_id: str, position: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Store messages of the conversation at a position as the chat would get them."""
        with translate_errors():
            await self._channels.update_one(
                {"_id": f"{import_id}:{position}"},
                {"$set": ChannelRecord.stored_fields({"samples": list(samples)})},
            )

    async def set_channels(self, import_id: str, places: Mapping[int, Mapping[str, Any]]) -> None:
        """Change fields of some hundred conversations, by position."""
        await _change(self._channels, ChannelRecord, import_id, places)

    async def set_people(self, import_id: str, matches: Mapping[int, Mapping[str, Any]]) -> None:
        """Change fields of some hundred people, by position."""
        await _change(self._people, PersonRecord, import_id, matches)

    async def delete_all(self, workspace: str) -> None:
        """Delete everything of a workspace."""
        for collection in (self._channels, self._people):
            with translate_errors():
                await collection.delete_many({"workspace": workspace})


async def _store(collection: DriverCollection, records: Sequence[ContentRecord]) -> None:
    writes = [ReplaceOne({"_id": record.id}, record.document(), upsert=True) for record in records]
    if writes:
        with translate_errors():
            await collection.bulk_write(writes, ordered=False)


async def _change(
    collection: DriverCollection,
    model: type[ContentRecord],
    import_id: str,
    changes: Mapping[int, Mapping[str, Any]],
) -> None:
    writes = [
        UpdateOne({"_id": f"{import_id}:{position}"}, {"$set": model.stored_fields(fields)})
        for position, fields in changes.items()
    ]
    if writes:
        with translate_errors():
            await collection.bulk_write(writes, ordered=False)


async def _each(
    collection: DriverCollection, import_id: str, fields: Mapping[str, int] | None
) -> AsyncIterator[Mapping[str, Any]]:
    """Yield documents in their order, some hundred in a query: the caller may take long with each."""
    start = 0
    while True:
        # Positions have no gaps. Without an end, the embedded database reads and sorts all that follow.
        query = {"import_id": import_id, "position": {"$gte": start, "$lt": start + _BATCH}}
        with translate_errors():
            found = await collection.find(query, fields).sort("position", 1).limit(_BATCH).to_list(_BATCH)
        for document in found:
            yield document
        if len(found) < _BATCH:
            return
        start = found[-1]["position"] + 1


async def _page(
    collection: DriverCollection,
    model: type[R],
    import_id: str,
    criteria: ContentCriteria,
    limit: int,
    cursor: str | None,
) -> Page[R]:
    start = decode_position(cursor)
    if criteria.is_empty:
        documents, more = await _following(collection, import_id, start, limit)
    else:
        ids, more = await _search(collection, import_id, criteria, start, limit)
        documents = await _documents(collection, ids)
        if len(documents) < len(ids):
            more = documents[-1]["position"] + 1
    records = [model.from_document(document) for document in documents]
    return Page(items=records, next_cursor=None if more is None else str(more))


async def _following(
    collection: DriverCollection, import_id: str, start: int, limit: int
) -> tuple[list[Document], int | None]:
    """Return documents from a position on, and the position to go on at; None at the end."""
    found: list[Document] = []
    while len(found) < limit and not _is_large(found):
        size = min(_MAX_IDS_PER_QUERY, limit - len(found))
        # Positions have no gaps. One more than is wanted, to know whether there is more.
        query = {"import_id": import_id, "position": {"$gte": start, "$lte": start + size}}
        with translate_errors():
            documents = await collection.find(query).sort("position", 1).limit(size + 1).to_list(size + 1)
        found += documents[:size]
        if len(documents) <= size:
            return found, None
        start += size
    return found, start


def _is_large(documents: Sequence[Document]) -> bool:
    """Return whether a page ends with these documents, for the memory of their samples."""
    return sum(len(document.get("samples", ())) for document in documents) >= _MAX_SAMPLES


async def _search(
    collection: DriverCollection, import_id: str, criteria: ContentCriteria, start: int, limit: int
) -> tuple[list[str], int | None]:
    """Return ids of documents that meet criteria, and the position to go on at; None at the end."""
    found: list[str] = []
    for _ in range(_MAX_BATCHES):
        query = {"import_id": import_id, "position": {"$gte": start, "$lt": start + _BATCH}}
        with translate_errors():
            documents = await collection.find(query, _SEARCHED).sort("position", 1).to_list(_BATCH)
        for document in documents:
            if criteria.matches(document):
                found.append(document["_id"])
                if len(found) == limit:
                    return found, document["position"] + 1
        start += _BATCH
        if len(documents) < _BATCH:
            return found, None
    return found, start


async def _documents(collection: DriverCollection, ids: Sequence[str]) -> list[Document]:
    """Return documents in their order, the first ones if they are large."""
    found: list[Document] = []
    for at in range(0, len(ids), _MAX_IDS_PER_QUERY):
        query = {"_id": {"$in": list(ids[at : at + _MAX_IDS_PER_QUERY])}}
        with translate_errors():
            found += await collection.find(query).to_list(_MAX_IDS_PER_QUERY)
        if _is_large(found):
            break
    return sorted(found, key=lambda document: document["position"])
