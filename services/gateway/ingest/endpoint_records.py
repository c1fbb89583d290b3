"""Inbound endpoints as they are stored: their records, their indexes, and every read and write of them.

The collection has two kinds of records: endpoints of providers, and incoming webhooks.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, GetPydanticSchema
from pydantic_core import core_schema

from services.gateway.ingest.request_counts import RequestCounts, StoredCounts, count_update
from services.gateway.settings import GatewaySettings
from shared.contracts.errors import Conflict, NotFound
from shared.contracts.ids import EndpointId, WorkspaceId
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Document, Duplicate, Index, Mongo, translate_errors
from shared.runtime.quotas import Quota
from shared.runtime.record_secrets import StoredSecret
from shared.runtime.records import Record, stored_null
from shared.runtime.secrets import Sealed
from shared.runtime.snapshot import Snapshot
from shared.runtime.web.list_reader import LongList
from shared.runtime.web.paging import Page, Paging, page
from shared.runtime.web.versions import version_query, why_unchanged
from shared.webhooks.incoming import INCOMING_PROVIDER

T = TypeVar("T")

COLLECTION: Final = "inbound_endpoints"
_DEFAULT: Final = {"is_default": True}
_STATE: Final = frozenset({"enabled", "error_streak", "secrets", "handed_over"})
"""Fields that are no settings: their changes do not raise the version."""
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("provider", 1), ("created_at", -1), ("_id", -1))),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
        # At most one default of a provider. The key has the condition for the embedded database.
        Index((("is_default", 1), ("provider", 1)), unique=True, where=_DEFAULT),
    )
}

FAILING_STREAK: Final = 5
"""Rejected requests in a row, with none accepted since, after which an endpoint counts as failing.

Only requests of the sender itself count: those with its signature, or with an incoming webhook's token.
Anybody can send other requests, and must not be able to change the status.
"""
_NEWEST_FIRST: Final = [("created_at", -1), ("_id", -1)]
_MAX_IDS: Final = 50
"""Ids of a query: the embedded database takes quadratic time in their number."""
_BATCH: Final = 1_000
"""Endpoints that are read at a time to get the counts of all."""
_AS_STORED: Final = GetPydanticSchema(lambda _source, _handler: core_schema.any_schema())
"""Marks a field that is checked where it is used: an endpoint with a damaged secret can still be repaired."""


class EndpointRecord(Record):
    """Fields of both kinds of records."""

    id: EndpointId = Field(alias="_id")
    workspace: WorkspaceId
    provider: str
    name: str
    channel_id: str | None = stored_null()
    rate_limit: int
    """Requests per minute."""
    enabled: bool
    created_at: datetime
    changed_at: datetime
    stored_version: int | None = Field(default=None, alias="version")
    deleted_at: datetime | None = None
    """A deleted endpoint is stored for a while, so that every process sees the deletion."""
    secrets: Annotated[Sequence[StoredSecret], _AS_STORED]
    """The newest first; see `record_secrets`."""
    allow_ips: tuple[str, ...]
    """The networks that may call; empty if every address may."""
    trigger_count: int | None = None
    """Accepted events; like the other counts, None until the first one."""
    error_count: int | None = None
    error_streak: int | None = None
    last_triggered: datetime | None = None

    @property
    def version(self) -> int:
        """The number of changes of settings."""
        return self.stored_version or 0

    @property
    def is_failing(self) -> bool:
        """True if the last requests of the sender were rejected: see `FAILING_STREAK`."""
        return (self.error_streak or 0) >= FAILING_STREAK


class ProviderEndpoint(EndpointRecord):
    """An endpoint for the webhooks of a provider."""

    settings: Annotated[Mapping[str, str | Sealed], _AS_STORED] = Field(default_factory=dict)
    """Those that are secret are sealed."""
    events: tuple[str, ...] = ("*",)
    """Names of events that become messages; `*` at the end matches any rest."""
    body_limit: int | None = stored_null()
    dedupe_window_s: float | None = stored_null()
    public_url: str | None = stored_null()
    """Scheme and host of the hub as the provider knows them."""
    require_signature: bool = True
    unsigned_reason: str | None = ""
    source: Annotated[Mapping[str, Any] | None, _AS_STORED] = stored_null()
    """The owner's description of the sender, for a generic provider."""
    is_default: bool | None = None
    """True if the provider's address without an id leads to it. Counts for the operator's endpoints."""
    handed_over: bool | None = None
    """True if the provider sent the secret in a handshake, and the API has not shown it yet."""
    polled: bool | None = None
    """True if its events come from a polling trigger. Then it has no address, no secret and no settings."""

    @property
    def shown_settings(self) -> dict[str, str | None]:
        """The settings as the API shows them: None for one that is secret."""
        return {name: value if isinstance(value, str) else None for name, value in self.settings.items()}


