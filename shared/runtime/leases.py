"""Leases: one process does a piece of work, settled in the store without comparing two clocks.

A lease is one field of a document, beside the document's `fence`, a counter that grows with each claim. It
names its holder and has a beat, which the holder increments while it works. Nobody reads another process's
time: who waits counts, on its own monotonic clock, for how long it has seen the same beat, and claims the
lease when that is too long. The fence keeps out the writes of an earlier holder.

Before a step that must not be done twice, the holder writes `committed`. Whoever finds a silent lease knows
from it whether that step was begun.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Self

from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.mongo import Collection, Document, translate_errors

LEASE_FIELD: Final = "lease"
HEARTBEAT_INTERVAL_S: Final = 1.0
_RELEASE_RETRY_INTERVAL_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as a document holds it. Two looks at a lease whose holder works are never equal for long."""

    fence: int
    holder: str
    """A new random text with each claim."""
    beat: int
    committed: bool
    """Whether the holder has written that it is about to take the step that must not be done twice."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self | None:
        """Return the document's lease; None if nobody holds it."""
        held = document.get(LEASE_FIELD)
        if not held:
            return None
        return cls(document["fence"], held["holder"], held["beat"], held["committed"])


class LeaseObserver:
    """Measure how long a lease has been silent, on this process's own clock.

    Make a new one after a look at the store has failed: while the store was away, no holder could beat.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._seen: Lease | None = None
        self._since = 0.0

    def silent_s(self, lease: Lease | None) -> float:
        """Return for how many seconds the lease has looked as it does now."""
        now = self._clock()
        if lease is None or lease != self._seen:
            self._seen, self._since = lease, now
        return now - self._since


class Leases:
    """The leases of one collection."""

    def __init__(self, collection: Collection, *, heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S) -> None:
        self._collection = collection
        self._beat_s = heartbeat_interval_s

    async def claim(
        self,
        document: Mapping[str, Any],
        seen: Lease | None,
        *,
        condition: Mapping[str, Any],
        change: Mapping[str, Any],
        increment: Mapping[str, int],
    ) -> Document | None:
        """Take the lease if it still is as it was `seen`; return the document, or None if it is not.

        `only` has to hold beside it; `change` and `increment` are written with it. Raises
        `DatabaseUnavailable`.
        """
        query: Document = {"_id": document["_id"], "fence": document["fence"], **condition}
        if seen is not None:
            query |= {f"{LEASE_FIELD}.beat": seen.beat, f"{LEASE_FIELD}.committed": seen.committed}
        lease = {"holder": secrets.token_hex(8), "beat": 0, "committed": False}
        update = {"$set": {LEASE_FIELD: lease, **change}, "$inc": {"fence": 1, **increment}}
        with translate_errors():
            return await self._collection.find_one_and_update(query, update, return_document=True)

    async def commit(self, claimed: Mapping[str, Any]) -> bool:
        """Write that the step that must not be done twice begins.

        Return False if the lease is another's by now: then do not take the step.
        Raises `DatabaseUnavailable`.
        """
        with translate_errors():
            done = await self._collection.update_one(
                self._held_query(claimed), {"$set": {f"{LEASE_FIELD}.committed": True}}
            )
        return bool(done.matched_count)

    @staticmethod
    def settled(claimed: Mapping[str, Any]) -> Document:
        """Return the fields to write with the outcome of a committed step, to go on holding the lease."""
        # Not a beat that somebody has seen: a waiter that stood still meanwhile must see a change.
        return {LEASE_FIELD: {**claimed[LEASE_FIELD], "beat": secrets.randbits(30), "committed": False}}

    async def release(self, claimed: Mapping[str, Any]) -> None:
        """Let go of the lease; wait for the store as long as it takes.

        For a holder that knows the outcome and could not write it: whoever finds the lease silent would have
        to assume the worst.
        """
        while True:
            try:
                with translate_errors():
                    await self._collection.update_one(
                        self._held_query(claimed), {"$set": {LEASE_FIELD: None}}
                    )
            except DatabaseUnavailable:
                await asyncio.sleep(_RELEASE_RETRY_INTERVAL_S)
            else:
                return

    @asynccontextmanager
    async def heartbeat(self, claimed: Mapping[str, Any]) -> AsyncIterator[None]:
        """Beat while the block runs. A store that is away is tried again with the next beat."""
        task = asyncio.create_task(self._beat(claimed))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _beat(self, claimed: Mapping[str, Any]) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            try:
                with translate_errors():
                    done = await self._collection.update_one(
                        self._held_query(claimed), {"$inc": {f"{LEASE_FIELD}.beat": 1}}
                    )
            except DatabaseUnavailable:
                continue
            if not done.matched_count:
                return  # it was let go, or is another's

    @staticmethod
    def _held_query(claimed: Mapping[str, Any]) -> Document:
        return {
            "_id": claimed["_id"],
            "fence": claimed["fence"],
            f"{LEASE_FIELD}.holder": claimed[LEASE_FIELD]["holder"],
        }
