"""An undo of an import that another process still works on, for the second until it hears of it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from services.importer.files.cleanup import FileCleanup
from services.importer.files.folder import FileFolder
from services.importer.files.records import ImportFiles
from services.importer.jobs.ledger import Ledger
from services.importer.jobs.new_contents import NewContents
from services.importer.jobs.run_context import Stores
from services.importer.jobs.undo_step import UndoStep
from services.importer.store.chat_directory import ChatDirectory
from services.importer.store.contents import Contents
from services.importer.store.issues import Issues
from services.importer.store.marks import Marks
from shared.runtime.mongo import Mongo, utcnow
from tests.importer.import_places import Import, message_ids, run_with, started
from tests.support.backends import Store
from tests.support.eventually import until


def undo_of(found: Import) -> UndoStep:
    place = found.place
    files = ImportFiles(place.mongo)
    stores = Stores(
        place.units,
        Issues(place.mongo),
        Contents(place.mongo),
        place.confirmations,
        files,
        Marks(place.mongo),
    )
    outlets: Any = SimpleNamespace(outlet=lambda *_: found.outlet)
    ledger = Ledger(place.units, place.confirmations)
    contents = NewContents(place.imports, stores.contents, ChatDirectory(place.mongo))
    cleanup = FileCleanup(files, FileFolder(place.folder))
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
