"""The circuit breaker of one endpoint: it stops attempts at an endpoint that only fails. Pure.

Times are seconds of the event loop's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Literal

from shared.runtime.retry import Backoff

Circuit = Literal["closed", "open", "half_open"]

_FAILING_PERIOD_S: Final = 1.0
"""After enough failures in a row, until they have lasted long enough to open the circuit, as many attempts
may start in this time: an endpoint that refuses everything could otherwise take hundreds a second."""
_MAX_FAILURES: Final = 100
"""That holds after this many failures at the latest, also without a circuit breaker: its owner sets both."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Rule that opens the circuit: after `failures` in a row that last at least `failing_s` seconds.

    The first pause takes `pause_s` seconds. Each later pause is twice as long, up to `max_pause_s`. A
    delivery waits behind an open circuit for the sum of its own schedule and `max_wait_s`. The field names
    are those of the stored `circuit_breaker` document.
    """

    enabled: bool
    failures: int
    failing_s: float
    pause_s: float
    max_pause_s: float
    max_wait_s: float

    def with_settings(self, settings: Mapping[str, Any] | None) -> "BreakerPolicy":
        """Return this policy with a webhook's own settings; None leaves a value as it is."""
        return replace(self, **{name: value for name, value in (settings or {}).items() if value is not None})

    def pause(self, number: int) -> float:
        """Return the length of a pause in seconds; `number` counts from 0."""
        return Backoff(self.pause_s, max(self.pause_s, self.max_pause_s)).pause_s(number + 1)


class CircuitBreakerState:
    """The circuit of one endpoint: closed, open, or half open while one probe is in flight."""

    __slots__ = (
        "_failing_since",
        "_failures",
        "_period_at",
        "_probing",
        "_started",
        "opened_at",
        "pauses",
        "policy",
        "probe_at",
    )

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.reset()

    def reset(self) -> None:
        """Close the circuit and forget earlier failures."""
        self._failures = 0
        self._failing_since = 0.0
        self._period_at = -_FAILING_PERIOD_S
        self._started = 0
        self._probing = False
        self.pauses = 0
        """Pauses since the circuit opened; 0 while it is closed."""
        self.opened_at = 0.0
        self.probe_at = 0.0
        """The time at which the next probe may start."""

    def restore(self, pauses: int, opened_at: float, probe_at: float) -> None:
        """Restore an open circuit that the previous owner of the partition wrote."""
        self.pauses, self.opened_at, self.probe_at = pauses, opened_at, probe_at

    def restart_wait(self, now: float) -> None:
        """Count the wait behind the circuit from now on, because deliveries waited for a person until now."""
        self.opened_at = now

    @property
    def circuit(self) -> Circuit:
        """The state: closed permits attempts, open permits none, half open is waiting for its probe."""
        if self.pauses == 0 or not self.policy.enabled:
            return "closed"
        return "half_open" if self._probing else "open"

    def available_permits(self, now: float) -> float:
        """Return how many attempts may start now: infinite, 1 for a probe, or 0.

        After enough failures in a row to open the circuit, but not for long enough, it is what is left of as
        many attempts per second; also after 100 failures that do not open it.
        """
        if self.circuit == "closed":
            paced_from = min(self.policy.failures, _MAX_FAILURES) if self.policy.enabled else _MAX_FAILURES
            if self._failures < paced_from:
                return inf
            started = self._started if now < self._period_at + _FAILING_PERIOD_S else 0
            return max(0, paced_from - started)
        return 1 if now >= self.probe_at and not self._probing else 0

    def next_permit_at(self, now: float) -> float:
        """Return when to ask for a permit again. Call it only when none is available.

        The end of a probe is unknown, so while one is in flight this is now.
        """
        if self.circuit == "closed":
            return self._period_at + _FAILING_PERIOD_S
        return now if self._probing else self.probe_at

    def acquire(self, now: float, count: int = 1) -> None:
        """Record that attempts start. The first attempt after a pause is the probe."""
        if self.pauses and now >= self.probe_at:
            self._probing = True
        if now >= self._period_at + _FAILING_PERIOD_S:
            self._period_at, self._started = now, 0
        self._started += count

    def release(self) -> None:
        """Return an unused permit. If it was the half-open probe, allow another one."""
        self._probing = False

    def record_result(self, *, succeeded: bool, now: float) -> bool:
        """Record the result of an attempt; return whether the circuit opened or closed.

        Only the probe's failure lengthens the pause. Failures of attempts that started before the circuit
        opened, and of manual attempts while it is open, do not.
        """
        if succeeded:
            was_open = self.pauses > 0
            self.reset()
            return was_open
        # A row of failures begins.
        if self._failures == 0:
            self._failing_since = now
        self._failures += 1
        policy = self.policy
        if self.pauses == 0:
            if self._failures < policy.failures or now - self._failing_since < policy.failing_s:
                return False
            if not policy.enabled:
                return False
            self.opened_at = now
        # The circuit is open, and this was no probe: no information.
        elif not self._probing:
            return False
        # The circuit opens, or the probe failed: another pause.
        self.probe_at = now + policy.pause(self.pauses)
        self.pauses += 1
        self._probing = False
        return self.pauses == 1