class IncomingWebhook(EndpointRecord):
    """An address with a token that posts messages into a channel."""

    token_digest: str | None = None
    old_token_digest: str | None = None
    """Digest of the token before the last rotation. That token is accepted until `old_token_expires_at`."""
    old_token_expires_at: datetime | None = None
    allow_mass_mentions: bool = False


R = TypeVar("R", bound=EndpointRecord)


def endpoint_record(document: Document) -> ProviderEndpoint | IncomingWebhook:
    """Return the record in a document, of either kind. Raises `Misconfigured`."""
    kind = IncomingWebhook if document.get("provider") == INCOMING_PROVIDER else ProviderEndpoint
    return kind.from_document(document)


class EndpointRepository:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`.

    Processes have endpoints in memory, so `insert`, `change` and `store_first_secret` are for
    `InboundEndpoints`, which announces them.
    """

    def __init__(self, mongo: Mongo, settings: GatewaySettings) -> None:
        """Set the collection. `settings` has the maximum numbers of endpoints of one workspace."""
        self._collection = mongo.collection(COLLECTION)
        self._list = LongList()
        self._endpoint_quota = Quota(
            self._collection,
            settings.endpoints_per_workspace,
            "inbound endpoints",
            "INTERLINK_ENDPOINTS_PER_WORKSPACE",
        )
        self._incoming_quota = Quota(
            self._collection,
            settings.incoming_webhooks_per_workspace,
            "incoming webhooks",
            "INTERLINK_INCOMING_WEBHOOKS_PER_WORKSPACE",
        )

    def snapshot(
        self,
        configuration: Configuration,
        parse: Callable[[ProviderEndpoint | IncomingWebhook], T],
        log: Log,
        *,
        on_change: Callable[[T | None, T | None], None],
    ) -> Snapshot[T]:
        """Return a snapshot of what `parse` makes of each endpoint."""
        return Snapshot(
            configuration,
            self._collection,
            lambda document: parse(endpoint_record(document)),
            log,
            on_change=on_change,
        )

    # Reads

    async def find(self, endpoint_id: str, workspace: str) -> ProviderEndpoint:
        """Return an endpoint of a workspace. Raises `NotFound`, also for an incoming webhook."""
        document = await self._find(endpoint_id, workspace)
        if document["provider"] == INCOMING_PROVIDER:
            raise _not_found()
        return ProviderEndpoint.from_document(document)

    async def find_incoming(self, endpoint_id: str, workspace: str) -> IncomingWebhook:
        """Return an incoming webhook of a workspace. Raises `NotFound`, also for another endpoint."""
        document = await self._find(endpoint_id, workspace)
        if document["provider"] != INCOMING_PROVIDER:
            raise _not_found()
        return IncomingWebhook.from_document(document)

    async def check(self, endpoint_id: str, workspace: str) -> None:
        """Raise `NotFound` if the workspace has no such endpoint of either kind."""
        await self._find(endpoint_id, workspace)

    async def list_incoming_page(self, workspace: str, paging: Paging) -> Page[IncomingWebhook]:
        """Return a page of a workspace's incoming webhooks, newest first.

        Raises `Malformed` for a wrong cursor.
        """
        # A workspace may have many: a query has only what its index has, so that slices of time are read.
        return await page(
            self._collection,
            {"workspace": workspace, "provider": INCOMING_PROVIDER},
            IncomingWebhook.from_document,
            paging,
            matches=lambda document: document.get("deleted_at") is None,
            long_list=self._list,
        )

    async def newest(self, workspace: str, limit: int) -> list[ProviderEndpoint]:
        """Return the newest endpoints of a workspace, at most `limit`."""
        with translate_errors():
            documents = (
                await self._collection.find(_of_workspace(workspace, ProviderEndpoint))
                .sort(_NEWEST_FIRST)
                .limit(limit)
                .to_list(limit)
            )
        return [ProviderEndpoint.from_document(document) for document in documents]

    async def find_some(
        self, ids: Sequence[str], workspace: str
    ) -> dict[str, ProviderEndpoint | IncomingWebhook]:
        """Return those of these endpoints of a workspace that exist, by id."""
        found: dict[str, ProviderEndpoint | IncomingWebhook] = {}
        for start in range(0, len(ids), _MAX_IDS):
            query = {"_id": {"$in": sorted(ids[start : start + _MAX_IDS])}}
            with translate_errors():
                documents = await self._collection.find(query).to_list(_MAX_IDS)
            records = map(endpoint_record, documents)
            found |= {
                item.id: item for item in records if item.workspace == workspace and not item.deleted_at
            }
        return found

    async def stored_counts(self, workspace: str) -> dict[str, StoredCounts]:
        """Return the counts of all endpoints of a workspace, by id."""
        counts: dict[str, StoredCounts] = {}
        fields = StoredCounts._fields
        with translate_errors():
            found = self._collection.find({"workspace": workspace}, dict.fromkeys(fields, 1))
            while documents := await found.to_list(_BATCH):  # one by one, each would cost as much as its read
                for document in documents:
                    counts[document["_id"]] = StoredCounts(*map(document.get, fields))
        return counts

    async def ids(self, workspace: str) -> list[str]:
        """Return the ids of a workspace's endpoints of both kinds, also of those that were just deleted."""
        with translate_errors():
            found = self._collection.find({"workspace": workspace}, {"_id": 1})
            return [document["_id"] async for document in found]

    async def _find(self, endpoint_id: str, workspace: str) -> Document:
        with translate_errors():
            document: Document | None = await self._collection.find_one(
                {"_id": endpoint_id, "workspace": workspace, "deleted_at": None}
            )
        if document is None:
            raise _not_found()
        return document

    # Writes

    def reserve(self, record: EndpointRecord, undo: Callable[[], Any]) -> AbstractAsyncContextManager[None]:
        """Check the workspace's quota around the insert of a record: see `Quota.reserve`."""
        quota = self._incoming_quota if isinstance(record, IncomingWebhook) else self._endpoint_quota
        return quota.reserve(_of_workspace(record.workspace, type(record)), undo)

    async def insert(self, record: EndpointRecord) -> None:
        """Insert an endpoint. Raises `Conflict` if it is to be the default and another one is."""
        try:
            with translate_errors():
                await self._collection.insert_one(record.document())
        except Duplicate:
            raise _default_taken() from None

    async def change(
        self, record: R, changes: Mapping[str, Any], version: int | None = None, *, unchanged: bool = False
    ) -> R:
        """Set fields, given by their names in Python, and return the changed record.

        With `version`, only that one is changed; with `unchanged`, only what `record` was read as. Raises
        `NotFound`, `Outdated`, and `Conflict` if it has changed since it was read, or if it is to be the
        default and another one is.
        """
        fields = type(record).stored_fields({**changes, "changed_at": utcnow()})
        counted = {"$inc": {"version": 1}} if changes.keys() - _STATE else {}
        query: Document = {"_id": record.id, "deleted_at": None}
        as_read = {"changed_at": record.changed_at} if unchanged else {}
        try:
            with translate_errors():
                document: Document | None = await self._collection.find_one_and_update(
                    {**query, **version_query(version), **as_read},
                    {"$set": fields, **counted},
                    return_document=True,
                )
        except Duplicate:
            raise _default_taken() from None
        if document is None:
            if unchanged:
                await self.check(record.id, record.workspace)
                raise Conflict("the endpoint was changed at the same time: try again")
            raise await why_unchanged(self._collection, query, version, _not_found())
        return type(record).from_document(document)

    async def store_first_secret(self, endpoint_id: str, secret: StoredSecret) -> bool:
        """Store the secret of a handshake; return False if the endpoint has one already."""
        changes = {"secrets": [secret], "handed_over": True, "changed_at": utcnow()}
        # The condition on `secrets` lets only one of several concurrent handshakes store its secret.
        with translate_errors():
            result = await self._collection.update_one(
                {"_id": endpoint_id, "deleted_at": None, "secrets": []},
                {"$set": ProviderEndpoint.stored_fields(changes)},
            )
        return bool(result.matched_count)

    async def add_counts(self, counts: Mapping[str, RequestCounts]) -> None:
        """Add to the counts of endpoints, by endpoint id."""
        updates = [count_update(endpoint_id, added) for endpoint_id, added in counts.items()]
        if updates:
            with translate_errors():
                await self._collection.bulk_write(updates, ordered=False)


def _of_workspace(workspace: str, kind: type[EndpointRecord]) -> Document:
    """Return the query for a workspace's records of one kind."""
    provider = INCOMING_PROVIDER if issubclass(kind, IncomingWebhook) else {"$ne": INCOMING_PROVIDER}
    return {"workspace": workspace, "deleted_at": None, "provider": provider}


def _not_found() -> NotFound:
    return NotFound("no such endpoint")


def _default_taken() -> Conflict:
    return Conflict("another endpoint is the installation's default for this provider: unmark that one first")
