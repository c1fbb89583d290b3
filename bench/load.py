"""The load generator, a helper process: keep-alive connections and requests that are built in advance."""

import asyncio
import gc
import re
from array import array
from collections import Counter, deque
from time import monotonic, monotonic_ns
from typing import Any, Final

from bench.remote import answer
from bench.webhook import delivery_id

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_TICK_S: Final = 0.001
_GRACE_S: Final = 5.0


class _Connection(asyncio.Protocol):
    __slots__ = ("_buffer", "_due", "_run", "transport")

    def __init__(self, run: "_LoadRun") -> None:
        self._run = run
        self._buffer = b""
        self._due = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]  # uvloop's is not asyncio's class

    def send(self, due: int, request: bytes) -> None:
        self._due = due
        assert self.transport
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        if len(self._buffer) < end + 4 + (int(length[1]) if length else 0):
            return
        status = self._buffer[9:12]
        self._buffer = b""
        self._run.answered(self, self._due, status)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._run.lost()


class _LoadRun:
    """One run: as fast as the responses arrive, or at a steady rate."""

    def __init__(self, heads: list[str], body: str, seconds: float, rate: float) -> None:
        self._heads = [head.encode() for head in heads]
        self._tail = b"\r\n\r\n" + body.encode()
        self._seconds = seconds
        self._rate = rate
        self._number = 0
        self._open = 0
        self._idle_connections: deque[_Connection] = deque()
        self._overdue: deque[int] = deque()
        self._until = 0.0
        self._finished = asyncio.Event()
        self.lost_connections = 0
        self.statuses: Counter[bytes] = Counter()
        self.latencies = array("Q")

    async def go(self, connections: list[_Connection]) -> float:
        """Send for the given time; return the seconds until the last response."""
        started = monotonic()
        self._until = started + self._seconds
        if self._rate:
            self._idle_connections.extend(connections)
            await self._send_steadily(started)
        else:
            for connection in connections:
                self._send(connection, monotonic_ns())
        try:
            async with asyncio.timeout(self._seconds + _GRACE_S):
                await self._finished.wait()
        except TimeoutError:
            pass
        return monotonic() - started

    async def _send_steadily(self, started: float) -> None:
        sent, total = 0, int(self._rate * self._seconds)
        start_ns = int(started * 1e9)
        while sent < total:
            due = min(total, int((monotonic() - started) * self._rate))
            for number in range(sent, due):
                due_at = start_ns + int(number * 1e9 / self._rate)
                if self._idle_connections:
                    self._send(self._idle_connections.popleft(), due_at)
                else:
                    self._overdue.append(due_at)
            sent = max(sent, due)
            await asyncio.sleep(_TICK_S)
        if not self._open:
            self._finished.set()

    def answered(self, connection: _Connection, due: int, status: bytes) -> None:
        self._open -= 1
        self.statuses[status] += 1
        self.latencies.append(monotonic_ns() - due)
        if self._rate:
            if self._overdue:
                self._send(connection, self._overdue.popleft())
                return
            self._idle_connections.append(connection)
        elif monotonic() < self._until:
            self._send(connection, monotonic_ns())
            return
        if not self._open and monotonic() >= self._until:
            self._finished.set()

    def lost(self) -> None:
        self.lost_connections += 1

    def _send(self, connection: _Connection, due: int) -> None:
        number = self._number
        self._number += 1
        self._open += 1
        head = self._heads[number % len(self._heads)]
        connection.send(due, b"".join((head, delivery_id(due, number), self._tail)))


async def run(
    port: int, heads: list[str], body: str, connections: int, seconds: float, rate: float = 0.0
) -> dict[str, Any]:
    """Send requests with these heads in turn. A `rate` of 0 sends as fast as they are answered."""
    load_run = _LoadRun(heads, body, seconds, rate)
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(lambda: _Connection(load_run), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    seconds_taken = await load_run.go(opened)
    lost = load_run.lost_connections
    for connection in opened:
        if connection.transport:
            connection.transport.close()
    latencies = sorted(load_run.latencies)
    gc.collect()
    return {
        "answered": len(latencies),
        "accepted": load_run.statuses[b"202"],
        "statuses": {status.decode(): count for status, count in load_run.statuses.items()},
        "lost_connections": lost,
        "seconds": seconds_taken,
        "p50_ms": latencies[len(latencies) // 2] / 1e6 if latencies else None,
        "p99_ms": latencies[int(len(latencies) * 0.99)] / 1e6 if latencies else None,
    }


if __name__ == "__main__":
    import uvloop

    uvloop.run(answer({"run": run}))
