"""Lists of a workspace's endpoints: in several orders, and by status.

Which endpoints there are, and their names, is in memory. Of the database, only the endpoints of the page are
read: the embedded one would read all of the workspace for each page. Orders and statuses by counts need the
counts of all endpoints. They are read together, and used for some seconds.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Annotated, Final, Literal

import orjson
from fastapi import Query

from services.gateway.api.endpoint_schemas import EndpointStatus
from services.gateway.ingest.endpoint import NEVER, InboundEndpoint
from services.gateway.ingest.endpoint_records import (
    FAILING_STREAK,
    EndpointRepository,
    ProviderEndpoint,
)
from services.gateway.ingest.endpoints import InboundEndpoints
from services.gateway.ingest.request_counts import StoredCounts
from shared.contracts.errors import Malformed
from shared.runtime.cached_reads import CachedReads
from shared.runtime.configuration import Configuration
from shared.runtime.web.paging import Page
from shared.webhooks.incoming import INCOMING_PROVIDER

EndpointOrder = Annotated[
    Literal["newest", "oldest", "name", "last_webhook", "most_webhooks", "most_errors"],
    Query(description="Which come first. A cursor is valid for its order only."),
]
StatusFilter = Annotated[
    EndpointStatus | None, Query(description="Only endpoints with this status, as of some seconds ago.")
]
LongCursor = Annotated[str | None, Query(max_length=2000, description="`next_cursor` of the previous page.")]
"""A cursor can have the name of an endpoint."""
_COUNTS_TTL_S: Final = 1.0
_READ_SHARE: Final = 20
"""Counts are used for at least as many times as long as it took to read them."""
_MAX_NAME: Final = 100
"""Characters of a name that count for its order."""
_MANY: Final = 1_000
"""From here on, reading the counts takes longer than a page may."""
_MAX_COUNTS: Final = 200_000
"""Counts of endpoints in memory, of all workspaces together."""
_NONE: Final = StoredCounts()

_Value = int | str
_ORDERS: Final[Mapping[str, tuple[Callable[[InboundEndpoint, StoredCounts], _Value], bool]]] = {
    "newest": (lambda endpoint, _: _milliseconds(endpoint.created_at), True),
    "oldest": (lambda endpoint, _: _milliseconds(endpoint.created_at), False),
    "name": (lambda endpoint, _: endpoint.name.casefold()[:_MAX_NAME], False),
    "last_webhook": (lambda _, counts: _milliseconds(counts.last_triggered or NEVER), True),
    "most_webhooks": (lambda _, counts: counts.trigger_count or 0, True),
    "most_errors": (lambda _, counts: counts.error_count or 0, True),
}
"""The value by which each order sorts, and whether the largest comes first. Then the id decides."""
_BY_COUNTS: Final = frozenset({"last_webhook", "most_webhooks", "most_errors"})


@dataclass(frozen=True, slots=True)
class EndpointQuery:
    """Which endpoints of a workspace are asked for. `since` is inclusive, `until` exclusive."""

    order: str
    status: EndpointStatus | None
    since: datetime | None
    until: datetime | None
    limit: int
    cursor: str | None


class EndpointLists:
    """Pages of endpoints. Every method raises `DatabaseUnavailable`."""

    def __init__(
        self, repository: EndpointRepository, endpoints: InboundEndpoints, configuration: Configuration
    ) -> None:
        self._repository = repository
        self._endpoints = endpoints
        self._configuration = configuration
        self._counts: CachedReads[Mapping[str, StoredCounts]] = CachedReads(
            min_s=_COUNTS_TTL_S, factor=_READ_SHARE, max_size=_MAX_COUNTS, size_of=len
        )

    async def page(self, workspace: str, query: EndpointQuery) -> Page[ProviderEndpoint]:
        """Return a page of a workspace's endpoints. Raises `Malformed` if the cursor is invalid."""
        await self._configuration.ensure_current()
        needs_counts = query.order in _BY_COUNTS or query.status in ("active", "error")
        read = partial(self._repository.stored_counts, workspace)
        counts: Mapping[str, StoredCounts] = {}
        if needs_counts:
            counts = await self._counts.get(workspace, "counts", read)
        value_of, is_reverse = _ORDERS[query.order]
        keys = [
            (value_of(endpoint, counts.get(endpoint.id, _NONE)), str(endpoint.id))
            for endpoint in self._endpoints.of_workspace(workspace)
            if _matches(endpoint, counts, query)
        ]
        if len(keys) > _MANY and not needs_counts and not query.cursor:
            self._counts.refresh(workspace, "counts", read)  # who sees the list may order it by them next
        keys.sort(reverse=is_reverse)
        if query.cursor:
            after = _decode(query.cursor, str if query.order == "name" else int)
            keys = [key for key in keys if (key < after if is_reverse else key > after)]
        ids = [key[1] for key in islice(keys, query.limit)]
        found = await self._repository.find_some(ids, workspace)
        records = [found[endpoint_id] for endpoint_id in ids if endpoint_id in found]
        has_more = len(keys) > query.limit
        return Page(
            items=[record for record in records if isinstance(record, ProviderEndpoint)],
            next_cursor=_encode(keys[query.limit - 1]) if has_more else None,
        )


def _matches(endpoint: InboundEndpoint, counts: Mapping[str, StoredCounts], query: EndpointQuery) -> bool:
    if endpoint.provider_id == INCOMING_PROVIDER:
        return False
    if query.since and endpoint.created_at < query.since:
        return False
    if query.until and endpoint.created_at >= query.until:
        return False
    if query.status is None:
        return True
    if query.status == "inactive" or not endpoint.enabled:
        return query.status == "inactive" and not endpoint.enabled
    streak = counts.get(endpoint.id, _NONE).error_streak or 0
    return (bool(endpoint.source_error) or streak >= FAILING_STREAK) == (query.status == "error")


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _encode(key: tuple[_Value, str]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(key)).decode()


def _decode(cursor: str, kind: type[_Value]) -> tuple[_Value, str]:
    try:
        value, last_id = orjson.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError, binascii.Error):
        value, last_id = None, None
    if type(value) is not kind or not isinstance(last_id, str):
        raise Malformed("the cursor is invalid: pass next_cursor of the previous page unchanged")
    return value, last_id
