"""The imports of a process, without the process: on a real database, in the loop of the test."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import SecretStr

from services.importer.files.records import ImportFiles
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.late_confirmations import LateConfirmations
from services.importer.jobs.progress import Progress
from services.importer.jobs.run_context import Stores
from services.importer.jobs.source import UploadSource
from services.importer.publish.broker_memory import BrokerMemory
from services.importer.publish.confirmations import Confirmations
from services.importer.publish.history_batches import Batch, BatchFactory, Item
from services.importer.publish.live_traffic import LiveTraffic
from services.importer.publish.outlet import Outlet
from services.importer.store.contents import Contents
from services.importer.store.issues import Issues
from services.importer.store.marks import Marks
from services.importer.store.unit_record import MARK_BYTES, UnitRecord, packed, split_ids, unpacked
from services.importer.store.units import Units
from services.importer.uploads.folder import UploadFolder
from services.importer.uploads.records import Upload, Uploads
from shared.contracts.envelope import Event
from shared.contracts.history import HISTORY_MESSAGES, HISTORY_STORED
from shared.contracts.topics import CHAT_EVENTS
from shared.runtime.clock import utcnow
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.kafka.producer import Record
from shared.runtime.mongo import Mongo
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

    def stores(self) -> Stores:
        """The repositories to which an import writes."""
        mongo = self.mongo
        files = ImportFiles(mongo)
        return Stores(self.units, Issues(mongo), Contents(mongo), self.confirmations, files, Marks(mongo))

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
            **{"source": source, "queued_at": at, **fields},
        )
        return await self.imports.jobs.start_leased(job)


class Topic:
    """A producer whose records stay here. `withdrawn` are the messages that an undo has taken away."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.confirmed = 0
        self.withdrawn: set[str] = set()

    @property
    def unconfirmed(self) -> int:
        return len(self.batches) - self.confirmed

    async def publish_all(self, records: Iterable[Record], *, timeout_s: float) -> None:
        assert timeout_s > 0
        published = [json.loads(record.value) for record in records]
        self.withdrawn.update(item for found in published for item in found.get("message_ids", ()))
        self.batches += [found["batch_id"] for found in published]


class Import:
    """An import in the middle of its messages, with its way to the chat."""

    def __init__(
        self, place: ImportPlace, job: ImportJob, *, confirms: bool | None, traffic: LiveTraffic
    ) -> None:
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
            traffic=traffic,
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
            unpacked(item)
            for unit in await self.place.units.read(self.job.id, after="")
            for item in split_ids(unit.ids)
        ]


def message_ids(count: int) -> list[str]:
    return [f"msg_{token_hex(16)}" for _ in range(count)]


async def no_records() -> int:
    """The live topics have had no records."""
    return 0


async def started(
    mongo: Mongo, path: Path, *, confirms: bool | None, traffic: LiveTraffic | None = None, **fields: Any
) -> Import:
    """An import in the middle of its messages, or with these fields."""
    place = ImportPlace(mongo, path)
    stage = {"stage": "running", "step": "messages", "confirms": confirms}
    job = await place.claimed(f"w-{token_hex(4)}", **{**stage, **fields})
    traffic = traffic or LiveTraffic(no_records, messages_per_second=1)
    return Import(place, job, confirms=confirms, traffic=traffic)


def run_with(store: Store, test: Callable[[Mongo], Awaitable[None]]) -> None:
    """Run a test in a loop, on a database of its own."""

    async def with_database() -> None:
        mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
        try:
            await test(mongo)
        finally:
            mongo.close()

    asyncio.run(with_database())
