"""HTTP to URLs that strangers chose: only public addresses, no redirects, bounded in time and size.

A name is resolved once, refused if any of its addresses is not allowed, and the connection goes to
an address that was checked; a literal address is checked where the socket is made, because aiohttp
does not resolve it. aiohttp, not httpx: under concurrency it needs a fraction of the CPU (ARCHITECTURE.md).
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any, Final, Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from shared.runtime.deadlines import DeadlineLines
from shared.wire.addresses import is_loopback, is_public

PrivateNetworks = Literal["none", "loopback", "all"]

MAX_RESPONSE: Final = 64 * 1024
_CONNECT_S: Final = 10.0

Failure = Literal[
    "timeout", "connection", "tls", "dns", "address_refused", "protocol", "closed_mid_response", "bad_url"
]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status, or the class of failure. `body` has at most 64 KiB."""

    status: int | None
    failure: Failure | None
    detail: str
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    address: str | None


class AddressRefused(OSError):
    """The address is internal."""


class GuardedClient:
    """A pooled client for outgoing webhooks."""

    def __init__(self, allow: PrivateNetworks, *, most_connections: int) -> None:
        self._allowed = _allowed(allow)
        self._most = most_connections
        self._session: aiohttp.ClientSession | None = None
        self._deadlines = DeadlineLines()

    async def start(self) -> None:
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(self._allowed),
            socket_factory=self._socket,
            limit=self._most,
            limit_per_host=0,
            ttl_dns_cache=10,
            keepalive_timeout=30,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            response_class=_Response,
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def stop(self) -> None:
        if self._session:
            await self._session.close()

    def permits(self, host: str) -> bool:
        """Whether a literal address may be called; a name is judged when it is resolved."""
        return not _is_address(host) or self._allowed(host)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> Answer:
        """POST and read at most 64 KiB of the answer. Never raises for what the other side does."""
        assert self._session is not None  # noqa: S101 -- start() comes first
        started = perf_counter()
        address: str | None = None
        status: int | None = None
        try:
            with self._deadlines.within(timeout_s):
                async with self._session.post(
                    _parsed(url), data=body, headers=headers, allow_redirects=False
                ) as response:
                    status = response.status
                    address = response.address if isinstance(response, _Response) else None
                    text = await _read(response)
                    return Answer(
                        status, None, "", dict(response.headers), text, perf_counter() - started, address
                    )
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            failure, detail = _classify(error, answered=status is not None)
            return Answer(None, failure, detail, {}, b"", perf_counter() - started, address)

    def _socket(self, info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if not self._allowed(address[0]):
            raise AddressRefused(f"{address[0]} is an internal address")
        return socket.socket(family, kind, protocol)


class _Response(aiohttp.ClientResponse):
    """Remembers who answered: the connection is let go of as soon as a short answer is complete."""

    address: str | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        transport = connection.transport
        peer = transport.get_extra_info("peername") if transport else None
        self.address = str(peer[0]) if peer else None
        return await super().start(connection)


class _CheckedResolver(AbstractResolver):
    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._resolver = ThreadedResolver()
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answers = await self._resolver.resolve(host, port, family)
        for answer in answers:
            if not self._allowed(answer["host"]):
                raise AddressRefused(f"{host} resolves to the internal address {answer['host']}")
        return answers

    async def close(self) -> None:
        await self._resolver.close()


@lru_cache(maxsize=4096)
def _parsed(url: str) -> URL:
    return URL(url, encoded=True)


def _allowed(allow: PrivateNetworks) -> Callable[[str], bool]:
    if allow == "all":
        return lambda _address: True
    if allow == "loopback":
        return lambda address: is_public(address) or is_loopback(address)
    return is_public


def _is_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host.strip("[]"), None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


async def _read(response: aiohttp.ClientResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.content.read(MAX_RESPONSE + 1 - size):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_RESPONSE:
            response.close()
            break
    return b"".join(chunks)[:MAX_RESPONSE]


def _classify(error: BaseException, *, answered: bool) -> tuple[Failure, str]:
    refused = _refused(error)
    if refused:
        return "address_refused", str(refused)
    if isinstance(error, TimeoutError):
        return "timeout", "no answer in time"
    if isinstance(error, aiohttp.ClientSSLError):
        return "tls", type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns", "the name does not resolve"
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return "bad_url", type(error).__name__
    if answered or isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        return "closed_mid_response", type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        return "protocol", type(error).__name__
    return "connection", type(error).__name__


def _refused(error: BaseException | None) -> AddressRefused | None:
    for _ in range(5):
        if error is None or isinstance(error, AddressRefused):
            return error
        inner = getattr(error, "os_error", None)
        error = inner if isinstance(inner, BaseException) and inner is not error else error.__cause__
    return None
