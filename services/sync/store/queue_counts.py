"""Count the stored changes of a workspace at a bounded cost, by a sample if there are many."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, get_args

from services.sync.model.mapping import lane_of
from services.sync.model.synced_message import BUCKETS, QUEUE, QueueState
from shared.runtime.mongo import Document, Mongo, translate_errors

_SAMPLE_SIZE: Final = 1_000
_STEP_GROWTH: Final = 4
_FIELDS: Final = {"lane": 1, "mapping_id": 1, "account_key": 1, "created_at": 1, "reason": 1}


@dataclass(slots=True)
class LaneCount:
    """Numbers of changes for one conversation by state, the oldest one's time, and the reason of one."""

    account_key: str
    conversation: str
    counts: Counter[QueueState] = field(default_factory=Counter)
    oldest_at: datetime | None = None
    reason: str = ""

    def add(self, state: QueueState, count: int, oldest_at: datetime, reason: str) -> None:
        """Add a number of changes in one state."""
        self.counts[state] += count
        self.oldest_at = min(self.oldest_at or oldest_at, oldest_at)
        self.reason = self.reason or reason


@dataclass(slots=True)
class QueueCount:
    """The numbers of changes by conversation. `estimated` is True if they were extrapolated from a sample."""

    lanes: list[LaneCount]
    estimated: bool


class QueueCounts:
    """Counts changes; if a state has more than about 1,000, by a sample."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(QUEUE)

    async def count(self, workspace: str, mapping_id: str | None) -> QueueCount:
        """Count the changes of a workspace, or of one of its mappings. Raises `DatabaseUnavailable`.

        For each state, buckets are read until about 1,000 changes were found, and the numbers are scaled up
        to all buckets. In the embedded database, a count costs as much as reading the documents.
        """
        base: Document = {"mapping_id": mapping_id} if mapping_id else {"workspace": workspace}
        lanes: dict[tuple[str, str], LaneCount] = {}
        estimated = False
        for state in get_args(QueueState):
            documents, buckets = await self._sample({**base, "state": state})
            estimated |= buckets < BUCKETS
            by_target: dict[tuple[str, str], list[Document]] = {}
            for document in documents:
                by_target.setdefault(_target(document), []).append(document)
            for target, found in by_target.items():
                count = round(len(found) * BUCKETS / buckets)
                oldest_at = min(document["created_at"] for document in found)
                reason = max(document["reason"] for document in found)
                lane = lanes.setdefault(target, LaneCount(*target))
                lane.add(state, count, oldest_at, reason)
        return QueueCount(list(lanes.values()), estimated)

    async def _sample(self, query: Document) -> tuple[list[Document], int]:
        """Return the changes of the first buckets, until they suffice, and the number of these buckets."""
        documents: list[Document] = []
        for step in _steps():
            with translate_errors():
                found = self._collection.find({**query, "bucket": {"$in": list(step)}}, _FIELDS)
                documents += await found.to_list(None)
            if len(documents) >= _SAMPLE_SIZE:
                break
        return documents, step.stop


def _steps() -> Iterator[range]:
    """Yield all buckets in ranges, each of them larger than the one before."""
    start, stop = 0, 1
    while start < BUCKETS:
        yield range(start, stop)
        start, stop = stop, min(stop * _STEP_GROWTH, BUCKETS)


def _target(document: Document) -> tuple[str, str]:
    """Return the account key and the conversation of a stored change."""
    prefix = lane_of(document["mapping_id"], document["account_key"], "")
    return document["account_key"], document["lane"].removeprefix(prefix)
