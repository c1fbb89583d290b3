"""Ask a service on this machine over plain HTTP whether it is ready, and for its consumer lag."""

import asyncio
from typing import Final

from interlink.embedded import HOST

_TIMEOUT_S: Final = 3.0
_LAG_METRIC: Final = "interlink_consumer_lag{"


async def is_ready(port: int, path: str) -> bool:
    """Return whether the service answers 200 at this path."""
    status, _ = await _get(port, path)
    return status == 200


async def consumer_lag(port: int) -> int:
    """Return how many records its consumer groups have not processed; 0 if the service does not answer."""
    _, body = await _get(port, "/metrics")
    return sum(
        int(float(line.rpartition(" ")[2])) for line in body.splitlines() if line.startswith(_LAG_METRIC)
    )


async def _get(port: int, path: str) -> tuple[int, str]:
    """Return status and body. The status is 0 if there is no answer within 3 s."""
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
    parts = head.split(b" ", 2)
    return (int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0), body.decode(errors="replace")
