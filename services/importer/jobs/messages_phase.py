"""Publish the messages of an import, part by part.

A part counts when all of its batches are settled. A process that takes over repeats what follows the last one
that counts: its batches have the same ids, and their messages too.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any, Final

import orjson

from services.importer.accounts.account_calls import CallWaits
from services.importer.accounts.account_reader import AccountReader
from services.importer.accounts.walk import Walk
from services.importer.files.attachments import FilePlanner, UnitFiles
from services.importer.jobs.account_waits import AccountWaits, account_waits
from services.importer.jobs.part import FOUND, SELECTED, UNKNOWN_DAY, Known, Part
from services.importer.jobs.run_context import RunContext
from services.importer.jobs.selection import Selection, mark_of
from services.importer.publish.history_batches import MAX_ITEM_BYTES, Item
from services.importer.reading.confined_process import ProcessEnded
from services.importer.reading.protocol import SourcePart
from services.importer.reading.reader_process import ReaderProcess
from services.importer.store.units import has_mark, packed
from shared.contracts.history import HISTORY_MESSAGES, MAX_BATCH_BYTES
from shared.manifests.channel_types import ChannelFailure
from shared.runtime.jobs import JobFailed

_COMMITTED_AT_ONCE: Final = 50
_TURN_S: Final = 120.0
"""After this time, an import of an account lets those take a turn that wait for this process."""
_MAX_SAMPLES: Final = 10
_MAX_RESTARTS: Final = 20
"""A unit that ends the reader process costs only itself, and a new process."""
_MAX_SAMPLE_BYTES: Final = 8_000
"""A larger sample is shown without reactions and files: a page has those of 500 channels."""
_MAX_SAMPLE_TEXT: Final = 2_000

Line = Mapping[str, Any]


class MessagesPhase:
    """Publishes what a plan selects, from the job's position on."""

    def __init__(self, run: RunContext, selection: Selection, planner: FilePlanner) -> None:
        self._run = run
        self._planner = planner
        self._selection = selection
        self._pending: deque[Part] = deque()
        self._has_others: dict[str, bool] = {}
        self._read_until: dict[str, float] = {}
        """The Unix time of the last message of each conversation in earlier parts."""
        self._samples: dict[str, list[dict[str, Any]]] = {}
        self._restarts = 0
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
            async with aclosing(self._parts()) as parts:
                async for part in parts:
                    self._pending.append(part)
                    await self._commit_settled()
                    if part.walk is not None and monotonic() > until and not run.job.is_dry_run:
                        waits = AccountWaits(0.0)
                        break
        except (CallWaits, ChannelFailure) as error:
            waits = account_waits(error)
        await run.outlet.flush()
        while self._pending:
            await run.outlet.poll()
            await self._commit_settled()
        if waits is not None:
            if isinstance(run.source, AccountReader):
                await run.progress.write({"walk": self._walk(run.source.walk)})
            raise waits

    # Reading

    async def _parts(self) -> AsyncGenerator[Part]:
        """Yield the parts that are selected, published but not settled."""
        position, offset = self._run.job.position, self._run.job.offset
        while True:
            try:
                async for found in self._run.source.read(position, offset):
                    if found.position != position:
                        position, offset = found.position, 0
                    if found.unit.conversation in self._selection.targets:
                        yield await self._published(self._part(found, offset), found)
                    offset += len(found.lines)
                    if found.is_last:
                        position, offset = position + 1, 0
            except ProcessEnded as error:
                source = self._run.source
                if not isinstance(source, ReaderProcess):
                    raise
                try:
                    rest = await self._restart(source, position, error)
                except ProcessEnded:  # the new one, too
                    continue
                if rest is None:
                    return
                found = rest
                yield await self._published(
                    self._part(found, offset if found.position == position else 0), found
                )
                position, offset = found.position + 1, 0
            else:
                return

    def _part(self, found: SourcePart, offset: int) -> Part:
        part = Part(
            found.position,
            offset,
            found.unit,
            self._selection.targets[found.unit.conversation],
            UnitFiles(self._planner, found.position),
            is_last=found.is_last,
            walk=found.walk,
            read_at=found.read_at,
        )
        if found.error is not None:
            day = found.unit.day or UNKNOWN_DAY
            part.count(FOUND, day)
            part.fail(found.unit.id, found.error, "", day)
        return part

    async def _restart(self, source: ReaderProcess, position: int, error: ProcessEnded) -> SourcePart | None:
        """Start a new reader process after one that ended, and return the rest of the unit that ended it.

        That is the first one from a position on that is imported; None if all were read. Raises `JobFailed`
        after 20 restarts, and `ProcessEnded` if the new process ends, too.
        """
        targets = self._selection.targets
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            raise JobFailed(f"{self._restarts} parts of the export ended its reader process: export it again")
        await source.restart()
        await source.contents(self._run.plan.answers)
        number = 0
        async for unit in source.units():
            if number >= position and unit.conversation in targets:
                break
            number += 1
        else:
            return None
        channels = {key: target.channel_id for key, target in targets.items()}
        await source.use_names(self._selection.users, channels)
        return SourcePart(number, unit, [], is_last=True, error=str(error))

    async def _published(self, part: Part, found: SourcePart) -> Part:
        """Publish the messages of a part, and return it with what became of its records."""
        run = self._run
        part.end = part.offset + len(found.lines)
        items = await self._items(part, found.lines)
        part_id = f"{part.position:08d}:{part.offset:08d}"
        made = list(
            run.batches.make(
                HISTORY_MESSAGES,
                "messages",
                items,
                part_id,
                channel_id=part.target.channel_id,
                source=part.target.source,
                conversation=part.target.conversation,
                part=f"{run.job.run_id}:{part_id}",
            )
        )
        part.batches = [batch.id for batch in made]
        part.next_number = run.batches.next_number
        part.counts["kafka.records"] += len(made)
        part.counts["kafka.bytes"] += sum(batch.kafka_bytes for batch in made)
        await run.outlet.put(made)
        return part

    async def _items(self, part: Part, lines: Sequence[Line]) -> list[Item]:
        """Count the records of a part, and return those to be published."""
        own, others = await self._known(part, [line["m"] for line in lines if "m" in line])
        items: list[Item] = []
        parents: list[str] = []
        for line in lines:
            message = line.get("m")
            if message is None:
                _count_record(part, line)
                continue
            day = self._selection.day_of(message["at"])
            if not self._is_selected(part, message, day):
                continue
            message_id = self._selection.message_id(part.target.conversation, message["id"])
            if message["thread"]:
                parents.append(self._selection.message_id(part.target.conversation, message["thread"]))
            retained = sum(len(people) for _, people, _ in message["reactions"])
            known = Known(
                day, message["at"], mark_of(message), retained if self._selection.plan.reactions else 0
            )
            if item := self._item(part, message, message_id, known, own, others):
                items.append(item)
        part.outside = [
            parent
            for parent in parents
            if not (parent in part.added or parent in part.duplicates or packed(parent) in own)
        ]
        return items

    def _is_selected(self, part: Part, message: Line, day: str) -> bool:
        """Count a message as found, and as selected or skipped."""
        reacted = message["reacted"]
        part.count(FOUND, day)
        part.counts["reactions.found"] += reacted
        if (reason := self._selection.refusal(message)) is not None:
            part.skip(reason, day, reacted)
            part.files.skip(message)
            return False
        part.count(SELECTED, day)
        retained = sum(len(people) for _, people, _ in message["reactions"])
        if not self._selection.plan.reactions:
            part.counts["reactions.skipped.left_out"] += reacted
        else:
            part.counts["reactions.selected"] += retained
            part.counts["reactions.skipped.too_many"] += reacted - retained
        return True

    def _item(
        self,
        part: Part,
        message: Line,
        message_id: str,
        known: Known,
        own: set[bytes],
        others: Mapping[bytes, bytes],
    ) -> Item | None:
        """Return a message to be published; None for one that the chat has, or that is too large."""
        packed_id = packed(message_id)
        is_own = packed_id in own or any(
            message_id in known_ids for known_ids in (part.added, part.changed, part.duplicates)
        )
        is_changed = packed_id in others
        # An older export has a mark that is known, too: it does not bring an older text back.
        is_edit = is_changed and self._selection.plan.edits and not has_mark(others[packed_id], known.mark)
        if is_own or is_changed:
            part.files.repeat(message)
        if is_own or (is_changed and not is_edit):
            part.repeat(message_id, known, is_own=is_own)
            return None
        item = self._selection.message(message, message_id, part.target.conversation)
        if is_changed:
            item["changed"] = True
        elif attachments := part.files.attach(message, message_id):
            item["attachments"] = attachments
        data = orjson.dumps(item)
        if len(data) > MAX_ITEM_BYTES:
            reason = f"it has more than {MAX_BATCH_BYTES // 1024} KB with its reactions"
            part.fail(f"{part.unit.id}, {message['id']}", reason, "", known.day, known.reactions)
            part.files.settle((), [message_id])
            return None
        for loss in message["losses"]:
            part.counts[f"losses.{loss}"] += 1
        self._sample(part, item, len(data))
        if is_changed:
            part.changed[message_id] = known
            return Item(data)
        part.added[message_id] = known
        return Item(data, packed_id)

    # What is known

    async def _known(self, part: Part, messages: Sequence[Line]) -> tuple[set[bytes], Mapping[bytes, bytes]]:
        """Return the messages that this import has added, and others', around the time of these messages.

        Those of others have the marks of their contents.
        """
        if not messages:
            return set(), {}
        first = min(message["at"] for message in messages)
        last = max(message["at"] for message in messages)
        own = await self._own(part, messages, first, last)
        source, job = part.target.source, self._run.job
        units = self._run.stores.units
        if source not in self._has_others:
            self._has_others[source] = await units.has_source(job.workspace, source, other_than=job.id)
        if not self._has_others[source]:
            return own, {}
        return own, await units.added_between(
            job.workspace, source, first, last, other_than=job.id, among=self._packed_ids(part, messages)
        )

    async def _own(self, part: Part, messages: Sequence[Line], first: float, last: float) -> set[bytes]:
        """Return which messages earlier parts added. An export in order of time has none."""
        run, conversation = self._run, part.target.conversation
        before = f"{run.job.run_id}:{part.position:08d}:{part.offset:08d}"
        if conversation not in self._read_until:
            is_new = run.job.position == 0 and run.job.offset == 0
            stored = (
                0.0
                if is_new
                else await run.stores.units.last_time(run.job.run_id, conversation, before=before)
            )
            self._read_until[conversation] = stored
        until = self._read_until[conversation]
        self._read_until[conversation] = max(until, last)
        if first > until:
            return set()
        among = self._packed_ids(part, messages)
        found = await run.stores.units.own_between(
            run.job.run_id, conversation, first, last, before=before, among=among
        )
        for other in self._pending:
            if other.target.conversation == conversation:
                found.update(among.intersection(map(packed, other.added)))
        return found

    def _packed_ids(self, part: Part, messages: Sequence[Line]) -> set[bytes]:
        """Return the ids of messages, and of the parents of replies among them."""
        conversation = part.target.conversation
        names = {name for message in messages for name in (message["id"], message["thread"]) if name}
        return {packed(self._selection.message_id(conversation, name)) for name in names}

    # Storing

    def _sample(self, part: Part, item: dict[str, Any], size: int) -> None:
        """Note one of the first messages of a channel in a dry run. `size` is in bytes, as JSON."""
        if not self._run.job.is_dry_run:
            return
        known = self._samples.setdefault(part.target.conversation, [])
        if len(known) < _MAX_SAMPLES:
            known.append(item if size <= _MAX_SAMPLE_BYTES else _without_lists(item))

    async def _commit_settled(self) -> None:
        """Store the parts at the front whose batches are settled, at most 50 at a time."""
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
            # One that has begun ends, although the import is cancelled meanwhile.
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
            await run.list_issues(f"{part.position:08d}:{part.offset:08d}", part.issues)
            for name, number in part.increments().items():
                key = f"{job.counted}.{name}"
                increments[key] = increments.get(key, 0) + number
        done = sum(map(_done, parts))
        self._done += done
        await self._store_samples({part.target.conversation: part.target.position for part in parts})
        await run.progress.write(
            {
                "position": last.position + last.is_last,
                "offset": 0 if last.is_last else last.end,
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

    async def _store_samples(self, positions: Mapping[str, int]) -> None:
        for conversation, position in positions.items():
            if samples := self._samples.get(conversation):
                await self._run.stores.contents.set_samples(self._run.job.id, position, samples)
        # A long export has many channels: those that are read now are enough to hold.
        read = {part.target.conversation for part in self._pending} | {list(positions)[-1]}
        self._samples = {key: samples for key, samples in self._samples.items() if key in read}

    def _walk(self, walk: Walk) -> Walk:
        """Return what is stored of a place: after a dry run, the import begins at the first page."""
        return Walk(limiter=walk.limiter) if self._run.job.is_dry_run else walk

    def _remaining_s(self) -> int | None:
        """Return how many seconds the rest takes at the pace of this run."""
        done, total = self._done - self._run.job.done, self._run.job.total
        if not total or done <= 0:
            return None
        return round((monotonic() - self._started) * max(0, total - self._done) / done)


def _without_lists(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with the beginning of its text, and without reactions and files."""
    shown = {name: value for name, value in item.items() if name not in ("reactions", "attachments")}
    return {**shown, "text": item["text"][:_MAX_SAMPLE_TEXT]}


def _done(part: Part) -> int:
    """Return by how much a part moves the progress on: of an account, whole conversations count."""
    if part.walk is not None:
        return int(part.walk.cursor is None)
    return part.unit.size if part.is_last else 0


def _count_record(part: Part, line: Line) -> None:
    """Count a record that is no message."""
    day = part.unit.day or UNKNOWN_DAY
    part.count(FOUND, day)
    if "s" in line:
        part.skip(line["s"], day)
    else:
        broken = line["b"]
        part.fail(broken["place"], broken["reason"], broken["record"], day)
