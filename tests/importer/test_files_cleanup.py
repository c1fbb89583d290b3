"""Bytes of files end with their records: retention, deleted workspaces, withdrawn messages, and orphans."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from time import time

import pytest
from pydantic import SecretStr

from services.importer.files.cleanup import FileCleanup
from services.importer.files.folder import FileFolder
from services.importer.files.records import INDEXES, SETS, FileRecord, FileSet, ImportFiles, file_id_of
from services.importer.uploads.folder import UploadFolder
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store

WORKSPACE = "w"
Test = Callable[["Place"], Awaitable[None]]


class Place:
    """The files of one process with a folder."""

    def __init__(self, mongo: Mongo, path: Path) -> None:
        self.mongo = mongo
        self.records = ImportFiles(mongo)
        self.folder = FileFolder(UploadFolder(path))
        self.cleanup = FileCleanup(self.records, self.folder)

    async def store(
        self,
        import_id: str,
        number: int,
        workspace: str = WORKSPACE,
        content: bytes = b"data",
        position: int = 0,
    ) -> Path:
        """Store a file of an import, as the phase of files does."""
        expires_at = datetime.now(UTC) + timedelta(days=1)
        attachment = f"att_{number:032x}"
        file_set = FileSet(id=import_id, workspace=workspace, folder=self.folder.id, expires_at=expires_at)
        await self.records.open_set(file_set)
        path = self.folder.path_of(import_id, attachment)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        record = FileRecord(
            id=file_id_of(import_id, attachment),
            import_id=import_id,
            workspace=workspace,
            position=position,
            message_id=f"msg_{number}",
            attachment_id=attachment,
            name="a.bin",
            state="stored",
            folder=self.folder.id,
            stored_bytes=len(content),
            expires_at=expires_at,
        )
        await self.records.add([record])
        await self.records.set_bytes(import_id, (await self.records.totals(import_id)).bytes)
        return self.folder.path_of(import_id, attachment)


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Callable[[Test], None]:
    """Run a test in a loop, on a database of its own."""

    def run_in_loop(test: Test) -> None:
        async def with_database() -> None:
            mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
            try:
                await mongo.ensure_indexes(INDEXES)
                await test(Place(mongo, tmp_path / "uploads"))
            finally:
                mongo.close()

        asyncio.run(with_database())

    return run_in_loop


def test_files_whose_time_is_over_are_deleted(run: Callable[[Test], None]) -> None:
    async def check(place: Place) -> None:
        import_id, other = f"imp_{token_hex(4)}", f"imp_{token_hex(4)}"
        path, retained = await place.store(import_id, 1), await place.store(other, 2)
        await place.cleanup.sweep()
        assert path.exists()
        # As the database does when `expires_at` has passed.
        await place.mongo.collection(SETS).delete_one({"_id": import_id})
        await place.cleanup.sweep()
        assert (path.exists(), path.parent.parent.exists(), retained.exists()) == (False, False, True)

    run(check)


def test_a_deleted_workspace_leaves_no_bytes(run: Callable[[Test], None]) -> None:
    async def check(place: Place) -> None:
        path = await place.store(f"imp_{token_hex(4)}", 1)
        retained = await place.store(f"imp_{token_hex(4)}", 2, workspace="other")
        await place.cleanup.delete_all(WORKSPACE)
        assert (path.exists(), retained.exists()) == (False, True)
        assert await place.records.bytes_of(WORKSPACE) == 0

    run(check)


def test_withdrawn_files_are_deleted_by_the_process_with_their_folder(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    async def check(place: Place) -> None:
        other = Place(place.mongo, tmp_path / "other")
        import_id = f"imp_{token_hex(4)}"
        path, retained = await place.store(import_id, 1), await place.store(import_id, 2)
        await place.records.withdraw(WORKSPACE, ["msg_1"])
        await other.cleanup.sweep()
        assert path.exists(), "the other process does not have the folder"
        await place.cleanup.sweep()
        assert (path.exists(), retained.exists()) == (False, True)
        assert await place.records.bytes_of(WORKSPACE) == 4
        assert await place.records.find(file_id_of(import_id, path.name)) is None

    run(check)


def test_files_that_no_record_names_are_deleted(run: Callable[[Test], None]) -> None:
    async def check(place: Place) -> None:
        import_id = f"imp_{token_hex(4)}"
        retained = await place.store(import_id, 1)
        orphan = retained.with_name(f"att_{2:032x}.part")
        recent = retained.with_name(f"att_{3:032x}.part")
        for path in (orphan, recent):
            path.write_bytes(b"cut off")
        await place.records.set_partial(import_id, 2 * 7)
        assert await place.records.bytes_of(WORKSPACE) == 4 + 2 * 7
        long_ago = time() - 2 * 3600
        for path in (retained, orphan):
            os.utime(path, (long_ago, long_ago))
        await place.cleanup.sweep()
        assert (retained.exists(), orphan.exists(), recent.exists()) == (True, False, True)
        assert await place.records.bytes_of(WORKSPACE) == 4

    run(check)


def test_pages_have_every_file_once_wherever_it_is_in_the_export(run: Callable[[Test], None]) -> None:
    async def test(place: Place) -> None:
        import_id = f"imp_{token_hex(4)}"
        positions = [0, 0, 0, 1, 2, 10, 11, 12, 112, 113, 11_111, 499_999, 99_999_999, 99_999_999]
        for number, position in enumerate(positions):
            await place.store(import_id, number, position=position)
        for limit in (1, 2, 5, 50):
            found: list[int] = []
            cursor: str | None = None
            while True:
                page = await place.records.page(import_id, state="stored", limit=limit, cursor=cursor)
                assert len(page.items) == limit or page.next_cursor is None
                found += [item.position for item in page.items]
                if (cursor := page.next_cursor) is None:
                    break
            assert found == positions
        assert (await place.records.page(import_id, state="waiting", limit=5, cursor=None)).items == []

    run(test)
