"""The first phases of an import: people, channels, and the messages of one unit after another.

A unit counts when all of its batches are settled. A process that takes over repeats the units after the last
one that counts: their batches have the same ids, and their messages too.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from services.importer.accounts.account_calls import CallWaits
from services.importer.accounts.account_reader import AccountReader
from services.importer.files.attachments import Addresses, FilePlanner, UnitFiles
from services.importer.files.records import ImportFiles
from services.importer.jobs.account_waits import AccountWaits, account_waits
from services.importer.jobs.files_step import FileLimits
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.plan import Plan
from services.importer.jobs.progress import Progress, Stopped, increments_of
from services.importer.jobs.selection import DUPLICATE, FOUND, SELECTED, Selection, UnitResult
from services.importer.jobs.source_readers import SourceReaders
from services.importer.publish.confirmations import Confirmations
from services.importer.publish.history_batches import BatchFactory
from services.importer.publish.outlet import Outlet
from services.importer.reading.message_lines import Names
from services.importer.reading.reader_process import ReaderProcess
from services.importer.store.contents import Contents
from services.importer.store.issues import MAX_ISSUES, IssueRecord, Issues
from services.importer.store.marks import Marks
from services.importer.store.units import UnitRecord, Units, packed
from shared.contracts.history import HISTORY_CHANNELS, HISTORY_MESSAGES, HISTORY_USERS
from shared.manifests.channel_types import ChannelFailure
from shared.manifests.history_types import Contents as ExportContents
from shared.manifests.history_types import Unit, Unreadable
from shared.runtime.jobs import JobFailed, Jobs, StepResult
from shared.runtime.kafka.producer import Producer

_COMMITTED_AT_ONCE: Final = 50
_STALLED_S: Final = 30.0
_TURN_S: Final = 120.0
"""After this time, an import of an account lets those take a turn that wait for this process."""
_MAX_SAMPLES: Final = 10
_MAX_RESTARTS: Final = 20
"""A unit that ends the reader process costs only itself, and a new process."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Where an import stores what it has done."""

    units: Units
    issues: Issues
    contents: Contents
    confirmations: Confirmations
    files: ImportFiles
    marks: Marks


class RunStep:
    """Runs imports, and dry runs, which publish and store nothing but their counts."""

    def __init__(
        self,
        jobs: Jobs[ImportJob],
        readers: SourceReaders,
        stores: Stores,
        producer: Producer,
        addresses: Addresses,
        limits: FileLimits,
        *,
        messages_per_second: int,
    ) -> None:
        self._jobs = jobs
        self._readers = readers
        self._stores = stores
        self._producer = producer
        self._addresses = addresses
        self._limits = limits
        self._messages_per_second = messages_per_second

    async def run(self, job: ImportJob) -> StepResult:
        """Run an import to the end of its messages. Raises `JobFailed`, and `RetryLater` to go on later."""
        try:
            async with await self._readers.open(job) as reader:
                plan = Plan.model_validate(job.plan)
                found = await reader.contents(plan.answers)
                selection = Selection(plan, found, job.workspace)
                progress = Progress(self._jobs, job)
                planner = self._planner(job, plan, found)
                run = _Run(job, reader, found, selection, self._stores, progress, planner)
                return await (run.try_out() if job.is_dry_run else run.publish(self.outlet(job)))
        except Unreadable as error:
            raise JobFailed(str(error)) from None
        except Stopped:
            return StepResult()
        except AccountWaits as waits:
            return waits.result()
        except (CallWaits, ChannelFailure) as error:
            return account_waits(error).result()

    def _planner(self, job: ImportJob, plan: Plan, found: ExportContents) -> FilePlanner:
        return FilePlanner(
            None if job.is_dry_run else self._addresses,
            import_id=job.id,
            workspace=job.workspace,
            provider=found.provider,
            account=found.account,
            mode=plan.files.mode,
            max_bytes=plan.files.max_bytes,
            expires_at=self._limits.expiry_of(job),
            planned=job.counts.get("files", {}).get("found", 0) if job.position else 0,
        )

    def outlet(self, job: ImportJob) -> Outlet:
        """Return the way of a job's batches to the chat."""
        return Outlet(
            self._producer,
            self._stores.confirmations,
            workspace=job.workspace,
            import_id=job.id,
            messages_per_second=self._messages_per_second,
            confirms=job.confirms,
        )


