"""Two questions to a service on this machine, over plain HTTP: ready, and how far behind."""

import asyncio
from typing import Final

from interlink.embedded import HOST

_TIMEOUT_S: Final = 3.0
_LAG_METRIC: Final = "interlink_consumer_lag{"


async def is_ready(port: int, path: str) -> bool:
    """Whether it answers 200."""
    status, _ = await _get(port, path)
    return status == 200


async def consumer_lag(port: int) -> int:
    """Records on Kafka that its consumer groups have not handled yet; 0 when it does not answer."""
    _, body = await _get(port, "/metrics")
    return sum(
        int(float(line.rpartition(" ")[2])) for line in body.splitlines() if line.startswith(_LAG_METRIC)
    )


async def _get(port: int, path: str) -> tuple[int, str]:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, ""
    words = head.split(b" ", 2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), body.decode(errors="replace")
