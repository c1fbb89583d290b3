"""Leases in MongoDB: one process at a time does a piece of work, and clocks of processes are not compared.

A lease is one field of a document, beside the document's `fence`, a counter that rises with each claim. The
lease names its holder and has a beat, which the holder increments while it works. A process that waits for
the lease measures on its own monotonic clock for how long it has seen the same beat, and claims the lease
when that is too long. The fence makes writes of an earlier holder fail.

Before a step that must not be done twice, the holder writes `committed`. A process that finds a silent lease
sees from it whether that step may have begun.
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
    """A lease as it is stored in a document. It changes with each heartbeat of its holder."""

    fence: int
    holder: str
    """A random text, new with each claim."""
    beat: int
    committed: bool
    """Whether the holder has announced the step that must not be done twice."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self | None:
        """Return the document's lease; None if no process holds it."""
        stored = document.get(LEASE_FIELD)
        if not stored:
            return None
        return cls(document["fence"], stored["holder"], stored["beat"], stored["committed"])


class LeaseObserver:
    """Measures for how long a lease has been silent, on this process's own clock.

    Use a new observer after a failed read: while MongoDB was unavailable, no holder could write a heartbeat.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._seen: Lease | None = None
        self._since = 0.0

    def silent_s(self, lease: Lease | None) -> float:
        """Return for how many seconds the lease has not changed, as far as this observer has seen it."""
        now = self._clock()
        if lease is None or lease != self._seen:
            self._seen, self._since = lease, now
        return now - self._since


class Leases:
    """The leases of one collection."""

    def __init__(self, collection: Collection, *, heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S) -> None:
        self._collection = collection
        self._heartbeat_interval_s = heartbeat_interval_s

    async def claim(
        self,
        document: Mapping[str, Any],
        seen: Lease | None,
        *,
        condition: Mapping[str, Any],
        change: Mapping[str, Any],
        increment: Mapping[str, int],
    ) -> Document | None:
        """Claim the lease if it is still as it was `seen`, and return the new document; otherwise None.

        `document` is the document as it was read. `condition` is a further query that has to match it.
        `change` and `increment` are written with the claim (`$set`, `$inc`). Raises `DatabaseUnavailable`.
        """
        query: Document = {"_id": document["_id"], "fence": document["fence"], **condition}
        if seen is not None:
            query |= {f"{LEASE_FIELD}.beat": seen.beat, f"{LEASE_FIELD}.committed": seen.committed}
        lease = {"holder": secrets.token_hex(8), "beat": 0, "committed": False}
        update = {"$set": {LEASE_FIELD: lease, **change}, "$inc": {"fence": 1, **increment}}
        with translate_errors():
            return await self._collection.find_one_and_update(query, update, return_document=True)

    async def commit(self, claimed: Mapping[str, Any]) -> bool:
        """Announce the step that must not be done twice.

        Return False if another process has claimed the lease: then the step must not be done. Raises
        `DatabaseUnavailable`.
        """
        with translate_errors():
            result = await self._collection.update_one(
                self._held_query(claimed), {"$set": {f"{LEASE_FIELD}.committed": True}}
            )
        return bool(result.matched_count)

    @staticmethod
    def settled(claimed: Mapping[str, Any]) -> Document:
        """Return the fields to write with the outcome of a committed step, if the holder keeps the lease."""
        # A random beat, not the next one: a process that was stopped meanwhile must not find the one it
        # knows.
        return {LEASE_FIELD: {**claimed[LEASE_FIELD], "beat": secrets.randbits(30), "committed": False}}

    async def release(self, claimed: Mapping[str, Any]) -> None:
        """Release the lease, however long MongoDB is unavailable.

        For a holder that has finished, but could not write so: a process that finds a silent lease that is
        committed has to assume that the step was done.
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
        """Write heartbeats while the context lasts. One that fails is followed by the next as usual."""
        task = asyncio.create_task(self._write_heartbeats(claimed))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _write_heartbeats(self, claimed: Mapping[str, Any]) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_interval_s)
            try:
                with translate_errors():
                    result = await self._collection.update_one(
                        self._held_query(claimed), {"$inc": {f"{LEASE_FIELD}.beat": 1}}
                    )
            except DatabaseUnavailable:
                continue
            if not result.matched_count:
                return  # the lease was released, or another process has claimed it

    @staticmethod
    def _held_query(claimed: Mapping[str, Any]) -> Document:
        """Return the query that matches the document only while this claim holds its lease."""
        return {
            "_id": claimed["_id"],
            "fence": claimed["fence"],
            f"{LEASE_FIELD}.holder": claimed[LEASE_FIELD]["holder"],
        }
