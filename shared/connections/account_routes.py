"""Account routes: which integrations receive the webhooks of a provider's account.

The gateway asks for them with each app webhook. The routes of an account are read once and stay in memory,
for as long as nothing changes: writers of integrations record each change that concerns a route (see
`configuration`), and what is in memory of that account is dropped before the next request is routed. So a
connection that was acknowledged has its webhooks, and one that was ended has none, at every process.

A process that dies between its write and the record of it has not responded. Such a change is found when the
routes are read again: after half a minute beside the requests, after five minutes before the next one.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from sys import intern
from time import monotonic
from typing import Final, Literal, NamedTuple

from shared.connections.integrations import COLLECTION
from shared.contracts.errors import DatabaseUnavailable, NotFound
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, translate_errors
from shared.runtime.periodic_task import PeriodicTask

READ_TIMEOUT_S: Final = 1.0
_REFRESH_AFTER_S: Final = 30.0
_REFRESH_INTERVAL_S: Final = 1.0
_MAX_AGE_S: Final = 300.0
_MAX_ROUTES: Final = 100_000
"""Routes in memory, where an account without any counts as one. About 800 bytes each (ADR 0074)."""
_QUERY_BATCH: Final = 50
"""Values in one query: the embedded database needs quadratic time for large `$in` lists."""
_MAX_CHANGES_PER_LOAD: Final = 200
"""Changed integrations of one check. Beyond it everything in memory is dropped: that is quicker."""
_ACTIVE_STATUSES: Final = ("connected", "error")
_KEY_FIELDS: Final = {"provider": 1, "account.id": 1, "account.choice.id": 1}
_ROUTE_FIELDS: Final = {
    **_KEY_FIELDS,
    **dict.fromkeys(("workspace", "status", "app", "created_at", "deleted_at"), 1),
}

AccountField = Literal["account.id", "account.choice.id"]
"""Field with the id that a webhook names: of the account, or of one resource (a page, site or number)."""
AppKey = tuple[str, str]
"""The workspace of an OAuth app (`INSTALLATION` for an app of the whole installation) and its client id."""
_Key = tuple[str, AccountField, str]
"""Provider, field and value."""


class AccountRoute(NamedTuple):
    """An active integration of an account."""

    created_at: datetime
    id: str
    workspace: str
    app: AppKey | None
    """The app with which it was connected; None for manual credentials."""
    has_resource: bool
    """True if it is the route of one resource of the account, and not of the whole account."""


class _Entry(NamedTuple):
    """The routes of one account or resource, the oldest first."""

    read_at: float
    """On the monotonic clock."""
    routes: Sequence[AccountRoute]


class AccountRoutes:
    """The routes of accounts, in memory once they were asked for. The least recently used are dropped."""

    def __init__(self, configuration: Configuration, log: Log, *, max_routes: int = _MAX_ROUTES) -> None:
        self._configuration = configuration
        self._max_routes = max_routes
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._size = 0
        self._keys_by_integration: dict[str, tuple[_Key, ...]] = {}
        self._changes = 0
        """Changes so far. What was read before a change is not stored after it."""
        self._due: set[_Key] = set()
        """Keys to read again beside the requests."""
        self._refreshing = PeriodicTask(self._refresh, _REFRESH_INTERVAL_S, log)
        configuration.follow(COLLECTION, self._drop_changed)

    async def start(self) -> None:
        await self._refreshing.start()

    async def stop(self) -> None:
        await self._refreshing.stop()

    async def find(
        self, provider: str, field: AccountField, values: Collection[str]
    ) -> Mapping[str, Sequence[AccountRoute]]:
        """Return the routes of each value, the oldest first.

        Of several integrations of one workspace and app, only the oldest has a route. Await
        `Configuration.current` before. While MongoDB is unavailable, routes in memory are used whatever
        their age. Raises `DatabaseUnavailable` if others are needed then: an account without routes in memory
        may have been connected meanwhile.
        """
        now, is_stale = monotonic(), self._configuration.is_stale
        results: dict[str, Sequence[AccountRoute]] = {}
        missing: list[_Key] = []
        for value in values:
            key = (provider, field, value)
            entry = self._entries.get(key)
            age = now - entry.read_at if entry else 0.0
            if entry is None or (age > _MAX_AGE_S and not is_stale) or (is_stale and not entry.routes):
                missing.append(key)
                continue
            self._entries.move_to_end(key)
            results[value] = entry.routes
            if age > _REFRESH_AFTER_S and not is_stale:
                self._due.add(key)
        if missing:
            if is_stale:  # this request has already waited for MongoDB
                raise DatabaseUnavailable("the database did not answer in time")
            for key, routes in (await self._read(provider, field, missing)).items():
                results[key[2]] = routes
        return results

    async def check(self, integration_id: str, workspace: str) -> None:
        """Raise `NotFound` if the workspace has no such integration. Raises `DatabaseUnavailable`."""
        query = {"_id": integration_id, "workspace": workspace, "deleted_at": None}
        with translate_errors():
            if await self._configuration.collection(COLLECTION).find_one(query, {"_id": 1}) is None:
                raise NotFound("no such endpoint")

    async def ids(self, workspace: str) -> list[str]:
        """Return the ids of a workspace's integrations, deleted ones too. Raises `DatabaseUnavailable`."""
        with translate_errors():
            found = self._configuration.collection(COLLECTION).find({"workspace": workspace}, {"_id": 1})
            return [document["_id"] async for document in found]

    # Reading

    async def _read(
        self, provider: str, field: AccountField, keys: Sequence[_Key]
    ) -> Mapping[_Key, Sequence[AccountRoute]]:
        """Read the routes of the keys of one provider and field, and store them. Raises as `find`."""
        changes = self._changes
        documents: list[Document] = []
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                for start in range(0, len(keys), _QUERY_BATCH):
                    values = sorted(key[2] for key in keys[start : start + _QUERY_BATCH])
                    # Only fields of the index are in the query: for another one, the embedded database would
                    # read all documents (ADR 0061).
                    query = {"provider": provider, field: {"$in": values}}
                    with translate_errors():
                        cursor = self._configuration.collection(COLLECTION).find(query, _ROUTE_FIELDS)
                        documents += await cursor.to_list(None)
        except TimeoutError:
            raise DatabaseUnavailable("the database did not answer in time") from None
        by_key: dict[_Key, list[AccountRoute]] = {key: [] for key in keys}
        for document in documents:
            if document["deleted_at"] is None and document["status"] in _ACTIVE_STATUSES:
                by_key[provider, field, _value(document, field)].append(_route(document))
        routes = {key: _oldest(found) for key, found in by_key.items()}
        if changes == self._changes:
            read_at = monotonic()
            for key, found in routes.items():
                self._store(key, _Entry(read_at, found))
        return routes

    async def _refresh(self) -> None:
        """Read the routes again that requests have found old, until MongoDB fails or none is left."""
        while self._due:
            provider, field, _ = next(iter(self._due))
            keys = [key for key in self._due if key[:2] == (provider, field)][:_QUERY_BATCH]
            self._due.difference_update(keys)
            try:
                await self._read(provider, field, keys)
            except DatabaseUnavailable:  # the next requests ask again
                self._due.clear()

    # What is in memory

    def _store(self, key: _Key, entry: _Entry) -> None:
        self._drop(key)
        self._entries[key] = entry
        self._size += max(1, len(entry.routes))
        for route in entry.routes:
            self._keys_by_integration[route.id] = (*self._keys_by_integration.get(route.id, ()), key)
        while self._size > self._max_routes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._size -= max(1, len(entry.routes))
        for route in entry.routes:
            others = tuple(other for other in self._keys_by_integration[route.id] if other != key)
            if others:
                self._keys_by_integration[route.id] = others
            else:
                del self._keys_by_integration[route.id]

    async def _drop_changed(self, ids: Collection[str] | None) -> None:
        """Drop what is in memory of the accounts of changed integrations; everything for None.

        An integration is looked up, because it may be of an account that had no routes before.
        """
        self._changes += 1
        if ids is None or len(ids) > _MAX_CHANGES_PER_LOAD:
            self._entries.clear()
            self._keys_by_integration.clear()
            self._size = 0
            return
        for integration_id in ids:
            for key in self._keys_by_integration.get(integration_id, ()):
                self._drop(key)
        remaining = list(ids) if self._entries else []
        for start in range(0, len(remaining), _QUERY_BATCH):
            query = {"_id": {"$in": remaining[start : start + _QUERY_BATCH]}}
            with translate_errors():
                cursor = self._configuration.collection(COLLECTION).find(query, _KEY_FIELDS)
                documents = await cursor.to_list(None)
            for document in documents:
                for field in ("account.id", "account.choice.id"):
                    self._drop((document["provider"], field, _value(document, field)))


def _value(document: Document, field: AccountField) -> str:
    """Return the id of the account, or of the selected resource; '' if there is none."""
    account = document.get("account") or {}
    part = account if field == "account.id" else account.get("choice") or {}
    value: str | None = part.get("id")
    return value or ""


def _route(document: Document) -> AccountRoute:
    app = document.get("app")
    return AccountRoute(
        document["created_at"],
        document["_id"],
        intern(document["workspace"]),
        (intern(app[0]), intern(app[1])) if app else None,
        bool(_value(document, "account.choice.id")),
    )


def _oldest(routes: Iterable[AccountRoute]) -> Sequence[AccountRoute]:
    """Return the oldest route for each workspace, app and kind, the oldest first.

    Thousands of persons of a workspace may have connected the same account. Only one of them gets its events.
    """
    selected: dict[tuple[str, AppKey | None, bool], AccountRoute] = {}
    for route in sorted(routes):
        selected.setdefault((route.workspace, route.app, route.has_resource), route)
    return tuple(selected.values())
