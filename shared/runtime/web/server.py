"""The HTTP server of a service: uvicorn's, without its own signal handlers and its timer."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import uvicorn

_DATE_INTERVAL_S: Final = 1.0


class Server(uvicorn.Server):
    """A server that its caller stops, and that wakes up once a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Take no new requests, and return from `serve` after the running ones."""
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # uvicorn would raise the signals again before the batches of the consumers are done

    async def main_loop(self) -> None:
        # uvicorn looks ten times a second whether to stop. Each tick with a number that ten divides updates
        # the header `Date`.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DATE_INTERVAL_S):
                    await self._stopping.wait()
