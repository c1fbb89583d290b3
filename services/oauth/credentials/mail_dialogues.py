"""What is said to a mail server to log in: SMTP (RFC 5321, 4954, 3207) and IMAP (RFC 9051), and no more.

A server may say anything: each reads what it understands and refuses the rest. Of what a server says to a
refused login only its codes are told, never its text, in which anything could be repeated.
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
"""What stands in the line of AUTH itself: that is a command line, and no longer than one (RFC 4954, 4)."""
_EHLO_LINE: Final = (
    b"EHLO [127.0.0.1]"  # an address literal, as RFC 5321 wants where no name is: it tells nothing
)

_REPLY: Final = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?")
_ENHANCED: Final = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}\b")
_RESULT: Final = re.compile(rb"(OK|NO|BAD)\b(?: \[([A-Z-]+))?", re.IGNORECASE)
_REPORTED_CODES: Final = frozenset(
    {b"AUTHENTICATIONFAILED", b"AUTHORIZATIONFAILED", b"EXPIRED", b"PRIVACYREQUIRED", b"CONTACTADMIN"}
)
_TRANSIENT_CODES: Final = frozenset({b"UNAVAILABLE", b"INUSE", b"SERVERBUG", b"LIMIT"})
"""RFC 5530: codes of a refusal that is not about the password."""


@dataclass(frozen=True, slots=True)
class MailLogin:
    """What is logged in with. `security` is tls, starttls, or anything else for none."""

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
        """The one message of SASL PLAIN (RFC 4616)."""
        return b64encode(f"\0{self.username}\0{self.password}".encode())


class LineConnection:
    """A connection that is read by lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._tcp_writer: asyncio.StreamWriter | None = None
        self._lines = 0

    async def line(self) -> bytes:
        """The next line, without its end.

        Raises `ProviderRejected`: too long, or too many; `EOFError`, `OSError`.
        """
        self._lines += 1
        if self._lines > _MAX_LINES:
            raise _protocol_error("it has too much to say")
        try:
            return (await self._reader.readuntil(b"\n")).rstrip(b"\r\n")
        except asyncio.LimitOverrunError:
            raise _protocol_error("its lines do not end") from None

    async def send(self, line: bytes) -> None:
        self._writer.write(line + b"\r\n")
        await self._writer.drain()

    async def start_tls(self, tls: ssl.SSLContext, host: str) -> None:
        """TLS from here on. Raises `ssl.SSLError`, `OSError`.

        What came in clear and was not read is dropped: anybody on the way could have put it there.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_LINE_LENGTH)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await loop.start_tls(self._writer.transport, protocol, tls, server_hostname=host)
        if transport is None:
            raise ConnectionResetError
        protocol.connection_made(transport)
        self._tcp_writer = self._writer  # when it is let go of, it closes the connection below
        self._reader, self._writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def close(self) -> None:
        """At once: a server that does not answer to the end of TLS need not be waited for."""
        self._writer.transport.abort()


# SMTP


async def log_in_smtp(wire: LineConnection, login: MailLogin, tls: ssl.SSLContext) -> None:
    """Log in.

    Raises `ProviderRejected`, `GrantRevoked` (the login), `ProviderUnavailable`, `OSError`, `EOFError`.
    """
    await _expect_reply(wire, b"220")
    offered = await _ehlo(wire)
    if login.security == "starttls":
        if b"STARTTLS" not in offered:
            raise ProviderRejected("tls", f"{login.address} offers no STARTTLS")
        await wire.send(b"STARTTLS")
        await _expect_reply(wire, b"220")
        await wire.start_tls(tls, login.host)
        offered = await _ehlo(wire)
    mechanisms = offered.get(b"AUTH", frozenset())
    if b"PLAIN" in mechanisms:
        if len(login.sasl_plain) <= _MAX_INITIAL_RESPONSE:
            await wire.send(b"AUTH PLAIN " + login.sasl_plain)
        else:
            await wire.send(b"AUTH PLAIN")
            await _expect_reply(wire, b"334")
            await wire.send(login.sasl_plain)
    elif b"LOGIN" in mechanisms:
        await wire.send(b"AUTH LOGIN")
        for text in (login.username, login.password):
            await _expect_reply(wire, b"334")
            await wire.send(b64encode(text.encode()))
    else:
        raise _no_login_mechanism(login)
    await _expect_reply(wire, b"235")
    await wire.send(b"QUIT")


async def _ehlo(wire: LineConnection) -> dict[bytes, frozenset[bytes]]:
    """What the server can, by keyword, with its words."""
    await wire.send(_EHLO_LINE)
    offered: dict[bytes, frozenset[bytes]] = {}
    for line in (await _expect_reply(wire, b"250"))[1:]:
        keyword, *words = line.upper().replace(b"=", b" ").split() or [b""]  # AUTH=LOGIN, as in old times
        offered[keyword] = offered.get(keyword, frozenset()) | frozenset(words)
    return offered


async def _expect_reply(wire: LineConnection, wanted: bytes) -> list[bytes]:
    """The lines of the next reply, which has this code. Raises `ProviderRejected`, `ProviderUnavailable`."""
    texts: list[bytes] = []
    while True:
        found = _REPLY.fullmatch(await wire.line())
        if found is None:
            raise _protocol_error("it does not speak SMTP")
        texts.append(found[3] or b"")
        if found[2] != b"-":
            break
    code = found[1]
    if code == wanted:
        return texts
    if code.startswith(b"4"):
        raise ProviderUnavailable(f"the mail server is not available: it answered {code.decode()}")
    if code in (b"534", b"535"):
        enhanced = _ENHANCED.match(texts[-1])
        raise _login_refused([code, *([enhanced[0]] if enhanced else [])])
    raise ProviderRejected("protocol", f"the mail server does not go on: it answered {code.decode()}")


# IMAP


async def log_in_imap(wire: LineConnection, login: MailLogin, tls: ssl.SSLContext) -> None:
    """Log in.

    Raises `ProviderRejected`, `GrantRevoked` (the login), `ProviderUnavailable`, `OSError`, `EOFError`.
    """
    greeting = (await wire.line()).upper()
    if greeting.startswith(b"* BYE"):
        raise ProviderUnavailable("the mail server is not available")
    if not greeting.startswith(b"* OK"):  # PREAUTH: it lets in whoever comes, so no password is proved
        raise _protocol_error("it does not greet as IMAP does")
    tags = _TaggedCommands(wire)
    offered = await tags.capabilities()
    if login.security == "starttls":
        if b"STARTTLS" not in offered:
            raise ProviderRejected("tls", f"{login.address} offers no STARTTLS")
        await tags.command(b"STARTTLS")
        await wire.start_tls(tls, login.host)
        offered = await tags.capabilities()
    if b"AUTH=PLAIN" in offered:
        await tags.command(b"AUTHENTICATE PLAIN", answers=[login.sasl_plain], is_login=True)
    elif b"LOGINDISABLED" not in offered:
        first, rest = _arguments(login.username, login.password)
        await tags.command(b"LOGIN " + first, answers=rest, is_login=True)
    else:
        raise _no_login_mechanism(login)
    await wire.send(b"z LOGOUT")


class _TaggedCommands:
    """Commands, each with a tag of its own."""

    def __init__(self, wire: LineConnection) -> None:
        self._wire = wire
        self._count = 0

    async def capabilities(self) -> frozenset[bytes]:
        """What the server can."""
        found: frozenset[bytes] = frozenset()
        for line in await self.command(b"CAPABILITY"):
            if line.upper().startswith(b"* CAPABILITY "):
                found |= frozenset(line.upper().split()[2:])
        return found

    async def command(
        self, text: bytes, *, answers: Iterable[bytes] = (), is_login: bool = False
    ) -> list[bytes]:
        """The lines until a command is done; `answers` are sent each when the server asks to go on.

        Raises `ProviderRejected`, `ProviderUnavailable`.
        """
        self._count += 1
        tag = b"a%d" % self._count
        await self._wire.send(tag + b" " + text)
        waiting = list(answers)
        lines: list[bytes] = []
        while not (line := await self._wire.line()).startswith(tag + b" "):
            if line.startswith(b"+") and waiting:
                await self._wire.send(waiting.pop(0))
            elif line.startswith(b"* "):
                lines.append(line)
                if line.upper().startswith(b"* BYE"):
                    raise ProviderUnavailable("the mail server has ended the talk")
            else:
                raise _protocol_error("it does not speak IMAP")
        self._check_result(line.removeprefix(tag + b" "), is_login=is_login)
        return lines

    @staticmethod
    def _check_result(text: bytes, *, is_login: bool) -> None:
        result = _RESULT.match(text)
        word, code = (result[1].upper(), (result[2] or b"").upper()) if result else (b"", b"")
        if word == b"OK":
            return
        if code in _TRANSIENT_CODES:
            raise ProviderUnavailable("the mail server is not available")
        if word == b"NO" and is_login:
            raise _login_refused([code] if code in _REPORTED_CODES else [])
        raise _protocol_error("it does not take an ordinary command")


def _arguments(*texts: str) -> tuple[bytes, list[bytes]]:
    """Arguments of a command, as what is sent at once and what is sent each time that the server asks.

    What cannot stand between quotes goes as a literal, whose length is told first (RFC 9051, 4.3).
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


# Refusals


def _login_refused(codes: list[bytes]) -> GrantRevoked:
    said = f" ({' '.join(code.decode() for code in codes)})" if codes else ""
    return GrantRevoked("login_refused", f"the mail server does not take user name and password{said}")


def _no_login_mechanism(login: MailLogin) -> ProviderRejected:
    return ProviderRejected("no_login", f"{login.address} offers no login by user name and password here")


def _protocol_error(why: str) -> ProviderRejected:
    return ProviderRejected("protocol", f"that is no mail server of this kind: {why}")
