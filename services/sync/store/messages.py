"""Synchronized messages and the links of their ids, as they are stored."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from services.sync.model.synced_message import (
    LINKS,
    MAX_TRACE,
    MESSAGES,
    PROBLEM_STATES,
    RETENTION_DAYS,
    MessageLink,
    SyncedMessage,
    Target,
    TargetState,
    TraceEntry,
    synced_id_for,
)
from shared.contracts.errors import Misconfigured, NotFound
from shared.runtime.clock import utcnow
from shared.runtime.grouped import Grouped
from shared.runtime.mongo import (
    Document,
    Duplicate,
    Index,
    InsertOne,
    Mongo,
    UpdateOne,
    Write,
    translate_errors,
)
from shared.runtime.web.list_reader import LongList
from shared.runtime.web.paging import Page, Paging, page
from shared.runtime.workspaces import Workspaces

_PROBLEM: Final = {"had_problem": True}
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    MESSAGES: (
        Index((("expires_at", 1),), ttl_s=0),
        Index((("workspace", 1), ("has_come", 1), ("received_at", -1), ("_id", -1))),
        Index((("mapping_id", 1), ("has_come", 1), ("received_at", -1), ("_id", -1))),
        # The embedded database uses a partial index only if its condition is in its key too.
        Index((("workspace", 1), ("had_problem", 1), ("received_at", -1), ("_id", -1)), where=_PROBLEM),
    ),
    LINKS: (
        Index((("expires_at", 1),), ttl_s=0),
        Index((("workspace", 1), ("related_ids", 1), ("expires_at", -1), ("_id", -1))),
        Index((("workspace", 1),), retired=True),
    ),
}
RETENTION: Final = timedelta(days=RETENTION_DAYS)
_MAX_IDS: Final = 50
"""Ids of a query: the embedded database takes quadratic time in their number."""
_MAX_WRITES: Final = 200
_COMES_BEFORE: Final = frozenset(
    {"id", "reactions", "source_reactions", "unsure_source_reactions", "late_edit", "deleted"}
)
"""Fields of a record that stands for a message; they stay when the message comes."""
_NOT_LISTED: Final = {"reactions": 0, "late_edit": 0}
_EXAMINED: Final = 100
"""Messages that a list with a state reads at once: one may have a long trace for each of its targets."""


@dataclass(frozen=True, slots=True)
class MessageCriteria:
    """Selects messages in a list. None matches every message; a state, those with a target that has it."""

    mapping_id: str | None = None
    state: TargetState | None = None

    @property
    def selects_problems(self) -> bool:
        """True if the index of messages that had a problem has all messages that meet the criteria."""
        return self.state in PROBLEM_STATES

    def matches(self, document: Document) -> bool:
        """Return whether a stored message has come, is of the mapping, and has the state at a target."""
        return (
            document["has_come"]
            and self.mapping_id in (None, document["mapping_id"])
            and any(target["state"] == self.state for target in document["targets"].values())
        )


class SyncedMessages:
    """Reads and writes of both collections. Every method with `async` raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._messages = mongo.collection(MESSAGES)
        self._links = mongo.collection(LINKS)
        self._workspaces = Workspaces(mongo)
        self._list = LongList(is_dense=True)
        self._related = LongList()
        self._read_group: Grouped[str, SyncedMessage | Misconfigured | None] = Grouped(
            self._read, max_items=_MAX_IDS
        )
        self._write_group: Grouped[Sequence[Write], None] = Grouped(self._write_all, max_items=_MAX_WRITES)
        self._link_group: Grouped[Sequence[MessageLink], None] = Grouped(
            self._link_all, max_items=_MAX_WRITES
        )

    # Reading

    async def delete_all(self, workspace: str) -> None:
        """Delete every synced message and link of a workspace."""
        with translate_errors():
            await self._messages.delete_many({"workspace": workspace})
            await self._links.delete_many({"workspace": workspace})

    async def find(self, synced_id: str) -> SyncedMessage | None:
        """Return a message; None if there is none. Reads at the same time share a query.

        Raises `Misconfigured` if the message, and not another one of the query, cannot be read.
        """
        found = await self._read_group(synced_id)
        if isinstance(found, Misconfigured):
            raise found
        return found

    async def find_many(self, ids: Collection[str]) -> dict[str, SyncedMessage]:
        """Return those of these messages that exist, by id."""
        found: dict[str, SyncedMessage] = {}
        for batch in _batches(ids):
            with translate_errors():
                documents = await self._messages.find({"_id": {"$in": batch}}).to_list(None)
            found |= {document["_id"]: SyncedMessage.from_document(document) for document in documents}
        return found

    async def copies(self, workspace: str, message_id: str, mappings: Collection[str]) -> list[SyncedMessage]:
        """Return a message of the hub as it is in those of these mappings that have it, newest first."""
        found = await self.find_many([synced_id_for(mapping, message_id) for mapping in mappings])
        messages = [item for item in found.values() if item.has_come and item.workspace == workspace]
        return sorted(messages, key=lambda item: item.received_at, reverse=True)

    async def list_related(self, workspace: str, related_id: str, paging: Paging) -> Page[SyncedMessage]:
        """Return a page of the messages with an id among the `related_ids` of their links.

        A page may have fewer items than its limit. Raises `Malformed` if the cursor is invalid.
        """
        now = utcnow()
        links = await page(
            self._links,
            {"workspace": workspace, "related_ids": related_id},
            MessageLink.from_document,
            replace(paging, since=None, until=None),
            time_field="expires_at",
            long_list=self._related,
            start=now,
            latest=now + RETENTION,
        )
        messages = await self.find_many([link.synced_id for link in links.items])
        ids = dict.fromkeys(link.synced_id for link in links.items)
        found = [messages[synced_id] for synced_id in ids if synced_id in messages]
        items = [item for item in found if item.has_come and item.workspace == workspace]
        return Page(items=items, next_cursor=links.next_cursor)

    async def find_links(self, ids: Collection[str]) -> dict[str, MessageLink]:
        """Return those of these links that exist, by id."""
        found: dict[str, MessageLink] = {}
        for batch in _batches(ids):
            with translate_errors():
                documents = await self._links.find({"_id": {"$in": batch}}).to_list(None)
            found |= {document["_id"]: MessageLink.from_document(document) for document in documents}
        return found

    async def of_workspace(self, synced_id: str, workspace: str) -> SyncedMessage:
        """Return a message of a workspace. Raises `NotFound`, also for one that has not come."""
        with translate_errors():
            document = await self._messages.find_one({"_id": synced_id})
        if document is None or document["workspace"] != workspace or not document["has_come"]:
            raise NotFound("no such message: it may have expired")
        return SyncedMessage.from_document(document)

    async def list_page(
        self, workspace: str, criteria: MessageCriteria, paging: Paging, *, start: datetime | None = None
    ) -> Page[SyncedMessage]:
        """Return a page of a workspace's messages that meet all criteria.

        With a state, a page may have fewer items than its limit: see `paging.page`. The caller checks that
        the mapping is the workspace's, and gives its creation as `start`. Raises `Malformed` if the cursor is
        invalid.
        """
        if criteria.selects_problems:
            query: Document = {"workspace": workspace, **_PROBLEM}
        elif criteria.mapping_id is None:
            query = {"workspace": workspace, "has_come": True}
        else:
            query = {"mapping_id": criteria.mapping_id, "has_come": True}
        if paging.order == "oldest" and start is None:
            start = await self._workspaces.created_at(workspace)
        retained = utcnow() - RETENTION
        return await page(
            self._messages,
            query,
            SyncedMessage.from_document,
            paging,
            time_field="received_at",
            fields=_NOT_LISTED,
            matches=None if criteria.state is None else criteria.matches,
            examined=_EXAMINED,
            long_list=self._list,
            start=max(start, retained) if start else retained,
        )

    async def _read(self, ids: Sequence[str]) -> Sequence[SyncedMessage | Misconfigured | None]:
        with translate_errors():
            documents = await self._messages.find({"_id": {"$in": sorted(set(ids))}}).to_list(None)
        found = {document["_id"]: _parsed(document) for document in documents}
        return [found.get(synced_id) for synced_id in ids]

    # Writing

    async def change_target(
        self,
        message: SyncedMessage,
        leg: str,
        states: Collection[TargetState],
        fields: Mapping[str, Any],
        trace: Sequence[TraceEntry],
    ) -> SyncedMessage | None:
        """Change a target if it has one of these states; return the message then, else None."""
        write = _target_change(leg, fields, trace)
        query: Document = {"_id": message.id, f"targets.{leg}.state": {"$in": list(states)}}
        with translate_errors():
            document = await self._messages.find_one_and_update(query, write, return_document=True)
        return None if document is None else SyncedMessage.from_document(document)

    async def write(self, writes: Sequence[Write]) -> None:
        """Write new messages and updates, in this order. A message that exists stays as it is.

        Writes at the same time share a call.
        """
        if writes:
            await self._write_group(writes)

    async def add_links(self, links: Sequence[MessageLink]) -> None:
        """Store links. One that exists stays as it is."""
        if links:
            await self._link_group(links)

    async def _write_all(self, groups: Sequence[Sequence[Write]]) -> Sequence[None]:
        writes = [write for group in groups for write in group]
        inserts = [write for write in writes if isinstance(write, InsertOne)]
        updates = [write for write in writes if not isinstance(write, InsertOne)]
        if inserts:
            await _insert(self._messages, inserts)
        if updates:
            with translate_errors():
                await self._messages.bulk_write(updates, ordered=True)
        return [None] * len(groups)

    async def _link_all(self, groups: Sequence[Sequence[MessageLink]]) -> Sequence[None]:
        unique = {link.id: link for group in groups for link in group}
        await _insert(self._links, [InsertOne(link.document()) for link in unique.values()])
        return [None] * len(groups)


