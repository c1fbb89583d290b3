"""The ledger of imports on a real store: what is found of many messages with the same time."""

from collections.abc import AsyncIterator

import pytest

from bench.log import mongo_at
from services.importer.store.unit_record import MARK_BYTES, UnitRecord, split_ids
from services.importer.store.units import COLLECTION, INDEXES, Units
from tests.support.backends import Store

WORKSPACE, SOURCE = "w", "slack:T1:C1"
NOON = 1_704_110_400.0


@pytest.fixture
async def units(store: Store) -> AsyncIterator[Units]:
    mongo = mongo_at(store.uri())
    try:
        await mongo.ensure_indexes({COLLECTION: INDEXES[COLLECTION]})
        yield Units(mongo)
    finally:
        mongo.close()


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
