"""A line between two processes that can be slow, be reset, or fall silent.

`python -m tests.chaos.proxy PORT TARGET_PORT...`, until its input ends. With several targets, new connections
go to each in turn, as behind a Service of Kubernetes. Each line of the input is a mode, or new targets:

pass    forward (the mode at the start)
delay   forward each piece 200 ms late
reset   reset the open connections, and each new one
silent  take connections and bytes and forward nothing, as a half-open line does
to PORT ...  the targets of new connections from now on
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Final

MODES: Final = ("pass", "delay", "reset", "silent")
_PIECE: Final = 256 * 1024
_DELAY_S: Final = 0.2


class Line:
    """Forwards connections to ports of this machine, in the way that `mode` says."""

    def __init__(self, target_ports: Sequence[int]) -> None:
        self.target_ports = target_ports
        self._turn = count()
        self._passes = asyncio.Event()
        self._passes.set()
        self._mode = "pass"
        self._resets = 0
        self._open: set[asyncio.StreamWriter] = set()

    def change(self, mode: str) -> None:
        """Set the mode. What fell silent is reset afterwards: its connections have lost nothing, but time."""
        self._mode = mode
        if mode == "silent":
            self._passes.clear()
        else:
            self._passes.set()
        if mode == "reset":
            self._resets += 1
            for writer in self._open:
                _reset(writer)

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""
        resets = self._resets
        await self._passes.wait()
        if self._mode == "reset" or self._resets != resets:
            return _reset(writer)
        try:
            port = self.target_ports[next(self._turn) % len(self.target_ports)]
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return _reset(writer)
        own = {writer, back}
        self._open |= own
        copies = [asyncio.create_task(self._copy(*pair)) for pair in ((reader, back), (there, writer))]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            self._open -= own
            for item in own:
                item.close()

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(_PIECE):
                if self._mode == "delay":
                    await asyncio.sleep(_DELAY_S)
                await self._passes.wait()
                target.write(piece)
                await target.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def main(port: int, *target_ports: int) -> None:
    """Serve until the input ends."""
    line = Line(target_ports)
    await asyncio.start_server(line.forward, "127.0.0.1", port)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while mode := (await asyncio.to_thread(sys.stdin.readline)).strip():
        word, *ports = mode.split()
        if word == "to":
            line.target_ports = [int(each) for each in ports]
        else:
            line.change(mode)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
