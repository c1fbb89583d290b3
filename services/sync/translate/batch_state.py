"""What a batch knows and changes: messages and links, as they are with the changes of the batch so far."""

from collections.abc import Collection
from typing import Any

from services.sync.model.synced_message import MessageLink, SyncedMessage, TraceEntry
from services.sync.store.messages import (
    SyncedMessages,
    completion,
    field_removal,
    field_update,
    insertion,
    part_update,
    target_update,
    update,
)
from shared.runtime.kafka.producer import Record
from shared.runtime.mongo import Write


class BatchState:
    """Messages and links that the changes of a batch refer to. `load` them before asking for them."""

    def __init__(self, store: SyncedMessages) -> None:
        self._store = store
        self._messages: dict[str, SyncedMessage] = {}
        self._links: dict[str, MessageLink] = {}
        self._writes: list[Write] = []
        self._new_links: list[MessageLink] = []
        self.records: list[Record] = []
        """Records to publish once everything is stored."""

    async def load(self, messages: Collection[str]) -> None:
        """Read messages. Raises `DatabaseUnavailable`."""
        self._messages |= await self._store.find_many(messages)

    async def load_links(self, links: Collection[str]) -> None:
        """Read links. Raises `DatabaseUnavailable`."""
        self._links |= await self._store.find_links(links)

    async def save(self) -> None:
        """Store everything. Raises `DatabaseUnavailable`."""
        await self._store.write(self._writes)
        await self._store.add_links(self._new_links)

    def message(self, synced_id: str) -> SyncedMessage | None:
        """Return a message; None if it is not there."""
        return self._messages.get(synced_id)

    def link(self, link_id: str) -> MessageLink | None:
        """Return a link; None if it is not there."""
        return self._links.get(link_id)

    def add(self, message: SyncedMessage) -> SyncedMessage:
        """Add a new message."""
        self._messages[message.id] = message
        self._writes.append(insertion(message))
        return message

    def change(self, message: SyncedMessage, **fields: Any) -> SyncedMessage:
        """Change fields of a message, given by their names in Python."""
        changed = message.model_copy(update=fields)
        self._messages[message.id] = changed
        self._writes.append(update(message.id, fields))
        return changed

    def complete(self, message: SyncedMessage) -> SyncedMessage:
        """Store a message that has come, in place of the record that stood for it."""
        self._messages[message.id] = message
        self._writes.append(completion(message))
        return message

    def set_part(self, message: SyncedMessage, leg: str, part: int, external_id: str) -> SyncedMessage:
        """Set the id of one part at a target, which it lacks. Others may be added or removed meanwhile."""
        target = message.targets[leg]
        parts = (*target.parts[:part], external_id, *target.parts[part + 1 :])
        new = target.model_copy(update={"parts": parts})
        changed = message.model_copy(update={"targets": {**message.targets, leg: new}})
        self._messages[message.id] = changed
        self._writes.append(part_update(message.id, leg, part, external_id))
        return changed

    def change_target(
        self, message: SyncedMessage, leg: str, *trace: TraceEntry, **fields: Any
    ) -> SyncedMessage:
        """Change fields of one target, and add to its trace. Do nothing if the message has no such target."""
        target = message.targets.get(leg)
        if target is None:
            return message
        new = target.model_copy(update={**fields, "trace": (*target.trace, *trace)})
        changed = message.model_copy(update={"targets": {**message.targets, leg: new}})
        self._messages[message.id] = changed
        self._writes.append(target_update(message.id, leg, fields, trace))
        return changed

    def set_reaction(self, message: SyncedMessage, key: str, reaction: Any) -> SyncedMessage:
        """Set the state of one person's reaction."""
        changed = message.model_copy(update={"reactions": {**message.reactions, key: reaction}})
        self._messages[message.id] = changed
        self._writes.append(field_update(message.id, {f"reactions.{key}": reaction.document()}))
        return changed

    def remove_reaction(self, message: SyncedMessage, key: str) -> SyncedMessage:
        """Remove what is stored of one person's reaction."""
        reactions = {name: state for name, state in message.reactions.items() if name != key}
        changed = message.model_copy(update={"reactions": reactions})
        self._messages[message.id] = changed
        self._writes.append(field_removal(message.id, f"reactions.{key}"))
        return changed

    def add_link(self, link: MessageLink) -> None:
        """Add the link of an id."""
        if link.id not in self._links:
            self._links[link.id] = link
            self._new_links.append(link)
