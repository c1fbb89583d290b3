"""`/api/event-types`: the catalogue, and the types that a workspace adds to it."""

import base64
import binascii
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, FastAPI
from starlette.responses import Response

from services.gateway.api.event_type_registry import (
    EventTypes,
    KnownEventType,
    fixed_types,
    name_conflict,
    workspace_type,
    workspace_type_id,
)
from services.gateway.api.schemas import EventTypeCreate, EventTypeOut, EventTypeUpdate
from shared.contracts.errors import Conflict, FieldError, Invalid, Malformed, NotFound
from shared.contracts.event_types import canonical
from shared.runtime.mongo import Document, Duplicate, translate_errors, utcnow
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Cursor, Limit, Page
from shared.wire.json_schema import MAX_SCHEMA_BYTES, BoundedSchema, UnsupportedSchema

MAX_WORKSPACE_TYPES: Final = 200
"""Types of a workspace."""
_SOURCE_ORDER: Final = ("built-in", "provider", "workspace")

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
Writer = Annotated[ApiKey, Depends(requires("webhooks:write"))]


class EventTypesApi:
    """The routes and what they need."""

    def __init__(self, types: EventTypes) -> None:
        self._types = types

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
        add("/event-types", self.create, methods=["POST"], status_code=201)
        add("/event-types", self.list_types, methods=["GET"])
        add("/event-types/{name}", self.read, methods=["GET"])
        add("/event-types/{name}", self.change, methods=["PATCH"])
        add("/event-types/{name}", self.delete, methods=["DELETE"], status_code=204)
        app.include_router(router)

    async def create(self, body: EventTypeCreate, key: Writer) -> EventTypeOut:
        """Add a type of this workspace. From now on its events are checked."""
        if reason := name_conflict(body.name):
            raise _invalid(FieldError("name", reason))
        schema, example = _validate_schema(body.schema_, body.example)
        await self._room_for_one(key)
        now = utcnow()
        document: Document = {
            "_id": workspace_type_id(key.workspace, body.name),
            "workspace": key.workspace,
            "name": body.name,
            "about": body.about,
            "schema": schema,
            "example": example,
            "created_at": now,
            "changed_at": now,
            "deleted_at": None,
        }
        try:
            with (
                translate_errors()
            ):  # takes the place of one that was deleted; one that is there stops the insert
                await self._types.collection.replace_one(
                    {"_id": document["_id"], "deleted_at": {"$ne": None}}, document, upsert=True
                )
        except Duplicate:
            raise Conflict("this type is there already: change it with PATCH") from None
        await self._types.snapshot.record(document["_id"])
        return _event_type_out(workspace_type(document))

    async def list_types(self, key: Reader, limit: Limit = 50, cursor: Cursor = None) -> Page[EventTypeOut]:
        """The built-in types, then those of the providers, then the workspace's own; each kind by name."""
        after = _parse_cursor(cursor) if cursor else (0, "")
        found = [each for each in fixed_types().values() if _sort_key(each) > after][: limit + 1]
        if room := limit + 1 - len(found):
            last = after[1] if after[0] == _SOURCE_ORDER.index("workspace") else ""
            query = {"workspace": key.workspace, "deleted_at": None, "name": {"$gt": last}}
            with translate_errors():
                own = await self._types.collection.find(query).sort("name", 1).limit(room).to_list(room)
            found += map(workspace_type, own)
        shown = [_event_type_out(each) for each in found[:limit]]
        return Page(items=shown, next_cursor=_cursor(found[limit - 1]) if len(found) > limit else None)

    async def read(self, name: str, key: Reader) -> EventTypeOut:
        """One type, by its name or an alias."""
        known = fixed_types().get(canonical(name))
        return _event_type_out(known or workspace_type(await self._find(name, key)))

    async def change(self, name: str, body: EventTypeUpdate, key: Writer) -> EventTypeOut:
        """Change what is given of one of the workspace's own types."""
        document = await self._find(name, key)
        before, sent = workspace_type(document), body.model_fields_set
        schema, example = _validate_schema(
            body.schema_ if "schema_" in sent else before.schema,
            body.example if "example" in sent else before.example,
        )
        change = {"about": body.about or before.about, "schema": schema, "example": example}
        unchanged = {"_id": document["_id"], "deleted_at": None, "changed_at": document["changed_at"]}
        return _event_type_out(workspace_type(await self._change(unchanged, change)))

    async def delete(self, name: str, key: Writer) -> Response:
        """Remove one of the workspace's own types: its events are no longer checked."""
        document = await self._find(name, key)
        await self._change({"_id": document["_id"], "deleted_at": None}, {"deleted_at": utcnow()})
        return Response(status_code=204)

    # The store

    async def _room_for_one(self, key: ApiKey) -> None:
        with translate_errors():
            there = await self._types.collection.count_documents(
                {"workspace": key.workspace, "deleted_at": None}
            )
        if there >= MAX_WORKSPACE_TYPES:
            raise Conflict(f"a workspace has at most {MAX_WORKSPACE_TYPES} event types of its own")

    async def _find(self, name: str, key: ApiKey) -> Document:
        with translate_errors():
            document = await self._types.collection.find_one(
                {"_id": workspace_type_id(key.workspace, name), "deleted_at": None}
            )
        if document is None:
            raise NotFound("no such event type of this workspace")
        return document

    async def _change(self, query: Document, change: Document) -> Document:
        with translate_errors():
            document = await self._types.collection.find_one_and_update(
                query, {"$set": {**change, "changed_at": utcnow()}}, return_document=True
            )
        if document is None:
            raise Conflict("somebody else changed this type at the same time: look at it and try again")
        await self._types.snapshot.record(document["_id"])
        return document


def _validate_schema(schema: Any, example: Any) -> tuple[str | None, str | None]:
    """Schema and example as they are kept: as JSON text, because a document's keys cannot be any text.

    Raises `Invalid`: the schema is not one, either is too large, or the example does not fit.
    """
    text, sample = _json_text("schema", schema), _json_text("example", example)
    if text is None:
        return None, sample
    try:
        compiled = BoundedSchema(text.encode())
    except UnsupportedSchema as error:
        raise _invalid(FieldError("schema", str(error))) from None
    if sample is not None and (fault := compiled.fault(orjson.loads(sample), len(sample))):
        raise _invalid(FieldError(f"example.{fault.field}".rstrip("."), fault.message))
    return text, sample


def _json_text(field: str, value: Any) -> str | None:
    if value is None:
        return None
    try:
        text = orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise _invalid(FieldError(field, f"cannot be written as JSON: {error}")) from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise _invalid(FieldError(field, f"at most {MAX_SCHEMA_BYTES} bytes"))
    return text.decode()


def _invalid(fault: FieldError) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(fault,))


def _event_type_out(known: KnownEventType) -> EventTypeOut:
    return EventTypeOut(
        name=known.name,
        source=known.source,
        about=known.about,
        aliases=list(known.aliases),
        schema=known.schema,
        example=known.example,
        triggers=list(known.triggers),
        created_at=known.created_at,
        updated_at=known.updated_at,
    )


def _sort_key(known: KnownEventType) -> tuple[int, str]:
    return _SOURCE_ORDER.index(known.source), known.name


def _cursor(last: KnownEventType) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(_sort_key(last))).decode()


def _parse_cursor(cursor: str) -> tuple[int, str]:
    try:
        kind, name = orjson.loads(base64.urlsafe_b64decode(cursor))
        return int(kind), str(name)
    except (ValueError, TypeError, binascii.Error):
        raise Malformed("the cursor is not one of ours: pass next_cursor as it was") from None
