"""The load generator, a helper process: keep-alive connections, closed loop or at a steady rate.

`run` sends webhooks whose requests are built in advance. `post` sends requests from a template, each with a
body and a signature of its own.
"""

import asyncio
import gc
import hmac
from array import array
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic, monotonic_ns
from typing import Any, Final

from bench.framing import message_ends
from bench.remote import answer
from bench.webhook import delivery_id

Build = Callable[[int, int], bytes]
"""Builds a request from its due time, in monotonic nanoseconds, and its number."""

_KEYS: Final = 64
_TICK_S: Final = 0.001
_GRACE_S: Final = 5.0


class _Connection(asyncio.Protocol):
    __slots__ = ("_buffer", "_due", "_run", "transport")

    def __init__(self, run: "LoadRun") -> None:
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
        if message_ends(self._buffer) is None:
            return
        status = self._buffer[9:12]
        self._buffer = b""
        self._run.answered(self, self._due, status)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._run.lost()


class LoadRun:
    """One run: as fast as the responses arrive, or at a steady rate. It ends after `total` or `seconds`."""

    def __init__(self, build: Build, *, total: int = 0, seconds: float = 0.0, rate: float = 0.0) -> None:
        self._build = build
        self._total = total or int(rate * seconds)
        self._seconds = seconds
        self._rate = rate
        self._number = 0
        self._open = 0
        self._idle_connections: deque[_Connection] = deque()
        self._overdue: deque[int] = deque()
        self._until = 0.0
        self._finished = asyncio.Event()
        self.started = 0.0
        self.lost_connections = 0
        self.statuses: Counter[bytes] = Counter()
        self.latencies = array("Q")

    async def go(self, connections: list[_Connection], timeout_s: float) -> float:
        """Send everything; return the seconds until the last response, or until the timeout."""
        self.started = started = monotonic()
        self._until = started + self._seconds
        if self._rate:
            self._idle_connections.extend(connections)
            await self._send_steadily(started)
        else:
            for connection in connections:
                if self._has_more:
                    self._send(connection, monotonic_ns())
        try:
            async with asyncio.timeout(timeout_s):
                await self._finished.wait()
        except TimeoutError:
            pass
        return monotonic() - started

    @property
    def _has_more(self) -> bool:
        return self._number < self._total if self._total else monotonic() < self._until

    async def _send_steadily(self, started: float) -> None:
        sent = 0
        start_ns = int(started * 1e9)
        while sent < self._total:
            due = min(self._total, int((monotonic() - started) * self._rate) + 1)
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
        elif self._has_more:
            self._send(connection, monotonic_ns())
            return
        if not self._open and not self._has_more:
            self._finished.set()

    def lost(self) -> None:
        self.lost_connections += 1

    def _send(self, connection: _Connection, due: int) -> None:
        number = self._number
        self._number += 1
        self._open += 1
        connection.send(due, self._build(due, number))


async def run(
    port: int, heads: list[str], body: str, connections: int, seconds: float, rate: float = 0.0
) -> dict[str, Any]:
    """Send requests with these heads in turn. A `rate` of 0 sends as fast as they are answered."""
    raw_heads = [head.encode() for head in heads]
    tail = b"\r\n\r\n" + body.encode()

    def build(due: int, number: int) -> bytes:
        return b"".join((raw_heads[number % len(raw_heads)], delivery_id(due, number), tail))

    load_run = LoadRun(build, seconds=seconds, rate=rate)
    return await measured(load_run, port, connections, seconds + _GRACE_S)


async def post(
    port: int,
    head: str,
    body: str,
    total: int,
    connections: int,
    timeout_s: float,
    rate: float = 0.0,
    sign: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Send `total` requests made from a template: `@ID@` and `@KEY@` in head and body are replaced.

    The first by the delivery id, the second by one of 64 keys. `sign` has the name of a header, a prefix and
    the secret for the HMAC-SHA256 of the body, in hex.
    """
    head_template, body_template = head.encode(), body.encode()
    secret = sign["secret"].encode() if sign else b""
    signature_head = f"\r\n{sign['header']}: {sign['prefix']}".encode() if sign else b""

    def build(due: int, number: int) -> bytes:
        event, key = delivery_id(due, number), b"%02d" % (number % _KEYS)
        content = body_template.replace(b"@ID@", event).replace(b"@KEY@", key)
        lines = [head_template.replace(b"@ID@", event).replace(b"@KEY@", key)]
        if secret:
            lines.append(signature_head + hmac.digest(secret, content, "sha256").hex().encode())
        lines.append(b"\r\nContent-Length: %d\r\n\r\n" % len(content))
        return b"".join((*lines, content))

    return await measured(LoadRun(build, total=total, rate=rate), port, connections, timeout_s)


async def measured(load_run: LoadRun, port: int, connections: int, timeout_s: float) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(lambda: _Connection(load_run), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    seconds_taken = await load_run.go(opened, timeout_s)
    lost = load_run.lost_connections
    for connection in opened:
        if connection.transport:
            connection.transport.close()
    latencies = sorted(load_run.latencies)
    gc.collect()
    return {
        "answered": len(latencies),
        "accepted": sum(count for status, count in load_run.statuses.items() if status.startswith(b"2")),
        "statuses": {status.decode(): count for status, count in load_run.statuses.items()},
        "lost_connections": lost,
        "started": load_run.started,
        "seconds": seconds_taken,
        "p50_ms": latencies[len(latencies) // 2] / 1e6 if latencies else None,
        "p99_ms": latencies[int(len(latencies) * 0.99)] / 1e6 if latencies else None,
    }


if __name__ == "__main__":
    import uvloop

    uvloop.run(answer({"run": run, "post": post}))
