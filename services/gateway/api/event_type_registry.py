"""Event types: the built-in ones, those of providers, and those that workspaces registered."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from time import thread_time
from typing import Any, Final, Literal

import orjson

from services.gateway.api.event_type_records import EventTypeRecord, EventTypeRepository, event_type_id
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import FieldError
from shared.contracts.event_types import EVENT_TYPES, canonical, is_published_by_hub
from shared.contracts.messages import ProviderEvent
from shared.manifests.event_names import EventNames
from shared.manifests.registry import Provider
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.snapshot import Snapshot
from shared.webhooks.incoming import INCOMING_PROVIDER
from shared.wire.json_schema import BoundedSchema

EventTypeSource = Literal["built-in", "provider", "workspace"]

NAME_PATTERN: Final = r"^[a-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
"""The form of an event type's name."""

HUB_ONLY: Final = "inbound.* is published by the hub only; report the chat's own changes as message.*"

TOO_EXPENSIVE: Final = "too large for the schema of its type: send less data, or simplify the schema"
_MAX_CHECKS_S: Final = 0.1
"""CPU time of the checks of one request, before the last one."""
_CHEAP_CHECKS_S: Final = 0.01
"""Checks that take no longer together need no pause after them."""


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

    @classmethod
    def of(cls, record: EventTypeRecord) -> "KnownEventType":
        """Return a workspace's own type."""
        return cls(
            record.name,
            "workspace",
            record.about,
            schema=orjson.loads(record.schema_text) if record.schema_text else None,
            example=orjson.loads(record.example_text) if record.example_text else None,
            created_at=rfc3339(record.created_at),
            updated_at=rfc3339(record.changed_at),
        )


class FixedEventTypes:
    """The types that no workspace can change. Those of providers are read when they are first needed."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        """Set the providers, by id."""
        self._providers = providers

    @cached_property
    def by_name(self) -> Mapping[str, KnownEventType]:
        """The types by name: built-in types first, then those of providers, each kind sorted."""
        built_in = [
            KnownEventType(item.name, "built-in", item.about, item.aliases, item.schema, item.example)
            for item in EVENT_TYPES.values()
        ]
        schema = ProviderEvent.model_json_schema()
        provider_types: list[KnownEventType] = []
        for provider in self._providers.values():
            sections = (provider.manifest.webhook, provider.manifest.polling)
            abouts = {
                name: event.about
                for section in sections
                if section
                for name, event in section.handled.items()
            }
            for name in (*provider.handled, *provider.ignored):
                about = abouts.get(name, f"{provider.manifest.name} sent the event {name}.")
                fired_triggers = tuple(self._names.triggers_of(provider.id, name))
                provider_types.append(
                    KnownEventType(
                        f"{provider.id}.{name}",
                        "provider",
                        about,
                        schema=schema,
                        example=_example(provider.id, name, fired_triggers),
                        triggers=fired_triggers,
                    )
                )
        kinds = (sorted(kind, key=lambda item: item.name) for kind in (built_in, provider_types))
        return {item.name: item for kind in kinds for item in kind}

    def name_conflict(self, name: str) -> str | None:
        """Return why a workspace cannot have a type of this name; None if it can."""
        if canonical(name) in EVENT_TYPES:
            return "is a built-in type"
        if self.is_provider_type(name):
            return "types of a provider come from its verified webhooks only"
        if is_published_by_hub(name):
            return HUB_ONLY
        return None

    def is_provider_type(self, name: str) -> bool:
        """Return whether only the hub publishes events of this type, from webhooks that it received."""
        family = name.partition(".")[0]
        return family == INCOMING_PROVIDER or family in self._providers or self._names.is_trigger(name)

    @cached_property
    def _names(self) -> EventNames:
        return EventNames(self._providers)


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


@cache
def _built_in_schema(name: str) -> BoundedSchema:
    """Return the compiled schema of a built-in type. The first call for a type takes about 2 ms."""
    return BoundedSchema(orjson.dumps(EVENT_TYPES[name].schema), is_trusted=True)


class EventTypes:
    """The types that workspaces registered: their schemas compiled in memory, and the writes."""

    def __init__(self, repository: EventTypeRepository, configuration: Configuration, log: Log) -> None:
        self._repository = repository
        self._snapshot: Snapshot[BoundedSchema | None] = repository.snapshot(
            configuration, _compile_schema, log
        )

    async def start(self) -> None:
        await self._snapshot.start()

    async def stop(self) -> None:
        await self._snapshot.stop()

    def checks(self, workspace: str) -> "SchemaChecks":
        """Return the checks for one request of this workspace."""
        return SchemaChecks(self._snapshot.items, workspace)

    # Writes. When one returns, the next request at any process sees the change.

    async def insert(self, record: EventTypeRecord) -> None:
        """Insert a type. Raises `Conflict` if the workspace has one of this name."""
        await self._repository.insert(record)
        await self._snapshot.announce(record.id)

    async def change(self, record: EventTypeRecord, **changes: Any) -> EventTypeRecord:
        """Set fields, given by their names in Python, and return the changed record.

        Raises `Conflict` if the type has changed since it was read.
        """
        changed = await self._repository.change(record, changes, unchanged=True)
        await self._snapshot.announce(record.id)
        return changed

    async def delete(self, record: EventTypeRecord) -> None:
        """Delete a type. Raises `Conflict` if it was deleted meanwhile."""
        await self._repository.change(record, {"deleted_at": utcnow()}, unchanged=False)
        await self._snapshot.announce(record.id)

    async def delete_all(self, workspace: str) -> None:
        """Delete every type of a workspace."""
        await self._snapshot.delete_all({"workspace": workspace}, {})


def _compile_schema(record: EventTypeRecord) -> BoundedSchema | None:
    return BoundedSchema(record.schema_text.encode()) if record.schema_text else None


class SchemaChecks:
    """Checks the event data of one request against schemas, within a limit of CPU time.

    A check blocks the event loop, for 0.1 s at worst. So after expensive ones comes a pause as long as they
    took, in which the requests of other workspaces get their share of the loop.
    """

    def __init__(self, own: Mapping[str, BoundedSchema | None], workspace: str) -> None:
        self._own = own
        self._workspace = workspace
        self._seconds = 0.0
        self._seconds_before_pause = 0.0

    def first_error(self, name: str, data: Any, text: bytes) -> FieldError | None:
        """Return the first error of an event's data; None if the data is valid or the type has no schema.

        `text` is the data as JSON. The field of the error is a path within the data, empty for the data as a
        whole.
        """
        if name in EVENT_TYPES:
            schema: BoundedSchema | None = _built_in_schema(name)
        else:
            schema = self._own.get(event_type_id(self._workspace, name))
        if schema is None:
            return None
        if self._seconds > _MAX_CHECKS_S:
            return FieldError("", "checking this request takes too long: send fewer events at a time")
        started = thread_time()
        try:
            if name not in EVENT_TYPES and schema.is_too_expensive(text):
                return FieldError("", TOO_EXPENSIVE)
            return schema.first_error(data, len(text))
        finally:
            self._seconds += thread_time() - started

    async def pause(self) -> None:
        """Let other requests run, if the checks since the last pause were expensive."""
        seconds = self._seconds - self._seconds_before_pause
        if seconds > _CHEAP_CHECKS_S:
            self._seconds_before_pause = self._seconds
            await asyncio.sleep(seconds)
