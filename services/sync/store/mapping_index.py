"""All mappings in memory, found by the conversation of one of their legs."""

from collections import Counter
from collections.abc import Callable, Sequence
from sys import intern
from typing import Any, Final, NamedTuple

from services.sync.model.mapping import Filters, Leg, Mapping, Options
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Mongo
from shared.runtime.snapshot import Snapshot

COLLECTION: Final = "sync_mappings"
_FILTERS: Final = Filters()
_OPTIONS: Final = Options()
_COMMON: Final = ("id", "provider", "account", "direction")
"""Fields of a leg with values that many legs have."""
_GIVEN: Final[set[str]] = set()


class MappedLeg(NamedTuple):
    """A leg with its mapping."""

    mapping: Mapping
    leg: Leg


_Key = tuple[str, str, str, str]
"""Workspace, provider, account and conversation."""


class MappingIndex:
    """The mappings of all workspaces. Await `ensure_current` before asking for them."""

    def __init__(self, mongo: Mongo, configuration: Configuration, log: Log) -> None:
        self._configuration = configuration
        self._snapshot: Snapshot[Mapping] = Snapshot(
            configuration,
            mongo.collection(COLLECTION),
            _parse,
            log,
            on_change=self._on_change,
        )
        self._by_conversation: dict[_Key, tuple[MappedLeg, ...]] = {}
        self._count_by_workspace: Counter[str] = Counter()
        self._followers: list[Callable[[Mapping], None]] = []

    async def start(self) -> None:
        await self._snapshot.start()

    async def stop(self) -> None:
        await self._snapshot.stop()

    async def ensure_current(self) -> None:
        """Load what was changed before this call. Raises `DatabaseUnavailable`.

        Everything waits until MongoDB answers: by outdated mappings, a message would be dropped, or forwarded
        although its mapping is paused.
        """
        if not await self._configuration.current():
            raise DatabaseUnavailable("MongoDB does not say whether the mappings in memory are up to date")

    def follow(self, follower: Callable[[Mapping], None]) -> None:
        """Call `follower` with each mapping that is new or has changed, once it is in the index."""
        self._followers.append(follower)

    def get(self, mapping_id: str) -> Mapping | None:
        """Return a mapping; None if there is none, or none any more."""
        return self._snapshot.items.get(mapping_id)

    def has_workspace(self, workspace: str) -> bool:
        """Return whether a workspace has mappings at all."""
        return workspace in self._count_by_workspace

    def find(self, workspace: str, provider: str, account: str, conversation: str) -> Sequence[MappedLeg]:
        """Return the legs of a conversation, with their mappings, paused ones too."""
        return self._by_conversation.get((workspace, provider, account, conversation), ())

    def _on_change(self, before: Mapping | None, after: Mapping | None) -> None:
        if before:
            self._count_by_workspace[before.workspace] -= 1
            if not self._count_by_workspace[before.workspace]:
                del self._count_by_workspace[before.workspace]
            for leg in before.legs:
                key = _key(before, leg)
                left = tuple(
                    item for item in self._by_conversation.get(key, ()) if item.mapping.id != before.id
                )
                if left:
                    self._by_conversation[key] = left
                else:
                    self._by_conversation.pop(key, None)
        if after:
            self._count_by_workspace[after.workspace] += 1
            for leg in after.legs:
                key = _key(after, leg)
                self._by_conversation[key] = (*self._by_conversation.get(key, ()), MappedLeg(after, leg))
            for follower in self._followers:
                follower(after)


def _parse(document: Document) -> Mapping:
    """Return the mapping in a document, in less memory: there may be 10,000.

    Mappings share the usual options and filters, and texts that many have. The set of given fields, which
    takes half of a small model's memory, is one for all: nothing here reads it.
    """
    mapping = Mapping.from_document(document)
    shared: dict[str, Any] = {
        "workspace": intern(mapping.workspace),
        "legs": tuple(map(_small, mapping.legs)),
    }
    if mapping.options == _OPTIONS:
        shared["options"] = _OPTIONS
    if mapping.filters == _FILTERS:
        shared["filters"] = _FILTERS
    return Mapping.model_construct(_GIVEN, **{**dict(mapping), **shared})


def _small(leg: Leg) -> Leg:
    shared = {name: intern(getattr(leg, name)) for name in _COMMON}
    return Leg.model_construct(_GIVEN, **{**dict(leg), **shared})


def _key(mapping: Mapping, leg: Leg) -> _Key:
    return mapping.workspace, leg.provider, leg.account, leg.conversation
