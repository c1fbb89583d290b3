"""Due work: documents with a due time that any process may work on, one process at a time.

A document with work left is open (`open: true`). `due_at` is when its work is due, and `fence` a counter that
rises with each claim. A claim moves `due_at` to the end of a lease, so the document of a process that dies is
due again by itself. The fence makes writes of an earlier holder fail.

The end of a lease is compared with the wall clock of the process that claims. A clock that runs ahead takes
work over too early, and so does a holder that is stopped for longer than its lease. Use due work where a
repeated step does no harm, and `leases.py` where a step must not be done twice.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import uuid4

from pydantic import Field

from shared.contracts.errors import DatabaseUnavailable, RetryLater
from shared.runtime.clock import utcnow
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, translate_errors
from shared.runtime.records import Record, stored_null
from shared.runtime.retry import Backoff

OPEN: Final[Mapping[str, Any]] = {"open": True}
"""The query for documents with work left, and the condition of the index on `due_at`.

It is not the presence of `due_at`, so that the embedded database uses the partial index too.
"""
_RENEWALS_PER_LEASE: Final = 3
_MAX_RETRY_INTERVAL_S: Final = 1.0
"""After a search that failed."""
_MAX_COUNTED_FAILURES: Final = 10_000
"""Documents of which a process knows the failures in a row; beyond it, all are forgotten."""
_BUSY_PAUSE: Final = timedelta(seconds=5)
_BUSY_SPACING: Final = timedelta(seconds=0.1)
"""After which the first document without a slot for its workspace is due again, and each further one."""


class Claimed(Protocol):
    """Claimed document: any type that has the document's id and the fence of the claim."""

    @property
    def id(self) -> str: ...

    @property
    def fence(self) -> int: ...


C = TypeVar("C", bound=Claimed)


class DueRecord(Record):
    """A record of due work that shows when a process works on it. Claims set `is_claimed`."""

    is_open: bool = Field(alias="open")
    """True if it has a due time."""
    due_at: datetime | None = stored_null()
    is_claimed: bool = Field(alias="working")
    """True while a process works on it. Then `due_at` is the end of the lease."""
    fence: int
    failures: int
    """Failures in a row."""


class LeaseLost(Exception):
    """Another process claimed the document while this one worked on it."""


@dataclass(frozen=True, slots=True)
class DueItem:
    """An open document that was found by its due time."""

    id: str
    due_at: datetime


