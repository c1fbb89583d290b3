"""The ledger of imports on a real store: what is found of many messages at one time, and what stays."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from bench.log import mongo_at
from services.importer.api.import_schemas import Estimate
from services.importer.api.reports import ReportsApi
from services.importer.files.records import ImportFiles
from services.importer.jobs.expiry import Expiry
from services.importer.jobs.import_job import ImportJob, dry_run_id
from services.importer.jobs.imports import Imports
from services.importer.jobs.run_context import Stores
from services.importer.jobs.source import UploadSource
from services.importer.jobs.verify_step import COUNTS, ReportRows
from services.importer.publish.broker_memory import BrokerMemory
from services.importer.publish.confirmations import Confirmations
from services.importer.store.contents import ChannelRecord, ContentCriteria, Contents
from services.importer.store.issues import IssueRecord, Issues
from services.importer.store.marks import Marks
from services.importer.store.reports import ROWS, Reports
from services.importer.store.unit_record import MARK_BYTES, UnitRecord, split_ids
from services.importer.store.units import COLLECTION, INDEXES, Units
from services.importer.uploads.folder import UploadFolder
from services.importer.uploads.records import Uploads
from shared.contracts.ids import WorkspaceId
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Mongo
from shared.runtime.web.access import ApiKey
from tests.support.backends import Store

WORKSPACE, SOURCE = "w", "slack:T1:C1"
NOON = 1_704_110_400.0


@pytest.fixture
async def mongo(store: Store) -> AsyncIterator[Mongo]:
    mongo = mongo_at(store.uri())
    try:
        await mongo.ensure_indexes({COLLECTION: INDEXES[COLLECTION]})
        yield mongo
    finally:
        mongo.close()


@pytest.fixture
def units(mongo: Mongo) -> Units:
    return Units(mongo)


def ids(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16) for number in numbers]


def part(import_id: str, position: int, *numbers: int) -> UnitRecord:
    """Return a part of an import that added messages, all of them written at noon."""
    return UnitRecord(
        id=f"{import_id}:{position:08d}:00000000",
        import_id=import_id,
        workspace=WORKSPACE,
        position=position,
        source=SOURCE,
        conversation="C1",
        channel_id="chn_1",
        first=NOON,
        last=NOON,
        added=len(numbers),
        ids=b"".join(ids(*numbers)),
        marks=b"".join(number.to_bytes(MARK_BYTES) for number in numbers),
    )


async def test_only_messages_that_were_asked_for_are_found(units: Units) -> None:
    await units.store([part("imp_1", 0, 1, 2, 3), part("imp_1", 1, 4, 5), part("imp_2", 0, 6, 7)])
    among = set(ids(2, 5, 7, 9))
    others = await units.added_between(WORKSPACE, SOURCE, NOON, NOON, other_than="imp_2", among=among)
    assert others == {packed: packed[-MARK_BYTES:] for packed in ids(2, 5)}
    claims = await units.claims_between(WORKSPACE, SOURCE, NOON, NOON, other_than="imp_1", among=among)
    assert claims == [("imp_2", set(ids(7)))]
    own = await units.own_between("imp_1", "C1", NOON, NOON, before="imp_1:00000001:00000000", among=among)
    assert own == set(ids(2))
    parts = [found async for found in units.ids_of_others(WORKSPACE, SOURCE, other_than="imp_2")]
    assert sorted(item for found in parts for item in found) == ids(1, 2, 3, 4, 5)
    (stored, _) = await units.read("imp_1", after="")
    assert split_ids(stored.ids) == ids(1, 2, 3)


async def test_of_imports_that_expire_only_their_ledgers_stay(
    mongo: Mongo, units: Units, tmp_path: Path
) -> None:
    """However many of them end within a day."""
    imports, issues, count = imports_of(mongo, tmp_path), Issues(mongo), 30
    soon, later = utcnow() + timedelta(hours=1), utcnow() + timedelta(days=3)
    for number in range(count):
        expires_at = later if number == 0 else soon
        await mongo.collection("imports").insert_one({"_id": f"imp_{number}", "expires_at": expires_at})
        for run in (f"imp_{number}", dry_run_id(f"imp_{number}")):
            await units.store([part(run, 0, 1)])
            issue = IssueRecord(id=run, import_id=run, workspace=WORKSPACE, place="", reason="", position=0)
            await issues.store([issue])
    expiry = Expiry(imports, units, issues)
    for _ in range(2):
        await expiry.sweep()
    left = await mongo.collection("import_issues").find({}, {"import_id": 1}).to_list(None)
    assert {item["import_id"] for item in left} == {"imp_0", dry_run_id("imp_0")}
    found = {f"imp_{number}" for number in range(count) if await units.count_added(f"imp_{number}")}
    assert found == {f"imp_{number}" for number in range(count)}
    trials = [number for number in range(count) if await units.count_added(dry_run_id(f"imp_{number}"))]
    assert trials == [0]


async def test_a_page_of_channels_with_samples_is_short(mongo: Mongo) -> None:
    """500 channels with ten samples of 8 KB each would take 150 MB of memory in a call."""
    contents = Contents(mongo)
    records = [
        ChannelRecord(
            id=f"imp_1:{number}",
            import_id="imp_1",
            workspace=WORKSPACE,
            position=number,
            conversation=f"C{number}",
            name="general",
            kind="channel",
            archived=False,
            members=1,
            units=1,
            size=1,
            first="",
            last="",
            samples=[{"text": "hello"}] * 10,
        )
        for number in range(120)
    ]
    await contents.add_channels(records)
    for criteria in (ContentCriteria(), ContentCriteria(text="general")):
        cursor, sizes, found = None, [], []
        while True:
            page = await contents.channels("imp_1", criteria, limit=500, cursor=cursor)
            sizes.append(len(page.items))
            found += [record.position for record in page.items]
            if (cursor := page.next_cursor) is None:
                break
        assert (sizes, found) == ([50, 50, 20], [*range(120)])
    few = await contents.channels("imp_1", ContentCriteria(), limit=30, cursor="90")
    assert (len(few.items), few.next_cursor) == (30, None)


def imports_of(mongo: Mongo, path: Path) -> Imports:
    folder = UploadFolder(path)
    uploads = Uploads(mongo, folder, max_bytes=1, bytes_per_workspace=1, days=1)
    return Imports(mongo, uploads, folder, BrokerMemory(None), running_per_workspace=1, per_workspace=1)


async def test_a_report_of_many_channels_shows_the_first_ones_and_sums_all(
    mongo: Mongo, tmp_path: Path
) -> None:
    imports, reports, documents = imports_of(mongo, tmp_path), Reports(mongo), 21
    row = dict.fromkeys(COUNTS, 1) | {"conversation": "C1", "name": "<general>", "channel_id": None}
    row |= {"left_out": None, "days": 1, "first": None, "last": None, "digest": None, "without_parent": 0}
    for number in range(documents):
        await reports.store("imp_1", WORKSPACE, "channels", number, [orjson.dumps(row)] * ROWS)
    job = ImportJob(
        id="imp_1",
        workspace=WORKSPACE,
        kind="import",
        status="done",
        stage="completed",
        created_at=utcnow(),
        queued_at=utcnow(),
        source=UploadSource(folder="fld_1", upload_id="upl_1", name="export.zip", size=1),
    )
    await mongo.collection("imports").insert_one(job.document())
    files, contents = ImportFiles(mongo), Contents(mongo)
    marks, confirmations = Marks(mongo), Confirmations(mongo)
    stores = Stores(Units(mongo), Issues(mongo), contents, confirmations, files, marks)
    estimate = Estimate(1, BrokerMemory(None))
    api = ReportsApi(imports, contents, reports, ReportRows(stores, reports), files, estimate)
    key = ApiKey("key_1", WorkspaceId(WORKSPACE), frozenset({"imports:read"}), None)
    page = bytes((await api.report("imp_1", key, "html")).body).decode()
    assert page.count("&lt;general&gt;") == 20 * ROWS
    assert f"<td>{documents * ROWS}</td>" in page
    assert "(the first 10000)" in page
    report = orjson.loads((await api.report("imp_1", key)).body)
    assert (len(report["channels"]), report["has_more_channels"]) == (20 * ROWS, True)
