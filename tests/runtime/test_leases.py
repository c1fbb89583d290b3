"""The silence of a lease is measured on one clock only."""

from dataclasses import replace
from itertools import count

import pytest

from shared.runtime.leases import Lease, LeasedRecord, LeaseObserver
from shared.runtime.mongo import Document

LEASE = Lease(fence=3, holder="h", beat=7, committed=False)


def test_silence_is_measured_from_the_first_read() -> None:
    now = [1000.0]
    observer = LeaseObserver(lambda: now[0])
    assert observer.silent_s(LEASE) == 0
    now[0] += 4
    assert observer.silent_s(replace(LEASE)) == 4
    now[0] += 20
    assert observer.silent_s(LEASE) == 24, "the waiting process may be stopped, too: the beat was the same"


@pytest.mark.parametrize(
    "other",
    [
        replace(LEASE, beat=8),
        replace(LEASE, committed=True),
        replace(LEASE, holder="another"),
        replace(LEASE, fence=4),
        None,
    ],
)
def test_any_change_restarts_the_measurement(other: Lease | None) -> None:
    seconds = count(1000, 5)
    observer = LeaseObserver(lambda: next(seconds))
    assert [observer.silent_s(lease) for lease in (LEASE, LEASE, other, LEASE)] == [0, 5, 0, 0]


def test_a_document_without_a_lease() -> None:
    held = {"holder": "h", "beat": 7, "committed": False}
    document: Document = {"_id": "int_1", "fence": 3}
    assert Lease.of(LeasedRecord.from_document(document | {"lease": held})) == LEASE
    assert Lease.of(LeasedRecord.from_document(document | {"lease": None})) is None
    assert Lease.of(LeasedRecord.from_document(document)) is None, "as in documents of earlier versions"
