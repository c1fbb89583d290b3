"""The hosts on which platforms publish their keys, on this machine and strict, behind an egress proxy.

A gateway finds them as it would find the real ones: it resolves the host's name, refuses internal
addresses, asks the proxy to connect, and verifies the host's certificate. The one thing that a machine
without the Internet lacks is the name: `python -m tests.support.platform_keys` is a gateway whose system
resolver knows the names in `TEST_NAMES` (JSON, name to address).
"""

import json
import os
import socket
import socketserver
import ssl
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from aiohttp.resolver import ThreadedResolver

from tests.support.certificates import Authority

NAMES = "TEST_NAMES"
_MOST_HEAD = 64 * 1024


class PlatformKeys:
    """A proxy that leads to a few hosts only, and those hosts, which have a few documents each.

    `documents` are by URL; `asked` are the URLs that were asked for, in order. Whatever is not as it should
    be (another method, host or port, no TLS, a name in TLS that is not the host's) ends the connection and
    stands in `faults`.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self.documents: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.connected: list[str] = []
        self.faults: list[str] = []
        self._hosts = frozenset(hosts)
        self._authority = Authority("authority of platforms")
        self._tls = _server_tls(self._authority.pair("platforms", *sorted(hosts)))
        self._tls.sni_callback = self._names
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                try:
                    outer._connect(self.request)
                except (OSError, ValueError) as error:
                    outer.faults.append(repr(error))

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.proxy = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def authority(self, folder: Path) -> Path:
        """A file with the certificate of the authority that the hosts' certificates are from."""
        file = folder / "platforms.pem"
        file.write_text(self._authority.pem)
        return file

    def _names(self, _socket: Any, name: str | None, _context: Any) -> int | None:
        return None if name in self._hosts else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    def _connect(self, connection: socket.socket) -> None:
        method, target, _ = _head(connection)
        host, _, port = target.rpartition(":")
        if method != "CONNECT" or port != "443" or host not in self._hosts:
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
            raise ValueError(f"the proxy was asked for {method} {target}")
        self.connected.append(host)
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with self._tls.wrap_socket(connection, server_side=True) as secure:
            self._answer(secure, host)

    def _answer(self, secure: ssl.SSLSocket, host: str) -> None:
        method, path, fields = _head(secure)
        url = f"https://{host}{path}"
        if method != "GET" or fields.get("host") != host or "authorization" in fields:
            raise ValueError(f"{host} was asked for {method} {path} with {fields}")
        self.asked.append(url)
        document = self.documents.get(url)
        status, body = ("404 Not Found", b"") if document is None else ("200 OK", document)
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        secure.sendall(head.encode() + body)


def _head(connection: socket.socket) -> tuple[str, str, dict[str, str]]:
    """The first line's method and target, and the fields."""
    got = b""
    while b"\r\n\r\n" not in got:
        chunk = connection.recv(4096)
        if not chunk or len(got) > _MOST_HEAD:
            raise ValueError("no whole head")
        got += chunk
    first, *lines = got.decode("ascii").strip().split("\r\n")
    method, target, _ = first.split(" ")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return method, target, fields


def _server_tls(pair: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(pair))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _know(names: dict[str, str]) -> None:
    """Put names before those of the system's resolver; what they resolve to is checked as ever."""
    ask_the_system = ThreadedResolver.resolve

    async def resolve(self: Any, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
        address = names.get(host)
        if address is None:
            return await ask_the_system(self, host, port, family)
        found = {"hostname": host, "host": address, "port": port, "family": socket.AF_INET}
        return [{**found, "proto": 0, "flags": socket.AI_NUMERICHOST}]

    ThreadedResolver.resolve = resolve  # type: ignore[method-assign]  # what this module is for


if __name__ == "__main__":
    from services.gateway.app import build
    from shared.runtime.service import run

    _know(json.loads(os.environ[NAMES]))
    run("gateway", build)
