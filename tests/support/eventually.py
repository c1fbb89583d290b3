"""Waiting for a state that is on its way."""

import asyncio
from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], within_s: float = 60, every_s: float = 0.1) -> T:
    """Return what `look` returns once that is true. Fail with its last result after `within_s` seconds.

    Give `within_s` only where the time is the promise.
    """
    deadline = monotonic() + within_s
    while not (seen := look()):
        assert monotonic() < deadline, f"not within {within_s} s: {look.__doc__ or look.__name__}: {seen!r}"
        sleep(every_s)
    return seen


async def until(look: Callable[[], object], within_s: float = 60, every_s: float = 0.02) -> None:
    """Wait until what `look` returns is true, while the loop goes on; raises `TimeoutError`."""
    async with asyncio.timeout(within_s):
        while not look():  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(every_s)
