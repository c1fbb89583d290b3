"""Log in to a mail server: the necessary part of SMTP (RFC 5321, 4954, 3207) and of IMAP (RFC 9051).

The server is not trusted: what is not understood is an error. Of the answer to a rejected login only the
status codes are shown, never its text, which could repeat the password.
"""

import asyncio
import re
import ssl
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from shared.manifests.provider_response import GrantRevoked, ProviderRejected, ProviderUnavailable

MAX_LINE_LENGTH: Final = 8 * 1024
_MAX_LINES: Final = 200
_MAX_INITIAL_RESPONSE: Final = 512 - len("AUTH PLAIN \r\n")
"""The longest initial response, because AUTH with it is one command line of 512 octets (RFC 4954, 4)."""
_EHLO_LINE: Final = b"EHLO [127.0.0.1]"
"""An address literal, as RFC 5321 requires of a client without a name. It does not reveal our address."""

_REPLY: Final = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?")
_ENHANCED_CODE: Final = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}\b")
_RESULT: Final = re.compile(rb"(OK|NO|BAD)\b(?: \[([A-Z-]+))?", re.IGNORECASE)
_REPORTED_CODES: Final = frozenset(
    {b"AUTHENTICATIONFAILED", b"AUTHORIZATIONFAILED", b"EXPIRED", b"PRIVACYREQUIRED", b"CONTACTADMIN"}
)
"""Response codes of RFC 5530 that an error text may repeat."""
_TRANSIENT_CODES: Final = frozenset({b"UNAVAILABLE", b"INUSE", b"SERVERBUG", b"LIMIT"})
"""Response codes of RFC 5530 for a rejection that is not about the password."""


@dataclass(frozen=True, slots=True)
class MailLogin:
    """Server and credentials of a login. `security` is tls, starttls, or anything else for no encryption."""

    host: str
    port: int
    security: str
    username: str
    password: str = field(repr=False)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def sasl_plain(self) -> bytes:
        """The message of SASL PLAIN (RFC 4616), in base64."""
        return b64encode(f"\0{self.username}\0{self.password}".encode())


class LineConnection:
    """A connection that is read and written by lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._tcp_writer: asyncio.StreamWriter | None = None
        self._lines = 0

    async def read_line(self) -> bytes:
        """Return the next line, without its end.

        Raises `ProviderRejected` if the line is longer than 8 KiB or the 201st; `EOFError`, `OSError`.
        """
        self._lines += 1
        if self._lines > _MAX_LINES:
            raise _protocol_error("it sends too many lines")
        try:
            return (await self._reader.readuntil(b"\n")).rstrip(b"\r\n")
        except asyncio.LimitOverrunError:
            raise _protocol_error("it sends a line that is too long") from None

    async def send(self, line: bytes) -> None:
        self._writer.write(line + b"\r\n")
        await self._writer.drain()

    async def start_tls(self, tls: ssl.SSLContext, host: str) -> None:
        """Encrypt the connection from here on. Raises `ssl.SSLError`, `OSError`.

        Unread plaintext is dropped: an attacker on the network could have injected it.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_LINE_LENGTH)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await loop.start_tls(self._writer.transport, protocol, tls, server_hostname=host)
        if transport is None:
            raise ConnectionResetError
        protocol.connection_made(transport)
        # The TLS transport uses this writer's transport, which a collected writer would close.
        self._tcp_writer = self._writer
        self._reader, self._writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def close(self) -> None:
        """Close the connection at once, without continuations for the server to answer the end of TLS."""
        self._writer.transport.abort()


# SMTP


