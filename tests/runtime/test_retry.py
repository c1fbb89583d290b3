"""Pauses grow, have a bound, and are spread."""

import pytest

from shared.runtime.retry import Backoff


def test_pauses_grow_up_to_their_bound() -> None:
    backoff = Backoff(0.2, 10)
    assert [backoff.pause_s(n) for n in (0, 1, 2, 3, 4)] == [0.2, 0.2, 0.4, 0.8, 1.6]
    assert backoff.pause_s(7) == backoff.pause_s(10_000) == 10


@pytest.mark.parametrize("attempts", [1, 5, 50])
def test_pauses_are_spread_around_their_length(attempts: int) -> None:
    exact, spread = Backoff(1, 30), Backoff(1, 30, spread=0.2)
    pauses = [spread.pause_s(attempts) / exact.pause_s(attempts) for _ in range(200)]
    assert 0.8 <= min(pauses) < 0.9
    assert 1.1 < max(pauses) <= 1.2
