"""The imports of a process, without the process: on a real database, in the loop of the test."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import SecretStr

from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.late_confirmations import LateConfirmations
from services.importer.jobs.source import UploadSource
from services.importer.publish.broker_memory import BrokerMemory
from services.importer.publish.confirmations import Confirmations
from services.importer.store.units import Units
from services.importer.uploads.folder import UploadFolder
from services.importer.uploads.records import Upload, Uploads
from shared.runtime.mongo import Mongo, utcnow
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store

RUNNING = 2
PER_WORKSPACE = 1_000


class ImportPlace:
    """What one process has of the imports, with a folder of its own."""

    def __init__(self, mongo: Mongo, path: Path) -> None:
        self.mongo = mongo
        self.folder = UploadFolder(path)
        self.uploads = Uploads(mongo, self.folder, max_bytes=10**9, bytes_per_workspace=10**9, days=7)
        self.imports = Imports(
            mongo,
            self.uploads,
            self.folder,
            BrokerMemory(None),
            running_per_workspace=RUNNING,
            per_workspace=PER_WORKSPACE,
        )
        self.units = Units(mongo)
        self.confirmations = Confirmations(mongo)
        self.late = LateConfirmations(self.imports, self.units, self.confirmations)

    async def uploaded(self, workspace: str, content: bytes = b"an export") -> Upload:
        """An upload whose bytes have arrived."""
        upload = await self.uploads.create(workspace, "export.zip", len(content))
        self.folder.path_of(upload.id).write_bytes(content)
        return upload

    async def claimed(self, workspace: str, **fields: Any) -> ImportJob:
        """An import that this process works on."""
        source = UploadSource(folder=self.folder.id, upload_id="upl_1", name="export.zip")
        at = utcnow()
        job = ImportJob(
            id=f"imp_{token_hex(16)}",
            workspace=workspace,
            kind="import",
            created_at=at,
            source=source,
            **{"queued_at": at, **fields},
        )
        return await self.imports.jobs.start_leased(job)


def run_with(store: Store, test: Callable[[Mongo], Awaitable[None]]) -> None:
    """Run a test in a loop, on a database of its own."""

    async def with_database() -> None:
        mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
        try:
            await test(mongo)
        finally:
            mongo.close()

    asyncio.run(with_database())
