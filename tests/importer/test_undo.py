"""An undo of an import that another process still works on, for the second until it hears of it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.importer.files.cleanup import FileCleanup
from services.importer.files.folder import FileFolder
from services.importer.jobs.ledger import Ledger
from services.importer.jobs.new_contents import NewContents
from services.importer.jobs.undo_step import UndoStep
from services.importer.publish import outlet as outlet_module
from services.importer.store.chat_directory import ChatDirectory
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
