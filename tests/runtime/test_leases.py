"""How long a lease has been silent is counted on one clock only."""

from dataclasses import replace
from itertools import count

import pytest

from shared.runtime.leases import Lease, LeaseObserver

LEASE = Lease(fence=3, holder="h", beat=7, committed=False)


def test_a_lease_is_silent_from_the_first_look_on() -> None:
    now = [1000.0]
    watch = LeaseObserver(lambda: now[0])
    assert watch.silent_s(LEASE) == 0
    now[0] += 4
    assert watch.silent_s(replace(LEASE)) == 4
    now[0] += 20
    assert watch.silent_s(LEASE) == 24, "whoever waits may stand still, too: the beat was the same"


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
def test_whatever_changes_begins_the_count_anew(other: Lease | None) -> None:
    seconds = count(1000, 5)
    watch = LeaseObserver(lambda: next(seconds))
    assert [watch.silent_s(each) for each in (LEASE, LEASE, other, LEASE)] == [0, 5, 0, 0]


def test_nobody_holds_a_lease_that_is_not_there() -> None:
    held = {"holder": "h", "beat": 7, "committed": False}
    assert Lease.of({"fence": 3, "lease": held}) == LEASE
    assert Lease.of({"fence": 3, "lease": None}) is None
    assert Lease.of({"fence": 3}) is None, "as the documents of earlier versions are"
