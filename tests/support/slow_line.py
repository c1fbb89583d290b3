"""A line to a server that is slow, counts bytes, and can be held or cut."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE = 64 * 1024


class SlowLine:
    """Forwards TCP connections to a port of this machine. `forwarded` counts the bytes to the server."""

    def __init__(self, port: int, bytes_per_s: float) -> None:
        self.port = port
        self._rate = bytes_per_s
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self.forwarded = 0
        self.is_held = False
        """While it is true, nothing more reaches the server, and connections stay open."""
        self.url = ""

    def cut(self) -> None:
        """Break off all connections of now."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for item in self._writers:
            item.transport.abort()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        own = {writer, back}
        self._writers |= own
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(reader, back, counted=True))
                both.create_task(self._copy(there, writer))
        except* OSError:
            pass
        finally:
            self._writers -= own
            for item in own:
                item.transport.abort()

    async def _copy(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, counted: bool = False
    ) -> None:
        while piece := await source.read(_PIECE):
            if counted:
                await asyncio.sleep(len(piece) / self._rate)
                self.forwarded += len(piece)
                while self.is_held:  # noqa: ASYNC110 -- another thread ends it
                    await asyncio.sleep(0.02)
            target.write(piece)
            await target.drain()
        with suppress(OSError):
            target.write_eof()


@contextmanager
def slow_line(port: int, bytes_per_s: float = 20e6) -> Iterator[SlowLine]:
    """Serve on a free port while the context lasts."""
    line = SlowLine(port, bytes_per_s)
    loop = line._loop
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(line._serve(), loop).result(60)
    try:
        yield line
    finally:
        line.cut()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
