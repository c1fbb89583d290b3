"""HTTP to URLs that strangers chose: only public addresses, no redirects, bounded in time and size.

A name is resolved once, refused if any of its addresses is not allowed, and the connection goes to
an address that was checked; a literal address is checked where the socket is made, because aiohttp
does not resolve it. aiohttp, not httpx: under concurrency it needs a fraction of the CPU (ARCHITECTURE.md).
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Final, Literal, TypeVar
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from shared.contracts.errors import Misconfigured
from shared.runtime.certificates import ClientCertificate, authorities, tls_context, why_tls_failed
from shared.runtime.deadlines import DeadlineLines
from shared.runtime.settings import EgressSettings
from shared.wire.addresses import is_loopback, is_public

PrivateNetworks = Literal["none", "loopback", "all"]

MAX_RESPONSE: Final = 64 * 1024
WEB_PORTS: Final = frozenset({80, 443})

_DNS_KEPT_S: Final = 10
_MOST_NAMES_KEPT: Final = 10_000

Failure = Literal[
    "timeout",
    "connection",
    "tls",
    "dns",
    "address_refused",
    "protocol",
    "closed_mid_response",
    "bad_url",
    "transform_failed",
    "condition_too_expensive",
    "proxy",
]

E = TypeVar("E", bound=BaseException)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status, or the class of failure. `body` has at most 64 KiB, as it was sent.

    `address` is who answered; None through a proxy, whose own address is nobody else's business.
    """

    status: int | None
    failure: Failure | None
    detail: str
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    address: str | None


def guarded_client(
    settings: EgressSettings, *, most_connections: int, most_for_one: int = 0
) -> "GuardedClient":
    """The client that a service's settings ask for. Raises `Misconfigured`."""
    return GuardedClient(
        settings.allow_private_networks,
        most_connections=most_connections,
        most_for_one=most_for_one,
        ports=settings.ports,
        proxy=settings.egress_proxy,
        ca_file=settings.egress_ca_file,
    )


class AddressRefused(OSError):
    """The address is internal, or the port is not one that may be called."""


class _BadUrl(ValueError):
    """No URL that a request can be made of; the text says why."""


class GuardedClient:
    """A pooled client for outgoing webhooks.

    `most_for_one`: connections to one host and port, 0 for no such bound; what waits for one waits within its
    own time.

    `ports`: those that may be called, None for any. `ca_file`: authorities to trust beside the system's.

    `proxy`: every request goes through it, over CONNECT where the URL is https, and only its address is
    connected to, unchecked. A target is still checked before the proxy is asked for it, so its name has to
    resolve here too; but the proxy resolves it again, so refusing internal addresses is then its job as well.

    Raises `Misconfigured` when the proxy or the file cannot be used.
    """

    def __init__(
        self,
        allow: PrivateNetworks,
        *,
        most_connections: int,
        most_for_one: int = 0,
        ports: frozenset[int] | None = None,
        proxy: str | None = None,
        ca_file: Path | str | None = None,
    ) -> None:
        self._allowed = _allowed(allow)
        self._most = most_connections
        self._most_for_one = most_for_one
        self._ports = ports
        self._proxy = None if proxy is None else _proxy_url(proxy)
        self._authorities = None if ca_file is None else authorities(ca_file)
        self._trust: ssl.SSLContext | Literal[True] = (
            True if self._authorities is None else tls_context(self._authorities)
        )
        self._identified: WeakKeyDictionary[ClientCertificate, ssl.SSLContext] = WeakKeyDictionary()
        self._session: aiohttp.ClientSession | None = None
        self._names: _CheckedNames | None = None
        self._deadlines = DeadlineLines()

    async def start(self) -> None:
        resolver = _CheckedResolver(self._allowed)
        self._names = _CheckedNames(resolver)
        connector = aiohttp.TCPConnector(
            resolver=resolver if self._proxy is None else ThreadedResolver(),
            socket_factory=self._socket if self._proxy is None else None,
            limit=self._most,
            limit_per_host=self._most_for_one,
            ttl_dns_cache=_DNS_KEPT_S,
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

    def port_allowed(self, port: int | None) -> bool:
        """Whether this port may be called."""
        return self._ports is None or port in self._ports

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout_s: float,
        certificate: ClientCertificate | None = None,
    ) -> Answer:
        """POST and read at most 64 KiB of the answer. Never raises for what the other side does."""
        return await self.call("POST", url, headers, body, timeout_s=timeout_s, certificate=certificate)

    async def get(self, url: str, *, timeout_s: float) -> Answer:
        """GET and read at most 64 KiB of the answer. Never raises for what the other side does."""
        return await self.call("GET", url, {}, None, timeout_s=timeout_s)

    async def call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        timeout_s: float,
        certificate: ClientCertificate | None = None,
        most: int = MAX_RESPONSE,
    ) -> Answer:
        """Any request, and at most `most` bytes of the answer. Never raises for what the other side does."""
        assert self._session is not None  # noqa: S101 -- start() comes first
        started = perf_counter()
        address: str | None = None
        status: int | None = None
        try:
            with self._deadlines.within(timeout_s):
                target = _parsed(url)
                await self._check(target)
                tls = self._trust if certificate is None else await self._context_of(certificate)
                # The pool is keyed by the TLS context too: a connection made with one certificate
                # never carries another's request.
                async with self._session.request(
                    method,
                    target,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    ssl=tls,
                    proxy=self._proxy,
                ) as response:
                    status = response.status
                    if self._proxy is None and isinstance(response, _Response):
                        address = response.address
                    text = await _read(response, most)
                    return Answer(
                        status, None, "", dict(response.headers), text, perf_counter() - started, address
                    )
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            failure, detail = _classify(error, answered=status is not None, proxied=self._proxy is not None)
            return Answer(None, failure, detail, {}, b"", perf_counter() - started, address)

    async def _check(self, target: URL) -> None:
        """Raises `AddressRefused` or `socket.gaierror`. Without a proxy, addresses are checked later."""
        if not self.port_allowed(target.port):
            raise AddressRefused(f"port {target.port} is not one that may be called")
        if self._proxy is None or self._names is None:
            return
        host = target.raw_host or ""
        if not self.permits(host):
            raise AddressRefused(f"{host} is an internal address")
        if not _is_address(host):
            await self._names.check(host)

    async def _context_of(self, certificate: ClientCertificate) -> ssl.SSLContext:
        context = self._identified.get(certificate)
        if context is None:  # in a thread: it reads the system's authorities, some 20 ms
            made = await asyncio.to_thread(tls_context, self._authorities, certificate)
            context = self._identified.setdefault(certificate, made)
        return context

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


