"""Check mail credentials by logging in to the mail server. No mail is sent or read.

The server is chosen by a stranger: its name is resolved and checked first, and the connection goes to a
checked address. The length, number and time of its answers are limited. `mail_dialogues.py` has the
protocols. No library is used: those for IMAP lack STARTTLS or limits, or open the connection themselves, so
the address cannot be checked; of SMTP only four commands are needed.
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
_PROTOCOL_PORTS: Final[Mapping[str, frozenset[int]]] = {
    "smtp": frozenset({25, 465, 587, 2525}),
    "imap": frozenset({143, 993}),
}
_WEB_PORTS: Final = frozenset({80, 443})
_IMPLICIT_TLS_PORTS: Final = frozenset({465, 993})
_HOST_PATTERN: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] (\d{3})\b")


class MailLoginChecker:
    """Checks logins, at most 20 at once and 5 per workspace.

    `allow` says which internal addresses may be connected to. `ports` are allowed beside those of the
    protocols; None allows any. `authorities` (PEM) are trusted beside the system's. With a `proxy` every
    connection goes through it by CONNECT; the server's name is checked here all the same.
    """

    def __init__(
        self,
        allow: Literal["none", "loopback", "all"],
        ports: frozenset[int] | None,
        *,
        authorities: str | None = None,
        proxy: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        resolver: DnsResolver | None = None,
    ) -> None:
        self._allow = allow
        self._ports = ports
        # Not the TLS context for HTTP: mail servers close the connection when it offers HTTP by ALPN.
        self._tls = ssl.create_default_context()
        if authorities is not None:
            self._tls.load_verify_locations(cadata=authorities)
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._resolver = resolver or DnsResolver()
        self._semaphore = asyncio.Semaphore(_MAX_CONCURRENT)
        self._limits = WorkspaceLimits(_MAX_CONCURRENT_PER_WORKSPACE)

    async def check(self, protocol: MailProtocol, fields: Mapping[str, str], workspace: str) -> None:
        """Log in with the fields host, port, security, username and password, and log out again.

        Raises `GrantRevoked` if the server rejects user name and password; `ProviderRejected` if the server
        may not be connected to, or cannot do what is needed; `ProviderUnavailable` if it does not answer, or
        if another attempt may succeed.
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
            reason = describe_tls_error(error)
            raise ProviderRejected("tls", f"no TLS with {login.address}: {reason}{_hint(login)}") from None
        except (OSError, EOFError) as error:
            number = getattr(error, "errno", None)
            reason = os.strerror(number).lower() if number else "it closed the connection"
            raise ProviderUnavailable(f"{login.address} cannot be reached: {reason}{_hint(login)}") from None

    async def _log_in(self, protocol: MailProtocol, login: MailLogin, workspace: str) -> None:
        """Log in without limits of time and concurrency. Raise the errors of name, TLS and connection."""
        addresses = await self._addresses(login, workspace)
        if login.security not in ("tls", "starttls") and any(map(is_public, addresses)):
            raise ProviderRejected(
                "insecure", "without TLS others can read the password: set security to tls or starttls"
            )
        if self._proxy is not None:
            connection = await self._connect_through_proxy(self._proxy, login)
        else:
            connection = await self._connect(addresses, login)
        try:
            if login.security == "tls":
                await connection.start_tls(self._tls, login.host)
            await (log_in_smtp if protocol == "smtp" else log_in_imap)(connection, login, self._tls)
        finally:
            connection.close()

    async def _addresses(self, login: MailLogin, workspace: str) -> Sequence[str]:
        """Return the addresses of the host.

        Raises `ProviderRejected` if one of them is internal, `NotResolved`.
        """
        literal = literal_address(login.host)
        addresses = (literal,) if literal else await self._resolver.lookup(login.host, workspace)
        for address in addresses:
            allowed = is_public(address) or self._allow == "all"
            if not (allowed or (self._allow == "loopback" and is_loopback(address))):
                raise ProviderRejected("address_refused", f"{login.host} is an internal address")
        return addresses[:_MAX_ADDRESSES]

    async def _connect(self, addresses: Sequence[str], login: MailLogin) -> LineConnection:
        """Connect to the first address that answers. Raises the last address's `OSError` if none does."""
        failure: OSError = ConnectionRefusedError()
        for address in addresses:
            try:
                async with asyncio.timeout(min(_CONNECT_TIMEOUT_S, self._timeout_s)):
                    return LineConnection(
                        *await asyncio.open_connection(address, login.port, limit=MAX_LINE_LENGTH)
                    )
            except OSError as error:  # TimeoutError is one, too.
                failure = error
        raise failure

    async def _connect_through_proxy(self, proxy: str, login: MailLogin) -> LineConnection:
        """Connect through an HTTP proxy.

        Raises `ProviderUnavailable` if the proxy does not answer or refuses; `ProviderRejected`, `OSError`,
        `EOFError`.
        """
        url = urlsplit(proxy)
        try:
            streams = await asyncio.open_connection(url.hostname, url.port or 80, limit=MAX_LINE_LENGTH)
        except OSError:
            raise ProviderUnavailable("the egress proxy cannot be reached") from None
        connection = LineConnection(*streams)
        try:
            await _open_tunnel(
                connection, url, f"[{login.host}]:{login.port}" if ":" in login.host else login.address
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def _port(self, protocol: MailProtocol, text: str) -> int:
        """Return the port that `text` names. Raises `ProviderRejected` if it is not allowed."""
        if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
            raise ProviderRejected("port_refused", "the port must be a number from 1 to 65535")
        port = int(text[:6])
        usual_ports = _PROTOCOL_PORTS[protocol]
        if self._ports is None or port in usual_ports or port in self._ports - _WEB_PORTS:
            return port
        allowed = ", ".join(map(str, sorted(usual_ports)))
        raise ProviderRejected("port_refused", f"this port is not allowed for mail: use one of {allowed}")


async def _open_tunnel(connection: LineConnection, url: SplitResult, address: str) -> None:
    """Ask the proxy for a tunnel to `address` (CONNECT: RFC 9110, 9.3.6).

    Raises `ProviderUnavailable` if it refuses; `ProviderRejected`, `OSError`, `EOFError`.
    """
    head = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
    if url.username is not None:
        user = f"{unquote(url.username)}:{unquote(url.password or '')}"
        head.append(f"Proxy-Authorization: Basic {b64encode(user.encode()).decode()}")
    await connection.send("\r\n".join(head).encode() + b"\r\n")
    status = _STATUS_LINE.match(await connection.read_line())
    while await connection.read_line():
        pass
    if status is None or not status[1].startswith(b"2"):
        status_text = status[1].decode() if status else "no HTTP"
        raise ProviderUnavailable(f"the egress proxy refused {address}: it answered {status_text}")


def _host(text: str) -> str:
    """Return a host name or address in ASCII and lower case. Raises `ProviderRejected` if it is neither."""
    host = text.strip().removesuffix(".").lower()
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        host = ""
    if not _HOST_PATTERN.fullmatch(host):
        raise ProviderRejected("unknown_host", "the host must be a name, such as mail.example.com")
    return host


def _hint(login: MailLogin) -> str:
    """Return a hint if port and security do not match, the usual reason for a failed connection; else ''."""
    if login.port in _IMPLICIT_TLS_PORTS and login.security != "tls":
        return f" (at port {login.port}, security is usually tls)"
    if login.port in (25, 143, 587) and login.security == "tls":
        return f" (at port {login.port}, security is usually starttls)"
    return ""
