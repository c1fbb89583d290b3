"""The sink: a receiver of outgoing webhooks that costs next to nothing and knows how old they are."""

import asyncio
import re
from array import array
from time import monotonic
from typing import Any, Final

from bench.remote import answer
from bench.webhook import due_ns

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


class _Seen:
    """What arrived since the last reset."""

    def __init__(self) -> None:
        self.count = 0
        self.first = 0.0
        self.last = 0.0
        self.ages = array("q")
        self.due: set[bytes] = set()
        self.body = b""


_seen = _Seen()


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._buffer, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self._transport.write(_ANSWER)
            _note(body)


def _note(body: bytes) -> None:
    now = monotonic()
    if not _seen.count:
        _seen.first = now
        _seen.body = body
    _seen.count += 1
    _seen.last = now
    due = due_ns(body)
    if due is not None:
        _seen.ages.append(int(now * 1e9) - due)


async def listen() -> dict[str, Any]:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    return {"port": server.sockets[0].getsockname()[1]}


async def reset() -> dict[str, Any]:
    globals()["_seen"] = _Seen()
    return {}


async def seen() -> dict[str, Any]:
    """How many arrived and when, how old they were, and what the first one looked like."""
    ages = sorted(_seen.ages)
    return {
        "count": _seen.count,
        "first": _seen.first,
        "last": _seen.last,
        "p50_ms": ages[len(ages) // 2] / 1e6 if ages else None,
        "p99_ms": ages[int(len(ages) * 0.99)] / 1e6 if ages else None,
        "body": _seen.body.decode(),
    }


async def count() -> dict[str, Any]:
    return {"count": _seen.count}


if __name__ == "__main__":
    import uvloop

    uvloop.run(answer({"listen": listen, "reset": reset, "seen": seen, "count": count}))
