"""Waiting for rates: no rate is exceeded, and lanes are served in the order in which they asked."""

from dataclasses import dataclass
from heapq import heappop, heappush

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sync.carry import pace as module
from services.sync.carry.pace import Pace
from shared.manifests.channel_models import ChannelSpec, RateSpec
from shared.manifests.registry import registry

METHOD = "chat.update"


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "monotonic", made)
    return made


def spec(*rates: tuple[str, int, float]) -> ChannelSpec:
    slack = registry().providers["slack"].manifest.channel
    assert slack
    return slack.model_copy(
        update={
            "rates": tuple(
                RateSpec.model_validate(
                    {"methods": [METHOD], "scope": scope, "amount": amount, "per_s": per_s}
                )
                for scope, amount, per_s in rates
            )
        }
    )


def served(clock: Clock, rates: ChannelSpec, asks: list[tuple[float, str]]) -> list[tuple[float, int]]:
    """Let lanes ask at these times, for these conversations, and again when told to; return the calls."""
    pace = Pace()
    waiting: list[tuple[float, int, str]] = []
    calls: list[tuple[float, int]] = []
    for lane, (after, conversation) in enumerate(asks):
        heappush(waiting, (clock.now + after, lane, conversation))
    while waiting:
        clock.now, lane, conversation = heappop(waiting)
        delay = pace.take("T1", rates, METHOD, conversation, f"lane-{lane}")
        if delay:
            heappush(waiting, (clock.now + delay, lane, conversation))
        else:
            calls.append((clock.now, lane))
    return calls


def test_lanes_of_an_account_are_served_in_the_order_in_which_they_asked(clock: Clock) -> None:
    asks = [(number / 100, f"C{number}") for number in range(40)]
    calls = served(clock, spec(("account", 5, 10.0)), asks)
    assert [lane for _, lane in calls] == list(range(40))
    assert calls[-1][0] == pytest.approx(1_070, abs=1)


def test_a_lane_that_waits_asks_twice(clock: Clock) -> None:
    pace, rates = Pace(), spec(("method", 1, 1.0))
    delays = [pace.take("T1", rates, METHOD, "C1", f"lane-{number}") for number in range(5)]
    assert delays == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert pace.take("T1", rates, METHOD, "C1", "lane-4") == 4.0, "it is early: its time stays"
    clock.now += 4.0
    assert pace.take("T1", rates, METHOD, "C1", "lane-4") == 0.0
    assert pace.take("T1", rates, METHOD, "C1", "lane-4") == 1.0, "a time is used once"


def test_a_pause_that_the_provider_asks_for_comes_before_a_reserved_time(clock: Clock) -> None:
    pace, rates = Pace(), spec(("method", 1, 1.0))
    assert [pace.take("T1", rates, METHOD, "C1", f"lane-{number}") for number in range(2)] == [0.0, 1.0]
    pace.block("T1", "account", METHOD, "C1", 30.0)
    clock.now += 1.0
    assert pace.take("T1", rates, METHOD, "C1", "lane-1") == 29.0
    clock.now += 29.0
    assert pace.take("T1", rates, METHOD, "C1", "lane-1") == 0.0


def test_what_is_useless_later_reserves_nothing(clock: Clock) -> None:
    pace, rates = Pace(), spec(("method", 1, 1.0))
    assert [pace.take("T1", rates, METHOD, "C1") for _ in range(3)] == [0.0, 1.0, 1.0]


@given(
    rates=st.lists(
        st.tuples(
            st.sampled_from(["account", "method", "conversation"]),
            st.integers(1, 4),
            st.sampled_from([0.5, 1.0, 3.0]),
        ),
        min_size=1,
        max_size=3,
    ),
    asks=st.lists(st.tuples(st.floats(0, 20), st.sampled_from(["C1", "C2", "C3"])), max_size=40),
)
def test_no_rate_is_ever_exceeded(rates: list[tuple[str, int, float]], asks: list[tuple[float, str]]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        clock = Clock()
        patched.setattr(module, "monotonic", clock)
        calls = served(clock, spec(*rates), asks)
    assert len(calls) == len(asks)
    for scope, amount, per_s in rates:
        for conversation in ("C1", "C2", "C3") if scope == "conversation" else (None,):
            times = [at for at, lane in calls if conversation in (None, asks[lane][1])]
            for number in range(amount, len(times)):
                assert times[number] - times[number - amount] >= per_s - 1e-6
