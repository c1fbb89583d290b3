"""How fast an import calls: half of what the account may at most, and less after a 429."""

from typing import Final

import pytest

from services.importer.accounts import rate_limiter as module
from services.importer.accounts.rate_limiter import RateLimiter, RateLimiterState
from services.importer.accounts.walk import Walk
from services.importer.jobs.estimate import in_words
from shared.manifests.channel_models import RateSpec
from shared.manifests.history_types import ObservedRate, Unreadable

RATES: Final = (
    RateSpec(methods=("history", "replies"), scope="method", amount=50, per_s=60),
    RateSpec(methods=("*",), scope="account", amount=600, per_s=60),
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_700_000_000.0]
    monkeypatch.setattr(module, "time", lambda: now[0])
    return now


def calls_in(limiter: RateLimiter, clock: list[float], seconds: float, method: str = "history") -> int:
    """Call whenever it is allowed, and return how often that was."""
    end, made = clock[0] + seconds, 0
    while clock[0] < end:
        wait_s = limiter.wait_s(method)
        if wait_s:
            clock[0] += wait_s
            continue
        limiter.called(method)
        made += 1
    return made


def test_half_of_a_rate_is_used_and_methods_are_counted_apart(clock: list[float]) -> None:
    limiter = RateLimiter(RATES, RateLimiterState())
    assert calls_in(limiter, clock, 600) == 250
    limiter.called("history")
    assert 0 < limiter.wait_s("replies") <= 0.201  # the rate of the account
    with pytest.raises(Unreadable, match="no rate"):
        RateLimiter(RATES[:1], RateLimiterState()).wait_s("chat.postMessage")


def test_a_429_is_obeyed_halves_the_share_and_is_forgotten_slowly(clock: list[float]) -> None:
    limiter = RateLimiter(RATES, RateLimiterState())
    limiter.called("history")
    limiter.limited("history", "method", 30.0)
    assert limiter.wait_s("history") == 30.0
    assert limiter.wait_s("replies") < 1.0
    clock[0] += 30.0
    less = calls_in(limiter, clock, 60)
    assert 12 <= less < 25
    assert calls_in(limiter, clock, 600) > 225
    for _ in range(50):
        limiter.limited("history", "method", 1.0)
    assert limiter.interval_s("history") == pytest.approx(60 / 50 / (0.5 / 16))


def test_another_process_goes_on_where_the_first_one_was(clock: list[float]) -> None:
    first = RateLimiter(RATES, RateLimiterState())
    first.called("history")
    first.limited("history", "account", 10.0)
    first.observe(ObservedRate("history", 1, 60.0))
    stored = RateLimiterState.model_validate(first.state.document())
    second = RateLimiter(RATES, stored)
    assert second.wait_s("history") == first.wait_s("history") == pytest.approx(240.0)
    assert second.wait_s("replies") == 10.0


def test_a_lower_rate_that_responses_show_counts_at_once(clock: list[float]) -> None:
    limiter = RateLimiter(RATES, RateLimiterState())
    limiter.called("history")
    limiter.observe(ObservedRate("history", 1, 60.0))
    assert limiter.wait_s("history") == 120.0
    limiter.observe(ObservedRate("history", 1000, 60.0))
    assert limiter.interval_s("history") == 2.4


def test_the_estimate_follows_pages_and_pace() -> None:
    walk = Walk().after_page("a", records=15, fraction=0.01, interval_s=120.0)
    assert walk.estimated_s(1) == pytest.approx(99 * 120.0)
    assert walk.estimated_s(26) == pytest.approx((99 + 25 * 100) * 120.0)
    assert in_words(walk.estimated_s(26)) == "about 4 days"
    assert Walk().estimated_s(3) is None
    assert [in_words(seconds) for seconds in (5, 60, 7200, 86_400)] == [
        "less than a minute", "about 1 minute", "about 2 hours", "about 1 day",
    ]  # fmt: skip


def test_cursors_in_a_circle_and_pages_without_records_end() -> None:
    walk = Walk()
    for cursor in ("a", "b", "c"):
        assert not walk.is_endless(cursor)
        walk = walk.after_page(cursor, records=1, fraction=0.0)
    assert walk.is_endless("a")
    for number in range(600):
        walk = walk.after_page(str(number), records=0, fraction=0.0)
    assert walk.is_endless("new")
    assert not walk.next_conversation().is_endless("new")
