"""What an answer leads to, and how fast an endpoint is sent to: without clock, network or store."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import inf
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.delivery.model.circuit_breaker import BreakerPolicy, CircuitBreakerState
from services.delivery.model.rate_limiter import RateLimit, RateLimiter
from services.delivery.model.retry_policy import (
    Attempt,
    AttemptOutcome,
    ClientErrorPolicy,
    RetryPolicy,
    evaluate_attempt,
)
from shared.runtime.egress.client import EgressResponse
from shared.runtime.egress.errors import EgressFailure
from shared.wire.retry_after import RETRY_AFTER_CAP_S

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TWICE = RetryPolicy((0.0, 100.0))


def attempt(status: int | None = None, failure: EgressFailure | None = None, **headers: str) -> Attempt:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Attempt(1, NOW, {}, EgressResponse(status, failure, "", named, b"", 0.1, None))


def after(
    result: Attempt, policy: RetryPolicy = TWICE, number: int = 1, seed: str = "dlv_1"
) -> AttemptOutcome:
    return evaluate_attempt(result, number, policy, seed, NOW)


def wait_of(outcome: AttemptOutcome) -> float:
    assert outcome.due_at is not None
    return (outcome.due_at - NOW).total_seconds()


# What an answer means


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    assert after(attempt(status)) == AttemptOutcome("delivered", None)
    assert attempt(status).error is None


@pytest.mark.parametrize("status", [301, 302, 308, 408, 425, 429, 500, 502, 503, 504, 599])
def test_a_status_that_may_pass_is_tried_again_while_the_schedule_lasts(status: int) -> None:
    assert after(attempt(status)) == AttemptOutcome("retrying", NOW + timedelta(seconds=100))
    assert after(attempt(status), number=2) == AttemptOutcome("dead_letter", None)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 451, 499])
@pytest.mark.parametrize("client_errors", get_args(ClientErrorPolicy))
def test_any_other_4xx_is_final_unless_the_owner_says_otherwise(
    status: int, client_errors: ClientErrorPolicy
) -> None:
    policy = RetryPolicy((0.0, 100.0), client_errors=client_errors)
    expected = {"final": "dead_letter", "retry": "retrying"}[client_errors]
    assert after(attempt(status), policy).status == expected
    assert after(attempt(status), policy, 2).status == "dead_letter"


@pytest.mark.parametrize("client_errors", get_args(ClientErrorPolicy))
def test_410_wants_nothing_ever_again(client_errors: ClientErrorPolicy) -> None:
    policy = RetryPolicy((0.0, 100.0), client_errors=client_errors)
    assert after(attempt(410), policy) == AttemptOutcome("dead_letter", None, gone=True)
    assert not after(attempt(404), policy).gone


@pytest.mark.parametrize("failure", get_args(EgressFailure))
def test_a_failure_without_an_answer(failure: EgressFailure) -> None:
    unsent = failure in ("address_refused", "bad_url", "condition_too_expensive", "transform_failed")
    result = attempt(failure=failure)
    assert after(result).status == ("dead_letter" if unsent else "retrying")
    assert (result.ok, result.error, result.is_not_sent) == (False, failure, unsent)
    assert result.is_endpoint_failure is not unsent
    assert result.is_hub_failure is (failure == "proxy")


@pytest.mark.parametrize(
    ("status", "unwell"), [(200, False), (302, False), (404, False), (429, False), (408, True), (500, True)]
)
def test_an_endpoint_is_unwell_when_it_does_not_work_and_not_when_it_refuses(
    status: int, unwell: bool
) -> None:
    assert attempt(status).is_endpoint_failure is unwell


# Waits


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_holds_the_endpoint_and_leaves_the_schedule(status: int) -> None:
    for header_s in (500, 3, 0):
        outcome = after(attempt(status, Retry_After=str(header_s)))
        assert (wait_of(outcome), outcome.retry_after_s) == (100, header_s)
    date = format_datetime(NOW + timedelta(seconds=700), usegmt=True)
    assert after(attempt(status, retry_after=date)).retry_after_s == 700, "a date, and the name in any case"
    for nonsense in ("soon", "-5", "1e9", ""):
        assert after(attempt(status, Retry_After=nonsense)).retry_after_s == 0


@pytest.mark.parametrize("text", ["86401", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_retry_after_is_bounded(text: str) -> None:
    assert after(attempt(429, Retry_After=text)).retry_after_s == RETRY_AFTER_CAP_S == 86_400
    policy = RetryPolicy((0.0, 100.0), max_retry_after_s=900)
    outcome = after(attempt(429, Retry_After=text), policy)
    assert (wait_of(outcome), outcome.retry_after_s) == (100, 900)
    assert after(attempt(429, Retry_After="899"), policy).retry_after_s == 899


def test_retry_after_gives_no_attempt_that_the_schedule_does_not_have() -> None:
    outcome = after(attempt(429, Retry_After="7"), number=2)
    assert (outcome.status, outcome.due_at, outcome.retry_after_s) == ("dead_letter", None, 7)


def test_retry_after_of_another_status_is_not_heard() -> None:
    assert after(attempt(500, Retry_After="500")) == AttemptOutcome("retrying", NOW + timedelta(seconds=100))


@given(st.text(min_size=1, max_size=40), st.floats(0, 1), st.floats(0, 604_800))
def test_jitter_only_lengthens_by_its_share_and_is_the_same_when_it_is_reckoned_again(
    seed: str, jitter: float, wait: float
) -> None:
    policy = RetryPolicy((0.0, wait), jitter)
    outcome = after(attempt(500), policy, seed=seed)
    assert wait - 1e-5 <= wait_of(outcome) <= wait * (1 + jitter) + 1e-5
    assert outcome == after(attempt(500), policy, seed=seed)


def test_jitter_spreads_the_deliveries_of_one_moment() -> None:
    policy = RetryPolicy((0.0, 100.0), 0.5)
    waits = sorted(wait_of(after(attempt(500), policy, seed=f"dlv_{number}")) for number in range(400))
    for low in range(100, 150, 10):  # 80 in each fifth, were it even
        assert 40 < sum(low <= wait < low + 10 for wait in waits) < 120


# The rate limit


@given(
    st.integers(1, 5),
    st.floats(0.1, 10),
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 4)), max_size=60),
)
def test_no_period_has_more_than_the_limit_whatever_comes_when(
    max_requests: int, period: float, wishes: list[tuple[float, int]]
) -> None:
    limit, limiter, now = RateLimit(max_requests, period), RateLimiter(), 0.0
    starts: list[float] = []
    for gap, requested in wishes:
        now += gap
        count = min(requested, int(limiter.available_permits(limit, now)))
        limiter.acquire(limit, count, now)
        starts += [now] * count
    for first, last in zip(starts, starts[max_requests:], strict=False):
        assert last - first >= period - 1e-9


def test_a_full_period_says_when_there_is_room_again_and_what_was_not_used_is_given_back() -> None:
    limit, limiter = RateLimit(2, 10.0), RateLimiter()
    assert limiter.available_permits(limit, 100.0) == 2
    limiter.acquire(limit, 1, 100.0)
    limiter.acquire(limit, 1, 103.0)
    assert (limiter.available_permits(limit, 109.9), limiter.next_permit_at(limit)) == (0, 110.0)
    assert (limiter.available_permits(limit, 110.0), limiter.next_permit_at(limit)) == (1, 0.0)
    limiter.acquire(limit, 1, 110.0)
    limiter.release(1)
    assert limiter.available_permits(limit, 110.0) == 1
    assert (limiter.available_permits(None, 110.0), limiter.next_permit_at(None)) == (inf, 0.0)


def test_a_limit_is_taken_over_for_no_longer_than_its_period() -> None:
    limit = RateLimit(2, 10.0)
    for until, free_at in ((104.0, 104.0), (5_000.0, 110.0), (50.0, 100.0)):
        limiter = RateLimiter()
        limiter.restore(until)
        assert limiter.available_permits(limit, 100.0) == (2 if free_at == 100.0 else 0)
        assert limiter.available_permits(RateLimit(3, 10.0), 100.0) == (3 if free_at == 100.0 else 1)
        assert limiter.available_permits(limit, free_at) == 2


def test_a_limit_that_was_made_smaller_holds_for_what_was_sent_before() -> None:
    limiter = RateLimiter()
    limiter.acquire(RateLimit(10, 10.0), 5, 100.0)
    limiter.acquire(RateLimit(10, 10.0), 1, 105.0)
    assert limiter.available_permits(RateLimit(2, 10.0), 106.0) == 0
    assert limiter.next_permit_at(RateLimit(2, 10.0)) == 110.0
    assert limiter.available_permits(RateLimit(2, 10.0), 110.0) == 1


# The breaker


def policy(failures: int, pause_s: float, failing_s: float = 0.0) -> BreakerPolicy:
    return BreakerPolicy(True, failures, failing_s, pause_s, 10 * pause_s, 600.0)


def fail(breaker: CircuitBreakerState, now: float) -> bool:
    breaker.acquire(now)
    return breaker.record_result(succeeded=False, now=now)


def test_consecutive_failures_open_the_circuit_and_a_success_resets_the_count() -> None:
    breaker = CircuitBreakerState(policy(3, 10.0))
    assert [fail(breaker, 0.0) for _ in range(2)] == [False, False]
    assert breaker.record_result(succeeded=True, now=0.0) is False
    assert [fail(breaker, 1.0) for _ in range(3)] == [False, False, True]
    assert (breaker.circuit, breaker.available_permits(10.9), breaker.next_permit_at(1.0)) == (
        "open",
        0,
        11.0,
    )


def test_after_the_pause_there_is_one_probe_and_each_pause_is_twice_the_last_up_to_the_longest() -> None:
    breaker, now, pauses = CircuitBreakerState(policy(1, 1.0)), 0.0, []
    assert fail(breaker, now)
    for _ in range(7):
        until = breaker.next_permit_at(now)
        pauses.append(until - now)
        assert breaker.available_permits(until - 0.01) == 0
        now = until
        assert breaker.available_permits(now) == 1
        breaker.acquire(now)
        assert (breaker.circuit, breaker.available_permits(now + 100)) == ("half_open", 0)
        assert breaker.record_result(succeeded=False, now=now) is False
    assert pauses == [1, 2, 4, 8, 10, 10, 10]
    breaker.acquire(now + 10)
    assert breaker.record_result(succeeded=True, now=now + 10) is True
    assert (breaker.circuit, breaker.available_permits(now + 10)) == ("closed", inf)
    assert fail(breaker, 0.0)
    assert breaker.next_permit_at(0.0) == 1.0, "the first pause again"


def test_what_was_under_way_when_it_opened_makes_no_pause_longer_and_may_close_it() -> None:
    breaker = CircuitBreakerState(policy(2, 10.0))
    assert [fail(breaker, 0.0) for _ in range(2)] == [False, True]
    assert [breaker.record_result(succeeded=False, now=5.0) for _ in range(5)] == [False] * 5
    assert breaker.next_permit_at(5.0) == 10.0
    assert breaker.record_result(succeeded=True, now=6.0) is True
    assert breaker.circuit == "closed"


def test_a_probe_that_was_not_sent_leaves_room_for_another() -> None:
    breaker = CircuitBreakerState(policy(1, 10.0))
    fail(breaker, 0.0)
    breaker.acquire(10.0)
    assert breaker.available_permits(10.0) == 0
    breaker.release()
    assert (breaker.circuit, breaker.available_permits(10.0)) == ("open", 1)


def test_a_breaker_opens_only_after_failures_over_some_time() -> None:
    breaker = CircuitBreakerState(policy(3, 10.0, failing_s=30.0))
    assert [fail(breaker, float(now)) for now in range(30)] == [False] * 30
    assert fail(breaker, 30.0) is True
    assert breaker.record_result(succeeded=True, now=31.0) is True
    assert fail(breaker, 100.0) is False
    assert fail(breaker, 131.0) is False, "two failures are no three"
    assert fail(breaker, 132.0) is True


def test_before_a_breaker_opens_an_endpoint_that_only_fails_gets_few_attempts() -> None:
    """Hundreds a second otherwise, if it refuses them at once: their log writes are what others wait for."""
    breaker = CircuitBreakerState(policy(3, 10.0, failing_s=30.0))
    breaker.acquire(0.0, 100)
    for _ in range(2):
        fail(breaker, 0.0)
    assert breaker.available_permits(0.5) == inf
    fail(breaker, 0.5)
    assert (breaker.available_permits(0.5), breaker.next_permit_at(0.5)) == (0, 1.0)
    assert breaker.circuit == "closed"
    assert breaker.available_permits(1.0) == 3
    breaker.acquire(1.0, 2)
    assert breaker.available_permits(1.5) == 1
    breaker.acquire(1.5)
    assert (breaker.available_permits(1.9), breaker.next_permit_at(1.9)) == (0, 2.0)
    breaker.record_result(succeeded=True, now=1.9)
    assert breaker.available_permits(1.9) == inf


def test_a_breaker_that_is_switched_off_never_opens() -> None:
    breaker = CircuitBreakerState(replace(policy(1, 10.0), enabled=False))
    assert [fail(breaker, float(now)) for now in range(100)] == [False] * 100
    assert (breaker.circuit, breaker.available_permits(100.0)) == ("closed", 100)


@pytest.mark.parametrize("changes", [{"failures": 10_000}, {"enabled": False}])
def test_an_endpoint_that_only_fails_gets_few_attempts_whatever_its_owner_sets(
    changes: dict[str, Any],
) -> None:
    breaker = CircuitBreakerState(replace(policy(3, 10.0, failing_s=30.0), **changes))
    for _ in range(99):
        fail(breaker, 0.0)
    assert breaker.available_permits(0.0) == inf
    fail(breaker, 0.0)
    assert (breaker.available_permits(0.5), breaker.next_permit_at(0.5)) == (0, 1.0)
    assert breaker.available_permits(1.0) == 100
    breaker.record_result(succeeded=True, now=1.0)
    assert breaker.available_permits(1.0) == inf


def test_a_failure_that_was_sent_past_the_circuit_makes_no_pause_longer() -> None:
    breaker = CircuitBreakerState(policy(1, 10.0))
    fail(breaker, 0.0)
    assert fail(breaker, 5.0) is False
    assert (breaker.circuit, breaker.available_permits(9.9), breaker.available_permits(10.0)) == (
        "open",
        0,
        1,
    )


def test_a_circuit_is_taken_over_as_it_was() -> None:
    breaker = CircuitBreakerState(policy(1, 10.0))
    breaker.restore(2, -20.0, 15.0)
    assert (breaker.circuit, breaker.available_permits(14.9), breaker.available_permits(15.0)) == (
        "open",
        0,
        1,
    )
    assert fail(breaker, 15.0) is False
    assert breaker.next_permit_at(15.0) == 15.0 + 40.0
