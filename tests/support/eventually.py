"""Waiting for a state that is on its way."""

import asyncio
from collections.abc import Callable
from time import monotonic, sleep
from typing import Final, TypeVar

T = TypeVar("T")
_PAUSE_S: Final = 0.05
_MAX_PAUSE_S: Final = 0.4


def eventually(look: Callable[[], T], within_s: float = 60, every_s: float | None = None) -> T:
    """Return what `look` returns once that is true. Fail with its last result after `within_s` seconds.

    Give `within_s` only where the time is the promise, and `every_s` only where the moment matters: else the
    pauses get longer, so that looking costs less than what is awaited.
    """
    began = monotonic()
    deadline = began + within_s
    started = began
    while not (seen := look()):
        ended = monotonic()
        assert ended < deadline, f"not within {within_s} s: {look.__doc__ or look.__name__}: {seen!r}"
        pause_s = longer_pause(ended - began, ended - started) if every_s is None else every_s
        sleep(min(pause_s, deadline - ended))
        started = monotonic()
    return seen


def longer_pause(waited_s: float, look_s: float) -> float:
    """Return the seconds until the next look: a fifth of the time so far, twice what the last look took."""
    return min(max(_PAUSE_S, waited_s / 5, 2 * look_s), _MAX_PAUSE_S)


async def until(look: Callable[[], object], within_s: float = 60, every_s: float = 0.02) -> None:
    """Wait until what `look` returns is true, while the loop goes on; raises `TimeoutError`."""
    async with asyncio.timeout(within_s):
        while not look():  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(every_s)
