"""Event types: the built-in ones, those of providers, and those that workspaces registered."""

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
"""The form of an event type's name."""
COLLECTION: Final = "event_types"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("name", 1))),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}

_MAX_CHECK_WORK: Final = 100_000_000
"""Size of a schema times the bytes of the data. A check of this size takes about a second at worst."""
_MAX_CHECK_S: Final = 1.0
"""CPU time of the checks of one request. They block the event loop."""


@dataclass(frozen=True, slots=True)
class KnownEventType:
    """An event type with its description, wherever it is from."""

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
    """Return the types that no workspace can change, by name: built-in types first, each kind sorted."""
    built_in = [
        KnownEventType(item.name, "built-in", item.about, item.aliases, item.schema, item.example)
        for item in EVENT_TYPES.values()
    ]
    provider_types: list[KnownEventType] = []
    for provider in providers().values():
        webhook = provider.manifest.webhook
        abouts = {name: event.about for name, event in webhook.handled.items()} if webhook else {}
        for name in (*provider.handled, *provider.ignored):
            about = abouts.get(name, f"{provider.manifest.name} sent the event {name}.")
            fired_triggers = tuple(event_names().triggers_of(provider.id, name))
            provider_types.append(
                KnownEventType(
                    f"{provider.id}.{name}",
                    "provider",
                    about,
                    schema=_provider_event_schema(),
                    example=_example(provider.id, name, fired_triggers),
                    triggers=fired_triggers,
                )
            )
    kinds = (sorted(kind, key=lambda item: item.name) for kind in (built_in, provider_types))
    return {item.name: item for kind in kinds for item in kind}


@cache
def _provider_event_schema() -> Mapping[str, Any]:
    return ProviderEvent.model_json_schema()


def _example(provider: str, event: str, fired_triggers: tuple[str, ...]) -> Mapping[str, Any]:
    """Return an event of a provider as a subscriber receives it. `payload` is what the provider sent."""
    return {
        "provider": provider,
        "endpoint_id": "ep_1",
        "event": event,
        "delivery_id": "dlv_1",
        "triggers": list(fired_triggers),
        "account": "acme",
        "received_at": "2026-03-01T09:00:00.000Z",
        "test": False,
        "replay_of": None,
        "payload": {},
    }


def name_conflict(name: str) -> str | None:
    """Return why a workspace cannot have a type of this name; None if it can."""
    if canonical(name) in EVENT_TYPES:
        return "is a built-in type"
    if is_provider_type(name):
        return "types of a provider come from its verified webhooks only"
    return None


def is_provider_type(name: str) -> bool:
    """Return whether only the hub publishes events of this type, from webhooks that it received."""
    family = name.partition(".")[0]
    return family == INCOMING_PROVIDER or family in providers() or event_names().is_trigger(name)


@cache
def _built_in_schemas() -> Mapping[str, BoundedSchema]:
    return {item.name: BoundedSchema(orjson.dumps(item.schema)) for item in EVENT_TYPES.values()}


def workspace_type_id(workspace: str, name: str) -> str:
    """Return the id of a workspace's own type in the collection."""
    return f"{workspace}/{name}"


class EventTypes:
    """The types that workspaces registered, with their schemas compiled in memory."""

    def __init__(self, mongo: Mongo, configuration: Configuration, log: Log) -> None:
        self.collection: Collection = mongo.collection(COLLECTION)
        self.snapshot: Snapshot[BoundedSchema | None] = Snapshot(
            configuration, self.collection, _compile_schema, log
        )

    async def start(self) -> None:
        _built_in_schemas()  # compiled now, and not during the first request
        await self.snapshot.start()

    async def stop(self) -> None:
        await self.snapshot.stop()

    def checks(self, workspace: str) -> "SchemaChecks":
        """Return the checks for one request of this workspace."""
        return SchemaChecks(self.snapshot.items, workspace)


def _compile_schema(document: Document) -> BoundedSchema | None:
    return BoundedSchema(document["schema"].encode()) if document["schema"] else None


class SchemaChecks:
    """Checks the event data of one request against schemas, within a limit of CPU time."""

    def __init__(self, own: Mapping[str, BoundedSchema | None], workspace: str) -> None:
        self._own = own
        self._workspace = workspace
        self._seconds = 0.0

    def fault(self, name: str, data: Any, length: int) -> FieldError | None:
        """Return the first error of an event's data; None if the data is valid or the type has no schema.

        `length` is the number of bytes of the data as JSON. The field of the error is a path within the data,
        empty for the data as a whole.
        """
        schema = _built_in_schemas().get(name)
        if schema is None:
            schema = self._own.get(workspace_type_id(self._workspace, name))
            if schema is not None and schema.size * length > _MAX_CHECK_WORK:
                return FieldError(
                    "", "too large for the schema of its type: send less data, or simplify the schema"
                )
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
    """Return a workspace's own type."""
    return KnownEventType(
        document["name"],
        "workspace",
        document["about"],
        schema=orjson.loads(document["schema"]) if document["schema"] else None,
        example=orjson.loads(document["example"]) if document["example"] else None,
        created_at=rfc3339(document["created_at"]),
        updated_at=rfc3339(document["changed_at"]),
    )
