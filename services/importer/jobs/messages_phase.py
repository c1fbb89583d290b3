"""Publish the messages of an import, part by part.

A part counts when all of its batches are settled. A process that takes over repeats what follows the last one
that counts: its batches have the same ids, and their messages too.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from time import monotonic
from typing import Final

from services.importer.accounts.account_calls import CallWaits
from services.importer.accounts.account_reader import AccountReader
from services.importer.accounts.walk import Walk
from services.importer.files.attachments import FilePlanner, UnitFiles
from services.importer.jobs.account_waits import AccountWaits, account_waits
from services.importer.jobs.known_messages import KnownMessages
from services.importer.jobs.message_items import MessageItems
from services.importer.jobs.part import Part
from services.importer.jobs.run_context import RunContext
from services.importer.jobs.samples import Samples
from services.importer.jobs.selection import Selection
from services.importer.jobs.source_parts import SourceParts
from services.importer.publish.outlet import MAX_PENDING
from services.importer.reading.protocol import SourcePart
from shared.contracts.history import HISTORY_MESSAGES
from shared.manifests.channel_types import ChannelFailure

_COMMITTED_AT_ONCE: Final = 50
_TURN_S: Final = 120.0
"""After this time, an import of an account lets those take a turn that wait for this process."""


class MessagesPhase:
    """Publishes what a plan selects, from the job's position on."""

    def __init__(self, run: RunContext, selection: Selection, planner: FilePlanner) -> None:
        self._run = run
        self._planner = planner
        self._selection = selection
        self._pending: deque[Part] = deque()
        self._samples = Samples(run.stores.contents, run.job.id) if run.job.is_dry_run else None
        self._items = MessageItems(selection, KnownMessages(run, self._pending), self._samples)
        self._done = run.job.done
        self._started = monotonic()

    async def publish(self) -> None:
        """Publish all parts, and store each as done.

        Raises `Stopped` and `Unreadable`, and `AccountWaits` if a connected account has to wait.
        """
        run = self._run
        until = monotonic() + _TURN_S
        waits: AccountWaits | None = None
        try:
            async with aclosing(SourceParts(run, self._selection).read()) as parts:
                async for found in parts:
                    part = await self._publish(found)
                    self._pending.append(part)
                    await self._commit_until(MAX_PENDING)
                    if part.walk is not None and monotonic() > until and not run.job.is_dry_run:
                        waits = AccountWaits(0.0)
                        break
        except (CallWaits, ChannelFailure) as error:
            waits = account_waits(error)
        await self._commit_until(0)
        if waits is not None:
            if isinstance(run.source, AccountReader):
                await run.progress.write({"walk": self._walk(run.source.walk)})
            raise waits

    async def _publish(self, found: SourcePart) -> Part:
        """Publish the messages of a part, and return it with what became of its records."""
        run = self._run
        part = Part(
            found.position,
            found.offset,
            found.end_position,
            found.end_offset,
            found.name,
            self._selection.targets[found.conversation],
            UnitFiles(self._planner, found.position),
            records=len(found.lines),
            size=found.size,
            walk=found.walk,
            read_at=found.read_at,
        )
        made = list(
            run.batches.make(
                HISTORY_MESSAGES,
                "messages",
                await self._items.make(part, found.lines),
                # With its end, too: after a reader process has ended, parts are shorter.
                part.place,
                f"{part.end_position:08d}:{part.end_offset:08d}",
                channel_id=part.target.channel_id,
                source=part.target.source,
                conversation=part.target.conversation,
                part=part.record_id(run.job.run_id),
            )
        )
        part.batches = [batch.id for batch in made]
        part.next_number = run.batches.next_number
        part.counts["kafka.records"] += len(made)
        part.counts["kafka.bytes"] += sum(batch.kafka_bytes for batch in made)
        await run.outlet.put(made)
        return part

    # Storing

    async def _commit_until(self, limit: int) -> None:
        """Store parts as done until what is pending weighs no more than `limit` batches.

        Without the limit, all that follows a batch that the chat never confirms would be in memory. Raises
        `Stopped`.
        """
        await self._commit_settled()
        while sum(part.weight for part in self._pending) > limit:
            await self._run.outlet.flush()  # what is not published never settles
            await self._run.outlet.poll()
            await self._commit_settled()

    async def _commit_settled(self) -> None:
        """Store the first parts as done if their batches are settled, at most 50 at a time."""
        outlet = self._run.outlet
        while self._pending:
            ready: list[Part] = []
            while (
                self._pending
                and len(ready) < _COMMITTED_AT_ONCE
                and outlet.is_settled(self._pending[0].batches)
            ):
                part = self._pending.popleft()
                outcomes = outlet.outcomes(part.batches)
                part.settle(
                    [message_id for record in outcomes for message_id in record.duplicates],
                    [pair for record in outcomes for pair in record.rejected],
                )
                ready.append(part)
            if not ready:
                return
            # A commit in progress is completed also if the import is cancelled meanwhile.
            await asyncio.shield(self._commit(ready))

    async def _commit(self, parts: Sequence[Part]) -> None:
        """Store parts as done: first the parts, their files and issues, then the position behind them."""
        run, job, last = self._run, self._run.job, parts[-1]
        is_ledger = not job.is_dry_run
        records = [part.record(job.run_id, job.workspace, is_ledger=is_ledger) for part in parts]
        if is_ledger:
            await run.stores.files.add([file for part in parts for file in part.files.records()])
        await run.stores.units.store(records)
        increments: dict[str, int] = {}
        for part in parts:
            await run.list_issues(part.place, part.issues)
            for name, number in part.increments().items():
                key = f"{job.counted}.{name}"
                increments[key] = increments.get(key, 0) + number
        done = sum(map(_done, parts))
        self._done += done
        if self._samples is not None:
            await self._samples.store(
                {part.target.conversation: part.target.position for part in parts},
                {part.target.conversation for part in self._pending},
            )
        await run.progress.write(
            {
                "position": last.end_position,
                "offset": last.end_offset,
                "next_number": last.next_number,
                "confirms": run.outlet.confirms,
                "estimated_s": self._remaining_s(),
                **({} if last.walk is None else {"walk": self._walk(last.walk)}),
            },
            increments | {"issues": sum(len(part.issues) for part in parts), "done": done},
        )
        await run.outlet.forget([batch for part in parts for batch in part.batches])
        if not job.is_dry_run:
            read = {part.target.source: part.read_at for part in parts if part.read_at}
            await run.stores.marks.store(job.workspace, run.plan.digest, read)

    def _walk(self, walk: Walk) -> Walk:
        """Return what is stored of a place: after a dry run, the import begins at the first page."""
        return Walk(limiter=walk.limiter) if self._run.job.is_dry_run else walk

    def _remaining_s(self) -> int | None:
        """Return how many seconds the rest takes at the pace of this run."""
        done, total = self._done - self._run.job.done, self._run.job.total
        if not total or done <= 0:
            return None
        return round((monotonic() - self._started) * max(0, total - self._done) / done)


def _done(part: Part) -> int:
    """Return by how much a part moves the progress on: of an account, whole conversations count."""
    if part.walk is not None:
        return int(part.walk.cursor is None)
    return part.size
