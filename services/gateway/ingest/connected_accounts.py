"""Connected accounts: the integrations that the events of an app webhook are for.

An account that was connected with a workspace's own app receives only events that this app's secret verified.
An account that was connected with the installation's app receives only events that the installation's app
verified. So a person who knows the secret of an own app can send events to accounts of the own workspace, and
to no others.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from time import monotonic
from typing import Final, NamedTuple

from services.gateway.ingest.app_webhooks import AppKey, AppSecret, AppWebhookTarget
from services.gateway.ingest.endpoint import EventSelection, InboundEndpoint
from services.gateway.ingest.endpoints import RECORDED_REJECTIONS_PER_MINUTE
from services.gateway.ingest.rate_limit import TokenBucket, TokenBuckets
from shared.connections import integrations
from shared.connections.provider_app import INSTALLATION
from shared.contracts.errors import DatabaseUnavailable, NotFound
from shared.contracts.ids import EndpointId, WorkspaceId
from shared.manifests.webhook import AccountRef
from shared.runtime.configuration import Configuration
from shared.runtime.mongo import Document, Index, Mongo, translate_errors

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    integrations.COLLECTION: (Index((("provider", 1), ("account.choice.id", 1), ("workspace", 1))),)
}
"""The index for lookups by `account.id` is declared with the collection."""

LOOKUP_TIMEOUT_S: Final = 1.0
_CACHE_TTL_S: Final = 2.0
"""How long a lookup is cached, with or without a result. A recorded change clears the cache sooner."""
_MAX_CACHED: Final = 20_000
_QUERY_BATCH: Final = 50
"""Accounts in one query: the embedded database needs quadratic time for large `$in` lists."""
_EVENTS_PER_MINUTE: Final = 60_000
"""The rate limit of one connected account: the default of an endpoint."""
_ACTIVE_STATUSES: Final = ("connected", "error")
_FIELDS: Final = {
    "workspace": 1,
    "status": 1,
    "app": 1,
    "created_at": 1,
    "deleted_at": 1,
    "account.id": 1,
    "account.choice.id": 1,
}


class ConnectedAccount(NamedTuple):
    """An integration that receives the events of its account."""

    id: str
    workspace: str


_CacheKey = tuple[str, AccountRef, frozenset[AppKey]]


class ConnectedAccounts:
    """Finds the integrations of accounts, and caches the result for `_CACHE_TTL_S`."""

    def __init__(self, mongo: Mongo, configuration: Configuration) -> None:
        self._collection = mongo.collection(integrations.COLLECTION)
        self._configuration = configuration
        self._cache: OrderedDict[_CacheKey, tuple[float, Sequence[ConnectedAccount]]] = OrderedDict()
        self._accepted = TokenBuckets(_EVENTS_PER_MINUTE)
        self._recorded_rejections = TokenBucket(RECORDED_REJECTIONS_PER_MINUTE)
        self._changes = 0
        """Changes of integrations so far. A lookup that began before a change is not cached."""
        configuration.follow(integrations.COLLECTION, self._clear_cache)

    async def of(
        self, provider: str, app: AppSecret, accounts: Collection[AccountRef]
    ) -> Mapping[AccountRef, Sequence[ConnectedAccount]]:
        """Return for each account its integrations, at most one of a workspace.

        `app` is the app whose secret verified the request. Raises `DatabaseUnavailable`.
        """
        now = monotonic()
        results: dict[AccountRef, Sequence[ConnectedAccount]] = {}
        for account in accounts:
            cached = self._cache.get((provider, account, app.app_keys))
            if cached is not None and cached[0] > now:
                results[account] = cached[1]
        missing = [account for account in dict.fromkeys(accounts) if account not in results]
        if missing and self._configuration.is_stale:  # this request has already waited for MongoDB
            raise DatabaseUnavailable("the database did not answer in time")
        if missing:
            changes = self._changes
            index = _AccountIndex(await self._read(provider, missing), app.app_keys)
            for account in missing:
                results[account] = index.of(account)
                if changes == self._changes:
                    self._store((provider, account, app.app_keys), results[account], now + _CACHE_TTL_S)
        return results

    async def _clear_cache(self, _ids: Collection[str] | None) -> None:
        self._changes += 1
        self._cache.clear()

    def endpoint(
        self, target: AppWebhookTarget, app: AppSecret, account: ConnectedAccount
    ) -> InboundEndpoint:
        """Return the endpoint that stands for a connected account. `app` is the app that verified."""
        return InboundEndpoint(
            id=EndpointId(account.id),
            workspace=WorkspaceId(account.workspace),
            provider=target.provider,
            definition=target.definition,
            address="",
            channel_id="",
            enabled=True,
            keys=((app.key, None),),
            settings=app.settings,
            require_signature=True,
            networks=(),
            body_limit=None,
            dedupe_window_s=None,
            message_events=_NO_EVENTS,
            accepted=self._accepted.of(account.id),
            recorded_rejections=self._recorded_rejections,
        )

    async def check(self, integration_id: str, workspace: str) -> None:
        """Raise `NotFound` if the workspace has no such integration."""
        query = {"_id": integration_id, "workspace": workspace, "deleted_at": None}
        with translate_errors():
            if await self._collection.find_one(query, {"_id": 1}) is None:
                raise NotFound("no such endpoint")

    async def _read(self, provider: str, accounts: Iterable[AccountRef]) -> list[Document]:
        """Return every integration that can be one of the accounts.

        Two queries in place of one `$or`, so that each uses its own index. Raises `DatabaseUnavailable`.
        """
        account_ids = sorted({item.account for item in accounts if item.account})
        resource_ids = sorted({item.choice for item in accounts if item.choice})
        documents: dict[str, Document] = {}
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                for field, values in (("account.id", account_ids), ("account.choice.id", resource_ids)):
                    for first in range(0, len(values), _QUERY_BATCH):
                        batch = values[first : first + _QUERY_BATCH]
                        for document in await self._find(provider, field, batch):
                            documents[document["_id"]] = document
        except TimeoutError:
            raise DatabaseUnavailable("the database did not answer in time") from None
        return list(documents.values())

    async def _find(self, provider: str, field: str, values: Sequence[str]) -> list[Document]:
        """Return the active integrations whose `field` has one of the values.

        The query names only fields of the index, and the rest is filtered here: for another field, the
        embedded database would read all documents.
        """
        query = {"provider": provider, field: {"$in": values}}
        with translate_errors():
            documents = await self._collection.find(query, _FIELDS).to_list(None)
        return [
            document
            for document in documents
            if document["deleted_at"] is None and document["status"] in _ACTIVE_STATUSES
        ]

    def _store(self, key: _CacheKey, accounts: Sequence[ConnectedAccount], until: float) -> None:
        self._cache[key] = until, accounts
        self._cache.move_to_end(key)
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)


_NO_EVENTS: Final = EventSelection(())


class _AccountIndex:
    """Integrations that use one of the given apps, by account id and by resource id.

    An index, because a request can be for many accounts: searching the list for each would be quadratic.
    """

    def __init__(self, documents: Iterable[Document], app_keys: Collection[AppKey]) -> None:
        self._by_account: dict[str, list[Document]] = {}
        self._by_resource: dict[str, list[Document]] = {}
        for document in documents:
            if _uses_app(document, app_keys):
                self._by_account.setdefault(document["account"]["id"], []).append(document)
                self._by_resource.setdefault(_resource_id(document), []).append(document)

    def of(self, account: AccountRef) -> Sequence[ConnectedAccount]:
        """Return the oldest matching integration of each workspace.

        Only one per workspace: two integrations of the same account must not duplicate its events. An
        integration with a selected resource matches by the resource if the event names one, otherwise by the
        account.
        """
        matches = self._by_resource.get(account.choice, []) if account.choice else []
        same_account = self._by_account.get(account.account, []) if account.account else []
        matches = matches + [item for item in same_account if not (account.choice and _resource_id(item))]
        by_workspace: dict[str, ConnectedAccount] = {}
        for document in sorted(matches, key=lambda item: (item["created_at"], item["_id"])):
            workspace = document["workspace"]
            by_workspace.setdefault(workspace, ConnectedAccount(document["_id"], workspace))
        return tuple(by_workspace.values())


def _resource_id(document: Document) -> str:
    """Return the id of the integration's selected resource; '' if none was selected."""
    resource_id: str = (document["account"].get("choice") or {}).get("id") or ""
    return resource_id


def _uses_app(document: Document, app_keys: Collection[AppKey]) -> bool:
    """Return whether the integration was connected with one of these apps.

    Manual credentials (a bot's token) belong to no app: they count as of every own app of their workspace.
    """
    app, workspace = document.get("app"), document["workspace"]
    if app:
        app_workspace, client_id = app
        return app_workspace in (INSTALLATION, workspace) and (app_workspace, client_id) in app_keys
    return any(app_workspace == workspace for app_workspace, _ in app_keys)