async def _insert(collection: Any, inserts: list[Any]) -> None:
    """Insert documents; those that exist stay as they are: the batch is a repeated one."""
    try:
        with translate_errors():
            await collection.bulk_write(inserts, ordered=False)
    except Duplicate:
        pass


def _parsed(document: Document) -> SyncedMessage | Misconfigured:
    try:
        return SyncedMessage.from_document(document)
    except Misconfigured as error:
        return error


def insertion(message: SyncedMessage) -> Write:
    """Return the write of a new message."""
    return InsertOne(message.document())


def completion(message: SyncedMessage) -> Write:
    """Return the write of a message in place of the record that stood for it.

    One that has come already stays as it is: it may be sent by now. What came before the message stays, too.
    """
    fields = SyncedMessage.stored_fields(
        {name: getattr(message, name) for name in SyncedMessage.model_fields if name not in _COMES_BEFORE}
    )
    fields["had_problem"] = message.has_problem
    return UpdateOne({"_id": message.id, "has_come": False}, {"$set": fields})


def update(synced_id: str, fields: Mapping[str, Any]) -> Write:
    """Return the write of fields of a message, by their names in Python."""
    return UpdateOne({"_id": synced_id}, {"$set": SyncedMessage.stored_fields(fields)})


def field_update(synced_id: str, fields: Mapping[str, Any]) -> Write:
    """Return the write of fields by their paths in the document, such as `reactions.x`."""
    return UpdateOne({"_id": synced_id}, {"$set": dict(fields)})


