"""Counts of the changes that wait or have failed, with a bounded cost."""

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
    """Changes of a target conversation: how many by state, since when, and a reason of one of them."""

    account_key: str
    conversation: str
    counts: Counter[QueueState] = field(default_factory=Counter)
    oldest_at: datetime | None = None
    reason: str = ""

    def add(self, state: QueueState, count: int, oldest_at: datetime, reason: str) -> None:
        """Add changes of one state."""
        self.counts[state] += count
        self.oldest_at = min(self.oldest_at or oldest_at, oldest_at)
        self.reason = self.reason or reason


@dataclass(slots=True)
class QueueCount:
    """Changes by lane. They are `estimated` if there were too many to count each."""

    lanes: list[LaneCount]
    estimated: bool


class QueueCounts:
    """Counts changes of a state in a sample if there are more than about 1,000."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(QUEUE)

    async def count(self, workspace: str, mapping_id: str | None) -> QueueCount:
        """Count the changes of a workspace, or of one of its mappings. Raises `DatabaseUnavailable`.

        Of each state, some buckets are read: few if there are many changes. What was found stands for
        the rest. The embedded database has no cheaper way to find out that there are many.
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
        """Return the changes of as many buckets as are needed for a sample, and their number."""
        documents: list[Document] = []
        for step in _steps():
            with translate_errors():
                found = self._collection.find({**query, "bucket": {"$in": list(step)}}, _FIELDS)
                documents += await found.to_list(None)
            if len(documents) >= _SAMPLE_SIZE:
                break
        return documents, step.stop


def _steps() -> Iterator[range]:
    """Yield the buckets in growing steps."""
    start, stop = 0, 1
    while start < BUCKETS:
        yield range(start, stop)
        start, stop = stop, min(stop * _STEP_GROWTH, BUCKETS)


def _target(document: Document) -> tuple[str, str]:
    """Return the account's key and the conversation of a change."""
    prefix = lane_of(document["mapping_id"], document["account_key"], "")
    return document["account_key"], document["lane"].removeprefix(prefix)
