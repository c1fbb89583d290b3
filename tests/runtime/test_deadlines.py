"""Deadlines for many waits: what they remember of lengths that strangers choose."""

import asyncio

import pytest

from shared.runtime.deadlines import DeadlineLines


async def test_ever_new_lengths_take_no_memory() -> None:
    lines = DeadlineLines()
    for number in range(2000):
        with lines.within(1 + number / 1000):
            await asyncio.sleep(0)
    assert len(lines._lines) <= 21


async def test_a_length_is_rounded_up() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError), DeadlineLines().within(0.15):
        await asyncio.sleep(5)
    assert loop.time() - began >= 0.15