class _CheckedNames:
    """Names that a proxy is asked for, looked up as often as aiohttp would without one."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver
        self._good_until: dict[str, float] = {}

    async def check(self, name: str) -> None:
        """Raises `AddressRefused`, or `socket.gaierror` when the name does not resolve."""
        if self._good_until.get(name, 0.0) > monotonic():
            return
        await self._resolver.resolve(name, 0, socket.AF_UNSPEC)
        if len(self._good_until) >= _MOST_NAMES_KEPT:
            self._good_until.clear()
        self._good_until[name] = monotonic() + _DNS_KEPT_S


@lru_cache(maxsize=4096)
def _parsed(url: str) -> URL:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise _BadUrl("the URL is not encoded")
    parsed = URL(url, encoded=True)
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        raise _BadUrl("the URL is neither http nor https")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise _BadUrl("the URL carries a user name or password")
    return parsed


def _allowed(allow: PrivateNetworks) -> Callable[[str], bool]:
    if allow == "all":
        return lambda _address: True
    if allow == "loopback":
        return lambda address: is_public(address) or is_loopback(address)
    return is_public


def _is_address(host: str) -> bool:
    if ":" in host or "%" in host:  # no name has them; getaddrinfo knows only zones that are on this machine
        return True
    try:
        socket.getaddrinfo(host.rstrip("."), None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def _proxy_url(text: str) -> URL:
    try:
        url = URL(text)
        usable = url.scheme == "http" and bool(url.host) and url.path in ("", "/") and not url.query_string
    except ValueError:
        usable = False
    if not usable:  # the text may hold a password: it is not repeated
        raise Misconfigured(
            "INTERLINK_EGRESS_PROXY: must be http://host:port or http://user:password@host:port"
        )
    return url


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.content.read(most + 1 - size):
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            response.close()
            break
    return b"".join(chunks)[:most]


def _classify(error: BaseException, *, answered: bool, proxied: bool) -> tuple[Failure, str]:
    if refused := _find(error, AddressRefused):
        return "address_refused", str(refused)
    if isinstance(error, TimeoutError):
        return "timeout", "no answer in time"
    if proxied and (detail := _of_proxy(error)):
        return "proxy", detail
    tls = _find(error, ssl.SSLError)
    if isinstance(error, aiohttp.ClientSSLError) or (tls and not answered):
        return "tls", why_tls_failed(tls)
    reset = _find(error, ConnectionResetError)
    if isinstance(error, aiohttp.ClientConnectorError) and reset and not reset.errno:
        return (
            "tls",
            "the connection was closed during the handshake",
        )  # so says the event loop, not the system
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        return "dns", "the name does not resolve"
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return "bad_url", str(error) if isinstance(error, _BadUrl) else type(error).__name__
    if answered or isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        return "closed_mid_response", type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        return "protocol", type(error).__name__
    return "connection", _of_connection(error)


def _of_connection(error: BaseException) -> str:
    if isinstance(error.__cause__, aiohttp.ClientConnectionResetError):  # why may have come, unread
        return "the connection was closed before the request was sent"
    cause = _find(error, OSError)
    return os.strerror(cause.errno).lower() if cause and cause.errno else type(error).__name__


def _of_proxy(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the egress proxy answered {error.status}"
    if isinstance(error, (aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError)):
        return "the egress proxy cannot be reached"
    return ""


def _find(error: BaseException | None, kind: type[E]) -> E | None:
    """The first of this kind among an error and those that it wraps; aiohttp's own are only wrappings."""
    for _ in range(5):
        if error is None or (isinstance(error, kind) and not isinstance(error, aiohttp.ClientError)):
            return error
        inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        error = inner if isinstance(inner, BaseException) and inner is not error else error.__cause__
    return None
