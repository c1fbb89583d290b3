"""Lists of a workspace's outgoing webhooks by status.

The settings of all webhooks are in memory, and the endpoints that fail are read together, for all workspaces,
and used for some seconds. Of the database, only the webhooks of the page are read.
"""

from collections.abc import Set as AbstractSet
from typing import Annotated, Final, Literal

from fastapi import Query
from pydantic import Field

from services.delivery.api.webhook_fields import MAX_METADATA_VALUE, METADATA_NAME
from services.delivery.log.endpoint_health import EndpointHealthRecords
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from services.delivery.webhooks.repository import WebhookCriteria, WebhookRecord, WebhookRepository
from shared.contracts.ids import WebhookId
from shared.runtime.cached_reads import CachedReads
from shared.runtime.web.paging import Page, Paging, decode_cursor, encode_cursor

NameFilter = Annotated[str, Query(max_length=200, description="Only those with this text in their name.")]
UrlFilter = Annotated[str, Query(max_length=2000, description="Only those with this text in their URL.")]
MetadataFilter = Annotated[
    list[Annotated[str, Field(pattern=f"^{METADATA_NAME}:", max_length=MAX_METADATA_VALUE + 50)]] | None,
    Query(
        max_length=10,
        description="Only those with this item of `metadata`: `name:value`. Repeat it for several.",
    ),
]
CustomerFilter = Annotated[str | None, Query(max_length=200, description="Only those of this customer.")]
WebhookStatus = Literal["active", "paused", "disabled", "failing"]
StatusFilter = Annotated[
    WebhookStatus | None,
    Query(
        description="Only those with this status, as of some seconds ago. `failing`: the receiver fails, or "
        "the hub has disabled the webhook because of that. It can be `paused` or `disabled` too."
    ),
]
_FAILING_TTL_S: Final = 1.0
_BATCH: Final = 50
_MAX_BATCHES: Final = 40


class WebhookLists:
    """Pages of webhooks. Every method raises `DatabaseUnavailable`."""

    def __init__(
        self, webhooks: OutgoingWebhooks, repository: WebhookRepository, health: EndpointHealthRecords
    ) -> None:
        self._webhooks = webhooks
        self._repository = repository
        self._health = health
        self._failing: CachedReads[frozenset[str]] = CachedReads(min_s=_FAILING_TTL_S)

    async def page(
        self,
        workspace: str,
        criteria: WebhookCriteria,
        status: WebhookStatus | None,
        paging: Paging,
        *,
        customer: str | None,
    ) -> Page[WebhookRecord]:
        """Return a page of a workspace's, or a customer's, webhooks, in the order of their creation.

        A page may have fewer than `limit` items. Raises `Malformed` if the cursor is invalid.
        """
        if status is None:
            return await self._repository.list_page(workspace, criteria, paging, customer=customer)
        await self._webhooks.ensure_current()
        failing = await self._failing.get("", "failing", self._health.failing_ids)
        is_reverse = paging.order == "newest"
        keys = sorted(
            (
                (webhook.created_at, str(webhook.id))
                for webhook in self._webhooks.of_workspace(workspace)
                if _has_status(webhook, status, failing)
                and criteria.selects(webhook.name, webhook.url, webhook.metadata)
                and (paging.since is None or webhook.created_at >= paging.since)
                and (paging.until is None or webhook.created_at < paging.until)
            ),
            reverse=is_reverse,
        )
        if paging.cursor:
            after = decode_cursor(paging.cursor)
            keys = [key for key in keys if (key < after if is_reverse else key > after)]
        items: list[WebhookRecord] = []
        position = 0
        for _ in range(_MAX_BATCHES):
            batch = [key[1] for key in keys[position : position + _BATCH]]
            found = {record.id: record for record in await self._repository.by_ids(batch)}
            for webhook_id in batch:
                if len(items) == paging.limit:
                    break
                position += 1
                record = found.get(WebhookId(webhook_id))
                if record and (customer is None or record.customer == customer):
                    items.append(record)
            if len(items) == paging.limit or position >= len(keys):
                break
        has_more = position < len(keys)
        return Page(items=items, next_cursor=encode_cursor(*keys[position - 1]) if has_more else None)


def _has_status(webhook: OutgoingWebhook, status: WebhookStatus, failing: AbstractSet[str]) -> bool:
    match status:
        case "disabled":
            return not webhook.enabled
        case "paused":
            return webhook.enabled and webhook.paused
        case "failing":
            return webhook.is_disabled_by_hub or (webhook.enabled and webhook.id in failing)
    return webhook.enabled and not webhook.paused and webhook.id not in failing
