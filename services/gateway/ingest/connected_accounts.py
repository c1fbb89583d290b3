"""Which connected accounts the events at the address of an app are for: one lookup for a request.

An account that was connected with a workspace's own app gets what that app's secret verified, and no other;
one that was connected with the installation's app, what the installation's app verified. So whoever knows the
secret of his own app can send events to accounts of his own workspace, and to nobody else's.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from time import monotonic
from typing import Final, NamedTuple

from services.gateway.ingest.app_webhooks import AppKey, AppSecret, AppWebhookTarget
from services.gateway.ingest.endpoints import RECORDED_REJECTIONS_PER_MINUTE, EventSelection, InboundEndpoint
from services.gateway.ingest.rate_limit import TokenBucket, TokenBuckets
from shared.connections import integrations
from shared.connections.apps import INSTALLATION
from shared.contracts.errors import DatabaseUnavailable, NotFound
from shared.contracts.ids import EndpointId, WorkspaceId
from shared.manifests.webhook import AccountRef
from shared.runtime.configuration import Configuration
from shared.runtime.mongo import Document, Index, Mongo, translate_errors

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    integrations.COLLECTION: (Index((("provider", 1), ("account.choice.id", 1), ("workspace", 1))),)
}
"""By `account.id` there is one already."""

LOOKUP_TIMEOUT_S: Final = 1.0
_CACHE_TTL_S: Final = 2.0
"""How long it is remembered who is connected, and that nobody is, unless a change is recorded sooner."""
_MAX_CACHED: Final = 20_000
_QUERY_BATCH: Final = 50
"""Accounts in a query: many times as many cost the embedded store the square of it."""
_EVENTS_PER_MINUTE: Final = 60_000
"""Events of one connected account, as of an endpoint whose owner says nothing else."""
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
    """An integration whose account an event is of."""

    id: str
    workspace: str


_CacheKey = tuple[str, AccountRef, frozenset[AppKey]]


class ConnectedAccounts:
    """Looks accounts up, and remembers them for a moment."""

    def __init__(self, mongo: Mongo, configuration: Configuration) -> None:
        self._collection = mongo.collection(integrations.COLLECTION)
        self._configuration = configuration
        self._known: OrderedDict[_CacheKey, tuple[float, Sequence[ConnectedAccount]]] = OrderedDict()
        self._accepted = TokenBuckets(_EVENTS_PER_MINUTE)
        self._noted = TokenBucket(RECORDED_REJECTIONS_PER_MINUTE)
        self._changes = 0
        """How often something was connected or disconnected: what was read before that is not kept."""
        configuration.follow(integrations.COLLECTION, self._forget)

    async def of(
        self, provider: str, app: AppSecret, owners: Collection[AccountRef]
    ) -> Mapping[AccountRef, Sequence[ConnectedAccount]]:
        """For each owner the integrations, one of a workspace. Raises `DatabaseUnavailable`."""
        now = monotonic()
        found: dict[AccountRef, Sequence[ConnectedAccount]] = {}
        for owner in owners:
            kept = self._known.get((provider, owner, app.registrations))
            if kept is not None and kept[0] > now:
                found[owner] = kept[1]
        missing = [owner for owner in dict.fromkeys(owners) if owner not in found]
        if missing and self._configuration.is_stale:  # its caller has waited for MongoDB already
            raise DatabaseUnavailable("the store did not say in time whose account it is")
        if missing:
            changes = self._changes
            documents = _AccountIndex(await self._read(provider, missing), app.registrations)
            for owner in missing:
                found[owner] = documents.of(owner)
                if changes == self._changes:
                    self._keep((provider, owner, app.registrations), found[owner], now + _CACHE_TTL_S)
        return found

    async def _forget(self, _ids: Collection[str] | None) -> None:
        """Look accounts up again: one of them was connected or disconnected."""
        self._changes += 1
        self._known.clear()

    def endpoint(self, place: AppWebhookTarget, app: AppSecret, one: ConnectedAccount) -> InboundEndpoint:
        """A connected account as the endpoint that its events come to."""
        return InboundEndpoint(
            id=EndpointId(one.id),
            workspace=WorkspaceId(one.workspace),
            provider=place.provider,
            definition=place.definition,
            address="",
            channel_id="",
            enabled=True,
            keys=((app.key, None),),
            settings=app.settings,
            require_signature=True,
            networks=(),
            body_limit=None,
            dedupe_window_s=None,
            shown=_NO_EVENTS,
            accepted=self._accepted.of(one.id),
            recorded_rejections=self._noted,
        )

    async def check(self, integration: str, workspace: str) -> None:
        """Raises `NotFound` for an integration that the workspace does not have."""
        query = {"_id": integration, "workspace": workspace, "deleted_at": None}
        with translate_errors():
            if await self._collection.find_one(query, {"_id": 1}) is None:
                raise NotFound("no such endpoint")

    async def _read(self, provider: str, owners: Iterable[AccountRef]) -> list[Document]:
        """Every integration that may be meant. Two queries rather than one `$or`: each has its own index."""
        accounts = sorted({each.account for each in owners if each.account})
        choices = sorted({each.choice for each in owners if each.choice})
        documents: dict[str, Document] = {}
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                for name, values in (("account.id", accounts), ("account.choice.id", choices)):
                    for first in range(0, len(values), _QUERY_BATCH):
                        for each in await self._find(provider, name, values[first : first + _QUERY_BATCH]):
                            documents[each["_id"]] = each
        except TimeoutError:
            raise DatabaseUnavailable("the store did not say in time whose account it is") from None
        return list(documents.values())

    async def _find(self, provider: str, name: str, values: Sequence[str]) -> list[Document]:
        """Asked for is only what the index has: for more, the embedded store would read all documents."""
        query = {"provider": provider, name: {"$in": values}}
        with translate_errors():
            found = await self._collection.find(query, _FIELDS).to_list(None)
        return [each for each in found if each["deleted_at"] is None and each["status"] in _ACTIVE_STATUSES]

    def _keep(self, key: _CacheKey, found: Sequence[ConnectedAccount], until: float) -> None:
        self._known[key] = until, found
        self._known.move_to_end(key)
        if len(self._known) > _MAX_CACHED:
            self._known.popitem(last=False)


_NO_EVENTS: Final = EventSelection(())


class _AccountIndex:
    """What was read, by account and by place: an owner's need not be looked for among all."""

    def __init__(self, documents: Iterable[Document], registrations: Collection[AppKey]) -> None:
        self._by_account: dict[str, list[Document]] = {}
        self._by_choice: dict[str, list[Document]] = {}
        for each in documents:
            if _uses_app(each, registrations):
                self._by_account.setdefault(each["account"]["id"], []).append(each)
                self._by_choice.setdefault(_resource_id(each), []).append(each)

    def of(self, owner: AccountRef) -> Sequence[ConnectedAccount]:
        """The first integration of each workspace: two ways to the same account are one event.

        An account is the owner by its place, where it has one and the event names one.
        """
        found = self._by_choice.get(owner.choice, []) if owner.choice else []
        same = self._by_account.get(owner.account, []) if owner.account else []
        found = found + [each for each in same if not (owner.choice and _resource_id(each))]
        first: dict[str, ConnectedAccount] = {}
        for each in sorted(found, key=lambda one: (one["created_at"], one["_id"])):
            first.setdefault(each["workspace"], ConnectedAccount(each["_id"], each["workspace"]))
        return tuple(first.values())


def _resource_id(document: Document) -> str:
    """The place of an account, '' without one."""
    found: str = (document["account"].get("choice") or {}).get("id") or ""
    return found


def _uses_app(document: Document, registrations: Collection[AppKey]) -> bool:
    """Whether the app that verified is the account's own.

    What somebody entered (a bot's token) was connected with no app: it is of an app of its workspace's own.
    """
    app, workspace = document.get("app"), document["workspace"]
    if app:
        owner, client = app
        return owner in (INSTALLATION, workspace) and (owner, client) in registrations
    return any(owner == workspace for owner, _ in registrations)