class DueWork(Generic[C]):
    """The due documents of one collection.

    `find_due` needs an index on `due_at`, or on `open` and `due_at`, with `OPEN` as its condition. Then its
    cost does not grow with the documents that are not due.
    """

    def __init__(
        self,
        collection: Collection,
        parse: Callable[[Document], C],
        *,
        lease: timedelta,
        claim_fields: Mapping[str, Any] | None = None,
        release_fields: Mapping[str, Any] | None = None,
        condition: Mapping[str, Any] | None = None,
    ) -> None:
        """Set the collection, and how to parse a claimed document.

        `lease` is the lease of a claim that names no other, `claim_fields` is written with each claim, and
        `release_fields` with each release. Only documents with the values in `condition` are found, by an
        index that begins with them.
        """
        self._condition = dict(condition or {})
        self._collection = collection
        self._parse = parse
        self._lease = lease
        self._claim_fields = dict(claim_fields or {})
        self._release_fields = dict(release_fields or {})

    async def find_due(self, limit: int, *, within_s: float = 0.0) -> list[DueItem]:
        """Return up to `limit` open documents that are due now or in `within_s` seconds, oldest first.

        Raises `DatabaseUnavailable`.
        """
        query = {**self._condition, **OPEN, "due_at": {"$lte": utcnow() + timedelta(seconds=within_s)}}
        with translate_errors():
            documents = (
                await self._collection.find(query, {"_id": 1, "due_at": 1})
                .sort("due_at", 1)
                .limit(limit)
                .to_list(limit)
            )
        return [DueItem(document["_id"], document["due_at"]) for document in documents]

    async def claim(
        self,
        item_id: str,
        *,
        condition: Mapping[str, Any] | None = None,
        lease: timedelta | None = None,
        early: bool = False,
    ) -> C | None:
        """Claim an open document if it is due, or with `early` also before; return None otherwise.

        `condition` is a further query that has to match it. Raises `DatabaseUnavailable`.
        """
        now = utcnow()
        query: Document = {"_id": item_id, **OPEN, **(condition or {})}
        if not early:
            query["due_at"] = {"$lte": now}
        with translate_errors():
            document = await self._collection.find_one_and_update(
                query,
                {
                    "$set": {**self._claim_fields, "due_at": now + (lease or self._lease)},
                    "$inc": {"fence": 1},
                },
                return_document=True,
            )
        return None if document is None else self._parse(document)

    async def claim_all(self, ids: Sequence[str], *, lease: timedelta | None = None) -> list[C]:
        """Claim those of these documents that are due, in two calls of the database.

        The result has the order in which the database returns them. The field `claim` of the documents
        gets the token of this call. Raises `DatabaseUnavailable`.
        """
        if not ids:
            return []
        now = utcnow()
        # Another task may claim the same documents at the same time: the token marks those of this call.
        token = uuid4().hex
        with translate_errors():
            await self._collection.update_many(
                {"_id": {"$in": list(ids)}, "due_at": {"$lte": now}},
                {
                    "$set": {**self._claim_fields, "due_at": now + (lease or self._lease), "claim": token},
                    "$inc": {"fence": 1},
                },
            )
            documents = await self._collection.find({"_id": {"$in": list(ids)}, "claim": token}).to_list(
                len(ids)
            )
        return [self._parse(document) for document in documents]

    async def renew(self, claimed: C, *, lease: timedelta | None = None) -> bool:
        """Renew a lease; return False if the document ended or another process claimed it.

        Raises `DatabaseUnavailable`.
        """
        return await self.write(claimed, {"$set": {"due_at": utcnow() + (lease or self._lease)}})

    async def release(self, claimed: C, due_at: datetime) -> bool:
        """Make a claimed document due at this time: now to release it, later to postpone it.

        Return False if the document ended or another process claimed it. Raises `DatabaseUnavailable`.
        """
        return await self.write(claimed, {"$set": {**self._release_fields, "due_at": due_at}})

    async def write(self, claimed: C, update: Mapping[str, Any]) -> bool:
        """Write an outcome while the fence is still that of the claim, and the document is open.

        `update` is an update of the database; without a new `due_at`, the lease goes on. Return False if
        nothing was written. Raises `DatabaseUnavailable`.
        """
        with translate_errors():
            result = await self._collection.update_one({**claimed_query(claimed), **OPEN}, update)
        return bool(result.matched_count)

    @asynccontextmanager
    async def keep(self, claimed: C, *, lease: timedelta | None = None) -> AsyncIterator[None]:
        """Renew the lease while the context lasts, for work that can take longer than a lease.

        Write the outcome after the context: a renewal would replace its due time. The body of the context is
        cancelled, and `LeaseLost` is raised, if another process claims the document; that can happen only
        after MongoDB was unavailable or this process stood still for as long as a lease.
        """
        body = asyncio.current_task()
        lost = False

        async def renew_repeatedly() -> None:
            nonlocal lost
            while True:
                await asyncio.sleep((lease or self._lease).total_seconds() / _RENEWALS_PER_LEASE)
                try:
                    if await self.renew(claimed, lease=lease):
                        continue
                    ended = await self._is_unclaimed_since(claimed)
                except DatabaseUnavailable:
                    continue
                if not ended and body is not None:
                    lost = True
                    body.cancel()
                return

        renewal = asyncio.create_task(renew_repeatedly())
        try:
            yield
        except asyncio.CancelledError:
            # Somebody else may have cancelled the body too: then the cancellation goes on.
            if lost and body is not None and body.uncancel() == 0:
                raise LeaseLost from None
            raise
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    async def _is_unclaimed_since(self, claimed: C) -> bool:
        """Return whether the claim was the last one: the document was ended, for example cancelled."""
        with translate_errors():
            return await self._collection.find_one(claimed_query(claimed), {"_id": 1}) is not None


def claimed_query(claimed: Claimed) -> Document:
    """Return the query that matches a document only until another process claims it."""
    return {"_id": claimed.id, "fence": claimed.fence}


