"""Deadlines of long transfers: a slow server cannot hold a connection, and a fast one gets its time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_INTERVAL_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class TransferDeadlines:
    """The time that a download or an upload may take; times are in seconds.

    `total_s` bounds the whole transfer with the wait for a slot of its workspace. While a body is
    transferred, each `interval_s` has to bring at least `interval_bytes`. `answer_s` bounds the wait for the
    head of a response: of each redirect of a download, and after the last byte of an upload.
    """

    total_s: float
    interval_s: float = 30.0
    interval_bytes: int = _INTERVAL_BYTES
    answer_s: float = 60.0


class TooSlow(TimeoutError):
    """An interval brought too few bytes."""


class ProgressDeadline:
    """The context of a transfer: it raises `TooSlow` when an interval brings too few bytes.

    `add` counts bytes, in any task. The first interval has `first_s` seconds.
    """

    def __init__(self, deadlines: TransferDeadlines, first_s: float | None = None) -> None:
        self._deadlines = deadlines
        self._timeout = asyncio.timeout(deadlines.interval_s if first_s is None else first_s)
        self._bytes = 0
        self._active = False

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._active = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        slow = self._timeout.expired()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            if not slow:
                raise
            raise TooSlow(
                f"fewer than {self._deadlines.interval_bytes} bytes in {self._deadlines.interval_s:g} seconds"
            ) from None

    def add(self, count: int) -> None:
        """Count transferred bytes. The next interval starts when this one has enough."""
        self._bytes += count
        if self._bytes >= self._deadlines.interval_bytes:
            self.restart(self._deadlines.interval_s)

    def restart(self, seconds: float) -> None:
        """Start an interval of `seconds` now."""
        self._bytes = 0
        if self._active and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)


async def run_to_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a thread, and return or raise what it does.

    If the caller is cancelled meanwhile, the cancellation is raised after the function has ended: nobody may
    close a file while a thread still writes to it.
    """
    return await _to_end(asyncio.to_thread(function, *args, **kwargs))


async def _to_end(work: Awaitable[T]) -> T:
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()  # mark it as retrieved: the cancellation is raised in its place
        raise cancelled
    return task.result()
