"""HTTP calls to URLs that others chose: only allowed addresses, no redirects, bounded in time and size.

`download`, `upload` and `websocket` of this package use the client's connections, checks and limits.

A name is resolved once. If any of its addresses is not allowed, the call is refused; otherwise the connection
goes to one of the checked addresses, so a second answer of the DNS server cannot redirect it. A literal
address is checked where the socket is created, because aiohttp does not resolve it.

aiohttp, not httpx: under concurrency it needs a fraction of the CPU (docs/explanation/dependencies.md).
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from shared.runtime.deadlines import DeadlineQueues
from shared.runtime.egress.certificates import ClientCertificate, read_ca_file, tls_context
from shared.runtime.egress.checked_resolver import (
    CheckedResolver,
    PrivateNetworks,
    address_filter,
    calling_workspace,
    is_address,
)
from shared.runtime.egress.errors import AddressRefused, EgressFailure, classify_error
from shared.runtime.egress.resolver import DnsResolver
from shared.runtime.egress.sessions import (
    AbortableWebSocket,
    GuardedConnector,
    PeerAwareResponse,
    create_session,
    read_body,
    require_upgrade,
)
from shared.runtime.egress.urls import parse_proxy_url, parse_url
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.settings import EgressSettings
from shared.runtime.start_metrics import watch_authorities

MAX_RESPONSE_BYTES: Final = 64 * 1024
WEB_PORTS: Final = frozenset({80, 443})

_BROKEN_BODY: Final = "the response body broke off"


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
    if settings.egress_ca_file:
        watch_authorities("INTERLINK_EGRESS_CA_FILE", Path(settings.egress_ca_file))
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
        self._proxy = None if proxy is None else parse_proxy_url(proxy)
        self._authorities = None if ca_file is None else read_ca_file(ca_file)
        self._trust = tls_context(self._authorities)
        self._client_contexts: WeakKeyDictionary[ClientCertificate, ssl.SSLContext] = WeakKeyDictionary()
        self._session: aiohttp.ClientSession | None = None
        self._websocket_session: aiohttp.ClientSession | None = None
        self._resolver = CheckedResolver(resolver or DnsResolver(), self._allowed)
        self._limits = WorkspaceLimits(max_per_workspace) if max_per_workspace else None
        self._deadlines = DeadlineQueues()

    async def start(self) -> None:
        connector = GuardedConnector(
            # With a proxy, only the proxy's name is resolved here. The operator chose it: it may be a name
            # that only the system's resolver knows.
            resolver=self._resolver if self._proxy is None else ThreadedResolver(),
            socket_factory=self._socket if self._proxy is None else None,
            limit=self._max_connections,
            limit_per_host=self._max_per_host,
            use_dns_cache=False,  # `DnsResolver` has a cache, which observes the lifetime of the records
            keepalive_timeout=30,
        )
        self._session = create_session(connector)
        # aiohttp follows redirects of a handshake unless a middleware stops it. That costs
        # each request, so calls have a session without it. Both use one connector.
        self._websocket_session = create_session(connector, require_upgrade)

    async def stop(self) -> None:
        if self._websocket_session:
            await self._websocket_session.close()
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

    async def get(
        self, url: str, *, timeout_s: float, workspace: str = "", max_bytes: int = MAX_RESPONSE_BYTES
    ) -> EgressResponse:
        """Send a GET request; otherwise as `call`."""
        return await self.call(
            "GET", url, {}, None, timeout_s=timeout_s, workspace=workspace, max_bytes=max_bytes
        )

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
        started = perf_counter()
        address: str | None = None
        status: int | None = None
        response_headers: dict[str, str] = {}
        chunks: list[bytes] = []
        try:
            with self._deadlines.deadline(timeout_s):
                async with (
                    self.workspace_slot(workspace),
                    await self.send(
                        method, url, headers, body, workspace=workspace, certificate=certificate
                    ) as response,
                ):
                    status, response_headers = response.status, dict(response.headers)
                    address = self.peer_address(response)
                    await read_body(response, max_bytes, chunks)
            detail = ""
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            failure, detail = classify_error(error, answered=status is not None, proxied=self.proxied)
            if status is None or not status_decides:
                return EgressResponse(None, failure, detail, {}, b"", perf_counter() - started, address)
            detail = "the response body was not complete in time" if failure == "timeout" else _BROKEN_BODY
        content = b"".join(chunks)[:max_bytes]
        return EgressResponse(
            status, None, detail, response_headers, content, perf_counter() - started, address
        )

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | aiohttp.Payload | None,
        *,
        workspace: str,
        certificate: ClientCertificate | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and return the response once its head is there; redirects are not followed.

        For the other modules of this package: the caller holds the slot of the workspace, sets the deadline,
        reads the body, and uses the response as a context, which frees the connection. Raises what
        `classify_error` classifies.
        """
        assert self._session is not None  # noqa: S101 -- start() comes first
        context_token = calling_workspace.set(workspace)
        try:
            target, tls = await self._checked(url, workspace, certificate)
            return await self._session.request(
                method,
                target,
                data=body,
                headers=headers,
                allow_redirects=False,
                ssl=tls,
                proxy=self._proxy,
            )
        finally:
            calling_workspace.reset(context_token)

    async def open_websocket(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        subprotocols: Sequence[str],
        max_message_bytes: int,
        close_s: float,
        workspace: str,
        certificate: ClientCertificate | None = None,
    ) -> AbortableWebSocket:
        """Send the handshake of a WebSocket, to its http or https URL; otherwise as `send`.

        Any answer but 101 raises `aiohttp.WSServerHandshakeError`, a redirect too. Compression is not
        offered, and a compressed frame is an error.
        """
        assert self._websocket_session is not None  # noqa: S101 -- start() comes first
        context_token = calling_workspace.set(workspace)
        try:
            target, tls = await self._checked(url, workspace, certificate)
            websocket = await self._websocket_session.ws_connect(
                target,
                headers=headers,
                protocols=subprotocols,
                timeout=aiohttp.ClientWSTimeout(ws_close=close_s),
                autoping=False,
                max_msg_size=max_message_bytes + 1,  # aiohttp refuses a message of exactly this size
                ssl=tls,
                proxy=self._proxy,
            )
            assert isinstance(websocket, AbortableWebSocket)  # noqa: S101 -- the session's class
            return websocket
        finally:
            calling_workspace.reset(context_token)

    def peer_address(self, response: aiohttp.ClientResponse) -> str | None:
        """Return the address of the server that answered; None through a proxy."""
        return response.address if self._proxy is None and isinstance(response, PeerAwareResponse) else None

    @property
    def proxied(self) -> bool:
        """True if requests go through the egress proxy."""
        return self._proxy is not None

    def workspace_slot(self, workspace: str) -> AbstractAsyncContextManager[None]:
        """Return the context that a call runs in, which holds one of its workspace's slots.

        Calls of the installation itself need no slot.
        """
        return self._limits.hold(workspace) if self._limits and workspace else nullcontext()

    async def _checked(
        self, url: str, workspace: str, certificate: ClientCertificate | None
    ) -> tuple[URL, ssl.SSLContext]:
        """Return the parsed URL after its checks, and the TLS context for it.

        Checks the port, and with a proxy the addresses; without one, the connector checks the addresses.
        Raises `BadUrl`, `AddressRefused` or `socket.gaierror`.
        """
        target = parse_url(url)
        if not self.port_allowed(target.port):
            raise AddressRefused(f"port {target.port} is not one that may be called")
        if self._proxy is not None:
            host = target.raw_host or ""
            if not self.host_allowed(host):
                raise AddressRefused(f"{host} is an internal address")
            if not is_address(host):
                await self._resolver.addresses(host, workspace)
        # The pool's key includes the TLS context: a connection that was made with one client certificate
        # never carries a request with another.
        return target, self._trust if certificate is None else await self._context_of(certificate)

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
