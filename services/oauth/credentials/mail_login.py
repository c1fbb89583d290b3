"""Logging in to a mail server to see whether what somebody entered is right. Nothing is sent or read.

The server is a stranger's choice: its name is resolved and judged before anything is connected to, and
connected to by an address that was judged. What it says is bounded in length, number of lines and time.
What is said is in `mail_dialogues`; why no library says it: those for IMAP have neither STARTTLS nor bounds,
nor take a connection that was checked, and of SMTP beside it four commands are needed.
"""

import asyncio
import os
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from services.oauth.credentials.mail_dialogues import (
    MAX_LINE_LENGTH,
    LineConnection,
    MailLogin,
    log_in_imap,
    log_in_smtp,
)
from shared.manifests.provider_response import ProviderRejected, ProviderUnavailable
from shared.runtime.egress.certificates import describe_tls_error
from shared.runtime.egress.resolver import DnsResolver, NotResolved, literal_address
from shared.runtime.limits import WorkspaceLimits
from shared.wire.addresses import is_loopback, is_public

MailProtocol = Literal["smtp", "imap"]

_TIMEOUT_S: Final = 15.0
_CONNECT_TIMEOUT_S: Final = 5.0
_MAX_CONCURRENT: Final = 20
_MAX_CONCURRENT_PER_WORKSPACE: Final = 5
_MAX_ADDRESSES: Final = 4
_PORTS: Final[Mapping[str, frozenset[int]]] = {
    "smtp": frozenset({25, 465, 587, 2525}),
    "imap": frozenset({143, 993}),
}
_WEB_PORTS: Final = frozenset({80, 443})
_IMPLICIT_TLS_PORTS: Final = frozenset({465, 993})
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})\b")


