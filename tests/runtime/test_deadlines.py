"""Deadlines for many waits: rounding, and memory for timeouts that others choose."""

import asyncio

import pytest

from shared.runtime.deadlines import DeadlineQueues


async def test_many_different_timeouts_share_queues() -> None:
    queues = DeadlineQueues()
    for number in range(2000):
        with queues.deadline(1 + number / 1000):
            await asyncio.sleep(0)
    assert len(queues._queues) <= 21


async def test_a_timeout_is_rounded_up() -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(TimeoutError), DeadlineQueues().deadline(0.15):
        await asyncio.sleep(5)
    assert loop.time() - started >= 0.15