class DueWorker(Generic[C]):
    """Works on due documents: a part of a service, beside those of other processes.

    Up to `max_concurrent` documents are worked on at a time, the longest overdue first; a slow one holds up
    no other. With `workspace_of`, documents of one workspace have at most half of the slots. A document is
    postponed if its work fails: at once for `RetryLater`, and logged as an error for anything else.
    """

    def __init__(
        self,
        work: DueWork[C],
        process: Callable[[C], Awaitable[None]],
        log: Log,
        *,
        name: str,
        poll_interval_s: float,
        backoff: Backoff,
        max_concurrent: int = 1,
        workspace_of: Callable[[C], str] | None = None,
        before_search: Callable[[], Awaitable[None]] | None = None,
        wake: asyncio.Event | None = None,
        stop_timeout_s: float = 10.0,
    ) -> None:
        """Set the work. `process` gets a claimed document and writes its outcome.

        `name` is the first part of log events: `<name>.postponed`, `<name>.failed`. The pauses of `backoff`
        grow with a document's failures in a row in this process. Set `workspace_of` for work that can hang
        because of what a workspace chose. `before_search` runs before each search. Set `wake` when there is
        new work, so that it need not wait for the next poll. `stop` waits up to `stop_timeout_s` for work
        that was started, and cancels it then.
        """
        self._work = work
        self._process = process
        self._log = log
        self._name = name
        self._poll_interval_s = poll_interval_s
        self._retry_interval_s = min(poll_interval_s, _MAX_RETRY_INTERVAL_S)
        self._backoff = backoff
        self._max_concurrent = max_concurrent
        self._workspace_of = workspace_of
        self._limits = WorkspaceLimits(max(1, max_concurrent // 2))
        self._postponed_to: dict[str, datetime] = {}
        """Time to which the last document without a slot was postponed, by workspace."""
        self._before_search = before_search
        self._stop_timeout_s = stop_timeout_s
        self._failures: dict[str, int] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._wake = wake or asyncio.Event()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Start nothing more, and finish what was started. What takes too long is cancelled: due later."""
        self._stopping = True
        self._wake.set()
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)
        if self._running:
            _, late = await asyncio.wait(set(self._running.values()), timeout=self._stop_timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                pause_s = await self._start_due()
            except DatabaseUnavailable as error:
                self._log.warning(f"{self._name}.database_unavailable", error=str(error))
                pause_s = self._retry_interval_s
            except Exception as error:  # noqa: BLE001 -- one failed search must not be the last
                self._log.error(f"{self._name}.search_failed", exc_info=error)
                pause_s = self._retry_interval_s
            if not self._stopping:
                try:
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _start_due(self) -> float:
        """Start the work that is due; return the seconds until more may be."""
        if self._before_search is not None:
            await self._before_search()
        if len(self._running) >= self._max_concurrent:
            return self._poll_interval_s  # work that ends sets `wake`
        # What is due before the next poll is found too: the pause ends with it.
        items = await self._work.find_due(2 * self._max_concurrent, within_s=self._poll_interval_s)
        now = utcnow()
        for item in items:
            if item.due_at > now:
                return (item.due_at - now).total_seconds()
            if self._stopping or len(self._running) >= self._max_concurrent:
                break
            # Its lease may have ended while this process still works on it.
            if item.id not in self._running:
                self._running[item.id] = asyncio.create_task(self._claim_and_process(item.id))
        return self._poll_interval_s

    async def _claim_and_process(self, item_id: str) -> None:
        claimed: C | None = None
        try:
            claimed = await self._work.claim(item_id)
            if claimed is not None:
                await self._process_in_slot(claimed)
        except LeaseLost:
            self._log.warning(f"{self._name}.lease_lost", id=item_id)
        except RetryLater as error:
            self._log.info(f"{self._name}.postponed", id=item_id, error=str(error))
            await self._postpone(item_id, claimed, min_pause_s=error.retry_after)
        except Exception as error:  # noqa: BLE001 -- one failure must not stop the others
            self._log.error(f"{self._name}.failed", id=item_id, exc_info=error)
            await self._postpone(item_id, claimed)
        else:
            self._failures.pop(item_id, None)
            self._wake.set()  # more may be due
        finally:
            del self._running[item_id]

    async def _process_in_slot(self, claimed: C) -> None:
        """Process a document, or postpone it if its workspace has its share of the slots."""
        if self._workspace_of is None:
            return await self._process(claimed)
        workspace = self._workspace_of(claimed)
        if self._limits.is_full(workspace):
            now = utcnow()
            due_at = max(now + _BUSY_PAUSE, self._postponed_to.get(workspace, now) + _BUSY_SPACING)
            self._postponed_to[workspace] = due_at
            await self._work.release(claimed, due_at)
            return None
        async with self._limits.hold(workspace):
            return await self._process(claimed)

    async def _postpone(self, item_id: str, claimed: C | None, *, min_pause_s: float = 0.0) -> None:
        if claimed is None:  # not even the claim succeeded: the next poll tries again
            return
        if len(self._failures) > _MAX_COUNTED_FAILURES:
            self._failures.clear()
        failures = self._failures[item_id] = self._failures.get(item_id, 0) + 1
        pause_s = max(min_pause_s, self._backoff.pause_s(failures))
        try:
            await self._work.release(claimed, utcnow() + timedelta(seconds=pause_s))
        except DatabaseUnavailable as error:  # it is due again when its lease ends
            self._log.warning(f"{self._name}.database_unavailable", error=str(error))
        self._wake.set()
