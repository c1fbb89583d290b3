"""Deadlines for many short waits with one timer for all of them.

`asyncio.timeout` arms and cancels a timer for each wait, which costs more than most of them take. Here the
waits of one length stand in a line, and a timer looks at its front ten times a second: a wait ends
at its deadline or up to 0.1 s after it. After the process stood still, what arrived meanwhile is read first.
"""

import asyncio
from math import ceil
from types import TracebackType
from typing import Final

_CHECK_INTERVAL_S: Final = 0.1
_STALL_THRESHOLD_S: Final = 1.0
"""A look that comes so much too late: the process, or its event loop, stood still."""
_STALL_GRACE_S: Final = 0.5


class DeadlineQueue:
    """`with deadlines.each(): await ...` raises `TimeoutError` once `within_s` seconds have passed."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waits: dict[_Wait, float] = {}
        self._check_scheduled = False

    def deadline(self) -> "_Wait":
        """One wait of the current task; not to be kept."""
        return _Wait(self)

    def enter(self, wait: "_Wait") -> None:
        loop = asyncio.get_running_loop()
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
            # An answer may be waiting in the socket: an answer with new tokens must not be thrown away.
            self._schedule_check(_STALL_GRACE_S, loop, after_stall=True)
            return
        late = []
        for wait, at in self._waits.items():
            if at > now:
                break
            late.append(wait)
        for wait in late:
            del self._waits[wait]
            wait.end()
        self._check_scheduled = bool(self._waits)
        if self._check_scheduled:
            self._schedule_check(_CHECK_INTERVAL_S, loop)


class DeadlineQueues:
    """Deadlines of several lengths, a line for each: `with lines.within(30): ...`."""

    def __init__(self) -> None:
        self._queues: dict[float, DeadlineQueue] = {}

    def deadline(self, seconds: float) -> "_Wait":
        """One wait of the current task, of this length, in tenths of a second rounded up.

        Lines stay: whoever chooses lengths must not make ever new ones.
        """
        seconds = ceil(seconds * 10) / 10
        line = self._queues.get(seconds)
        if line is None:
            line = self._queues[seconds] = DeadlineQueue(seconds)
        return line.deadline()


class _Wait:
    __slots__ = ("_deadlines", "_late", "_task")

    def __init__(self, deadlines: DeadlineQueue) -> None:
        self._deadlines = deadlines
        self._late = False
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._deadlines.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.leave(self)
        if self._late and self._task:
            self._task.uncancel()
            if kind is asyncio.CancelledError:
                raise TimeoutError from None

    def end(self) -> None:
        if self._task:
            self._late = True
            self._task.cancel()
