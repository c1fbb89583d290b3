"""What is known of event types: the hub's catalogue, what providers send, and a workspace's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from time import thread_time
from typing import Any, Final, Literal

import orjson

from shared.contracts.envelope import rfc3339
from shared.contracts.errors import FieldError
from shared.contracts.event_types import EVENT_TYPES, canonical
from shared.contracts.messages import ProviderEvent
from shared.manifests.event_names import event_names
from shared.manifests.registry import providers
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Collection, Document, Index, Mongo
from shared.runtime.snapshot import Snapshot
from shared.webhooks.incoming import INCOMING_PROVIDER
from shared.wire.json_schema import BoundedSchema

EventTypeSource = Literal["built-in", "provider", "workspace"]

NAME_PATTERN: Final = r"^[a-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
"""A type's name."""
COLLECTION: Final = "event_types"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("name", 1))),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}

_MAX_CHECK_WORK: Final = 100_000_000
"""A schema's size times the bytes of what it checks: about a second at worst."""
_MAX_CHECK_S: Final = 1.0
"""Of checking for one request: the loop does nothing else meanwhile."""


@dataclass(frozen=True, slots=True)
class KnownEventType:
    """A type as it is shown."""

    name: str
    source: EventTypeSource
    about: str
    aliases: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    example: Any = None
    triggers: tuple[str, ...] = ()
    created_at: str | None = None
    updated_at: str | None = None


@cache
def fixed_types() -> Mapping[str, KnownEventType]:
    """The types that no workspace can change, by name: the built-in ones first, each kind sorted."""
    built_in = [
        KnownEventType(each.name, "built-in", each.about, each.aliases, each.schema, each.example)
        for each in EVENT_TYPES.values()
    ]
    provided: list[KnownEventType] = []
    for provider in providers().values():
        webhook = provider.manifest.webhook
        abouts = {name: event.about for name, event in webhook.handled.items()} if webhook else {}
        for name in (*provider.handled, *provider.ignored):
            about = abouts.get(name, f"{provider.manifest.name} sent the event {name}.")
            fires = tuple(event_names().triggers_of(provider.id, name))
            schema, example = _provider_event_schema(), _example(provider.id, name, fires)
            provided.append(
                KnownEventType(
                    f"{provider.id}.{name}", "provider", about, schema=schema, example=example, triggers=fires
                )
            )
    kinds = (sorted(kind, key=lambda each: each.name) for kind in (built_in, provided))
    return {each.name: each for kind in kinds for each in kind}


@cache
def _provider_event_schema() -> Mapping[str, Any]:
    return ProviderEvent.model_json_schema()


def _example(provider: str, event: str, fires: tuple[str, ...]) -> Mapping[str, Any]:
    """An event of a provider as a subscriber receives it; `payload` is whatever the provider sent."""
    return {
        "provider": provider,
        "endpoint_id": "ep_1",
        "event": event,
        "delivery_id": "dlv_1",
        "triggers": list(fires),
        "account": "acme",
        "received_at": "2026-03-01T09:00:00.000Z",
        "test": False,
        "replay_of": None,
        "payload": {},
    }


def name_conflict(name: str) -> str | None:
    """Why a workspace cannot have a type of this name; None when it can."""
    if canonical(name) in EVENT_TYPES:
        return "is a built-in type"
    if is_provider_type(name):
        return "types of a provider come from its verified webhooks only"
    return None


def is_provider_type(name: str) -> bool:
    """Whether only the hub itself publishes this name, for what came in through an endpoint."""
    family = name.partition(".")[0]
    return family == INCOMING_PROVIDER or family in providers() or event_names().is_trigger(name)


@cache
def _built_in_schemas() -> Mapping[str, BoundedSchema]:
    return {each.name: BoundedSchema(orjson.dumps(each.schema)) for each in EVENT_TYPES.values()}


def workspace_type_id(workspace: str, name: str) -> str:
    """The key of a workspace's own type in the collection."""
    return f"{workspace}/{name}"


class EventTypes:
    """The types that workspaces added, in memory, compiled once."""

    def __init__(self, mongo: Mongo, configuration: Configuration, log: Log) -> None:
        self.collection: Collection = mongo.collection(COLLECTION)
        self.snapshot: Snapshot[BoundedSchema | None] = Snapshot(
            configuration, self.collection, _compile_schema, log
        )

    async def start(self) -> None:
        _built_in_schemas()
        await self.snapshot.start()

    async def stop(self) -> None:
        await self.snapshot.stop()

    def checks(self, workspace: str) -> "SchemaChecks":
        """The checks of one request of this workspace."""
        return SchemaChecks(self.snapshot.items, workspace)


def _compile_schema(document: Document) -> BoundedSchema | None:
    return BoundedSchema(document["schema"].encode()) if document["schema"] else None


class SchemaChecks:
    """Checks the data of one request's events, with a bound on the time that all of it takes."""

    def __init__(self, own: Mapping[str, BoundedSchema | None], workspace: str) -> None:
        self._own = own
        self._workspace = workspace
        self._seconds = 0.0

    def fault(self, name: str, data: Any, length: int) -> FieldError | None:
        """What is wrong with an event's data, whose text has `length` bytes; None when nothing is.

        A type without a schema is free. The field is a path below the data, empty for all of it.
        """
        schema = _built_in_schemas().get(name)
        if schema is None:
            schema = self._own.get(workspace_type_id(self._workspace, name))
            if schema is not None and schema.size * length > _MAX_CHECK_WORK:
                return FieldError("", "too large to be checked against the schema of its type")
        if schema is None:
            return None
        if self._seconds > _MAX_CHECK_S:
            return FieldError("", "checking this request takes too long: send fewer events at a time")
        started = thread_time()
        try:
            return schema.fault(data, length)
        finally:
            self._seconds += thread_time() - started


def workspace_type(document: Document) -> KnownEventType:
    """A workspace's type as it is shown."""
    return KnownEventType(
        document["name"],
        "workspace",
        document["about"],
        schema=orjson.loads(document["schema"]) if document["schema"] else None,
        example=orjson.loads(document["example"]) if document["example"] else None,
        created_at=rfc3339(document["created_at"]),
        updated_at=rfc3339(document["changed_at"]),
    )
