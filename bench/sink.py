"""The sink, a helper process: a cheap receiver of outgoing webhooks that measures their age."""

import asyncio
import re
import socket
from array import array
from time import monotonic
from typing import Any, Final

from bench.framing import message_ends
from bench.remote import answer
from bench.webhook import sent_event

_ID: Final = re.compile(rb"(?i)\r\nwebhook-id: *([^\r]+)")
_RESPONSE: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


class _Received:
    """Requests received since the last reset.

    With `ids` the delivery ids of the headers are stored, with `events` the first arrival of each delivery id
    that the load generator put into a body. `upto_at` is the time at which request number `upto` arrived.
    """

    def __init__(self, *, ids: bool = False, upto: int = 0, events: bool = False) -> None:
        self.ids: set[bytes] | None = set() if ids else None
        self.events: dict[bytes, int] | None = {} if events else None
        self.upto = upto
        self.upto_at = 0.0
        self.count = 0
        self.first = 0.0
        self.last = 0.0
        self.ages = array("q")
        self.body = b""


_received = _Received()
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
        while ends := message_ends(self._buffer):
            head_end, end = ends
            head, body = self._buffer[:head_end], self._buffer[head_end + 4 : end]
            self._buffer = self._buffer[end:]
            self._transport.write(_RESPONSE)
            _record(head, body)


class _Silent(asyncio.Protocol):
    """Accepts every connection and never answers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _hanging.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        _hanging.difference_update([transport for transport in _hanging if transport.is_closing()])


def _record(head: bytes, body: bytes) -> None:
    now = monotonic()
    if not _received.count:
        _received.first = now
        _received.body = body
    _received.count += 1
    _received.last = now
    if _received.count == _received.upto:
        _received.upto_at = now
    if _received.ids is not None and (delivery_id := _ID.search(head)):
        _received.ids.add(delivery_id[1])
    if (event := sent_event(body)) is not None:
        event_id, due = event
        now_ns = int(now * 1e9)
        _received.ages.append(now_ns - due)
        if _received.events is not None:
            _received.events.setdefault(event_id, now_ns)


async def listen() -> dict[str, Any]:
    """Listen on a free port and return it."""
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    return {"port": server.sockets[0].getsockname()[1]}


async def dead() -> dict[str, Any]:
    """Return a port that accepts and never answers, and a port that refuses while this process lives."""
    server = await asyncio.get_running_loop().create_server(_Silent, "127.0.0.1", 0)
    refusing = socket.socket()
    refusing.bind(("127.0.0.1", 0))
    _dead.extend((server, refusing))
    return {"silent": server.sockets[0].getsockname()[1], "refusing": refusing.getsockname()[1]}


async def hanging() -> dict[str, Any]:
    """Return the number of connections to the port that never answers."""
    return {"count": len(_hanging)}


async def reset(*, ids: bool = False, upto: int = 0, events: bool = False) -> dict[str, Any]:
    """Forget what arrived. `ids`, `upto` and `events` say what to record from now on."""
    globals()["_received"] = _Received(ids=ids, upto=upto, events=events)
    return {}


async def arrivals() -> dict[str, Any]:
    """Return when each event arrived first, in monotonic nanoseconds."""
    return {event.decode(): at for event, at in (_received.events or {}).items()}


async def seen() -> dict[str, Any]:
    """Return the number of requests, their times and ages, and the body of the first one."""
    ages = sorted(_received.ages)
    return {
        "count": _received.count,
        "first": _received.first,
        "last": _received.last,
        "upto_at": _received.upto_at,
        "distinct": len(_received.ids) if _received.ids is not None else None,
        "events": len(_received.events) if _received.events is not None else None,
        "p50_ms": ages[len(ages) // 2] / 1e6 if ages else None,
        "p99_ms": ages[int(len(ages) * 0.99)] / 1e6 if ages else None,
        "body": _received.body.decode(),
    }


async def count() -> dict[str, Any]:
    """Return the number of requests, and of the events in them if they are recorded."""
    return {"count": _received.count, "events": len(_received.events or ())}


if __name__ == "__main__":
    import uvloop

    uvloop.run(
        answer(
            {
                "listen": listen,
                "dead": dead,
                "hanging": hanging,
                "reset": reset,
                "arrivals": arrivals,
                "seen": seen,
                "count": count,
            }
        )
    )