class _Run:
    """One run of one import, by one process."""

    def __init__(
        self,
        job: ImportJob,
        reader: ReaderProcess | AccountReader,
        contents: ExportContents,
        selection: Selection,
        stores: Stores,
        progress: Progress,
        planner: FilePlanner,
    ) -> None:
        self._job = job
        self._reader = reader
        self._contents = contents
        self._selection = selection
        self._stores = stores
        self._progress = progress
        self._planner = planner
        self._listed = job.issues
        self._batches = BatchFactory(job.id, job.next_number)
        self._has_earlier: dict[str, bool] = {}
        self._restarts = 0

    async def publish(self, outlet: Outlet) -> StepResult:
        """Publish everything that is selected."""
        if self._job.step == "people":
            await self._publish_frame(outlet)
        await self._use_names()
        pending: deque[UnitResult] = deque()
        until = monotonic() + _TURN_S
        waits: AccountWaits | None = None
        try:
            async with aclosing(self._results(outlet)) as results:
                async for result in results:
                    pending.append(result)
                    await self._commit_settled(outlet, pending)
                    if result.walk is not None and monotonic() > until:
                        waits = AccountWaits(0.0)
                        break
        except (CallWaits, ChannelFailure) as error:
            waits = account_waits(error)
        await outlet.flush()
        while pending:
            await outlet.poll()
            await self._commit_settled(outlet, pending)
            if pending and outlet.waiting_s > _STALLED_S:
                await self._progress.wait_for("the chat to confirm batches (history.stored): see its log")
        if waits is not None:
            if isinstance(self._reader, AccountReader):
                await self._progress.write({"walk": self._reader.walk})
            raise waits
        return StepResult(changes={"step": "files", "confirms": outlet.confirms})

    async def try_out(self) -> StepResult:
        """Count what the import would do, with samples of each channel."""
        await self._use_names()
        samples: dict[str, list[dict[str, Any]]] = {}
        positions = {item.id: at for at, item in enumerate(self._contents.conversations)}
        total: dict[str, int] = {}
        async for result in self._results(None, samples):
            result.settle((), ())
            for name, number in increments_of([result]).items():
                key = name.removeprefix("counts.").removeprefix("messages.")
                total[key] = total.get(key, 0) + number
            await self._progress.write({"position": result.position + 1})
        by_position = {positions[conversation]: found for conversation, found in samples.items()}
        await self._stores.contents.set_results(
            self._job.id, {position: {"samples": found} for position, found in by_position.items()}
        )
        if isinstance(self._reader, AccountReader):
            total["estimated_s"] = round(self._reader.walk.sampled_s(len(self._selection.targets)) or 0)
        changes = {"stage": "ready", "is_dry_run": False, "position": 0, "trial": total}
        return StepResult(waits=True, changes=changes)

    async def _publish_frame(self, outlet: Outlet) -> None:
        """Publish people and channels, and wait until they are settled."""
        users, channels = self._selection.user_items(), self._selection.channel_items()
        made = [
            *self._batches.make(HISTORY_USERS, "users", users, "users"),
            *self._batches.make(HISTORY_CHANNELS, "channels", channels, "channels"),
        ]
        await outlet.put(made)
        await outlet.flush()
        ids = [batch.id for batch in made]
        while not outlet.is_settled(ids):
            await outlet.poll()
            await self._progress.write({})
        targets = self._selection.targets
        selected = [unit for unit in self._contents.units if unit.conversation in targets]
        total = len(targets) if isinstance(self._reader, AccountReader) else len(selected)
        await self._progress.write(
            {
                "step": "messages",
                "next_number": self._batches.next_number,
                "confirms": outlet.confirms,
                "total": total,
                "counts": {
                    "people": {"found": len(self._contents.people), "imported": len(users)},
                    "channels": {"found": len(self._contents.conversations), "imported": len(channels)},
                },
            }
        )

    async def _use_names(self) -> None:
        targets = self._selection.targets
        await self._reader.use_names(
            Names(
                users=self._selection.users,
                people={item.person.id: item.person.name for item in self._contents.people},
                channels={key: target.channel_id for key, target in targets.items()},
                conversations={item.id: item.name for item in self._contents.conversations},
            )
        )

    async def _results(
        self, outlet: Outlet | None, samples: dict[str, list[dict[str, Any]]] | None = None
    ) -> AsyncGenerator[UnitResult]:
        """Yield the units that are selected, from the job's position on, published but not settled."""
        first = 0 if outlet is None else self._job.position
        targets = self._selection.targets
        async for position, unit in self._reader.units(self._contents, targets, first):
            target = targets[unit.conversation]
            result = UnitResult(position, target, UnitFiles(self._planner, position))
            part = 0
            async for messages in self._chunks(unit, result):
                if samples is not None:
                    known = samples.setdefault(unit.conversation, [])
                    known.extend(messages[: _MAX_SAMPLES - len(known)])
                if outlet is not None and messages:
                    made = list(
                        self._batches.make(
                            HISTORY_MESSAGES,
                            "messages",
                            messages,
                            str(position),
                            str(part),
                            channel_id=target.channel_id,
                        )
                    )
                    result.batches += [batch.id for batch in made]
                    await outlet.put(made)
                part += 1
            result.next_number = self._batches.next_number
            if isinstance(self._reader, AccountReader):
                result.walk, result.read_at = self._reader.walk, self._reader.read_at
            yield result

    async def _chunks(self, unit: Unit, result: UnitResult) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the messages of a unit to add, some at a time."""
        try:
            async for lines in self._reader.read(unit):
                yield await self._selected(lines, unit, result)
        except Unreadable as error:
            result.fail(unit.id, str(error), "", unit.day or "")
            if isinstance(self._reader, ReaderProcess) and not self._reader.is_alive:
                await self._restart(self._reader)

    async def _restart(self, reader: ReaderProcess) -> None:
        """Go on with a new process behind a unit that ended the last one. Raises `Unreadable`."""
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            raise JobFailed(f"{self._restarts} parts of the export ended its reader process: export it again")
        await reader.restart()
        await reader.contents(self._selection.plan.answers)
        await self._use_names()

    async def _selected(
        self, lines: Sequence[dict[str, Any]], unit: Unit, result: UnitResult
    ) -> list[dict[str, Any]]:
        selection, target = self._selection, result.target
        earlier = await self._earlier_ids(target.source, lines)
        messages = []
        for line in lines:
            result.count(FOUND, day := _day(line, unit, selection))
            if "s" in line:
                result.skip(line["s"], day)
                continue
            if "b" in line:
                broken = line["b"]
                result.fail(broken["place"], broken["reason"], broken["record"], day)
                continue
            message = line["m"]
            if (reason := selection.refusal(message)) is not None:
                result.skip(reason, day)
                result.files.skip(message)
                continue
            result.count(SELECTED, day)
            message_id = selection.message_id(unit.conversation, message["id"])
            if message_id in result.added or packed(message_id) in earlier:
                result.count(DUPLICATE, day)
                result.files.repeat(message)
                continue
            result.added[message_id] = (day, message["at"])
            item = selection.message(message, message_id, unit.conversation)
            if attachments := result.files.attach(message, message_id):
                item["attachments"] = attachments
            messages.append(item)
        return messages

    async def _earlier_ids(self, source: str, lines: Sequence[dict[str, Any]]) -> set[bytes]:
        """Return the ids that other imports added of a conversation in the time of these messages."""
        units, job = self._stores.units, self._job
        if source not in self._has_earlier:
            self._has_earlier[source] = await units.has_source(job.workspace, source, other_than=job.id)
        times = [line["m"]["at"] for line in lines if "m" in line]
        if not times or not self._has_earlier[source]:
            return set()
        return await units.ids_between(job.workspace, source, min(times), max(times), other_than=job.id)

    async def _commit_settled(self, outlet: Outlet, pending: deque[UnitResult]) -> None:
        """Store the units at the front whose batches are settled, at most 50 at a time."""
        while pending:
            ready: list[UnitResult] = []
            while pending and len(ready) < _COMMITTED_AT_ONCE and outlet.is_settled(pending[0].batches):
                result = pending.popleft()
                outcomes = outlet.outcomes(result.batches)
                result.settle(
                    [message_id for record in outcomes for message_id in record.duplicates],
                    [pair for record in outcomes for pair in record.rejected],
                )
                ready.append(result)
            if not ready:
                return
            await self._commit(ready, outlet.confirms)

    async def _commit(self, results: Sequence[UnitResult], confirms: bool | None) -> None:
        """Store units as done: first the units, files and issues, then the position behind them."""
        job = self._job
        await self._stores.files.add([file for result in results for file in result.files.records()])
        await self._stores.units.store([_record(job, result) for result in results])
        issues = [issue for result in results for issue in _issues(job, result)]
        await self._stores.issues.store(issues[: max(0, MAX_ISSUES - self._listed)])
        self._listed += len(issues)
        await self._progress.write(
            {
                "position": results[-1].position + 1,
                "next_number": results[-1].next_number,
                "confirms": confirms,
                "walk": results[-1].walk,
            },
            increments_of(results) | {"issues": len(issues), "done": sum(map(_is_done, results))},
        )
        await self._stores.confirmations.remove([batch for result in results for batch in result.batches])
        read = {result.target.source: result.read_at for result in results if result.read_at}
        await self._stores.marks.store(job.workspace, self._selection.plan.digest, read)


def _is_done(result: UnitResult) -> bool:
    """Return whether a unit counts in the progress: of an account, these are whole conversations."""
    return result.walk is None or result.walk.cursor is None


def _day(line: dict[str, Any], unit: Unit, selection: Selection) -> str:
    return selection.day_of(line["m"]["at"]) if "m" in line else unit.day or ""


def _issues(job: ImportJob, result: UnitResult) -> list[IssueRecord]:
    return [
        IssueRecord(
            id=f"{job.id}:{result.position:08d}:{number:06d}",
            import_id=job.id,
            workspace=job.workspace,
            place=place[:300],
            reason=reason[:500],
            record=record[:1000],
        )
        for number, (place, reason, record) in enumerate(result.issues)
    ]


def _record(job: ImportJob, result: UnitResult) -> UnitRecord:
    times = [at for _, at in result.added.values()]
    days: dict[str, dict[str, Any]] = {}
    for day, counts in result.days.items():
        days[day] = dict(counts)
        if digest := result.digests.get(day):
            days[day]["digest"] = digest
            own = [at for found, at in result.added.values() if found == day]
            days[day] |= {"first": min(own), "last": max(own)}
    return UnitRecord(
        id=f"{job.id}:{result.position:08d}",
        import_id=job.id,
        workspace=job.workspace,
        position=result.position,
        source=result.target.source,
        conversation=result.target.conversation.id,
        channel_id=result.target.channel_id,
        first=min(times, default=0.0),
        last=max(times, default=0.0),
        ids=b"".join(packed(message_id) for message_id in result.added),
        days=days,
    )
