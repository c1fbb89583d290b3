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
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal, TypeVar
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from shared.contracts.errors import Misconfigured
from shared.runtime.deadlines import DeadlineQueues
from shared.runtime.egress.certificates import (
    ClientCertificate,
    describe_tls_error,
    read_ca_file,
    tls_context,
)
from shared.runtime.egress.resolver import DnsResolver, NotResolved, literal_address
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.settings import EgressSettings
from shared.wire.addresses import is_loopback, is_public

PrivateNetworks = Literal["none", "loopback", "all"]

MAX_RESPONSE_BYTES: Final = 64 * 1024
WEB_PORTS: Final = frozenset({80, 443})

_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_BROKEN_BODY: Final = "the response body broke off"
_CONNECT_TIMEOUT_S: Final = 10.0
"""Until an address takes the connection; an endpoint's timeout may be longer, for the sake of its answer."""

_workspace: ContextVar[str] = ContextVar("workspace", default="")
"""On whose behalf the current call looks its host up: aiohttp's resolvers are told nothing but the name."""

EgressFailure = Literal[
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
class EgressResponse:
    """What came back: a status, or the class of failure. `body` has at most 64 KiB, as it was sent.

    `address` is who answered; None through a proxy, whose own address is nobody else's business.
    """

    status: int | None
    failure: EgressFailure | None
    detail: str
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    address: str | None


def create_egress_client(
    settings: EgressSettings, *, max_connections: int, max_per_host: int = 0, max_per_workspace: int = 0
) -> "EgressClient":
    """The client that a service's settings ask for. Raises `Misconfigured`."""
    return EgressClient(
        settings.allow_private_networks,
        max_connections=max_connections,
        max_per_host=max_per_host,
        max_per_workspace=max_per_workspace,
        ports=settings.ports,
        proxy=settings.egress_proxy,
        ca_file=settings.egress_ca_file,
        resolver=DnsResolver(settings.name_servers),
    )


class AddressRefused(OSError):
    """The address is internal, or the port is not one that may be called."""


class _BadUrl(ValueError):
    """No URL that a request can be made of; the text says why."""


class EgressClient:
    """A pooled client for outgoing webhooks.

    `most_for_one`: connections to one host and port, 0 for no such bound; what waits for one waits within its
    own time. `most_for_workspace`: calls on behalf of one workspace, likewise.

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
        max_connections: int,
        max_per_host: int = 0,
        max_per_workspace: int = 0,
        ports: frozenset[int] | None = None,
        proxy: str | None = None,
        ca_file: Path | str | None = None,
        resolver: DnsResolver | None = None,
    ) -> None:
        self._allowed = _address_filter(allow)
        self._max_connections = max_connections
        self._max_per_host = max_per_host
        self._ports = ports
        self._proxy = None if proxy is None else _parse_proxy_url(proxy)
        self._authorities = None if ca_file is None else read_ca_file(ca_file)
        self._trust: ssl.SSLContext | Literal[True] = (
            True if self._authorities is None else tls_context(self._authorities)
        )
        self._client_contexts: WeakKeyDictionary[ClientCertificate, ssl.SSLContext] = WeakKeyDictionary()
        self._session: aiohttp.ClientSession | None = None
        self._resolver = _CheckedResolver(resolver or DnsResolver(), self._allowed)
        self._limits = WorkspaceLimits(max_per_workspace) if max_per_workspace else None
        self._deadlines = DeadlineQueues()

    async def start(self) -> None:
        connector = aiohttp.TCPConnector(
            # The proxy's own name is the operator's, so it may be one that only the system knows.
            resolver=self._resolver if self._proxy is None else ThreadedResolver(),
            socket_factory=self._socket if self._proxy is None else None,
            limit=self._max_connections,
            limit_per_host=self._max_per_host,
            use_dns_cache=False,  # `DnsResolver` has one, which keeps no address longer than its record lives
            keepalive_timeout=30,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            response_class=_PeerAwareResponse,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
        )

    async def stop(self) -> None:
        if self._session:
            await self._session.close()

    def host_allowed(self, host: str) -> bool:
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
        workspace: str = "",
        certificate: ClientCertificate | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
        status_decides: bool = False,
    ) -> EgressResponse:
        """POST; otherwise as `call`."""
        return await self.call(
            "POST",
            url,
            headers,
            body,
            timeout_s=timeout_s,
            workspace=workspace,
            certificate=certificate,
            max_bytes=max_bytes,
            status_decides=status_decides,
        )

    async def get(self, url: str, *, timeout_s: float, workspace: str = "") -> EgressResponse:
        """GET and read at most 64 KiB of the answer. Never raises for what the other side does."""
        return await self.call("GET", url, {}, None, timeout_s=timeout_s, workspace=workspace)

    async def call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        timeout_s: float,
        workspace: str = "",
        certificate: ClientCertificate | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
        status_decides: bool = False,
    ) -> EgressResponse:
        """Send any request and read at most `most` bytes of the answer.

        Never raises for what the other side does. `workspace`: on whose behalf, empty for the installation.
        `status_decides`: once a status has arrived it is the result, and a body that breaks off, or is not
        complete in time, is returned as far as it came; otherwise that is a failure.
        """
        assert self._session is not None  # noqa: S101 -- start() comes first
        started = perf_counter()
        address: str | None = None
        status: int | None = None
        answer_headers: dict[str, str] = {}
        chunks: list[bytes] = []
        charged = _workspace.set(workspace)
        try:
            with self._deadlines.deadline(timeout_s):
                async with self._workspace_slot(workspace):
                    target = _parse_url(url)
                    await self._check(target, workspace)
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
                        status, answer_headers = response.status, dict(response.headers)
                        if self._proxy is None and isinstance(response, _PeerAwareResponse):
                            address = response.address
                        await _read_body(response, max_bytes, chunks)
            detail = ""
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            failure, detail = _classify(error, answered=status is not None, proxied=self._proxy is not None)
            if status is None or not status_decides:
                return EgressResponse(None, failure, detail, {}, b"", perf_counter() - started, address)
            detail = "the response body was not complete in time" if failure == "timeout" else _BROKEN_BODY
        finally:
            _workspace.reset(charged)
        text = b"".join(chunks)[:max_bytes]
        return EgressResponse(status, None, detail, answer_headers, text, perf_counter() - started, address)

    def _workspace_slot(self, workspace: str) -> AbstractAsyncContextManager[None]:
        """Return what a call of a workspace holds while it lasts; the installation's own never wait."""
        return self._limits.hold(workspace) if self._limits and workspace else nullcontext()

    async def _check(self, target: URL, workspace: str) -> None:
        """Raises `AddressRefused` or `socket.gaierror`. Without a proxy, addresses are checked later."""
        if not self.port_allowed(target.port):
            raise AddressRefused(f"port {target.port} is not one that may be called")
        if self._proxy is None:
            return
        host = target.raw_host or ""
        if not self.host_allowed(host):
            raise AddressRefused(f"{host} is an internal address")
        if not _is_address(host):
            await self._resolver.addresses(host, workspace)

    async def _context_of(self, certificate: ClientCertificate) -> ssl.SSLContext:
        context = self._client_contexts.get(certificate)
        if context is None:  # in a thread: it reads the system's authorities, some 20 ms
            made = await asyncio.to_thread(tls_context, self._authorities, certificate)
            context = self._client_contexts.setdefault(certificate, made)
        return context

    def _socket(self, info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if not self._allowed(address[0]):
            raise AddressRefused(f"{address[0]} is an internal address")
        return socket.socket(family, kind, protocol)


class _PeerAwareResponse(aiohttp.ClientResponse):
    """Remembers who answered: the connection is let go of as soon as a short answer is complete."""

    address: str | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        transport = connection.transport
        peer = transport.get_extra_info("peername") if transport else None
        self.address = str(peer[0]) if peer else None
        return await super().start(connection)


class _CheckedResolver(AbstractResolver):
    """Resolves a name only if every address that it has may be called."""

    def __init__(self, resolver: DnsResolver, allowed: Callable[[str], bool]) -> None:
        self._dns = resolver
        self._allowed = allowed

    async def addresses(self, host: str, workspace: str) -> tuple[str, ...]:
        """Return the addresses of a name. Raises `AddressRefused`, `NotResolved`."""
        if _is_address(host):  # written in a way that only the system takes for one, such as 0x7f.1
            raise AddressRefused(f"{host} is no plain address")
        found = await self._dns.lookup(host, workspace)
        for address in found:
            if not self._allowed(address):
                raise AddressRefused(f"{host} resolves to the internal address {address}")
        return found

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self.addresses(host, _workspace.get())
        families = {address: socket.AF_INET6 if ":" in address else socket.AF_INET for address in found}
        return [
            ResolveResult(hostname=host, host=address, port=port, family=its, proto=0, flags=_NUMERIC)
            for address, its in families.items()
            if family in (socket.AF_UNSPEC, its)
        ]

    async def close(self) -> None:
        pass


@lru_cache(maxsize=4096)
def _parse_url(url: str) -> URL:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise _BadUrl("the URL is not encoded")
    parsed = URL(url, encoded=True)
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        raise _BadUrl("the URL is neither http nor https")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise _BadUrl("the URL carries a user name or password")
    return parsed


def _address_filter(allow: PrivateNetworks) -> Callable[[str], bool]:
    if allow == "all":
        return lambda _address: True
    if allow == "loopback":
        return lambda address: is_public(address) or is_loopback(address)
    return is_public


def _is_address(host: str) -> bool:
    if ":" in host or "%" in host:  # no name has them; getaddrinfo knows only zones that are on this machine
        return True
    return literal_address(host) is not None


def _parse_proxy_url(text: str) -> URL:
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


async def _read_body(response: aiohttp.ClientResponse, max_bytes: int, chunks: list[bytes]) -> None:
    """Append the body to `chunks` until it ends or is longer than `most` bytes."""
    content, connection = response.content, response.connection
    protocol = connection.protocol if connection is not None else None
    closed = protocol.closed if protocol is not None else None

    def end(_: object) -> None:
        # After a chunk that cannot be read, aiohttp closes the connection but leaves the body waiting.
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    if closed is not None:
        closed.add_done_callback(end)
    try:
        size = 0
        while chunk := await content.read(max_bytes + 1 - size):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                response.close()
                return
    finally:
        if closed is not None:
            closed.remove_done_callback(end)


def _classify(error: BaseException, *, answered: bool, proxied: bool) -> tuple[EgressFailure, str]:
    if refused := _find_cause(error, AddressRefused):
        return "address_refused", str(refused)
    if isinstance(error, TimeoutError):
        return "timeout", "no answer in time"
    if proxied and (detail := _proxy_detail(error)):
        return "proxy", detail
    tls = _find_cause(error, ssl.SSLError)
    if isinstance(error, aiohttp.ClientSSLError) or (tls and not answered):
        return "tls", describe_tls_error(tls)
    reset = _find_cause(error, ConnectionResetError)
    if isinstance(error, aiohttp.ClientConnectorError) and reset and not reset.errno:
        return (
            "tls",
            "the connection was closed during the handshake",
        )  # so says the event loop, not the system
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        unresolved = _find_cause(error, NotResolved)
        return "dns", str(unresolved) if unresolved else "the name does not resolve"
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return "bad_url", str(error) if isinstance(error, _BadUrl) else type(error).__name__
    if answered or isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        return "closed_mid_response", type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        return "protocol", type(error).__name__
    return "connection", _connection_detail(error)


def _connection_detail(error: BaseException) -> str:
    if isinstance(error.__cause__, aiohttp.ClientConnectionResetError):  # why may have come, unread
        return "the connection was closed before the request was sent"
    cause = _find_cause(error, OSError)
    return os.strerror(cause.errno).lower() if cause and cause.errno else type(error).__name__


def _proxy_detail(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the egress proxy answered {error.status}"
    if isinstance(error, (aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError)):
        return "the egress proxy cannot be reached"
    return ""


def _find_cause(error: BaseException | None, kind: type[E]) -> E | None:
    """The first of this kind among an error and those that it wraps; aiohttp's own are only wrappings."""
    for _ in range(5):
        if error is None or (isinstance(error, kind) and not isinstance(error, aiohttp.ClientError)):
            return error
        inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        error = inner if isinstance(inner, BaseException) and inner is not error else error.__cause__
    return None
