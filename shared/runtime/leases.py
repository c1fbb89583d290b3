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
from typing import Any, Final, Generic, Self, TypeVar

from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.mongo import Collection, Document, translate_errors
from shared.runtime.records import Record, StoredPart

HEARTBEAT_INTERVAL_S: Final = 1.0
_RELEASE_RETRY_INTERVAL_S: Final = 0.3
_LEASE: Final = "lease"
_LEASE_HOLDER: Final = f"{_LEASE}.holder"
_LEASE_BEAT: Final = f"{_LEASE}.beat"
_LEASE_COMMITTED: Final = f"{_LEASE}.committed"
_NOTHING: Final[Mapping[str, Any]] = {}


class StoredLease(StoredPart):
    """A lease as it is stored in a document."""

    holder: str
    """A random text, new with each claim."""
    beat: int
    committed: bool
    """True if the holder has announced the step that must not be done twice."""


class LeasedRecord(Record):
    """A record that one process at a time works on."""

    fence: int
    """Rises with each claim."""
    lease: StoredLease | None = None
    """None if no process holds it."""


R = TypeVar("R", bound=LeasedRecord)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease and its fence, as one process saw them. It changes with each heartbeat of its holder."""

    fence: int
    holder: str
    beat: int
    committed: bool

    @classmethod
    def of(cls, record: LeasedRecord) -> Self | None:
        """Return the record's lease; None if no process holds it."""
        stored = record.lease
        if stored is None:
            return None
        return cls(record.fence, stored.holder, stored.beat, stored.committed)


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


class Leases(Generic[R]):
    """The leases of one collection, whose documents are records of `record_type`."""

    def __init__(
        self,
        collection: Collection,
        record_type: type[R],
        *,
        heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S,
    ) -> None:
        self._collection = collection
        self._record_type = record_type
        self._heartbeat_interval_s = heartbeat_interval_s

    async def claim(
        self,
        record: R,
        seen: Lease | None,
        *,
        condition: Mapping[str, Any] = _NOTHING,
        change: Mapping[str, Any] = _NOTHING,
        increment: Mapping[str, int] = _NOTHING,
    ) -> R | None:
        """Claim the lease if it is still as it was `seen`, and return the new record; otherwise None.

        `record` is the record as it was read. `condition` has more fields that must have these values (a set
        of values stands for any of them). `change` is written with the claim, and numbers are raised by
        `increment`. All three name fields as the record does. Raises `DatabaseUnavailable`.
        """
        query = self._record_type.stored_query({"id": record.id, "fence": record.fence, **condition})
        if seen is not None:
            query |= {_LEASE_BEAT: seen.beat, _LEASE_COMMITTED: seen.committed}
        lease = StoredLease(holder=secrets.token_hex(8), beat=0, committed=False)
        update = {
            "$set": self._record_type.stored_fields({"lease": lease, **change}),
            "$inc": self._record_type.stored_fields({"fence": 1, **increment}),
        }
        with translate_errors():
            claimed = await self._collection.find_one_and_update(query, update, return_document=True)
        return None if claimed is None else self._record_type.from_document(claimed)

    async def commit(self, claimed: R) -> bool:
        """Announce the step that must not be done twice.

        Return False if another process has claimed the lease: then the step must not be done. Raises
        `DatabaseUnavailable`.
        """
        with translate_errors():
            result = await self._collection.update_one(
                self._holder_query(claimed), {"$set": {_LEASE_COMMITTED: True}}
            )
        return bool(result.matched_count)

    @staticmethod
    def settled(claimed: LeasedRecord) -> StoredLease:
        """Return the lease to write with the outcome of a committed step, if the holder keeps it."""
        # A random beat, not the next one: a process that was stopped meanwhile must not find the one it
        # knows.
        return StoredLease(holder=_holder(claimed), beat=secrets.randbits(30), committed=False)

    async def release(self, claimed: R) -> None:
        """Release the lease, however long MongoDB is unavailable.

        For a holder that has finished, but could not write so: a process that finds a silent lease that is
        committed has to assume that the step was done.
        """
        while True:
            try:
                with translate_errors():
                    await self._collection.update_one(self._holder_query(claimed), {"$set": {_LEASE: None}})
            except DatabaseUnavailable:
                await asyncio.sleep(_RELEASE_RETRY_INTERVAL_S)
            else:
                return

    @asynccontextmanager
    async def heartbeat(self, claimed: R) -> AsyncIterator[None]:
        """Write heartbeats while the context lasts. One that fails is followed by the next as usual."""
        task = asyncio.create_task(self._write_heartbeats(claimed))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _write_heartbeats(self, claimed: R) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_interval_s)
            try:
                with translate_errors():
                    result = await self._collection.update_one(
                        self._holder_query(claimed), {"$inc": {_LEASE_BEAT: 1}}
                    )
            except DatabaseUnavailable:
                continue
            if not result.matched_count:
                return  # the lease was released, or another process has claimed it

    @staticmethod
    def _holder_query(claimed: LeasedRecord) -> Document:
        """Return the query that matches the document only while this claim holds its lease."""
        return {"_id": claimed.id, "fence": claimed.fence, _LEASE_HOLDER: _holder(claimed)}


def _holder(claimed: LeasedRecord) -> str:
    """Return who holds the lease. Raises `ValueError` for a record that was not claimed."""
    if claimed.lease is None:
        raise ValueError(f"{claimed.id} was not claimed")
    return claimed.lease.holder
