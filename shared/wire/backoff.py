"""Retry schedules: seconds to wait before each attempt, so the length is the number of attempts."""

from collections.abc import Mapping, Sequence
from typing import Final

NCHAT: Final = (0.0, 5.0, 10.0, 20.0)

SCHEDULES: Final[Mapping[str, tuple[float, ...]]] = {"nchat": NCHAT}

MAX_ATTEMPTS: Final = 50
MAX_WAIT_S: Final = 7 * 24 * 3600.0


def wait_before(schedule: Sequence[float], attempt: int) -> float | None:
    """Seconds between attempt `attempt - 1` and `attempt` (from 1); None when there is none left."""
    if attempt > len(schedule):
        return None
    return schedule[attempt - 1]
