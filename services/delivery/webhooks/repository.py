"""Outgoing webhooks as they are stored: their record, their indexes, and every read and write of them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, GetPydanticSchema
from pydantic_core import core_schema

from services.delivery.model.outgoing_webhook import MAX_RETRY_AFTER_S, Ordering
from services.delivery.model.retry_policy import ClientErrorPolicy
from shared.contracts.errors import Conflict, NotFound
from shared.contracts.ids import WebhookId, WorkspaceId
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Document, Duplicate, Index, Mongo, translate_errors
from shared.runtime.quotas import Quota
from shared.runtime.record_secrets import StoredSecret
from shared.runtime.records import Record, StoredPart, stored_null
from shared.runtime.secrets import Sealed
from shared.runtime.snapshot import Snapshot
from shared.runtime.web.paging import Page, Paging, page
from shared.runtime.web.versions import version_query, why_unchanged
from shared.webhooks.formats import BodyFormat
from shared.webhooks.signatures import SigningProfile

T = TypeVar("T")

COLLECTION: Final = "outgoing_webhooks"
_CLAIMS_URL: Final = {"claims_url": True}
_MAX_IDS_PER_QUERY: Final = 50
"""The embedded database takes quadratic time in the number of ids of a query."""

DISABLED_BY_HAND: Final = "by_hand"
"""The `disabled_reason` of a webhook that a person has disabled; the others are the hub's."""
_STATE: Final = frozenset({"enabled", "disabled_reason", "enabled_at", "paused", "secrets"})
"""Fields of `WebhookRecord` that are no settings: their changes do not raise the version."""

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("url", 1)), unique=True, where=_CLAIMS_URL),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    ),
}

_AS_STORED: Final = GetPydanticSchema(lambda _source, _handler: core_schema.any_schema())
"""Marks a field that is checked where it is used, not when the record is read.

A webhook whose record cannot be read matches no event, so its events would be lost. With a damaged sealed
value, or a choice of a newer release, it still matches.
"""


class AuthSummary(StoredPart):
    """The authentication without its secret values, as the API shows it without an encryption key."""

    type: str
    username: str | None = None
    name: str | None = None


class RateLimitPart(StoredPart):
    """At most `requests` in any `period_s` seconds."""

    requests: int
    period_s: int | float = 1.0


class CircuitBreakerPart(StoredPart):
    """The circuit breaker settings that differ from those of the installation."""

    enabled: bool | None = None
    failures: int | None = None
    failing_s: int | float | None = None
    pause_s: int | float | None = None
    max_pause_s: int | float | None = None
    max_wait_s: int | float | None = None

    def overrides(self) -> dict[str, int | float]:
        """Return the values that are set."""
        return self.model_dump(exclude_none=True)


class SendConditions(Record):
    """The fields of a webhook that decide whether its deliveries can be sent now."""

    enabled: bool
    paused: bool = False
    rate_limit: RateLimitPart | None = None
    stored_resets: int | None = Field(default=None, alias="lifts")

    @property
    def resets(self) -> int:
        """The number of times that a person ended hold and open circuit, on purpose or by a change."""
        return self.stored_resets or 0


