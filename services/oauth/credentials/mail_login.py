"""Check mail credentials by logging in to the mail server. No mail is sent or read.

The server is chosen by a stranger: its name is resolved and checked first, and the connection goes to a
checked address. The length, number and time of its answers are limited.
"""

import asyncio
import os
import re
import ssl
from collections.abc import Mapping
from contextlib import closing
from typing import Final, Literal

from services.oauth.credentials.mail_imap import log_in_imap
from services.oauth.credentials.mail_server import MailLogin, protocol_error
from services.oauth.credentials.mail_smtp import log_in_smtp
from shared.manifests.provider_response import ProviderRejected, ProviderUnavailable
from shared.runtime.egress.certificates import describe_tls_error, tls_context
from shared.runtime.egress.checked_resolver import PrivateNetworks
from shared.runtime.egress.checked_socket import CheckedSockets, ProxyFailed
from shared.runtime.egress.client import WEB_PORTS
from shared.runtime.egress.errors import AddressRefused
from shared.runtime.egress.line_connection import TooManyLines, open_line_connection
from shared.runtime.egress.resolver import DnsResolver, NotResolved
from shared.runtime.egress.smtp_connection import open_smtp_connection
from shared.runtime.limits import WorkspaceLimits
from shared.wire.addresses import is_public

MailProtocol = Literal["smtp", "imap"]

_TIMEOUT_S: Final = 15.0
_MAX_CONCURRENT: Final = 20
_MAX_CONCURRENT_PER_WORKSPACE: Final = 5
_PROTOCOL_PORTS: Final[Mapping[str, frozenset[int]]] = {
    "smtp": frozenset({25, 465, 587, 2525}),
    "imap": frozenset({143, 993}),
}
_IMPLICIT_TLS_PORTS: Final = frozenset({465, 993})
_HOST_PATTERN: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")


class MailLoginChecker:
    """Checks logins, at most 20 at once and 5 per workspace.

    `allow` says which internal addresses may be connected to. `ports` are allowed beside those of the
    protocols; None allows any. `authorities` (PEM) are trusted beside the system's. With a `proxy` every
    connection goes through it by CONNECT; the server's name is checked here all the same.
    """

    def __init__(
        self,
        allow: PrivateNetworks,
        ports: frozenset[int] | None,
        *,
        authorities: str | None = None,
        proxy: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        resolver: DnsResolver | None = None,
    ) -> None:
        self._sockets = CheckedSockets(allow, proxy=proxy, resolver=resolver)
        self._ports = ports
        self._tls = tls_context(authorities, for_http=False)
        self._timeout_s = timeout_s
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
        except AddressRefused as error:
            raise ProviderRejected("address_refused", str(error)) from None
        except ProxyFailed as error:
            raise ProviderUnavailable(str(error)) from None
        except TooManyLines as error:
            raise protocol_error(str(error)) from None
        except ssl.SSLError as error:
            reason = describe_tls_error(error)
            raise ProviderRejected("tls", f"no TLS with {login.address}: {reason}{_hint(login)}") from None
        except (OSError, EOFError) as error:
            number = getattr(error, "errno", None)
            reason = os.strerror(number).lower() if number else "it closed the connection"
            raise ProviderUnavailable(f"{login.address} cannot be reached: {reason}{_hint(login)}") from None

    async def _log_in(self, protocol: MailProtocol, login: MailLogin, workspace: str) -> None:
        """Log in without limits of time and concurrency. Raise the errors of name, TLS and connection."""
        addresses = await self._sockets.addresses(login.host, workspace)
        if login.security not in ("tls", "starttls") and any(map(is_public, addresses)):
            raise ProviderRejected(
                "insecure", "without TLS others can read the password: set security to tls or starttls"
            )
        opened = await self._sockets.connect(login.host, login.port, addresses)
        # Both connections own the socket, and close it.
        if protocol == "smtp":
            with closing(
                await open_smtp_connection(opened, login.host, self._tls, encrypted=login.security == "tls")
            ) as smtp:
                await log_in_smtp(smtp, login)
        else:
            with closing(await open_line_connection(opened)) as lines:
                if login.security == "tls":
                    await lines.start_tls(self._tls, login.host)
                await log_in_imap(lines, login, self._tls)

    def _port(self, protocol: MailProtocol, text: str) -> int:
        """Return the port that `text` names. Raises `ProviderRejected` if it is not allowed."""
        if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
            raise ProviderRejected("port_refused", "the port must be a number from 1 to 65535")
        port = int(text[:6])
        usual_ports = _PROTOCOL_PORTS[protocol]
        if self._ports is None or port in usual_ports or port in self._ports - WEB_PORTS:
            return port
        allowed = ", ".join(map(str, sorted(usual_ports)))
        raise ProviderRejected("port_refused", f"this port is not allowed for mail: use one of {allowed}")


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
