"""Requests that bring the bytes of an upload too slowly: they would hold the places of other workspaces."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.runtime.web import request_body
from shared.runtime.web.request_body import blocks


class Body:
    """A body that comes in chunks of a size, one every `every_s` seconds."""

    def __init__(self, size: int, every_s: float, count: int) -> None:
        self.chunk, self.every_s, self.count = b"x" * size, every_s, count

    async def stream(self) -> AsyncIterator[bytes]:
        for _ in range(self.count):
            await asyncio.sleep(self.every_s)
            yield self.chunk


async def received_of(body: Any) -> int:
    return sum([len(block) async for block in blocks(body)])


@pytest.fixture(autouse=True)
def interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "INTERVAL_S", 0.5)
    monkeypatch.setattr(request_body, "INTERVAL_BYTES", 1000)


async def test_a_request_that_brings_a_byte_now_and_then_ends_after_an_interval() -> None:
    received: list[bytes] = []
    body: Any = Body(1, 0.05, 1000)

    async def receive() -> None:
        async for block in blocks(body):
            received.append(block)  # noqa: PERF401 -- what came before the error counts

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(receive(), 60)
    assert 0 < len(b"".join(received)) < 100  # what has arrived is stored


async def test_a_request_that_brings_enough_in_each_interval_may_take_many_of_them() -> None:
    assert await received_of(Body(1000, 0.02, 60)) == 60_000
