"""The event loop's clock, which never goes back, and its relation to wall time."""

import asyncio
from datetime import datetime, timedelta

from shared.runtime.clock import utcnow


def loop_time() -> float:
    """Return the event loop's time in seconds."""
    return asyncio.get_running_loop().time()


def to_wall_time(at: float) -> datetime:
    """Return the wall time of a time of the event loop."""
    return utcnow() + timedelta(seconds=at - loop_time())


def to_loop_time(at: datetime) -> float:
    """Return the event loop's time of a wall time."""
    return loop_time() + (at - utcnow()).total_seconds()
