"""An undo of an import that another process still works on, for the second until it hears of it."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.importer.files.cleanup import FileCleanup
from services.importer.files.folder import FileFolder
from services.importer.jobs import undo_step
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.ledger import Ledger
from services.importer.jobs.new_contents import NewContents
from services.importer.jobs.undo_step import UndoStep
from services.importer.publish import outlet as outlet_module
from services.importer.store.chat_directory import ChatDirectory
from services.importer.store.unit_record import MARK_BYTES, UnitRecord, packed
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Mongo
from tests.importer.import_places import Import, message_ids, run_with, started
from tests.support.backends import Store
from tests.support.eventually import until


def undo_of(found: Import) -> UndoStep:
    place = found.place
    stores = place.stores()
    outlets: Any = SimpleNamespace(outlet=lambda *_: found.outlet)
    ledger = Ledger(place.units, place.confirmations)
    contents = NewContents(place.imports, stores.contents, ChatDirectory(place.mongo))
    cleanup = FileCleanup(stores.files, FileFolder(place.folder))
    return UndoStep(place.imports, outlets, stores, ledger, contents, cleanup)


def test_an_undo_withdraws_what_is_stored_meanwhile(store: Store, tmp_path: Path) -> None:
    async def test(mongo: Mongo) -> None:
        found = await started(mongo, tmp_path, confirms=False, stage="undoing", queued_at=utcnow())
        place, job = found.place, found.job
        early, late = message_ids(3), message_ids(3)
        for number, ids in enumerate((early, late)):
            batch = found.batch(f"0000000{number}:00000000", ids)
            await place.confirmations.announce(job.workspace, job.id, [batch])
            await found.confirm(batch.id, duplicates=ids[:1])
        await found.stored("00000000:00000000", early[1:])
        ledger = Ledger(place.units, place.confirmations)
        assert await ledger.count(job.id) == 4

        undoing = asyncio.create_task(undo_of(found).run(job))
        await until(lambda: found.topic.withdrawn == {*early[1:]})
        await found.stored("00000001:00000000", late[1:])
        result = await undoing
        assert result.finished
        assert result.changes["remaining"] == 0
        assert found.topic.withdrawn == {*early[1:], *late[1:]}
        assert await found.ledger() == []
        assert await ledger.count(job.id) == 0

    run_with(store, test)


def test_a_batch_that_a_killed_undo_has_added_to_the_ledger_counts_once(store: Store, tmp_path: Path) -> None:
    async def test(mongo: Mongo) -> None:
        asked_at = utcnow() - timedelta(minutes=1)
        found = await started(mongo, tmp_path, confirms=False, stage="undoing", queued_at=asked_at)
        place, job, ids = found.place, found.job, message_ids(3)
        batch = found.batch("00000000:00000000", ids)
        await place.confirmations.announce(job.workspace, job.id, [batch])
        await found.confirm(batch.id)
        await found.stored(f"way:{batch.id}", ids)  # and killed before it has removed the batch
        assert await Ledger(place.units, place.confirmations).count(job.id) == 3
        result = await undo_of(found).run(job)
        assert result.changes["remaining"] == 0
        assert (await place.imports.find(job.workspace, job.id)).withdrawn == 3

    run_with(store, test)


async def found_by_others(found: Import) -> tuple[ImportJob, ImportJob]:
    """Store two parts of an import: of its five messages, one other import has found three, another one."""
    place, job, ids = found.place, found.job, [packed(item) for item in message_ids(5)]
    others = [await place.claimed(job.workspace, stage="completed") for _ in range(2)]
    parts = [
        (job.id, "00000000", ids[:3], []),
        (job.id, "00000001", ids[3:], []),
        (others[0].id, "00000000", [], [ids[0], ids[1], ids[3]]),
        (others[1].id, "00000000", [], [ids[1]]),
    ]
    await place.units.store(
        [
            UnitRecord(
                id=f"{import_id}:{position}:00000000",
                import_id=import_id,
                workspace=job.workspace,
                position=0,
                source="slack:T1:C1",
                conversation="C1",
                channel_id="c",
                added=len(added),
                ids=b"".join(added),
                marks=bytes(MARK_BYTES * len(added)),
                duplicates=b"".join(duplicates),
            )
            for import_id, position, added, duplicates in parts
        ]
    )
    return others[0], others[1]


class Killed(Exception):
    """The process is killed."""


@pytest.mark.parametrize("keep_shared", [True, False])
def test_an_undo_that_is_killed_between_its_writes_counts_each_message_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_shared: bool
) -> None:
    reached: list[str] = []

    def kill(name: str) -> None:
        reached.append(name)
        raise Killed

    monkeypatch.setattr(undo_step, "failpoint", kill)

    async def test(mongo: Mongo) -> None:
        found = await started(mongo, tmp_path, confirms=False, stage="undoing", keep_shared=keep_shared)
        place, job = found.place, found.job
        others = await found_by_others(found)

        async def jobs() -> tuple[ImportJob, ImportJob, ImportJob]:
            first, second, third = [
                await place.imports.find(job.workspace, item.id) for item in (job, *others)
            ]
            return first, second, third

        result = None
        while result is None:
            with suppress(Killed):
                result = await undo_of(found).run((await jobs())[0])
        assert len(reached) > 1  # at each part
        undone, *rest = await jobs()
        assert result.changes["remaining"] == 0
        if keep_shared:
            assert (undone.withdrawn, undone.left) == (2, 3)
            assert set(reached) == {"undo.left", "undo.withdrawn"}
            assert [item.added for item in rest] == [await place.units.count_added(item.id) for item in rest]
            assert sum(item.added for item in rest) == 3
        else:
            assert (undone.withdrawn, undone.left) == (5, 0)
            assert [item.lost_by for item in rest] == [{job.id: 3}, {job.id: 1}]

    run_with(store, test)


def test_an_undo_that_is_stopped_between_its_writes_completes_them(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(mongo: Mongo) -> None:
        found = await started(mongo, tmp_path, confirms=False, stage="undoing")
        place, job = found.place, found.job
        other, _ = await found_by_others(found)
        running = asyncio.create_task(undo_of(found).run(job))
        monkeypatch.setattr(undo_step, "failpoint", lambda _: running.cancel())
        with pytest.raises(asyncio.CancelledError):
            await running

        async def completed() -> tuple[int, int]:
            found = [await place.imports.find(job.workspace, item.id) for item in (job, other)]
            return found[0].withdrawn, sum(found[1].lost_by.values())

        async with asyncio.timeout(30):
            while await completed() != (3, 2):  # noqa: ASYNC110 -- it looks at what came out
                await asyncio.sleep(0.05)
        assert await place.units.count_added(job.id) == 2

    run_with(store, test)


def test_what_a_silent_chat_does_not_remove_is_in_the_ledger_when_it_says_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet_module, "SILENCE_S", 0.2)

    async def test(mongo: Mongo) -> None:
        found = await started(mongo, tmp_path, confirms=None, stage="undoing", keep_answered=True)
        imports, job = found.place.imports, found.job
        ids = message_ids(3)
        await found.stored("00000000:00000000", ids)
        result = await undo_of(found).run(job)
        await imports.jobs.save(job, result)
        assert (await found.ledger(), (await imports.find(job.workspace, job.id)).added) == ([], 0)
        assert await found.place.confirmations.unsettled(job.id) == []

        [batch_id] = found.topic.batches
        for _ in range(2):  # nobody's message is not in the ledger, and a repetition changes nothing
            await found.confirm(batch_id, rejected=[ids[1], *message_ids(1)])
            undone = await imports.find(job.workspace, job.id)
            assert (await found.ledger(), undone.added, undone.withdrawn) == ([ids[1]], 1, 2)

    run_with(store, test)
