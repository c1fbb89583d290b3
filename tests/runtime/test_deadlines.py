"""Deadlines for many waits: what they remember of lengths that strangers choose."""

import asyncio

import pytest

from shared.runtime.deadlines import DeadlineQueues


async def test_ever_new_lengths_take_no_memory() -> None:
    lines = DeadlineQueues()
    for number in range(2000):
        with lines.deadline(1 + number / 1000):
            await asyncio.sleep(0)
    assert len(lines._queues) <= 21


async def test_a_length_is_rounded_up() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError), DeadlineQueues().deadline(0.15):
        await asyncio.sleep(5)
    assert loop.time() - began >= 0.15