class WebhookRecord(SendConditions):
    """An outgoing webhook as it is stored. Secrets, header values and authentication are sealed."""

    id: WebhookId = Field(alias="_id")
    workspace: WorkspaceId
    name: str
    url: str
    claims_url: bool = False
    """True if the URL is unique in the workspace. A webhook that was created with `force` shares its URL."""
    events: tuple[str, ...]
    description: str = ""
    metadata: Mapping[str, str] | None = None
    """Texts of the workspace, by name. The hub only shows them and searches by them."""
    customer: str | None = None
    """The workspace's own id of the customer that the webhook belongs to; None for the workspace itself."""
    disabled_reason: str | None = stored_null()
    enabled_at: datetime | None = None
    """Failures from before do not count towards disabling the webhook again."""
    secrets: Annotated[Sequence[StoredSecret], _AS_STORED]
    profile: Annotated[SigningProfile, _AS_STORED]
    format: Annotated[BodyFormat, _AS_STORED] = "envelope"
    transform: str | None = None
    filter: Mapping[str, Any] | None = None
    """The criteria that were set, by the names of `FilterSettings`, which checks them."""
    integration_id: str | None = None
    headers: Annotated[Sealed | None, _AS_STORED] = None
    header_names: tuple[str, ...] | None = None
    auth: Annotated[Sealed | None, _AS_STORED] = None
    auth_summary: AuthSummary | None = Field(default=None, alias="auth_shown")
    schedule: str | tuple[int | float, ...]
    """The name of a retry schedule, or seconds before each attempt."""
    jitter: int | float = 0.0
    client_errors: Annotated[ClientErrorPolicy, _AS_STORED] = "final"
    max_retry_after_s: int | float = MAX_RETRY_AFTER_S
    ordering: Annotated[Ordering, _AS_STORED]
    max_in_flight: int
    timeout_s: int | float
    disable_after_days: int | float = 5
    circuit_breaker: CircuitBreakerPart | None = None
    created_at: datetime
    changed_at: datetime
    stored_version: int | None = Field(default=None, alias="version")
    deleted_at: datetime | None = None
    """A deleted webhook is stored for a while, without secrets, so that every process sees the deletion."""

    @property
    def version(self) -> int:
        """The number of changes of settings."""
        return self.stored_version or 0

    def changed(self, changes: Mapping[str, Any]) -> "WebhookRecord":
        """Return the record with these fields changed, as it will be stored."""
        return self.from_document(self.document() | self.stored_fields(changes))


_SEND_CONDITIONS: Final = {SendConditions.stored_name(name): 1 for name in SendConditions.model_fields}


def enabled_changes(*, enabled: bool) -> dict[str, Any]:
    """Return the changes with which a person enables or disables a webhook."""
    if enabled:
        return {"enabled": True, "disabled_reason": None, "enabled_at": utcnow()}
    return {"enabled": False, "disabled_reason": DISABLED_BY_HAND}


@dataclass(frozen=True, slots=True)
class WebhookCriteria:
    """Selects webhooks in a list. An empty criterion matches every webhook.

    `name` and `url` are contained in the webhook's, in upper or lower case. The webhook has every item of
    `metadata`.
    """

    name: str = ""
    url: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def matches(self, document: Document) -> bool:
        """Return whether a stored webhook meets all criteria."""
        return self.selects(document["name"], document["url"], document.get("metadata") or {})

    def selects(self, name: str, url: str, metadata: Mapping[str, str]) -> bool:
        """Return whether a webhook with these values meets all criteria."""
        return (
            self.name.casefold() in name.casefold()
            and self.url.casefold() in url.casefold()
            and self.metadata.items() <= metadata.items()
        )


