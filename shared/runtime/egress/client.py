"""HTTP calls to URLs that others chose: only allowed addresses, no redirects, bounded in time and size.

A name is resolved once. If any of its addresses is not allowed, the call is refused; otherwise the connection
goes to one of the checked addresses, so a second answer of the DNS server cannot redirect it. A literal
address is checked where the socket is created, because aiohttp does not resolve it.

aiohttp, not httpx: under concurrency it needs a fraction of the CPU (docs/explanation/dependencies.md).
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.connector import Connection
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from shared.contracts.errors import Misconfigured
from shared.runtime.deadlines import DeadlineQueues
from shared.runtime.egress.certificates import ClientCertificate, read_ca_file, tls_context
from shared.runtime.egress.checked_resolver import (
    CheckedResolver,
    PrivateNetworks,
    address_filter,
    calling_workspace,
    is_address,
)
from shared.runtime.egress.errors import AddressRefused, BadUrl, EgressFailure, classify_error
from shared.runtime.egress.resolver import DnsResolver
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.settings import EgressSettings

MAX_RESPONSE_BYTES: Final = 64 * 1024
WEB_PORTS: Final = frozenset({80, 443})

_BROKEN_BODY: Final = "the response body broke off"
_CONNECT_TIMEOUT_S: Final = 10.0
"""For the connection alone. The timeout of the whole call may be longer, to wait for the response."""


@dataclass(frozen=True, slots=True)
class EgressResponse:
    """The result of a call: a status, or the class of failure with its `detail`.

    `body` is not decompressed, and has at most `max_bytes` of the call. `seconds` is the duration of the
    call. `address` is the address of the server; None through a proxy, whose address is not for the
    workspace.
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
    """Return a client with a service's settings.

    Raises `Misconfigured` if the egress proxy or the CA file of the settings cannot be used.
    """
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


