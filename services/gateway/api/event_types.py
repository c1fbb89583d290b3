"""`/api/event-types`: all event types, and the registration of a workspace's own."""

import base64
import binascii
from typing import Annotated, Any, Final

import orjson
from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from services.gateway.api.event_type_records import EventTypeRecord, EventTypeRepository, event_type_id
from services.gateway.api.event_type_registry import (
    NAME_PATTERN,
    TOO_EXPENSIVE,
    EventTypes,
    EventTypeSource,
    FixedEventTypes,
    KnownEventType,
)
from services.gateway.api.fields import StrictModel
from shared.contracts.errors import Conflict, FieldError, Invalid, Malformed
from shared.contracts.event_types import canonical
from shared.runtime.clock import utcnow
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Cursor, Limit, Page
from shared.runtime.web.routes import Routes
from shared.wire.json_schema import MAX_SCHEMA_BYTES, BoundedSchema, UnsupportedSchema

MAX_WORKSPACE_TYPES: Final = 200
"""Registered types of one workspace."""
_SOURCE_ORDER: Final = ("built-in", "provider", "workspace")

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
Writer = Annotated[ApiKey, Depends(requires("webhooks:write"))]


About = Annotated[str, Field(min_length=1, max_length=2000)]
_SCHEMA: Final = "JSON Schema 2020-12 of the data: at most 64 KiB, with references only within it."


class EventTypeCreate(StrictModel):
    """`POST /api/event-types`: published events of the type are checked against `schema`."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=200)]
    about: About
    schema_: dict[str, Any] | None = Field(None, alias="schema", description=_SCHEMA)
    example: Any = None


class EventTypeUpdate(StrictModel):
    """`PATCH`: an absent field stays as it is; `schema: null` or `example: null` removes the value."""

    about: About | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema", description=_SCHEMA)
    example: Any = None


class EventTypeOut(BaseModel):
    """An event type. `aliases` are other names that are accepted when an event is published.

    `triggers` are the triggers of the catalogue that an event of a provider may fire: other names to
    subscribe to.
    """

    name: str
    source: EventTypeSource
    about: str
    aliases: list[str]
    schema_: dict[str, Any] | None = Field(alias="schema")
    example: Any
    triggers: list[str]
    created_at: str | None
    updated_at: str | None


class EventTypesApi:
    """The routes of event types."""

    def __init__(self, repository: EventTypeRepository, types: EventTypes, fixed: FixedEventTypes) -> None:
        """Read from `repository`; write through `types`, which announces each change."""
        self._repository = repository
        self._types = types
        self._fixed = fixed

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api").add
        add("/event-types", self.create, methods=["POST"], status_code=201)
        add("/event-types", self.list_types, methods=["GET"])
        add("/event-types/{name}", self.read, methods=["GET"])
        add("/event-types/{name}", self.change, methods=["PATCH"])
        add("/event-types/{name}", self.delete, methods=["DELETE"], status_code=204)

    async def create(self, body: EventTypeCreate, key: Writer) -> EventTypeOut:
        """Register a type of this workspace. From now on events of the type are checked."""
        if reason := self._fixed.name_conflict(body.name):
            raise _invalid(FieldError("name", reason))
        schema, example = _validate_schema(body.schema_, body.example)
        await self._check_quota(key)
        now = utcnow()
        record = EventTypeRecord(
            id=event_type_id(key.workspace, body.name),
            workspace=key.workspace,
            name=body.name,
            about=body.about,
            schema_text=schema,
            example_text=example,
            created_at=now,
            changed_at=now,
        )
        await self._types.insert(record)
        return _event_type_out(KnownEventType.of(record))

    async def list_types(self, key: Reader, limit: Limit = 50, cursor: Cursor = None) -> Page[EventTypeOut]:
        """List the built-in types, then those of providers, then the workspace's own; each kind by name."""
        after = _parse_cursor(cursor) if cursor else (0, "")
        # One type more than the limit is read: it shows whether there is another page.
        types = [item for item in self._fixed.by_name.values() if _sort_key(item) > after][: limit + 1]
        if remaining := limit + 1 - len(types):
            last_name = after[1] if after[0] == _SOURCE_ORDER.index("workspace") else ""
            own = await self._repository.list_after(key.workspace, last_name, remaining)
            types += map(KnownEventType.of, own)
        items = [_event_type_out(item) for item in types[:limit]]
        return Page(items=items, next_cursor=_cursor(types[limit - 1]) if len(types) > limit else None)

    async def read(self, name: str, key: Reader) -> EventTypeOut:
        """Return one type, by its name or an alias."""
        fixed = self._fixed.by_name.get(canonical(name))
        return _event_type_out(fixed or KnownEventType.of(await self._repository.find(key.workspace, name)))

    async def change(self, name: str, body: EventTypeUpdate, key: Writer) -> EventTypeOut:
        """Change the given fields of one of the workspace's own types."""
        record = await self._repository.find(key.workspace, name)
        before, sent = KnownEventType.of(record), body.model_fields_set
        schema, example = _validate_schema(
            body.schema_ if "schema_" in sent else before.schema,
            body.example if "example" in sent else before.example,
        )
        changed = await self._types.change(
            record, about=body.about or record.about, schema_text=schema, example_text=example
        )
        return _event_type_out(KnownEventType.of(changed))

    async def delete(self, name: str, key: Writer) -> Response:
        """Delete one of the workspace's own types. Its events are no longer checked."""
        await self._types.delete(await self._repository.find(key.workspace, name))
        return Response(status_code=204)

    async def _check_quota(self, key: ApiKey) -> None:
        if await self._repository.count(key.workspace) >= MAX_WORKSPACE_TYPES:
            raise Conflict(f"a workspace has at most {MAX_WORKSPACE_TYPES} event types of its own")


