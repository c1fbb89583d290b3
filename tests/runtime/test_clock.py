"""The hub's time does not follow a clock that jumps, and follows one that two of three agree on."""

import pytest

from shared.runtime import clock

HOUR = 3_600_000


class Times:
    """What the machine's two clocks show, in ms."""

    def __init__(self) -> None:
        self.of_day = 1_000_000_000_000
        self.monotonic = 5_000

    def pass_ms(self, ms: int) -> None:
        self.of_day += ms
        self.monotonic += ms


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    times = Times()
    monkeypatch.setattr(clock, "time_ns", lambda: times.of_day * 1_000_000)
    monkeypatch.setattr(clock, "monotonic_ns", lambda: times.monotonic * 1_000_000)
    return times


@pytest.mark.parametrize("jump_ms", [HOUR, -HOUR])
def test_a_jump_of_the_machine_is_not_followed(times: Times, jump_ms: int) -> None:
    ours, right = clock._Clock(), times.of_day
    assert ours.observe(right) == 0
    times.of_day += jump_ms
    times.pass_ms(500)
    assert ours.now_ms() == right + 500, "between two looks at the database"
    assert ours.observe(right + 500) == jump_ms
    assert ours.now_ms() == right + 500
    times.of_day -= jump_ms
    assert ours.observe(right + 500) == 0


def test_a_jump_of_the_database_is_not_followed(times: Times) -> None:
    ours, right = clock._Clock(), times.of_day
    ours.observe(right)
    assert ours.observe(right + HOUR) == 0
    assert ours.now_ms() == right


def test_a_machine_that_starts_with_a_wrong_clock_uses_the_time_of_the_database(times: Times) -> None:
    right = times.of_day
    times.of_day += HOUR
    ours = clock._Clock()
    assert ours.observe(right) == HOUR
    assert ours.now_ms() == right


def test_a_machine_that_was_suspended_uses_the_time_of_now(times: Times) -> None:
    ours, right = clock._Clock(), times.of_day
    ours.observe(right)
    times.of_day += HOUR  # the monotonic clock stands still meanwhile
    assert ours.observe(right + HOUR) == 0
    assert ours.now_ms() == right + HOUR


def test_small_differences_are_followed(times: Times) -> None:
    ours = clock._Clock()
    ours.observe(times.of_day)
    times.of_day += 900
    ours.observe(times.of_day - 900)
    assert ours.now_ms() == times.of_day
