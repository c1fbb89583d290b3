"""The undo of an import: it takes away the messages of its ledger, then channels and people of nobody else.

What other imports have found, too, is left to one of them if a person wants so. Otherwise these imports get a
warning: their reports say that these messages are in the chat.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import orjson

from services.importer.files.cleanup import FileCleanup
from services.importer.jobs.contents_withdrawal import ContentsWithdrawal
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.ledger import Ledger, added, in_flight_part
from services.importer.jobs.new_contents import NewContents
from services.importer.jobs.progress import Progress, Stopped
from services.importer.jobs.run_context import Stores
from services.importer.jobs.run_step import Outlets
from services.importer.publish.broker_memory import BrokerFull
from services.importer.publish.confirmations import BatchRecord
from services.importer.publish.history_batches import BatchFactory, Item
from services.importer.publish.outlet import MAX_PENDING, Outlet
from services.importer.store.unit_record import (
    MARK_BYTES,
    Claims,
    Undone,
    UnitRecord,
    add_digest,
    packed,
    split_ids,
    unpacked,
)
from shared.contracts.history import HISTORY_WITHDRAWN
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import failpoint
from shared.runtime.jobs import JobFailed, StepResult

_IN_FLIGHT: Final = timedelta(seconds=15)
"""A batch that was announced so long ago is published by now, or never: longer than a send may take."""
_STOPPED: Final = timedelta(seconds=5)
"""So long after the undo was asked for, the process that had the import has stored its last parts."""
_PAUSE_S: Final = 1.0


class UndoStep:
    """Withdraws what imports have added."""

    def __init__(
        self,
        imports: Imports,
        outlets: Outlets,
        stores: Stores,
        ledger: Ledger,
        contents: NewContents,
        cleanup: FileCleanup,
    ) -> None:
        self._imports = imports
        self._outlets = outlets
        self._stores = stores
        self._ledger = ledger
        self._contents = contents
        self._cleanup = cleanup

    async def run(self, job: ImportJob) -> StepResult:
        """Withdraw the messages of one part after another. A repeated step goes on behind the last one."""
        progress = Progress(self._imports, job)
        outlet = self._outlets.outlet(job, progress)
        batches = BatchFactory(job.id, job.next_number)
        run = _Undo(job, self._imports, self._stores, progress, outlet, batches)
        contents = ContentsWithdrawal(job, self._imports, self._contents, outlet, batches)
        try:
            await run.count()
            await run.withdraw()
            await self._add_in_flight(job, progress)
            # Also what the process that had the import has stored meanwhile.
            await run.withdraw()
            removed = await contents.withdraw()
        except BrokerFull as error:
            raise JobFailed(str(error)) from None
        except Stopped:
            return StepResult()
        await self._cleanup.delete_marked()
        await run.count()
        remaining = await self._stores.units.count_added(job.id)
        changes = {"stage": "undone", "remaining": remaining, "confirms": outlet.confirms, **removed}
        return StepResult(finished=True, changes=changes)

    async def _add_in_flight(self, job: ImportJob, progress: Progress) -> None:
        """Add what was under way when the import was stopped to the ledger.

        The chat gets a withdrawal behind these batches, so it does not matter what it has stored of them.
        """
        confirmations = self._stores.confirmations
        while unsettled := await confirmations.unsettled(job.id):
            now = utcnow()
            are_sent = all(batch.confirmed or now - batch.announced_at >= _IN_FLIGHT for batch in unsettled)
            if are_sent and now - job.queued_at >= _STOPPED:
                break
            await asyncio.sleep(_PAUSE_S)
            await progress.check_turn()
        batches = await self._ledger.in_flight(job.id)
        await self._stores.units.store([_unit(job, batch) for batch in batches if added(batch)])
        await confirmations.remove([batch.id for batch in unsettled])


@dataclass(frozen=True, slots=True)
class _Withdrawal:
    """A part of the ledger that is withdrawn: the messages, who else has found them, and the batches."""

    record: UnitRecord
    ids: Sequence[str]
    claims: Claims
    batches: Sequence[str]
    next_number: int


class _Undo:
    """One undo of one import, by one process."""

    def __init__(
        self,
        job: ImportJob,
        imports: Imports,
        stores: Stores,
        progress: Progress,
        outlet: Outlet,
        batches: BatchFactory,
    ) -> None:
        self._job = job
        self._imports = imports
        self._stores = stores
        self._progress = progress
        self._outlet = outlet
        self._batches = batches
        self._cursor = job.cursor or ""
        self._pending: deque[_Withdrawal] = deque()
        self._has_others: dict[str, bool] = {}
        self._undone = Undone(0, Counter(), Counter())

    async def count(self) -> None:
        """Raise the numbers of the imports to those of the ledger: a process may have ended before it did."""
        job, imports = self._job, self._imports
        undone = self._undone = await self._stores.units.undone(job.id)
        await imports.raise_to(job.id, {"withdrawn": undone.withdrawn, "left": undone.left.total()})
        for heir, number in undone.left.items():
            await self._raise_share(heir, "inherited_from", number)
        for other, number in undone.lost.items():
            await self._raise_share(other, "lost_by", number)

    async def _raise_share(self, import_id: str, field: str, number: int) -> None:
        """Raise what another import has by this undo, or has lost."""
        await self._imports.raise_to(import_id, {f"{field}.{self._job.id}": number})

    async def withdraw(self) -> None:
        """Withdraw the parts behind the cursor. Raises `Stopped`."""
        while page := await self._stores.units.read(self._job.id, after=self._cursor):
            for record in page:
                if record.ids:
                    self._pending.append(await self._published(record))
                    await self._commit_until(MAX_PENDING)
                elif record.duplicates:
                    await self._stores.units.withdraw(record.id, (), ())
            await self._stores.marks.remove(self._job.workspace, {record.source for record in page})
            self._cursor = page[-1].id
        await self._commit_until(0)

    async def _published(self, record: UnitRecord) -> _Withdrawal:
        """Publish the withdrawal of a part, without the messages that it leaves to other imports."""
        claims = await self._claims(record)
        packed_ids: Sequence[bytes] = split_ids(record.ids)
        if self._job.keep_shared:
            packed_ids, claims = await self._leave(record, claims), []
        ids = [*map(unpacked, packed_ids)]
        made = list(
            self._batches.make(
                HISTORY_WITHDRAWN,
                "message_ids",
                [
                    Item(orjson.dumps(message_id), packed_id)
                    for message_id, packed_id in zip(ids, packed_ids, strict=True)
                ],
                record.id,
                add_digest("", packed_ids),
                channel_id=record.channel_id,
                source=record.source,
                part=record.id,
                keep_answered=self._job.keep_answered,
                added_by=[record.adder],
            )
        )
        await self._outlet.put(made)
        batches = [batch.id for batch in made]
        return _Withdrawal(record, ids, claims, batches, self._batches.next_number)

    async def _claims(self, record: UnitRecord) -> Claims:
        """Return which messages of a part other imports have found, too."""
        units, job = self._stores.units, self._job
        if record.source not in self._has_others:
            self._has_others[record.source] = bool(record.source) and await units.has_source(
                job.workspace, record.source, other_than=job.id
            )
        if not self._has_others[record.source]:
            return []
        return await units.claims_between(
            job.workspace,
            record.source,
            record.first,
            record.last,
            other_than=job.id,
            among=set(split_ids(record.ids)),
        )

    async def _leave(self, record: UnitRecord, claims: Claims) -> Sequence[bytes]:
        """Leave the messages of a part that other imports have found to these; return the others."""
        remaining = dict.fromkeys(split_ids(record.ids))
        for heir, claimed in claims:
            left = [packed_id for packed_id in remaining if packed_id in claimed]
            if left:
                for packed_id in left:
                    del remaining[packed_id]
                # A part in progress is completed also if the undo is stopped meanwhile.
                await asyncio.shield(self._leave_to(heir, record, set(left)))
        return list(remaining)

    async def _leave_to(self, heir: str, record: UnitRecord, ids: set[bytes]) -> None:
        number = await self._stores.units.leave(record, ids, heir)
        failpoint("undo.left")
        self._undone.left[heir] += number
        await self._raise_share(heir, "inherited_from", self._undone.left[heir])
        await self._progress.write({}, {"left": number})

    async def _commit_until(self, limit: int) -> None:
        """Take parts out of the ledger until what is pending weighs no more than `limit` batches.

        Raises `Stopped`.
        """
        await self._commit_settled()
        while sum(max(1, len(part.batches)) for part in self._pending) > limit:
            await self._outlet.flush()
            await self._outlet.poll()
            await self._commit_settled()

    async def _commit_settled(self) -> None:
        while self._pending and self._outlet.is_settled(self._pending[0].batches):
            await asyncio.shield(self._commit(self._pending.popleft()))

    async def _commit(self, done: _Withdrawal) -> None:
        """Take the messages out of the ledger that the chat has deleted; those that it rejects stay."""
        outcomes = self._outlet.outcomes(done.batches)
        retained = {message_id for outcome in outcomes for message_id, _ in outcome.rejected}
        # Before the ids are gone: a repeated step finds them again.
        withdrawn = [message_id for message_id in done.ids if message_id not in retained]
        await self._stores.files.withdraw(self._job.workspace, withdrawn)
        removed = await self._stores.units.withdraw(done.record.id, set(map(packed, withdrawn)), done.claims)
        failpoint("undo.withdrawn")
        for other, claimed in done.claims:
            if number := len(claimed & removed):
                self._undone.lost[other] += number
                await self._raise_share(other, "lost_by", self._undone.lost[other])
        # Behind the part: one that is withdrawn already has no ids left when the step is repeated.
        await self._progress.write(
            {
                "cursor": done.record.id,
                "next_number": done.next_number,
                "confirms": self._outlet.confirms,
            },
            {"withdrawn": len(removed), "done": len(removed)},
        )
        await self._outlet.forget(done.batches)


def _unit(job: ImportJob, batch: BatchRecord) -> UnitRecord:
    """Return a batch that was under way as a part of the ledger. The times of its messages are unknown."""
    ids = added(batch)
    return UnitRecord(
        id=in_flight_part(batch),
        import_id=job.id,
        workspace=job.workspace,
        position=0,
        source=batch.source,
        conversation=batch.conversation,
        channel_id=batch.channel_id,
        first=float("-inf"),
        last=float("inf"),
        added=len(ids),
        ids=b"".join(ids),
        marks=bytes(MARK_BYTES * len(ids)),
        days={},
    )
