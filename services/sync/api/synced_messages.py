"""`/api/synced-messages`: for every message, where it was written and what became of it at each target."""

from typing import Annotated, Final

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field

from services.sync.api.fields import Reader, Writer
from services.sync.api.synced_message_schemas import (
    SyncedMessageOut,
    TracedMessageOut,
    message_out,
    traced_message_out,
)
from services.sync.message_control import MessageControl
from services.sync.model.synced_message import TargetState
from services.sync.store.mappings import MappingRepository
from services.sync.store.messages import MessageCriteria, SyncedMessages
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes


class TargetChoice(BaseModel):
    """The target of a retry or a discard; without one, every target."""

    model_config = ConfigDict(extra="forbid")

    leg: Annotated[str | None, Field(max_length=100, description="The id of the target's leg.")] = None


_EVERY: Final = TargetChoice()


class SyncedMessagesApi:
    """The routes of synchronized messages."""

    def __init__(
        self, mappings: MappingRepository, messages: SyncedMessages, control: MessageControl
    ) -> None:
        self._mappings = mappings
        self._messages = messages
        self._control = control

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/synced-messages").add
        item = "/{synced_message_id}"
        add("", self.list_all, methods=["GET"])
        add(item, self.read, methods=["GET"])
        add(f"{item}/retry", self.retry, methods=["POST"])
        add(f"{item}/discard", self.discard, methods=["POST"])

    async def list_all(
        self,
        key: Reader,
        paging: PagingQuery,
        mapping_id: Annotated[str | None, Query(max_length=100)] = None,
        message_id: Annotated[
            str | None,
            Query(max_length=200, description="Only the message with this id (`msg_`), in every mapping."),
        ] = None,
        related_id: Annotated[
            str | None,
            Query(
                min_length=1,
                max_length=1000,
                description="Only messages with this id: the provider's own, where they were written or at a "
                "target, or that of the event or trace that brought them.",
            ),
        ] = None,
        state: Annotated[
            TargetState | None, Query(description="Only messages that have this state at a target.")
        ] = None,
    ) -> Page[SyncedMessageOut]:
        """List the workspace's messages by the time of their receipt; one message shows its trace too.

        With `message_id`, the other filters but `mapping_id` do not count, and there is one page. With
        `related_id`, no other filter counts, nor the range of time. With it or with `state`, a page may have
        fewer items than `limit`, or none; the list ends where `next_cursor` is null.
        """
        mapping = await self._mappings.find(mapping_id, key.workspace) if mapping_id is not None else None
        if message_id is not None:
            mappings = (
                [mapping_id]
                if mapping_id
                else [edges.id for edges in await self._mappings.edges(key.workspace)]
            )
            messages = await self._messages.copies(key.workspace, message_id, mappings)
            return Page(items=[message_out(item, key) for item in messages], next_cursor=None)
        criteria = MessageCriteria(mapping_id, state)
        if related_id is not None:
            found = await self._messages.list_related(key.workspace, related_id, paging)
        else:
            start = mapping.created_at if mapping else None
            found = await self._messages.list_page(key.workspace, criteria, paging, start=start)
        return Page(items=[message_out(item, key) for item in found.items], next_cursor=found.next_cursor)

    async def read(self, synced_message_id: str, key: Reader) -> TracedMessageOut:
        """Return one message with its trace at each target."""
        return traced_message_out(await self._messages.of_workspace(synced_message_id, key.workspace), key)

    async def retry(
        self, synced_message_id: str, key: Writer, body: TargetChoice = _EVERY
    ) -> TracedMessageOut:
        """Try again what has failed of a message, or has an unknown outcome, for as long as the mapping says.

        409 if there is nothing to retry.
        """
        return traced_message_out(await self._control.retry(synced_message_id, key.workspace, body.leg), key)

    async def discard(
        self, synced_message_id: str, key: Writer, body: TargetChoice = _EVERY
    ) -> TracedMessageOut:
        """Give up what waits or has failed of a message. 409 if it is being sent, or nothing waits."""
        return traced_message_out(
            await self._control.discard(synced_message_id, key.workspace, body.leg), key
        )
