"""The way of batches to the chat: back-pressure, a chat that is silent, and one that confirms late."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from services.importer.jobs import progress as progress_module
from services.importer.jobs.progress import STALLED
from services.importer.publish import outlet as outlet_module
from services.importer.publish.outlet import MAX_UNCONFIRMED
from shared.runtime.mongo import Mongo
from tests.importer.import_places import message_ids, run_with, started
from tests.support.backends import Store
from tests.support.eventually import until

QUICK_S: Final = 0.2


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

                async with asyncio.timeout(60):
                    while await shown() != STALLED.format(batch_id=found.topic.batches[0]):  # noqa: ASYNC110 -- it looks at what came out
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
