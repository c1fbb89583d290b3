"""Compute when to retry a delivery: named schedules and jitter. Pure.

A schedule is the seconds to wait before each attempt, so its length is the number of attempts.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

_M: Final = 60.0
_H: Final = 3600.0

NCHAT: Final = (0.0, 5.0, 10.0, 20.0)
"""nself-chat: three retries, after 5, 10 and 20 s."""

STANDARD: Final = (0.0, 5.0, 5 * _M, 30 * _M, 2 * _H, 5 * _H, 10 * _H, 14 * _H, 20 * _H, 24 * _H)
"""The example schedule of the Standard Webhooks specification, "Deliverability and reliability"."""

CHATWOOT: Final = (0.0, *(float(executions**4 + 2) for executions in range(1, 5)))
"""Chatwoot: 5 attempts, at the intervals of Rails' `:polynomially_longer` without its jitter
(activejob `exceptions.rb`, `determine_delay`: executions**4 + 2, so 3, 18, 83 and 258 s)."""

SCHEDULES: Final[Mapping[str, tuple[float, ...]]] = {
    "nchat": NCHAT,
    "standard": STANDARD,
    "chatwoot": CHATWOOT,
}

MAX_ATTEMPTS: Final = 50
MAX_WAIT_S: Final = 7 * 24 * 3600.0


def attempt_delay(schedule: Sequence[float], attempt: int) -> float | None:
    """Return the seconds to wait before attempt number `attempt` (from 1); None if none is left."""
    if attempt > len(schedule):
        return None
    return schedule[attempt - 1]


def add_jitter(wait_s: float, share: float, *seed: str) -> float:
    """Return the wait, lengthened by a random part of 0 to `share` (0 to 1) of itself, evenly distributed.

    The same seed (delivery id, attempt) gives the same wait, so that repeating the calculation after a crash
    does not move the attempt.
    """
    # A hash instead of a random generator: the same seed has to give the same wait in every process.
    digest = hashlib.blake2b("\0".join(seed).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return wait_s * (1 + share * int.from_bytes(digest) / 2**64)
