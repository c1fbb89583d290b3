"""Pauses between attempts: exponential, bounded, and spread at random."""

import random
from dataclasses import dataclass
from typing import Final

_MAX_EXPONENT: Final = 60
"""Beyond it, a power would overflow; every pause has reached its bound by then."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing pauses, in seconds.

    The pause after attempt 1 is `first_s`; each further one is `factor` times longer, up to `max_s`. A
    `spread` of 0.2 draws each pause between 80 % and 120 % of that.
    """

    first_s: float
    max_s: float
    factor: float = 2.0
    spread: float = 0.0

    def pause_s(self, attempts: int) -> float:
        """Return the pause after this many failed attempts in a row. It is at least 1."""
        exponent = min(max(attempts, 1) - 1, _MAX_EXPONENT)
        pause: float = min(self.first_s * self.factor**exponent, self.max_s)
        if self.spread:
            pause *= random.uniform(1 - self.spread, 1 + self.spread)  # noqa: S311 -- only to spread
        return pause
