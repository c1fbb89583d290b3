"""Timeouts for many short waits, with one timer for all of them.

`asyncio.timeout` sets and cancels a timer for each wait, which costs more than most of the waits take. Here
the waits with equal timeouts are in one queue, and a timer checks its front ten times a second. So a wait
ends at its deadline or up to 0.1 s later. If the process was stopped, data that arrived meanwhile is read
first.
"""

import asyncio
from math import ceil
from types import TracebackType
from typing import Final

_CHECK_INTERVAL_S: Final = 0.1
_STALL_THRESHOLD_S: Final = 1.0
"""A check that is late by more shows that the process was stopped, or its event loop blocked."""
_STALL_GRACE_S: Final = 0.5
"""After a stall, before waits are ended: time to read what has arrived."""


class DeadlineQueue:
    """Waits with one timeout: `with queue.deadline(): await ...` raises `TimeoutError` after `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waits: dict[_Wait, float] = {}  # in the order of their deadlines
        self._check_scheduled = False

    def deadline(self) -> "_Wait":
        """Return the context of one wait of the current task. Use it once."""
        return _Wait(self)

    def enter(self, wait: "_Wait", loop: asyncio.AbstractEventLoop) -> None:
        self._waits[wait] = loop.time() + self._timeout_s
        if not self._check_scheduled:
            self._check_scheduled = True
            self._schedule_check(_CHECK_INTERVAL_S, loop)

    def leave(self, wait: "_Wait") -> None:
        self._waits.pop(wait, None)

    def _schedule_check(
        self, seconds: float, loop: asyncio.AbstractEventLoop, *, after_stall: bool = False
    ) -> None:
        loop.call_later(seconds, self._expire_due, loop, loop.time() + seconds, after_stall)

    def _expire_due(self, loop: asyncio.AbstractEventLoop, due: float, after_stall: bool) -> None:
        now = loop.time()
        if now - due > _STALL_THRESHOLD_S and not after_stall:
            # A response may be unread in the socket, and one with new tokens must not be lost.
            self._schedule_check(_STALL_GRACE_S, loop, after_stall=True)
            return
        late = []
        for wait, deadline in self._waits.items():
            if deadline > now:
                break
            late.append(wait)
        for wait in late:
            del self._waits[wait]
            wait.expire()
        self._check_scheduled = bool(self._waits)
        if self._check_scheduled:
            self._schedule_check(_CHECK_INTERVAL_S, loop)


class DeadlineQueues:
    """Waits with several timeouts, in a queue for each: `with queues.deadline(30): await ...`."""

    def __init__(self) -> None:
        self._queues: dict[float, DeadlineQueue] = {}

    def deadline(self, seconds: float) -> "_Wait":
        """Return the context of one wait of the current task, with this timeout rounded up to 0.1 s.

        Queues are never removed, so callers must use a limited number of different timeouts.
        """
        seconds = ceil(seconds * 10) / 10
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = DeadlineQueue(seconds)
        return queue.deadline()


class _Wait:
    __slots__ = ("_expired", "_queue", "_task")

    def __init__(self, queue: DeadlineQueue) -> None:
        self._queue = queue
        self._expired = False
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)
        self._queue.enter(self, loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.leave(self)
        if self._expired and self._task:
            # As `asyncio.timeout` does: take the cancellation back, and raise `TimeoutError` in its place.
            self._task.uncancel()
            if kind is asyncio.CancelledError:
                raise TimeoutError from None

    def expire(self) -> None:
        if self._task:
            self._expired = True
            self._task.cancel()