class WebhookRepository:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`.

    Every process has the webhooks in memory. So `insert`, `update`, `delete` and `disable` are only called by
    `OutgoingWebhooks`, which announces them.
    """

    def __init__(self, mongo: Mongo, *, per_workspace: int, per_customer: int) -> None:
        """Set the maximum number of webhooks of one workspace, and of one of its customers."""
        self._collection = mongo.collection(COLLECTION)
        self._quota = Quota(
            self._collection, per_workspace, "outgoing webhooks", "INTERLINK_WEBHOOKS_PER_WORKSPACE"
        )
        self._customer_quota = Quota(
            self._collection,
            per_customer,
            "outgoing webhooks of this customer",
            "INTERLINK_WEBHOOKS_PER_CUSTOMER",
        )

    def snapshot(
        self,
        configuration: Configuration,
        parse: Callable[[WebhookRecord], T],
        log: Log,
        *,
        on_change: Callable[[T | None, T | None], None],
    ) -> Snapshot[T]:
        """Return a snapshot of what `parse` makes of each webhook."""
        return Snapshot(
            configuration,
            self._collection,
            lambda document: parse(WebhookRecord.from_document(document)),
            log,
            on_change=on_change,
        )

    # Reads

    async def find(self, webhook_id: str, *, workspace: str, customer: str | None = None) -> WebhookRecord:
        """Return a webhook of a workspace, with `customer` only one of this customer. Raises `NotFound`."""
        with translate_errors():
            document = await self._collection.find_one({"_id": webhook_id, **_owned_by(workspace, customer)})
        if document is None:
            raise _not_found()
        return WebhookRecord.from_document(document)

    async def list_page(
        self,
        workspace: str,
        criteria: WebhookCriteria,
        paging: Paging,
        *,
        customer: str | None = None,
    ) -> Page[WebhookRecord]:
        """Return a page of a workspace's, or a customer's, webhooks that meet all criteria, newest first.

        With criteria, a page may have fewer than `limit` items: see `paging.page`. Raises `Malformed` if the
        cursor is invalid.
        """
        return await page(
            self._collection,
            _owned_by(workspace, customer),
            WebhookRecord.from_document,
            paging,
            matches=None if criteria == WebhookCriteria() else criteria.matches,
        )

    async def by_ids(self, webhook_ids: Collection[str]) -> list[WebhookRecord]:
        """Return the webhooks with these ids that exist."""
        remaining, documents = iter(webhook_ids), list[Document]()
        while batch := list(islice(remaining, _MAX_IDS_PER_QUERY)):
            with translate_errors():
                documents += await self._collection.find(_existing(batch)).to_list(len(batch))
        return [WebhookRecord.from_document(document) for document in documents]

    async def send_conditions(self, webhook_ids: Collection[str]) -> list[SendConditions]:
        """Return what decides about sending, for each of these webhooks that exists."""
        with translate_errors():
            documents = await self._collection.find(_existing(webhook_ids), _SEND_CONDITIONS).to_list(
                len(webhook_ids)
            )
        return [SendConditions.from_document(document) for document in documents]

    async def enabled_by_id(self, webhook_ids: Collection[str]) -> dict[str, bool]:
        """Return for each of these webhooks that exists whether it is enabled."""
        with translate_errors():
            documents = await self._collection.find(_existing(webhook_ids), {"enabled": 1}).to_list(
                len(webhook_ids)
            )
        return {document["_id"]: document["enabled"] for document in documents}

    async def is_enabled(
        self, webhook_id: str, *, workspace: str | None = None, customer: str | None = None
    ) -> bool | None:
        """Return whether a webhook is enabled; None if there is none, or another owner has it."""
        owner = {"deleted_at": None} if workspace is None else _owned_by(workspace, customer)
        with translate_errors():
            document = await self._collection.find_one({"_id": webhook_id, **owner}, {"enabled": 1})
        return None if document is None else bool(document["enabled"])

    async def check_exists(self, webhook_id: str, *, workspace: str, customer: str | None = None) -> None:
        """Raise `NotFound` if the workspace, or the customer, has no such webhook, readable or not."""
        if await self.is_enabled(webhook_id, workspace=workspace, customer=customer) is None:
            raise _not_found()

    async def exists(self, webhook_id: str) -> bool:
        """Return whether the webhook is stored and not deleted, readable or not."""
        with translate_errors():
            document = await self._collection.find_one({"_id": webhook_id, "deleted_at": None}, {"_id": 1})
        return document is not None

    async def check_url_is_free(self, workspace: str, url: str) -> None:
        """Raise `Conflict` if a webhook of the workspace has this URL.

        The unique index refuses only two webhooks that claim a URL. One that was created with `force` does
        not.
        """
        with translate_errors():
            taken = await self._collection.find_one(
                {"workspace": workspace, "url": url, "deleted_at": None}, {"_id": 1}
            )
        if taken is not None:
            raise _url_taken()

    # Writes

    @asynccontextmanager
    async def reserve(
        self, workspace: str, customer: str | None, undo: Callable[[], Awaitable[object]]
    ) -> AsyncIterator[None]:
        """Insert one webhook inside this context.

        Raises `Conflict` if the workspace or the customer has the maximum.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._quota.reserve(_owned_by(workspace, None), undo))
            if customer is not None:
                own = _owned_by(workspace, customer)
                await stack.enter_async_context(self._customer_quota.reserve(own, undo))
            yield

    async def insert(self, record: WebhookRecord) -> None:
        """Insert a webhook. Raises `Conflict` if another one of its workspace claims its URL."""
        try:
            with translate_errors():
                await self._collection.insert_one(record.document())
        except Duplicate:
            raise _url_taken() from None

    async def update(
        self,
        webhook_id: str,
        changes: Mapping[str, Any],
        *,
        reset: bool = False,
        version: int | None = None,
        read_at: datetime | None = None,
    ) -> WebhookRecord:
        """Change fields, given by their names in `WebhookRecord`, and return the new record.

        With `reset`, the owning process ends the endpoint's hold and closes its circuit. With `version`, only
        that one is changed; with `read_at`, only the record with this `changed_at`. Raises `NotFound`,
        `Outdated`, and `Conflict` if it has changed since, or another webhook of the workspace claims the
        URL.
        """
        document = await self._update(webhook_id, changes, reset=reset, version=version, read_at=read_at)
        return WebhookRecord.from_document(document)

    async def _update(
        self,
        webhook_id: str,
        changes: Mapping[str, Any],
        *,
        reset: bool = False,
        version: int | None = None,
        read_at: datetime | None = None,
    ) -> Document:
        fields = WebhookRecord.stored_fields({**changes, "changed_at": utcnow()})
        increments = {"version": 1} if changes.keys() - _STATE else {}
        if reset:
            increments[WebhookRecord.stored_name("stored_resets")] = 1
        update: Document = {"$set": fields} | ({"$inc": increments} if increments else {})
        query = {"_id": webhook_id, "deleted_at": None}
        as_read = {} if read_at is None else {"changed_at": read_at}
        try:
            with translate_errors():
                document: Document | None = await self._collection.find_one_and_update(
                    {**query, **version_query(version), **as_read}, update, return_document=True
                )
        except Duplicate:
            raise _url_taken() from None
        if document is None:
            if read_at is not None and await self.exists(webhook_id):
                raise Conflict("the webhook was changed at the same time: try again")
            raise await why_unchanged(self._collection, query, version, _not_found())
        return document

    async def delete(self, webhook_id: str) -> None:
        """Mark a webhook as deleted, readable or not, and remove its secrets. Raises `NotFound`."""
        await self._update(
            webhook_id,
            {"deleted_at": utcnow(), "claims_url": False, "secrets": (), "headers": None, "auth": None},
        )

    async def disable(self, webhook_id: str, reason: str) -> bool:
        """Disable a webhook that is enabled; return False if it is not."""
        with translate_errors():
            result = await self._collection.update_one(
                {"_id": webhook_id, "deleted_at": None, "enabled": True},
                {"$set": {"enabled": False, "disabled_reason": reason, "changed_at": utcnow()}},
            )
        return bool(result.matched_count)

    async def next_replay_number(
        self, webhook_id: str, *, workspace: str, only_enabled: bool = False
    ) -> int | None:
        """Count a replay or a resend; return its number, or None if the webhook does not exist.

        The ids of new deliveries derive from the number, so it is counted in MongoDB, whichever process is
        called. With `only_enabled`, a disabled webhook returns None too.
        """
        enabled = {"enabled": True} if only_enabled else {}
        with translate_errors():
            document = await self._collection.find_one_and_update(
                {"_id": webhook_id, "workspace": workspace, "deleted_at": None, **enabled},
                {"$inc": {"replays": 1}},
                projection={"replays": 1},
                return_document=True,
            )
        return None if document is None else int(document["replays"])


def _owned_by(workspace: str, customer: str | None) -> Document:
    """Return the query of the webhooks of a workspace, or of one of its customers."""
    return {
        "workspace": workspace,
        "deleted_at": None,
        **({} if customer is None else {"customer": customer}),
    }


def _existing(webhook_ids: Collection[str]) -> Document:
    return {"_id": {"$in": list(webhook_ids)}, "deleted_at": None}


def _not_found() -> NotFound:
    return NotFound("no such outgoing webhook")


def _url_taken() -> Conflict:
    return Conflict(
        "another webhook of this workspace has this URL: change that one, or repeat with ?force=true"
    )
