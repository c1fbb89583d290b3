"""The way of batches to the chat: back-pressure, a chat that is silent, and one that confirms late."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import pytest

from services.importer.jobs import progress as progress_module
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.progress import STALLED, Progress
from services.importer.publish import outlet as outlet_module
from services.importer.publish.broker_memory import BrokerMemory
from services.importer.publish.history_batches import Batch, BatchFactory, Item
from services.importer.publish.outlet import MAX_UNCONFIRMED, Outlet
from services.importer.store.units import MARK_BYTES, UnitRecord, packed, unpacked
from shared.contracts.envelope import Event
from shared.contracts.history import HISTORY_MESSAGES, HISTORY_STORED
from shared.contracts.topics import CHAT_EVENTS
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.kafka.producer import Record
from shared.runtime.mongo import Mongo
from tests.importer.import_places import ImportPlace, run_with
from tests.support.backends import Store
from tests.support.eventually import until

QUICK_S: Final = 0.2


class Topic:
    """A producer whose records stay here. `open` are the batches that nobody has confirmed."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.confirmed = 0

    @property
    def unconfirmed(self) -> int:
        return len(self.batches) - self.confirmed

    async def publish_all(self, records: Iterable[Record], *, timeout_s: float) -> None:
        assert timeout_s > 0
        self.batches += [json.loads(record.value)["batch_id"] for record in records]


class Import:
    """An import in the middle of its messages, with its way to the chat."""

    def __init__(self, place: ImportPlace, job: ImportJob, *, confirms: bool | None) -> None:
        self.place, self.job = place, job
        self.topic = Topic()
        producer: Any = self.topic
        self.factory = BatchFactory(job.id, 1)
        self.outlet = Outlet(
            producer,
            place.confirmations,
            workspace=job.workspace,
            import_id=job.id,
            messages_per_second=1_000_000,
            confirms=confirms,
            broker_memory=BrokerMemory(None),
            turn=Progress(place.imports, job),
            release=place.late.release,
        )

    def batch(self, part: str, ids: Sequence[str]) -> Batch:
        """A batch of messages of a part."""
        items = [Item(json.dumps({"message_id": item}).encode(), packed(item)) for item in ids]
        more = {"channel_id": "c", "part": f"{self.job.id}:{part}"}
        [made] = self.factory.make(HISTORY_MESSAGES, "messages", items, part, **more)
        return made

    async def confirm(
        self, batch_id: str, duplicates: Sequence[str] = (), rejected: Sequence[str] = ()
    ) -> None:
        """What the chat says of a batch comes in."""
        data = {
            "import_id": self.job.id,
            "batch_id": batch_id,
            "duplicates": duplicates,
            "rejected": [{"message_id": item, "reason": "no"} for item in rejected],
        }
        event = Event(
            f"evt_{token_hex(4)}", HISTORY_STORED, "/chat", self.job.workspace, "", json.dumps(data).encode()
        )
        await self.place.late.handle([ConsumedEvent(event, CHAT_EVENTS.name, 0, 0, 0)])
        self.topic.confirmed += 1

    async def stored(self, part: str, ids: Sequence[str]) -> None:
        """The part is stored as done."""
        record = UnitRecord(
            id=f"{self.job.id}:{part}",
            import_id=self.job.id,
            workspace=self.job.workspace,
            position=0,
            source="",
            conversation="C1",
            channel_id="c",
            added=len(ids),
            ids=b"".join(map(packed, ids)),
            marks=bytes(MARK_BYTES * len(ids)),
        )
        await self.place.units.store([record])

    async def ledger(self) -> list[str]:
        return [
            item for unit in await self.place.units.read(self.job.id, after="") for item in unpacked(unit.ids)
        ]


def message_ids(count: int) -> list[str]:
    return [f"msg_{token_hex(16)}" for _ in range(count)]


async def started(mongo: Mongo, path: Path, *, confirms: bool | None) -> Import:
    place = ImportPlace(mongo, path)
    job = await place.claimed(f"w-{token_hex(4)}", stage="running", step="messages", confirms=confirms)
    return Import(place, job, confirms=confirms)


def test_at_most_64_batches_are_unconfirmed_and_a_stall_is_shown(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "STALLED_S", QUICK_S)

    async def test(mongo: Mongo) -> None:
        found = await started(mongo, tmp_path, confirms=True)
        batches = [found.batch(str(number), message_ids(1)) for number in range(3 * MAX_UNCONFIRMED)]
        putting = asyncio.create_task(found.outlet.put(batches))
        highest = 0
        for number in range(2 * MAX_UNCONFIRMED):
            await until(lambda: number < len(found.topic.batches))  # noqa: B023 -- asked at once
            highest = max(highest, found.topic.unconfirmed)
            if number == 0:
                await until(lambda: found.topic.unconfirmed > MAX_UNCONFIRMED - 16)

                async def shown() -> str | None:
                    return (await found.place.imports.find(found.job.workspace, found.job.id)).waiting_for

                async with asyncio.timeout(10):
                    while await shown() != STALLED:  # noqa: ASYNC110 -- it looks at what came out
                        await asyncio.sleep(0.05)
                assert not putting.done()
            await found.confirm(found.topic.batches[number])
        await putting
        assert 16 < highest <= MAX_UNCONFIRMED

    run_with(store, test)


def test_what_a_chat_confirms_late_leaves_the_ledger_and_is_waited_for_from_then_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet_module, "SILENCE_S", QUICK_S)
    monkeypatch.setattr(outlet_module, "_ASK_INTERVAL_S", 0.0)

    async def test(mongo: Mongo) -> None:
        found = await started(mongo, tmp_path, confirms=None)
        outlet, ids, more = found.outlet, message_ids(5), message_ids(2)
        first, second = found.batch("1", ids), found.batch("2", more)
        await outlet.put([first])
        await outlet.flush()
        while not outlet.is_settled([first.id]):
            await outlet.poll()
        taken_for = outlet.confirms
        assert taken_for is False

        # The second one is confirmed between being stored in the ledger and being released.
        await outlet.put([second])
        await outlet.flush()
        assert outlet.is_settled([second.id])
        for part, known, batch in (("1", ids, first), ("2", more, second)):
            await found.stored(part, known)
            if batch is second:
                await found.confirm(second.id, duplicates=more[:1])
                assert len(await found.ledger()) == 7
            await outlet.forget([batch.id])
        assert await found.ledger() == [*ids, more[1]]

        # A name that is none, and one that is none of the batch, change nothing.
        await found.confirm(first.id, duplicates=[ids[0], "msg_live"], rejected=[ids[1], more[1]])
        await found.confirm(first.id, duplicates=ids)  # again: the first one counts
        assert await found.ledger() == [*ids[2:], more[1]]
        job = await found.place.imports.find(found.job.workspace, found.job.id)
        assert (job.late, job.late_batches) == (3, 2)
        assert await mongo.collection("import_batches").count_documents({}) == 0

        # From now on, the import waits again.
        third = found.batch("3", message_ids(1))
        await outlet.put([third])
        await outlet.flush()
        assert outlet.confirms
        assert not outlet.is_settled([third.id])
        await found.confirm(third.id)
        await outlet.poll()
        assert outlet.is_settled([third.id])

    run_with(store, test)
