"""Waiting for a state that is on its way."""

import asyncio
from collections.abc import Callable
from time import monotonic, sleep
from typing import Final, TypeVar

T = TypeVar("T")
_PAUSE_S: Final = 0.1


def eventually(look: Callable[[], T], within_s: float = 60, every_s: float | None = None) -> T:
    """Return what `look` returns once that is true. Fail with its last result after `within_s` seconds.

    Give `within_s` only where the time is the promise, and `every_s` only where the moment matters: else the
    pause is a tenth of a second, or as long as `look` took, so that looking costs less than what is awaited.
    """
    deadline = monotonic() + within_s
    started = monotonic()
    while not (seen := look()):
        ended = monotonic()
        assert ended < deadline, f"not within {within_s} s: {look.__doc__ or look.__name__}: {seen!r}"
        pause_s = max(_PAUSE_S, ended - started) if every_s is None else every_s
        sleep(min(pause_s, deadline - ended))
        started = monotonic()
    return seen


async def until(look: Callable[[], object], within_s: float = 60, every_s: float = 0.02) -> None:
    """Wait until what `look` returns is true, while the loop goes on; raises `TimeoutError`."""
    async with asyncio.timeout(within_s):
        while not look():  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(every_s)
