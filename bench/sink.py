"""The sink: a receiver of outgoing webhooks that costs next to nothing and knows how old they are."""

import asyncio
import re
import socket
from array import array
from time import monotonic
from typing import Any, Final

from bench.remote import answer
from bench.webhook import due_ns

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_ID: Final = re.compile(rb"(?i)\r\nwebhook-id: *([^\r]+)")
_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


class _Seen:
    """What arrived since the last reset; `ids` keeps whose it was, `upto` the time of that one."""

    def __init__(self, *, ids: bool = False, upto: int = 0) -> None:
        self.ids: set[bytes] | None = set() if ids else None
        self.upto = upto
        self.upto_at = 0.0
        self.count = 0
        self.first = 0.0
        self.last = 0.0
        self.ages = array("q")
        self.body = b""


_seen = _Seen()
_dead: list[asyncio.Server | socket.socket] = []
_hanging: set[asyncio.BaseTransport] = set()


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
            head, body = self._buffer[:end], self._buffer[end + 4 : whole]
            self._buffer = self._buffer[whole:]
            self._transport.write(_ANSWER)
            _note(head, body)


class _Silent(asyncio.Protocol):
    """Takes everything and says nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _hanging.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        _hanging.difference_update([each for each in _hanging if each.is_closing()])


def _note(head: bytes, body: bytes) -> None:
    now = monotonic()
    if not _seen.count:
        _seen.first = now
        _seen.body = body
    _seen.count += 1
    _seen.last = now
    if _seen.count == _seen.upto:
        _seen.upto_at = now
    if _seen.ids is not None and (found := _ID.search(head)):
        _seen.ids.add(found[1])
    due = due_ns(body)
    if due is not None:
        _seen.ages.append(int(now * 1e9) - due)


async def listen() -> dict[str, Any]:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    return {"port": server.sockets[0].getsockname()[1]}


async def dead() -> dict[str, Any]:
    """A port that accepts and never answers, and one that refuses for as long as this process lives."""
    server = await asyncio.get_running_loop().create_server(_Silent, "127.0.0.1", 0)
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    _dead.extend((server, taken))
    return {"silent": server.sockets[0].getsockname()[1], "refusing": taken.getsockname()[1]}


async def hanging() -> dict[str, Any]:
    """How many connections wait for the answer that never comes."""
    return {"count": len(_hanging)}


async def reset(*, ids: bool = False, upto: int = 0) -> dict[str, Any]:
    """Forget what arrived. From now on keep the delivery ids, and when so many had arrived."""
    globals()["_seen"] = _Seen(ids=ids, upto=upto)
    return {}


async def seen() -> dict[str, Any]:
    """How many arrived and when, how old they were, and what the first one looked like."""
    ages = sorted(_seen.ages)
    return {
        "count": _seen.count,
        "first": _seen.first,
        "last": _seen.last,
        "upto_at": _seen.upto_at,
        "distinct": len(_seen.ids) if _seen.ids is not None else None,
        "p50_ms": ages[len(ages) // 2] / 1e6 if ages else None,
        "p99_ms": ages[int(len(ages) * 0.99)] / 1e6 if ages else None,
        "body": _seen.body.decode(),
    }


async def count() -> dict[str, Any]:
    return {"count": _seen.count}


if __name__ == "__main__":
    import uvloop

    uvloop.run(
        answer(
            {"listen": listen, "dead": dead, "hanging": hanging, "reset": reset, "seen": seen, "count": count}
        )
    )
