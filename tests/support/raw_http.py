"""Requests as bytes on a socket: client libraries would normalise paths and headers first."""

import socket
from collections.abc import Iterable
from http.client import HTTPResponse

Header = tuple[str, str | bytes]


def exchange(
    port: int,
    target: str,
    headers: Iterable[Header] = (),
    body: bytes = b"",
    *,
    method: str = "POST",
    source: str = "127.0.0.1",
) -> tuple[int, bytes]:
    """Send one request from the address `source` with exactly this target; return status and body."""
    lines = [f"{method} {target} HTTP/1.1".encode(), b"host: hub.example", b"connection: close"]
    if body or method not in ("GET", "HEAD"):
        lines.append(f"content-length: {len(body)}".encode())
    lines += [
        name.encode() + b": " + (value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in headers
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0)) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        response = HTTPResponse(connection, method=method)
        response.begin()
        return response.status, response.read()
