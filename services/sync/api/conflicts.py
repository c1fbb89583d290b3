"""`/api/conflicts`: edits that wait for a person, because both sides have edited a message."""

from typing import Annotated

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field

from services.sync.api.fields import Reader, Writer
from services.sync.conflict_resolution import Choice, ConflictResolution
from services.sync.model.conflict import Conflict, ConflictState
from services.sync.store.conflicts import Conflicts
from shared.contracts.envelope import rfc3339
from shared.runtime.web.access import ApiKey
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes


class ConflictOut(BaseModel):
    """An edit at `leg` of a message that was edited at `other_leg` before.

    `text` is in Markdown; empty for a caller without the scope `payloads:read`.
    """

    id: str
    mapping_id: str
    synced_message_id: str
    leg: str
    other_leg: str
    text: str
    author_id: str
    author_name: str
    state: ConflictState
    created_at: str
    resolved_at: str | None


class ConflictResolve(BaseModel):
    """`POST /api/conflicts/{conflict_id}/resolve`."""

    model_config = ConfigDict(extra="forbid")

    use: Annotated[
        Choice,
        Field(description="`this`: the edit goes to the other legs; `other`: it is dropped."),
    ]


class ConflictsApi:
    """The routes of conflicts."""

    def __init__(self, conflicts: Conflicts, resolution: ConflictResolution) -> None:
        self._conflicts = conflicts
        self._resolution = resolution

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/conflicts").add
        add("", self.list_all, methods=["GET"])
        add("/{conflict_id}/resolve", self.resolve, methods=["POST"])

    async def list_all(
        self,
        key: Reader,
        paging: PagingQuery,
        mapping_id: Annotated[str | None, Query(max_length=100)] = None,
        state: ConflictState | None = None,
    ) -> Page[ConflictOut]:
        """List the workspace's conflicts, newest first.

        With filters, a page may have fewer items than `limit`, or none; the list ends where `next_cursor` is
        null.
        """
        found = await self._conflicts.list_page(key.workspace, paging, mapping_id=mapping_id, state=state)
        return Page(items=[_out(item, key) for item in found.items], next_cursor=found.next_cursor)

    async def resolve(self, conflict_id: str, body: ConflictResolve, key: Writer) -> ConflictOut:
        """Resolve a conflict; the same call again changes nothing. 409 if it was resolved otherwise."""
        return _out(await self._resolution.resolve(conflict_id, key.workspace, body.use), key)


def _out(conflict: Conflict, key: ApiKey) -> ConflictOut:
    return ConflictOut(
        id=conflict.id,
        mapping_id=conflict.mapping_id,
        synced_message_id=conflict.synced_id,
        leg=conflict.leg,
        other_leg=conflict.other_leg,
        text=conflict.text if key.allows("payloads:read") else "",
        author_id=conflict.author_id,
        author_name=conflict.author_name,
        state=conflict.state,
        created_at=rfc3339(conflict.created_at),
        resolved_at=rfc3339(conflict.resolved_at) if conflict.resolved_at else None,
    )
