"""Fair shares and what recurs: pure, with time as a parameter."""

from datetime import UTC, datetime, timedelta

import pytest

from services.delivery.engine.fair_share import (
    BUDGET_PER_S,
    BURST,
    MAX_IMMEDIATE_COST,
    REQUEST_COST,
    FairShares,
)
from services.delivery.model.recurrence import Recurrence

START = datetime(2026, 5, 4, 10, tzinfo=UTC)


def spent_in(
    shares: FairShares, workspace: str, since: float, seconds: float, cost: float = REQUEST_COST
) -> float:
    """What a workspace that always has events may spend at once."""
    total = 0.0
    for tick in range(int(seconds * 1000)):
        now = since + tick / 1000
        while shares.can_afford(workspace, now):
            shares.charge(workspace, cost, now)
            total += cost
    return total


def test_one_workspace_alone_has_all_of_it() -> None:
    assert spent_in(FairShares(), "a", 0, 5) == pytest.approx(5 * BUDGET_PER_S + BURST, rel=0.01)


def test_two_workspaces_have_half_each() -> None:
    shares = FairShares()
    spent = {"a": 0.0, "b": 0.0}
    for tick in range(5_000):
        for workspace in spent:
            spent[workspace] += spent_in(shares, workspace, tick / 1000, 0.001)
    for total in spent.values():
        assert total == pytest.approx(5 * BUDGET_PER_S / 2 + BURST, rel=0.05)


def test_who_comes_later_can_go_on_at_once() -> None:
    shares = FairShares()
    spent_in(shares, "greedy", 0, 3)
    assert not shares.can_afford("greedy", 2.999)
    assert shares.can_afford("other", 2.999)


def test_an_event_that_is_too_dear_makes_the_next_ones_wait_until_cheaper_ones_came() -> None:
    shares = FairShares()
    shares.charge("a", MAX_IMMEDIATE_COST + 1, 0)
    assert not shares.can_afford("a", 10)
    shares.record_cost("a", REQUEST_COST, 10)
    assert shares.can_afford("a", 10)


def test_others_are_active_for_a_second() -> None:
    shares = FairShares()
    shares.charge("a", REQUEST_COST, 0)
    assert shares.has_other_active({"b"}, 0.5)
    assert not shares.has_other_active({"a"}, 0.5)
    assert not shares.has_other_active({"b"}, 1.5)


def test_what_recurs_has_to_do_so_often_and_for_long() -> None:
    cases = Recurrence(10, timedelta(minutes=10))
    at = [START + timedelta(minutes=minute) for minute in range(12)]
    assert [cases.record_case(moment, not_before=START) for moment in at[:10]] == [None] * 10
    assert cases.record_case(at[10], not_before=START) == START
    often = Recurrence(10, timedelta(minutes=10))
    assert {often.record_case(START + timedelta(seconds=n), not_before=START) for n in range(500)} == {None}
    rarely = Recurrence(10, timedelta(minutes=10))
    assert {rarely.record_case(START + timedelta(minutes=11 * n), not_before=START) for n in range(50)} == {
        None
    }
    again = Recurrence(2, timedelta(minutes=10))
    again.record_case(START, not_before=START)
    enabled = START + timedelta(minutes=9)
    assert again.record_case(START + timedelta(minutes=10), not_before=enabled) is None
