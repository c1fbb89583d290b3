"""Limit the calls of an import with an account to at most half of what the provider allows.

The other half is for live messages. After a 429 the share is halved, and it grows back call by call. Calls
are spaced evenly, so that no burst uses the allowance of a minute up. The state is stored with the import:
another process goes on with it.
"""

import asyncio
from collections.abc import Iterator, Sequence
from time import time
from typing import Final

from pydantic import Field

from shared.connections.channel_calls import BeforeStep
from shared.manifests.channel_models import RateScope, RateSpec
from shared.manifests.channel_types import Step
from shared.manifests.history_types import ObservedRate, Unreadable
from shared.runtime.records import StoredPart

SHARE: Final = 0.5
_MIN_SHARE: Final = SHARE / 16
_GROWTH: Final = 1.02
"""A share that was halved is restored after 35 calls without a 429."""
_ANY: Final = "*"
_MAX_OBSERVED_S: Final = 3600.0


class RateLimiterState(StoredPart):
    """The state of a limiter. Times are Unix times, by method, or by the number of a common rate."""

    share: float = SHARE
    last: dict[str, float] = Field(default={})
    blocked: dict[str, float] = Field(default={})
    observed: dict[str, float] = Field(default={})
    """Seconds for each call of a method, as responses have shown them."""


class RateLimiter:
    """Limits the calls of one import with one account."""

    def __init__(self, rates: Sequence[RateSpec], state: RateLimiterState) -> None:
        self._rates = rates
        self._share = state.share
        self._last = dict(state.last)
        self._blocked = dict(state.blocked)
        self._observed = dict(state.observed)

    @property
    def state(self) -> RateLimiterState:
        """The state to store."""
        return RateLimiterState(
            share=self._share, last=self._last, blocked=self._blocked, observed=self._observed
        )

    def wait_s(self, method: str) -> float:
        """Return the seconds until a method may be called; 0.0 for now. Raises as `interval_s` does."""
        until = max(self._blocked.get(method, 0.0), self._blocked.get(_ANY, 0.0))
        for key, interval_s in self._intervals(method):
            until = max(until, self._last.get(key, 0.0) + interval_s)
        return max(0.0, until - time())

    def interval_s(self, method: str) -> float:
        """Return the seconds between two calls of a method. Raises `Unreadable` without a rate."""
        return max(interval_s for _, interval_s in self._intervals(method))

    def called(self, method: str) -> None:
        """Count a call that is made now."""
        now = time()
        for key, _ in self._intervals(method):
            self._last[key] = now
        self._share = min(SHARE, self._share * _GROWTH)

    def limited(self, method: str, scope: RateScope, pause_s: float) -> None:
        """Take a 429 into account: nothing of its scope goes out for a while, and less after it."""
        key = _ANY if scope == "account" else method
        self._blocked[key] = max(self._blocked.get(key, 0.0), time() + pause_s)
        self._share = max(_MIN_SHARE, self._share / 2)

    def observe(self, rate: ObservedRate) -> None:
        """Take a rate that a response shows into account, until one shows another."""
        self._observed[rate.method] = min(rate.per_s / max(rate.amount, 1), _MAX_OBSERVED_S)

    def _intervals(self, method: str) -> Iterator[tuple[str, float]]:
        """Yield the key of each count that a method is part of, and the seconds between its calls."""
        found = False
        for number, rate in enumerate(self._rates):
            if method in rate.methods or _ANY in rate.methods:
                found = True
                key = str(number) if rate.scope == "account" else method
                interval_s = rate.per_s / rate.amount
                if rate.scope != "account":
                    interval_s = max(interval_s, self._observed.get(method, 0.0))
                yield key, interval_s / self._share
        if not found:
            raise Unreadable(f"{method[:80]!r} has no rate in the manifest: add it there")


def limited_steps(rates: Sequence[RateSpec]) -> BeforeStep:
    """Return a function that waits before each step of operations, so that they use half of each rate."""
    limiter, turn = RateLimiter(rates, RateLimiterState()), asyncio.Lock()

    async def before(step: Step) -> None:
        async with turn:
            await asyncio.sleep(limiter.wait_s(step.method))
            limiter.called(step.method)

    return before
