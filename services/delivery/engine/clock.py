"""The event loop's clock, which never goes back, and its relation to wall time."""

import asyncio
from datetime import datetime, timedelta

from shared.runtime.mongo import utcnow


def loop_time() -> float:
    return asyncio.get_running_loop().time()


def to_wall_time(at: float) -> datetime:
    """The time on the wall of a time of the loop."""
    return utcnow() + timedelta(seconds=at - loop_time())


def to_loop_time(at: datetime) -> float:
    """The loop's time of a time on the wall."""
    return loop_time() + (at - utcnow()).total_seconds()
