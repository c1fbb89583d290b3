"""TCP connections to hosts that others chose, for protocols other than HTTP: only allowed addresses.

A name is resolved once, and if any of its addresses is not allowed, nothing is connected. The socket goes to
a checked address, so a second answer of the DNS server cannot redirect it.
"""

import asyncio
import re
import socket
from base64 import b64encode
from collections.abc import Sequence
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from shared.runtime.egress.checked_resolver import PrivateNetworks, address_filter
from shared.runtime.egress.errors import AddressRefused
from shared.runtime.egress.resolver import DnsResolver, literal_address

_CONNECT_TIMEOUT_S: Final = 5.0
"""For one address."""
_MAX_ADDRESSES: Final = 4
_MAX_PROXY_HEAD_BYTES: Final = 16 * 1024
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] (\d{3})\b")


class ProxyFailed(OSError):
    """The egress proxy cannot be reached, or refuses the connection; the text says which."""


class CheckedSockets:
    """Opens TCP connections to hosts that others chose.

    `allow` says which internal addresses may be connected to. With a `proxy` every connection goes through it
    by CONNECT; the host's addresses are checked here all the same.
    """

    def __init__(
        self, allow: PrivateNetworks, *, proxy: str | None = None, resolver: DnsResolver | None = None
    ) -> None:
        self._allowed = address_filter(allow)
        self._proxy = None if proxy is None else urlsplit(proxy)
        self._resolver = resolver or DnsResolver()

    async def addresses(self, host: str, workspace: str) -> Sequence[str]:
        """Return at most four addresses of a host, for `connect`.

        `workspace` is the workspace that the lookup is made for. Raises `AddressRefused` if any address of
        the host is not allowed, `NotResolved` if it has none.
        """
        literal = literal_address(host)
        addresses = (literal,) if literal else await self._resolver.lookup(host, workspace)
        if not all(map(self._allowed, addresses)):
            raise AddressRefused(f"{host} is an internal address")
        return addresses[:_MAX_ADDRESSES]

    async def connect(self, host: str, port: int, addresses: Sequence[str]) -> socket.socket:
        """Connect to the first of the host's checked addresses that answers within 5 s, or by the proxy.

        The caller has to close the socket, which does not block. Raises `ProxyFailed`, or the last address's
        `OSError`.
        """
        if self._proxy is not None:
            return await _connect_through_proxy(
                self._proxy, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            )
        failure: OSError = ConnectionRefusedError()
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                return await _connect(family, (address, port))
            except OSError as error:  # TimeoutError is one, too
                failure = error
        raise failure


async def _connect(family: int, address: tuple[str, int]) -> socket.socket:
    """Return a socket that is connected to a numeric address. Raises `OSError`."""
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(opened, address)
    except BaseException:
        opened.close()
        raise
    return opened


async def _connect_through_proxy(proxy: SplitResult, target: str) -> socket.socket:
    """Return a socket that an HTTP proxy has connected to `target`, as `host:port`. Raises `ProxyFailed`."""
    loop = asyncio.get_running_loop()
    try:
        # The operator chose the proxy: its name may be one that only the system's resolver knows.
        [(family, *_, address), *_] = await loop.getaddrinfo(
            proxy.hostname, proxy.port or 80, type=socket.SOCK_STREAM
        )
        opened = await _connect(family, (str(address[0]), int(address[1])))
    except OSError:
        raise ProxyFailed("the egress proxy cannot be reached") from None
    try:
        await loop.sock_sendall(opened, _connect_request(proxy, target))
        status = _STATUS_LINE.match(await _read_head(opened))
    except OSError:
        opened.close()
        raise ProxyFailed("the egress proxy closed the connection") from None
    except BaseException:
        opened.close()
        raise
    if status is None or not status[1].startswith(b"2"):
        opened.close()
        answer = status[1].decode() if status else "no HTTP"
        raise ProxyFailed(f"the egress proxy refused {target}: it answered {answer}")
    return opened


def _connect_request(proxy: SplitResult, target: str) -> bytes:
    """Return the request for a tunnel (CONNECT: RFC 9110, 9.3.6)."""
    head = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username is not None:
        user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        head.append(f"Proxy-Authorization: Basic {b64encode(user.encode()).decode()}")
    return "\r\n".join([*head, "", ""]).encode()


async def _read_head(opened: socket.socket) -> bytes:
    """Return the head of the proxy's answer, at most 16 KiB. Raises `OSError` if the connection ends."""
    # Byte by byte: what follows the head is the target's, and belongs to whoever reads the socket next.
    head = bytearray()
    while not head.endswith((b"\r\n\r\n", b"\n\n")) and len(head) < _MAX_PROXY_HEAD_BYTES:
        byte = await asyncio.get_running_loop().sock_recv(opened, 1)
        if not byte:
            raise ConnectionResetError
        head += byte
    return bytes(head)