class MailLoginChecker:
    """Tries logins, some at a time.

    `ports` may be called beside those of the protocols, None for any; `authorities` (PEM) are trusted beside
    the system's. With a `proxy` every connection goes through it, by CONNECT; the name is judged here too.
    """

    def __init__(
        self,
        allow: Literal["none", "loopback", "all"],
        ports: frozenset[int] | None,
        *,
        authorities: str | None = None,
        proxy: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        names: DnsResolver | None = None,
    ) -> None:
        self._allow = allow
        self._ports = ports
        # Not the context of HTTP: mail servers break off when they are offered its protocol (ALPN).
        self._tls = ssl.create_default_context()
        if authorities is not None:
            self._tls.load_verify_locations(cadata=authorities)
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._names = names or DnsResolver()
        self._semaphore = asyncio.Semaphore(_MAX_CONCURRENT)
        self._limits = WorkspaceLimits(_MAX_CONCURRENT_PER_WORKSPACE)

    async def check(self, protocol: MailProtocol, fields: Mapping[str, str], workspace: str) -> None:
        """Log in with host, port, security, username and password, and out again.

        Raises `GrantRevoked`: the server does not take user name and password; `ProviderRejected`: it may
        not be
        called, or cannot do what is needed; `ProviderUnavailable`: no answer, or another one at another time.
        """
        login = MailLogin(
            _host(fields["host"]),
            self._port(protocol, fields["port"]),
            fields["security"],
            fields["username"],
            fields["password"],
        )
        try:
            async with asyncio.timeout(self._timeout_s), self._limits.hold(workspace), self._semaphore:
                await self._log_in(protocol, login, workspace)
        except TimeoutError:
            raise ProviderUnavailable(f"{login.address} did not answer in time{_hint(login)}") from None
        except NotResolved as error:
            if error.permanent:
                raise ProviderRejected("unknown_host", f"the name {login.host} does not resolve") from None
            raise ProviderUnavailable(f"{login.host}: {error}") from None
        except ssl.SSLError as error:
            why = describe_tls_error(error)
            raise ProviderRejected("tls", f"no TLS with {login.address}: {why}{_hint(login)}") from None
        except (OSError, EOFError) as error:
            number = getattr(error, "errno", None)
            why = os.strerror(number).lower() if number else "it closed the connection"
            raise ProviderUnavailable(f"{login.address} cannot be reached: {why}{_hint(login)}") from None

    async def _log_in(self, protocol: MailProtocol, login: MailLogin, workspace: str) -> None:
        addresses = await self._addresses(login, workspace)
        if login.security not in ("tls", "starttls") and any(map(is_public, addresses)):
            raise ProviderRejected(
                "insecure", "without TLS anybody on the way reads the password: tls or starttls"
            )
        if self._proxy is not None:
            wire = await self._connect_through_proxy(self._proxy, login)
        else:
            wire = await self._connect(addresses, login)
        try:
            if login.security == "tls":
                await wire.start_tls(self._tls, login.host)
            await (log_in_smtp if protocol == "smtp" else log_in_imap)(wire, login, self._tls)
        finally:
            wire.close()

    async def _addresses(self, login: MailLogin, workspace: str) -> Sequence[str]:
        """Return the addresses of the host.

        Raises `ProviderRejected` if one of them is internal, `NotResolved`.
        """
        literal = literal_address(login.host)
        found = (literal,) if literal else await self._names.lookup(login.host, workspace)
        for address in found:
            allowed = is_public(address) or self._allow == "all"
            if not (allowed or (self._allow == "loopback" and is_loopback(address))):
                raise ProviderRejected("address_refused", f"{login.host} is an internal address")
        return found[:_MAX_ADDRESSES]

    async def _connect(self, addresses: Sequence[str], login: MailLogin) -> LineConnection:
        """The first that answers. Raises the last one's `OSError`."""
        failure: OSError = ConnectionRefusedError()
        for address in addresses:
            try:
                async with asyncio.timeout(min(_CONNECT_TIMEOUT_S, self._timeout_s)):
                    return LineConnection(
                        *await asyncio.open_connection(address, login.port, limit=MAX_LINE_LENGTH)
                    )
            except OSError as error:  # TimeoutError too
                failure = error
        raise failure

    async def _connect_through_proxy(self, proxy: str, login: MailLogin) -> LineConnection:
        """A connection that an HTTP proxy has made. Raises `ProviderRejected`, `ProviderUnavailable`."""
        url = urlsplit(proxy)
        try:
            streams = await asyncio.open_connection(url.hostname, url.port or 80, limit=MAX_LINE_LENGTH)
        except OSError:
            raise ProviderUnavailable("the egress proxy cannot be reached") from None
        wire = LineConnection(*streams)
        try:
            await _open_tunnel(
                wire, url, f"[{login.host}]:{login.port}" if ":" in login.host else login.address
            )
        except BaseException:
            wire.close()
            raise
        return wire

    def _port(self, protocol: MailProtocol, text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
            raise ProviderRejected("port_refused", "the port is a number from 1 to 65535")
        port = int(text[:6])
        usual = _PORTS[protocol]
        if self._ports is None or port in usual or port in self._ports - _WEB_PORTS:
            return port
        raise ProviderRejected(
            "port_refused", f"servers of mail are called at {', '.join(map(str, sorted(usual)))}"
        )


async def _open_tunnel(wire: LineConnection, url: SplitResult, address: str) -> None:
    """Have the proxy connect (RFC 9110, 9.3.6).

    Raises `ProviderUnavailable`, `ProviderRejected`, `OSError`, `EOFError`.
    """
    head = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
    if url.username is not None:
        user = f"{unquote(url.username)}:{unquote(url.password or '')}"
        head.append(f"Proxy-Authorization: Basic {b64encode(user.encode()).decode()}")
    await wire.send("\r\n".join(head).encode() + b"\r\n")
    status = _STATUS.match(await wire.line())
    while await wire.line():
        pass
    if status is None or not status[1].startswith(b"2"):
        said = status[1].decode() if status else "no HTTP"
        raise ProviderUnavailable(f"the egress proxy does not lead to {address}: it answered {said}")


def _host(text: str) -> str:
    """A name or address as it can be resolved, and stand in a line. Raises `ProviderRejected`."""
    host = text.strip().removesuffix(".").lower()
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        host = ""
    if not _HOST.fullmatch(host):
        raise ProviderRejected("unknown_host", "the host is a name, as mail.example.com")
    return host


def _hint(login: MailLogin) -> str:
    """Port and security that do not go together are the usual reason for a talk that does not begin."""
    if login.port in _IMPLICIT_TLS_PORTS and login.security != "tls":
        return f" (at port {login.port}, security is usually tls)"
    if login.port in (25, 143, 587) and login.security == "tls":
        return f" (at port {login.port}, security is usually starttls)"
    return ""