async def log_in_smtp(connection: LineConnection, login: MailLogin, tls: ssl.SSLContext) -> None:
    """Log in by SMTP over an open connection. With `starttls`, encrypt it with `tls` first.

    Raises `GrantRevoked` if the server rejects user name and password; `ProviderRejected` if it offers no
    usable login or does not speak SMTP; `ProviderUnavailable`, `ssl.SSLError`, `OSError`, `EOFError`.
    """
    await _expect_reply(connection, b"220")
    capabilities = await _ehlo(connection)
    if login.security == "starttls":
        if b"STARTTLS" not in capabilities:
            raise ProviderRejected("tls", f"{login.address} offers no STARTTLS")
        await connection.send(b"STARTTLS")
        await _expect_reply(connection, b"220")
        await connection.start_tls(tls, login.host)
        capabilities = await _ehlo(connection)
    mechanisms = capabilities.get(b"AUTH", frozenset())
    if b"PLAIN" in mechanisms:
        if len(login.sasl_plain) <= _MAX_INITIAL_RESPONSE:
            await connection.send(b"AUTH PLAIN " + login.sasl_plain)
        else:
            await connection.send(b"AUTH PLAIN")
            await _expect_reply(connection, b"334")
            await connection.send(login.sasl_plain)
    elif b"LOGIN" in mechanisms:
        await connection.send(b"AUTH LOGIN")
        for text in (login.username, login.password):
            await _expect_reply(connection, b"334")
            await connection.send(b64encode(text.encode()))
    else:
        raise _no_login_mechanism(login)
    await _expect_reply(connection, b"235")
    await connection.send(b"QUIT")


async def _ehlo(connection: LineConnection) -> dict[bytes, frozenset[bytes]]:
    """Return the server's extensions: the parameters of each, by its keyword, in upper case."""
    await connection.send(_EHLO_LINE)
    capabilities: dict[bytes, frozenset[bytes]] = {}
    for line in (await _expect_reply(connection, b"250"))[1:]:
        # Old servers write AUTH=LOGIN in place of AUTH LOGIN.
        keyword, *parameters = line.upper().replace(b"=", b" ").split() or [b""]
        capabilities[keyword] = capabilities.get(keyword, frozenset()) | frozenset(parameters)
    return capabilities


async def _expect_reply(connection: LineConnection, expected_code: bytes) -> list[bytes]:
    """Return the texts of the next reply's lines, if it has the expected code.

    Raises `GrantRevoked` for a rejected login, `ProviderUnavailable` for a temporary error,
    `ProviderRejected` for anything else.
    """
    texts: list[bytes] = []
    while True:
        reply = _REPLY.fullmatch(await connection.read_line())
        if reply is None:
            raise _protocol_error("it does not speak SMTP")
        texts.append(reply[3] or b"")
        if reply[2] != b"-":  # A hyphen after the code announces another line.
            break
    code = reply[1]
    if code == expected_code:
        return texts
    if code.startswith(b"4"):
        raise ProviderUnavailable(f"the mail server is not available: it answered {code.decode()}")
    if code in (b"534", b"535"):
        enhanced = _ENHANCED_CODE.match(texts[-1])
        raise _login_refused([code, *([enhanced[0]] if enhanced else [])])
    raise ProviderRejected("protocol", f"the mail server rejected a command: it answered {code.decode()}")


# IMAP


async def log_in_imap(connection: LineConnection, login: MailLogin, tls: ssl.SSLContext) -> None:
    """Log in by IMAP over an open connection. With `starttls`, encrypt it with `tls` first.

    Raises `GrantRevoked` if the server rejects user name and password; `ProviderRejected` if it offers no
    usable login or does not speak IMAP; `ProviderUnavailable`, `ssl.SSLError`, `OSError`, `EOFError`.
    """
    greeting = (await connection.read_line()).upper()
    if greeting.startswith(b"* BYE"):
        raise ProviderUnavailable("the mail server is not available")
    # PREAUTH is refused too: a server that needs no login cannot confirm the password.
    if not greeting.startswith(b"* OK"):
        raise _protocol_error("its greeting is not IMAP's")
    commands = _TaggedCommands(connection)
    capabilities = await commands.capabilities()
    if login.security == "starttls":
        if b"STARTTLS" not in capabilities:
            raise ProviderRejected("tls", f"{login.address} offers no STARTTLS")
        await commands.command(b"STARTTLS")
        await connection.start_tls(tls, login.host)
        capabilities = await commands.capabilities()
    if b"AUTH=PLAIN" in capabilities:
        await commands.command(b"AUTHENTICATE PLAIN", answers=[login.sasl_plain], is_login=True)
    elif b"LOGINDISABLED" not in capabilities:
        first, rest = _arguments(login.username, login.password)
        await commands.command(b"LOGIN " + first, answers=rest, is_login=True)
    else:
        raise _no_login_mechanism(login)
    await connection.send(b"z LOGOUT")


