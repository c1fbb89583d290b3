"""The conversations and people of the export of an import, as a person sees them before the plan."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import Field

from shared.contracts.errors import Malformed
from shared.manifests.history_types import ConversationKind
from shared.runtime.mongo import Collection, Index, InsertOne, Mongo, UpdateOne, translate_errors
from shared.runtime.records import Record
from shared.runtime.web.paging import Page

CHANNELS: Final = "import_channels"
PEOPLE: Final = "import_people"
_BY_POSITION: Final = (Index((("import_id", 1), ("position", 1))), Index((("workspace", 1),)))
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {CHANNELS: _BY_POSITION, PEOPLE: _BY_POSITION}
_BATCH: Final = 500


class ContentRecord(Record):
    """A part of an export, in its order."""

    import_id: str
    workspace: str
    position: int


class ChannelRecord(ContentRecord):
    """A conversation of the export. `size` is in bytes; `first` and `last` are days, empty if unknown.

    When the import has ended, `days` has the counts of each day, and `digests` the digest of the ids. A dry
    run leaves `samples`: messages as the chat would get them.
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
    """What keeps a connected account from reading it, and the fix."""
    topic: str = ""
    created_at: float = 0.0
    category: str = ""
    member_ids: tuple[str, ...] = ()
    """With the topic and the time, only of a connected account: an upload is read again instead."""
    channel_id: str = ""
    days: dict[str, dict[str, Any]] = Field(default={})
    samples: list[dict[str, Any]] = Field(default=[])


class PersonRecord(ContentRecord):
    """A person of the export. `email` only if the provider verified it."""

    person_id: str
    name: str
    email: str | None = None
    avatar_url: str | None = None
    bot: bool
    active: bool


R = TypeVar("R", bound=ContentRecord)


class Contents:
    """Reads and writes of both collections. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._channels = mongo.collection(CHANNELS)
        self._people = mongo.collection(PEOPLE)

    async def replace(
        self, import_id: str, channels: Sequence[ChannelRecord], people: Sequence[PersonRecord]
    ) -> None:
        """Store the contents of an export in place of what was stored of it before."""
        parts: tuple[tuple[Collection, Sequence[ContentRecord]], ...] = (
            (self._channels, channels),
            (self._people, people),
        )
        for collection, records in parts:
            with translate_errors():
                await collection.delete_many({"import_id": import_id})
                for at in range(0, len(records), _BATCH):
                    writes = [InsertOne(record.document()) for record in records[at : at + _BATCH]]
                    await collection.bulk_write(writes, ordered=False)

    async def channels(self, import_id: str, *, limit: int, cursor: str | None) -> Page[ChannelRecord]:
        """Return a page of the conversations, in the order of the export. Raises `Malformed`."""
        return await _page(self._channels, ChannelRecord, import_id, limit, cursor)

    async def people(self, import_id: str, *, limit: int, cursor: str | None) -> Page[PersonRecord]:
        """Return a page of the people, in the order of the export. Raises `Malformed`."""
        return await _page(self._people, PersonRecord, import_id, limit, cursor)

    async def all_channels(self, import_id: str) -> list[ChannelRecord]:
        """Return all conversations, in the order of the export, without their results."""
        query, fields = {"import_id": import_id}, {"days": 0, "samples": 0}
        with translate_errors():
            documents = await self._channels.find(query, fields).sort("position", 1).to_list(None)
        return [ChannelRecord.from_document(document) for document in documents]

    async def all_people(self, import_id: str) -> list[PersonRecord]:
        """Return all people, in the order of the export."""
        query = {"import_id": import_id}
        with translate_errors():
            documents = await self._people.find(query).sort("position", 1).to_list(None)
        return [PersonRecord.from_document(document) for document in documents]

    async def positions(self, import_id: str) -> dict[str, int]:
        """Return the positions of the conversations, by the export's ids."""
        query, fields = {"import_id": import_id}, {"conversation": 1, "position": 1}
        with translate_errors():
            documents = await self._channels.find(query, fields).to_list(None)
        return {document["conversation"]: document["position"] for document in documents}

    async def set_results(self, import_id: str, results: Mapping[int, Mapping[str, Any]]) -> None:
        """Change fields of conversations, by their positions and the names of the fields."""
        writes = [
            UpdateOne({"_id": f"{import_id}:{position}"}, {"$set": ChannelRecord.stored_fields(fields)})
            for position, fields in results.items()
        ]
        with translate_errors():
            for at in range(0, len(writes), _BATCH):
                await self._channels.bulk_write(writes[at : at + _BATCH], ordered=False)

    async def delete_all(self, workspace: str) -> None:
        """Delete everything of a workspace."""
        for collection in (self._channels, self._people):
            with translate_errors():
                await collection.delete_many({"workspace": workspace})


async def _page(
    collection: Collection, model: type[R], import_id: str, limit: int, cursor: str | None
) -> Page[R]:
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 12):
        raise Malformed("cursor: send next_cursor of the previous page")
    query = {"import_id": import_id, "position": {"$gte": int(cursor or 0)}}
    with translate_errors():
        documents = await collection.find(query).sort("position", 1).limit(limit + 1).to_list(limit + 1)
    records = [model.from_document(document) for document in documents]
    following = str(records[limit].position) if len(records) > limit else None
    return Page(items=records[:limit], next_cursor=following)
