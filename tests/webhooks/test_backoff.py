"""Retry schedules: when each attempt starts, and jitter that is evenly distributed and repeatable."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.webhooks.backoff import MAX_ATTEMPTS, MAX_WAIT_S, SCHEDULES, add_jitter, attempt_delay

DAY = 24 * 3600.0


def test_the_schedule_of_nself_chat() -> None:
    assert SCHEDULES["nchat"] == (0, 5, 10, 20)


def test_the_schedule_of_standard_webhooks() -> None:
    """The specification's own column "Time since start"."""
    since = [
        f"{int(at) // 3600:02}:{int(at) // 60 % 60:02}:{int(at) % 60:02}"
        for at in accumulate(SCHEDULES["standard"])
    ]
    assert since == [
        "00:00:00",
        "00:00:05",
        "00:05:05",
        "00:35:05",
        "02:35:05",
        "07:35:05",
        "17:35:05",
        "31:35:05",
        "51:35:05",
        "75:35:05",
    ]


def test_the_schedule_of_chatwoot() -> None:
    """Rails' own words for it: first wait ~3s, then ~18s, then ~83s; 5 attempts."""
    assert SCHEDULES["chatwoot"] == (0, 3, 18, 83, 258)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_named_schedule_is_one_that_an_owner_could_give(name: str) -> None:
    schedule = SCHEDULES[name]
    assert 0 < len(schedule) <= MAX_ATTEMPTS
    assert all(0 <= wait <= MAX_WAIT_S for wait in schedule)
    assert all(first < second for first, second in pairwise(schedule))


def test_the_wait_before_each_attempt() -> None:
    assert [attempt_delay((0.0, 5.0, 10.0), attempt) for attempt in (1, 2, 3, 4, 99)] == [
        0,
        5,
        10,
        None,
        None,
    ]
    assert attempt_delay((), 1) is None


# Jitter


@given(st.floats(0, MAX_WAIT_S), st.floats(0, 1), st.lists(st.text(), max_size=3))
def test_jitter_only_lengthens_and_by_no_more_than_its_share(
    wait: float, share: float, seed: list[str]
) -> None:
    longer = add_jitter(wait, share, *seed)
    assert wait <= longer <= wait * (1 + share) * (1 + 1e-12)
    assert longer == add_jitter(wait, share, *seed)


def test_jitter_spreads_evenly() -> None:
    """A thousand deliveries that failed together come back over the whole span, no tenth of it crowded."""
    waits = [add_jitter(100, 0.5, f"dlv_{number}", "2") for number in range(1000)]
    tenths = [0] * 10
    for wait in waits:
        tenths[int((wait - 100) / 5)] += 1
    assert min(tenths) > 60
    assert max(tenths) < 140
    assert len(set(waits)) == 1000


def test_jitter_differs_by_every_part_of_the_seed() -> None:
    seeds = [("dlv_1", "2"), ("dlv_1", "3"), ("dlv_2", "2"), ("dlv_12", ""), ("dlv_12",)]
    assert len({add_jitter(100, 1, *seed) for seed in seeds}) == len(seeds)


def test_no_jitter() -> None:
    assert add_jitter(100, 0, "dlv_1", "2") == 100
    assert add_jitter(0, 1, "dlv_1", "2") == 0