class EgressClient:
    """A pooled HTTP client for URLs that others chose.

    `max_per_host` bounds the connections to one host and port, `max_per_workspace` the concurrent calls of
    one workspace; 0 for no bound. A call waits for its turn within its own timeout.

    `ports` are the allowed ports, None for any. `ca_file` has authorities to trust beside the system's.

    With `proxy`, every request goes through it, with CONNECT for https URLs, and the proxy's own address is
    not checked. A target is still checked before the proxy is asked for it, so its name has to resolve here
    too. But the proxy resolves the name again: it has to refuse internal addresses itself.

    Raises `Misconfigured` if the proxy or the CA file cannot be used.
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
        self._allowed = address_filter(allow)
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
        self._resolver = CheckedResolver(resolver or DnsResolver(), self._allowed)
        self._limits = WorkspaceLimits(max_per_workspace) if max_per_workspace else None
        self._deadlines = DeadlineQueues()

    async def start(self) -> None:
        connector = aiohttp.TCPConnector(
            # With a proxy, only the proxy's name is resolved here. The operator chose it: it may be a name
            # that only the system's resolver knows.
            resolver=self._resolver if self._proxy is None else ThreadedResolver(),
            socket_factory=self._socket if self._proxy is None else None,
            limit=self._max_connections,
            limit_per_host=self._max_per_host,
            use_dns_cache=False,  # `DnsResolver` has a cache, which observes the lifetime of the records
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
        """Return whether a literal address may be called. A name is checked when it is resolved."""
        return not is_address(host) or self._allowed(host)

    def port_allowed(self, port: int | None) -> bool:
        """Return whether this port may be called."""
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
        """Send a POST request; otherwise as `call`."""
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
        """Send a GET request and read at most 64 KiB of the response; otherwise as `call`."""
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
        """Send a request and read at most `max_bytes` of the response body, in `timeout_s` seconds in all.

        Never raises for what the server does: errors are in the result. `workspace` is the workspace that the
        call is made for, empty for the installation itself. With `status_decides`, a status that has arrived
        is the result, and an incomplete body is returned as far as it came. Without it, an incomplete body is
        a failure.
        """
        assert self._session is not None  # noqa: S101 -- start() comes first
        started = perf_counter()
        address: str | None = None
        status: int | None = None
        response_headers: dict[str, str] = {}
        chunks: list[bytes] = []
        context_token = calling_workspace.set(workspace)
        try:
            with self._deadlines.deadline(timeout_s):
                async with self._workspace_slot(workspace):
                    target = _parse_url(url)
                    await self._check(target, workspace)
                    tls = self._trust if certificate is None else await self._context_of(certificate)
                    # The pool's key includes the TLS context: a connection that was made with one client
                    # certificate never carries a request with another.
                    async with self._session.request(
                        method,
                        target,
                        data=body,
                        headers=headers,
                        allow_redirects=False,
                        ssl=tls,
                        proxy=self._proxy,
                    ) as response:
                        status, response_headers = response.status, dict(response.headers)
                        if self._proxy is None and isinstance(response, _PeerAwareResponse):
                            address = response.address
                        await _read_body(response, max_bytes, chunks)
            detail = ""
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            failure, detail = classify_error(
                error, answered=status is not None, proxied=self._proxy is not None
            )
            if status is None or not status_decides:
                return EgressResponse(None, failure, detail, {}, b"", perf_counter() - started, address)
            detail = "the response body was not complete in time" if failure == "timeout" else _BROKEN_BODY
        finally:
            calling_workspace.reset(context_token)
        content = b"".join(chunks)[:max_bytes]
        return EgressResponse(
            status, None, detail, response_headers, content, perf_counter() - started, address
        )

    def _workspace_slot(self, workspace: str) -> AbstractAsyncContextManager[None]:
        """Return the context that a call runs in, which holds one of its workspace's slots.

        Calls of the installation itself need no slot.
        """
        return self._limits.hold(workspace) if self._limits and workspace else nullcontext()

    async def _check(self, target: URL, workspace: str) -> None:
        """Check the port, and with a proxy the addresses; without one, the connector checks the addresses.

        Raises `AddressRefused` or `socket.gaierror`.
        """
        if not self.port_allowed(target.port):
            raise AddressRefused(f"port {target.port} is not one that may be called")
        if self._proxy is None:
            return
        host = target.raw_host or ""
        if not self.host_allowed(host):
            raise AddressRefused(f"{host} is an internal address")
        if not is_address(host):
            await self._resolver.addresses(host, workspace)

    async def _context_of(self, certificate: ClientCertificate) -> ssl.SSLContext:
        context = self._client_contexts.get(certificate)
        if context is None:  # in a thread: loading the system's authorities takes some 20 ms
            created = await asyncio.to_thread(tls_context, self._authorities, certificate)
            context = self._client_contexts.setdefault(certificate, created)
        return context

    def _socket(self, info: Any) -> socket.socket:
        # The last check before a connection, and the only one that sees literal addresses.
        family, kind, protocol, _, address = info
        if not self._allowed(address[0]):
            raise AddressRefused(f"{address[0]} is an internal address")
        return socket.socket(family, kind, protocol)


class _PeerAwareResponse(aiohttp.ClientResponse):
    """Keeps the server's address: aiohttp releases the connection as soon as a short response is complete."""

    address: str | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        transport = connection.transport
        peer = transport.get_extra_info("peername") if transport else None
        self.address = str(peer[0]) if peer else None
        return await super().start(connection)


@lru_cache(maxsize=4096)
def _parse_url(url: str) -> URL:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadUrl("the URL is not encoded")
    parsed = URL(url, encoded=True)
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        raise BadUrl("the URL is neither http nor https")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise BadUrl("the URL carries a user name or password")
    return parsed


def _parse_proxy_url(text: str) -> URL:
    try:
        url = URL(text)
        usable = url.scheme == "http" and bool(url.host) and url.path in ("", "/") and not url.query_string
    except ValueError:
        usable = False
    if not usable:  # the error does not repeat the text, which may hold a password
        raise Misconfigured(
            "INTERLINK_EGRESS_PROXY: must be http://host:port or http://user:password@host:port"
        )
    return url


async def _read_body(response: aiohttp.ClientResponse, max_bytes: int, chunks: list[bytes]) -> None:
    """Append the body to `chunks` until it ends or is longer than `max_bytes`."""
    content, connection = response.content, response.connection
    protocol = connection.protocol if connection is not None else None
    closed = protocol.closed if protocol is not None else None

    def fail_body(_: object) -> None:
        # After a chunk that it cannot parse, aiohttp closes the connection but leaves the reader waiting.
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    if closed is not None:
        closed.add_done_callback(fail_body)
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
            closed.remove_done_callback(fail_body)
