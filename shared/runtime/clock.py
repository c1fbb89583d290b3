"""The time of day, which does not follow a jump of the machine's clock.

Due times, leases and signatures are times of day. A clock that is set an hour forwards for some seconds would
put off for an hour what fails meanwhile, and what has to wait for it. So the time goes on as the monotonic
clock does, and is corrected every few seconds by the median of three: itself, the machine's clock, and the
database's. A drift, which time synchronisation corrects, is followed; a jump only if two of the three agree.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic_ns, time_ns
from typing import Final, Protocol

from shared.contracts.errors import InterlinkError
from shared.runtime.logs import Log
from shared.runtime.metrics import CLOCK_DIFFERENCE

_INTERVAL_S: Final = 10.0
_TOLERANCE_MS: Final = 2000
"""Differences below are followed: those of time synchronisation, and of an answer that took a while."""


class _Clock:
    """Milliseconds since 1970, as the monotonic clock's plus `ahead`."""

    def __init__(self) -> None:
        self._ahead_ms = _machine_ms() - _monotonic_ms()
        self._is_checked = False

    def now_ms(self) -> int:
        return _monotonic_ms() + self._ahead_ms

    def observe(self, database_ms: int) -> int:
        """Take the database's time into account; return by how many ms the machine's clock is ahead."""
        machine_ms, elapsed_ms = _machine_ms(), _monotonic_ms()
        if self._is_checked:
            agreed_ms = sorted((machine_ms, elapsed_ms + self._ahead_ms, database_ms))[1]
        else:  # its own time is the machine's of the start, which may have been wrong already
            agreed_ms = database_ms
        self._is_checked = True
        if abs(machine_ms - agreed_ms) <= _TOLERANCE_MS:
            agreed_ms = machine_ms
        self._ahead_ms = agreed_ms - elapsed_ms
        return machine_ms - agreed_ms


def _machine_ms() -> int:
    return time_ns() // 1_000_000


def _monotonic_ms() -> int:
    return monotonic_ns() // 1_000_000


_clock: Final = _Clock()


def now_ms() -> int:
    """Return the current time in milliseconds since 1970."""
    return _clock.now_ms()


def now_s() -> int:
    """Return the current time in whole seconds since 1970, as signatures have it."""
    return _clock.now_ms() // 1000


def utcnow() -> datetime:
    """Return the current time, in the millisecond precision of BSON."""
    return datetime.fromtimestamp(_clock.now_ms() / 1000, UTC)


class _Database(Protocol):
    async def time(self) -> datetime | None: ...


class ClockWatch:
    """Compares the clock with the database's every 10 s, and logs when the machine's clock differs."""

    def __init__(self, database: _Database, log: Log) -> None:
        self._database = database
        self._log = log
        self._difference_ms = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Compare once, and go on comparing."""
        await self._compare()
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the comparing."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            await self._compare()

    async def _compare(self) -> None:
        asked_ms = _monotonic_ms()
        try:
            theirs = await self._database.time()
        except InterlinkError:
            return
        took_ms = _monotonic_ms() - asked_ms
        if theirs is None or took_ms > _TOLERANCE_MS:
            return
        difference_ms = _clock.observe(int(theirs.timestamp() * 1000) + took_ms // 2)
        CLOCK_DIFFERENCE.set(difference_ms / 1000)
        if bool(difference_ms) != bool(self._difference_ms):
            event = "clock.differs" if difference_ms else "clock.agrees"
            self._log.warning(event, ahead_s=difference_ms / 1000)
        self._difference_ms = difference_ms