def field_removal(synced_id: str, field: str) -> Write:
    """Return the write that removes a field, by its path in the document."""
    return UpdateOne({"_id": synced_id}, {"$unset": {field: ""}})


def part_update(synced_id: str, leg: str, part: int, external_id: str) -> Write:
    """Return the write of the id of a part at a target, if the part is still there and has no id."""
    field = f"targets.{leg}.parts.{part}"
    return UpdateOne({"_id": synced_id, field: ""}, {"$set": {field: external_id}})


def target_update(
    synced_id: str, leg: str, fields: Mapping[str, Any], trace: Sequence[TraceEntry] = ()
) -> Write:
    """Return the write of fields of one target, and of new entries of its trace."""
    return UpdateOne({"_id": synced_id}, _target_change(leg, fields, trace))


def _target_change(leg: str, fields: Mapping[str, Any], trace: Sequence[TraceEntry]) -> Document:
    change: Document = {}
    if fields:
        change["$set"] = {
            f"targets.{leg}.{name}": value for name, value in Target.stored_fields(fields).items()
        }
        if fields.get("state") in PROBLEM_STATES:
            change["$set"] |= _PROBLEM
    if trace:
        entries = [entry.document() for entry in trace]
        change["$push"] = {f"targets.{leg}.trace": {"$each": entries, "$slice": -MAX_TRACE}}
    return change


def expiry() -> datetime:
    """Return when what is stored now expires."""
    return utcnow() + RETENTION


def _batches(ids: Collection[str]) -> list[list[str]]:
    unique = sorted(set(ids))
    return [unique[start : start + _MAX_IDS] for start in range(0, len(unique), _MAX_IDS)]
