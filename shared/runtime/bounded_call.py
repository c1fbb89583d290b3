"""A bound on a call that may not obey its cancellation."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")
_CANCEL_INTERVAL_S: Final = 1.0

_given_up: set[asyncio.Task[Any]] = set()
"""They are kept until they end: the loop has weak references only."""


async def bounded_call(call: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """Return the result of a call. Raises what it raises, and `TimeoutError` after `timeout_s` seconds.

    Unlike `asyncio.timeout`, it does not wait until a call that was cancelled has ended. A database driver
    was seen to wait for ever after its connections had been reset.
    """
    task = asyncio.create_task(call)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            _given_up.add(task)
            task.add_done_callback(_given_up.discard)
            _cancel(task)


def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and again while it has not ended: after the first time, its cleanup may hang."""
    if not task.done():
        task.cancel()
        asyncio.get_running_loop().call_later(_CANCEL_INTERVAL_S, _cancel, task)