def _validate_schema(schema: Any, example: Any) -> tuple[str | None, str | None]:
    """Return schema and example as JSON text, as they are stored.

    As text, because MongoDB does not allow every key of a JSON object. Raises `Invalid` if the schema is not
    valid or not supported, if either is too large, or if the example does not match the schema.
    """
    schema_text, example_text = _json_text("schema", schema), _json_text("example", example)
    if schema_text is None:
        return None, example_text
    try:
        compiled = BoundedSchema(schema_text.encode())
    except UnsupportedSchema as error:
        raise _invalid(FieldError("schema", str(error))) from None
    if example_text is None:
        return schema_text, None
    if compiled.is_too_expensive(example_text.encode()):
        raise _invalid(FieldError("example", TOO_EXPENSIVE))
    if mismatch := compiled.first_error(orjson.loads(example_text), len(example_text)):
        raise _invalid(FieldError(f"example.{mismatch.field}".rstrip("."), mismatch.message))
    return schema_text, example_text


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


def _invalid(field_error: FieldError) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(field_error,))


def _event_type_out(event_type: KnownEventType) -> EventTypeOut:
    return EventTypeOut(
        name=event_type.name,
        source=event_type.source,
        about=event_type.about,
        aliases=list(event_type.aliases),
        schema=event_type.schema,
        example=event_type.example,
        triggers=list(event_type.triggers),
        created_at=event_type.created_at,
        updated_at=event_type.updated_at,
    )


def _sort_key(event_type: KnownEventType) -> tuple[int, str]:
    return _SOURCE_ORDER.index(event_type.source), event_type.name


def _cursor(last: KnownEventType) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(_sort_key(last))).decode()


def _parse_cursor(cursor: str) -> tuple[int, str]:
    try:
        source, name = orjson.loads(base64.urlsafe_b64decode(cursor))
        return int(source), str(name)
    except (ValueError, TypeError, binascii.Error):
        raise Malformed("the cursor is not valid: pass next_cursor of the previous page unchanged") from None