class _TaggedCommands:
    """Sends IMAP commands, each with a tag of its own, and reads their results."""

    def __init__(self, connection: LineConnection) -> None:
        self._connection = connection
        self._count = 0

    async def capabilities(self) -> frozenset[bytes]:
        """Return the server's capabilities, in upper case."""
        capabilities: frozenset[bytes] = frozenset()
        for line in await self.command(b"CAPABILITY"):
            if line.upper().startswith(b"* CAPABILITY "):
                capabilities |= frozenset(line.upper().split()[2:])
        return capabilities

    async def command(
        self, text: bytes, *, answers: Iterable[bytes] = (), is_login: bool = False
    ) -> list[bytes]:
        """Send a command and return the untagged lines of its response.

        Each of `answers` is sent when the server asks for a continuation. Raises `GrantRevoked` if `is_login`
        and the server rejects the login; `ProviderUnavailable`; `ProviderRejected` for anything else.
        """
        self._count += 1
        tag = b"a%d" % self._count
        await self._connection.send(tag + b" " + text)
        continuations = list(answers)
        lines: list[bytes] = []
        while not (line := await self._connection.read_line()).startswith(tag + b" "):
            if line.startswith(b"+") and continuations:
                await self._connection.send(continuations.pop(0))
            elif line.startswith(b"* "):
                lines.append(line)
                if line.upper().startswith(b"* BYE"):
                    raise ProviderUnavailable("the mail server ended the session")
            else:
                raise _protocol_error("it does not speak IMAP")
        self._check_result(line.removeprefix(tag + b" "), is_login=is_login)
        return lines

    @staticmethod
    def _check_result(text: bytes, *, is_login: bool) -> None:
        result = _RESULT.match(text)
        status, code = (result[1].upper(), (result[2] or b"").upper()) if result else (b"", b"")
        if status == b"OK":
            return
        if code in _TRANSIENT_CODES:
            raise ProviderUnavailable("the mail server is not available")
        if status == b"NO" and is_login:
            raise _login_refused([code] if code in _REPORTED_CODES else [])
        raise _protocol_error("it rejects an ordinary command")


def _arguments(*texts: str) -> tuple[bytes, list[bytes]]:
    """Encode the arguments of a command.

    Return the part to send with the command, and the parts to send one by one at each continuation request.
    An argument that cannot be a quoted string is sent as a literal, whose length is announced first
    (RFC 9051, 4.3).
    """
    parts = [b""]
    for position, text in enumerate(texts):
        raw = text.encode()
        if position:
            parts[-1] += b" "
        if text.isascii() and text.isprintable():
            parts[-1] += b'"' + raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        else:
            parts[-1] += b"{%d}" % len(raw)
            parts.append(raw)
    return parts[0], parts[1:]


# Errors


def _login_refused(codes: list[bytes]) -> GrantRevoked:
    code_suffix = f" ({' '.join(code.decode() for code in codes)})" if codes else ""
    return GrantRevoked("login_refused", f"the mail server rejected user name and password{code_suffix}")


def _no_login_mechanism(login: MailLogin) -> ProviderRejected:
    return ProviderRejected("no_login", f"{login.address} offers no login by user name and password")


def _protocol_error(detail: str) -> ProviderRejected:
    return ProviderRejected("protocol", f"this is not a mail server of this protocol: {detail}")
