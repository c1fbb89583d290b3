"""The circuit breaker of one endpoint: it stops attempts at an endpoint that only fails. Pure.

Times are seconds of the event loop's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Literal

_MAX_DOUBLINGS: Final = 20


Circuit = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When an endpoint gets only probes: after so many failures in a row over at least `failing_s` seconds.

    The first pause has `pause_s` seconds; each later one is twice as long, up to `max_pause_s`. A delivery
    waits behind an open circuit for as long as its own schedule and `max_wait_s` more.
    """

    enabled: bool
    failures: int
    failing_s: float
    pause_s: float
    max_pause_s: float
    max_wait_s: float

    def with_settings(self, settings: Mapping[str, Any] | None) -> "BreakerPolicy":
        """Return this policy with what a webhook sets otherwise."""
        return replace(self, **{name: value for name, value in (settings or {}).items() if value is not None})

    def pause(self, number: int) -> float:
        """Return the seconds of a pause; `number` counts from 0."""
        return min(self.pause_s * 2.0 ** min(number, _MAX_DOUBLINGS), max(self.pause_s, self.max_pause_s))


class CircuitBreakerState:
    """Opens after failures as its policy says; then one probe at a time, each pause twice the last one."""

    __slots__ = ("_failing_since", "_failures", "_probing", "opened_at", "pauses", "policy", "probe_at")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.reset()

    def reset(self) -> None:
        """Close the circuit and forget what was learnt."""
        self._failures = 0
        self._failing_since = 0.0
        self._probing = False
        self.pauses = 0
        """How many pauses there were since the circuit opened; 0 while it is closed."""
        self.opened_at = 0.0
        self.probe_at = 0.0
        """When the next probe may start."""

    def restore(self, pauses: int, opened_at: float, probe_at: float) -> None:
        """Take over an open circuit from the process that had it before."""
        self.pauses, self.opened_at, self.probe_at = pauses, opened_at, probe_at

    def restart_wait(self, now: float) -> None:
        """Count the wait behind the circuit from now on: until now, deliveries waited for a person."""
        self.opened_at = now

    @property
    def circuit(self) -> Circuit:
        """Closed lets everything through, open nothing, half open one probe."""
        if self.pauses == 0 or not self.policy.enabled:
            return "closed"
        return "half_open" if self._probing else "open"

    def available_permits(self, now: float) -> float:
        """How many attempts may start now: any, one probe, or none."""
        if self.pauses == 0 or not self.policy.enabled:
            return inf
        return 1 if now >= self.probe_at and not self._probing else 0

    def next_permit_at(self, now: float) -> float:
        """When the next attempt may start, given that none may start now; a probe's end is not known."""
        return now if self._probing else self.probe_at

    def acquire(self, now: float) -> None:
        """An attempt starts; the first one after the pause is the probe."""
        if self.pauses and now >= self.probe_at:
            self._probing = True

    def release(self) -> None:
        """An attempt that was taken did not start: if it was to be the probe, there is none."""
        self._probing = False

    def record_result(self, *, succeeded: bool, now: float) -> bool:
        """An attempt ended; whether the circuit opened or closed with it.

        Failures of what was sent before the circuit opened do not make its pause longer, nor do those of
        what a person sent past it.
        """
        if succeeded:
            was_open = self.pauses > 0
            self.reset()
            return was_open
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
        elif not self._probing:
            return False
        self.probe_at = now + policy.pause(self.pauses)
        self.pauses += 1
        self._probing = False
        return self.pauses == 1
