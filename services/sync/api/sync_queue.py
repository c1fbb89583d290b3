"""`/api/sync/queue/stats`: what waits or has failed, by account and conversation."""

from collections import Counter
from datetime import datetime
from heapq import nlargest
from typing import Annotated, Final

from fastapi import FastAPI, Query
from pydantic import BaseModel

from services.sync.api.fields import Reader
from services.sync.store.mappings import MappingRepository
from services.sync.store.queue_counts import LaneCount, QueueCount, QueueCounts
from shared.contracts.envelope import rfc3339
from shared.runtime.cached_reads import CachedReads
from shared.runtime.clock import utcnow
from shared.runtime.web.routes import Routes

_MAX_SHOWN: Final = 100
_CACHED_S: Final = 1.0


class ConversationQueueOut(BaseModel):
    """Changes for one conversation: `oldest_s` is the age of the oldest, `reason` why one of them waits."""

    provider: str
    account: str
    conversation: str
    waiting: int
    aside: int
    failed: int
    oldest_s: float
    reason: str | None


class QueueStatsOut(BaseModel):
    """Changes that wait in their order (`waiting`), wait on their own (`aside`), or were given up (`failed`).

    `conversations` are the 100 with the most changes; `counted_at` is when they were counted. If `estimated`,
    there were too many: the counts follow from a sample, and a conversation with few changes may be missing.
    """

    waiting: int
    aside: int
    failed: int
    counted_at: str
    estimated: bool
    conversations: list[ConversationQueueOut]


class SyncQueueApi:
    """The route of the queue."""

    def __init__(self, mappings: MappingRepository, counts: QueueCounts) -> None:
        self._mappings = mappings
        self._counts = counts
        self._cached: CachedReads[QueueStatsOut] = CachedReads(min_s=_CACHED_S)

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        Routes(app, "/api/sync/queue").add("/stats", self.read_queue_stats, methods=["GET"])

    async def read_queue_stats(
        self,
        key: Reader,
        mapping_id: Annotated[
            str | None, Query(max_length=100, description="Only changes of this mapping.")
        ] = None,
    ) -> QueueStatsOut:
        """Count what waits or has failed, by account and conversation.

        More than about 1,000 changes of one kind are estimated from a sample. Counts are cached for ten times
        as long as counting took, so that asking does not load the database.
        """
        if mapping_id is not None:
            await self._mappings.find(mapping_id, key.workspace)

        async def count() -> QueueStatsOut:
            counted_at = utcnow()
            return _stats(await self._counts.count(key.workspace, mapping_id), counted_at)

        return await self._cached.get(key.workspace, mapping_id, count)


def _stats(count: QueueCount, counted_at: datetime) -> QueueStatsOut:
    totals: Counter[str] = Counter()
    for lane in count.lanes:
        totals.update(lane.counts)
    shown = nlargest(_MAX_SHOWN, count.lanes, key=lambda lane: lane.counts.total())
    return QueueStatsOut(
        waiting=totals["waiting"],
        aside=totals["aside"],
        failed=totals["failed"],
        counted_at=rfc3339(counted_at),
        estimated=count.estimated,
        conversations=[_conversation(lane, counted_at) for lane in shown],
    )


def _conversation(lane: LaneCount, counted_at: datetime) -> ConversationQueueOut:
    provider, _, account = lane.account_key.partition(":")
    age_s = (counted_at - lane.oldest_at).total_seconds() if lane.oldest_at else 0.0
    return ConversationQueueOut(
        provider=provider,
        account=account,
        conversation=lane.conversation,
        waiting=lane.counts["waiting"],
        aside=lane.counts["aside"],
        failed=lane.counts["failed"],
        oldest_s=max(0.0, age_s),
        reason=lane.reason or None,
    )
