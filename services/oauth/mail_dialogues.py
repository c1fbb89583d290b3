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

from shared.catalog.connector import ConsentGone, PlatformBusy, Refused

LONGEST_LINE: Final = 8 * 1024
_MOST_LINES: Final = 200
_LONGEST_INITIAL: Final = 512 - len("AUTH PLAIN \r\n")
"""What stands in the line of AUTH itself: that is a command line, and no longer than one (RFC 4954, 4)."""
_HELLO: Final = (
    b"EHLO [127.0.0.1]"  # an address literal, as RFC 5321 wants where no name is: it tells nothing
)

_REPLY: Final = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?")
_ENHANCED: Final = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}\b")
_RESULT: Final = re.compile(rb"(OK|NO|BAD)\b(?: \[([A-Z-]+))?", re.IGNORECASE)
_SAYS_WHY: Final = frozenset(
    {b"AUTHENTICATIONFAILED", b"AUTHORIZATIONFAILED", b"EXPIRED", b"PRIVACYREQUIRED", b"CONTACTADMIN"}
)
_PASSES: Final = frozenset({b"UNAVAILABLE", b"INUSE", b"SERVERBUG", b"LIMIT"})
"""RFC 5530: codes of a refusal that is not about the password."""


@dataclass(frozen=True, slots=True)
class Login:
    """What is logged in with. `security` is tls, starttls, or anything else for none."""

    host: str
    port: int
    security: str
    username: str
    password: str = field(repr=False)

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def plain(self) -> bytes:
        """The one message of SASL PLAIN (RFC 4616)."""
        return b64encode(f"\0{self.username}\0{self.password}".encode())


class Wire:
    """A connection that is read by lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._under: asyncio.StreamWriter | None = None
        self._lines = 0

    async def line(self) -> bytes:
        """The next line, without its end. Raises `Refused`: too long, or too many; `EOFError`, `OSError`."""
        self._lines += 1
        if self._lines > _MOST_LINES:
            raise _babble("it has too much to say")
        try:
            return (await self._reader.readuntil(b"\n")).rstrip(b"\r\n")
        except asyncio.LimitOverrunError:
            raise _babble("its lines do not end") from None

    async def send(self, line: bytes) -> None:
        self._writer.write(line + b"\r\n")
        await self._writer.drain()

    async def encrypt(self, tls: ssl.SSLContext, host: str) -> None:
        """TLS from here on. Raises `ssl.SSLError`, `OSError`.

        What came in clear and was not read is dropped: anybody on the way could have put it there.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LONGEST_LINE)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await loop.start_tls(self._writer.transport, protocol, tls, server_hostname=host)
        if transport is None:
            raise ConnectionResetError
        protocol.connection_made(transport)
        self._under = self._writer  # when it is let go of, it closes the connection below
        self._reader, self._writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def close(self) -> None:
        """At once: a server that does not answer to the end of TLS need not be waited for."""
        self._writer.transport.abort()


# SMTP


async def smtp(wire: Wire, login: Login, tls: ssl.SSLContext) -> None:
    """Log in. Raises `Refused`, `ConsentGone` (the login), `PlatformBusy`, `OSError`, `EOFError`."""
    await _expect(wire, b"220")
    offered = await _hello(wire)
    if login.security == "starttls":
        if b"STARTTLS" not in offered:
            raise Refused("tls", f"{login.place} offers no STARTTLS")
        await wire.send(b"STARTTLS")
        await _expect(wire, b"220")
        await wire.encrypt(tls, login.host)
        offered = await _hello(wire)
    mechanisms = offered.get(b"AUTH", frozenset())
    if b"PLAIN" in mechanisms:
        if len(login.plain) <= _LONGEST_INITIAL:
            await wire.send(b"AUTH PLAIN " + login.plain)
        else:
            await wire.send(b"AUTH PLAIN")
            await _expect(wire, b"334")
            await wire.send(login.plain)
    elif b"LOGIN" in mechanisms:
        await wire.send(b"AUTH LOGIN")
        for text in (login.username, login.password):
            await _expect(wire, b"334")
            await wire.send(b64encode(text.encode()))
    else:
        raise _no_login(login)
    await _expect(wire, b"235")
    await wire.send(b"QUIT")


async def _hello(wire: Wire) -> dict[bytes, frozenset[bytes]]:
    """What the server can, by keyword, with its words."""
    await wire.send(_HELLO)
    offered: dict[bytes, frozenset[bytes]] = {}
    for line in (await _expect(wire, b"250"))[1:]:
        keyword, *words = line.upper().replace(b"=", b" ").split() or [b""]  # AUTH=LOGIN, as in old times
        offered[keyword] = offered.get(keyword, frozenset()) | frozenset(words)
    return offered


async def _expect(wire: Wire, wanted: bytes) -> list[bytes]:
    """The lines of the next reply, which has this code. Raises `Refused`, `PlatformBusy`."""
    texts: list[bytes] = []
    while True:
        found = _REPLY.fullmatch(await wire.line())
        if found is None:
            raise _babble("it does not speak SMTP")
        texts.append(found[3] or b"")
        if found[2] != b"-":
            break
    code = found[1]
    if code == wanted:
        return texts
    if code.startswith(b"4"):
        raise PlatformBusy(f"the mail server is not available: it answered {code.decode()}")
    if code in (b"534", b"535"):
        enhanced = _ENHANCED.match(texts[-1])
        raise _login_refused([code, *([enhanced[0]] if enhanced else [])])
    raise Refused("protocol", f"the mail server does not go on: it answered {code.decode()}")


# IMAP


async def imap(wire: Wire, login: Login, tls: ssl.SSLContext) -> None:
    """Log in. Raises `Refused`, `ConsentGone` (the login), `PlatformBusy`, `OSError`, `EOFError`."""
    greeting = (await wire.line()).upper()
    if greeting.startswith(b"* BYE"):
        raise PlatformBusy("the mail server is not available")
    if not greeting.startswith(b"* OK"):  # PREAUTH: it lets in whoever comes, so no password is proved
        raise _babble("it does not greet as IMAP does")
    tags = _Tags(wire)
    offered = await tags.capabilities()
    if login.security == "starttls":
        if b"STARTTLS" not in offered:
            raise Refused("tls", f"{login.place} offers no STARTTLS")
        await tags.command(b"STARTTLS")
        await wire.encrypt(tls, login.host)
        offered = await tags.capabilities()
    if b"AUTH=PLAIN" in offered:
        await tags.command(b"AUTHENTICATE PLAIN", answers=[login.plain], is_login=True)
    elif b"LOGINDISABLED" not in offered:
        first, rest = _arguments(login.username, login.password)
        await tags.command(b"LOGIN " + first, answers=rest, is_login=True)
    else:
        raise _no_login(login)
    await wire.send(b"z LOGOUT")


class _Tags:
    """Commands, each with a tag of its own."""

    def __init__(self, wire: Wire) -> None:
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

        Raises `Refused`, `PlatformBusy`.
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
                    raise PlatformBusy("the mail server has ended the talk")
            else:
                raise _babble("it does not speak IMAP")
        self._done(line.removeprefix(tag + b" "), is_login=is_login)
        return lines

    @staticmethod
    def _done(text: bytes, *, is_login: bool) -> None:
        result = _RESULT.match(text)
        word, code = (result[1].upper(), (result[2] or b"").upper()) if result else (b"", b"")
        if word == b"OK":
            return
        if code in _PASSES:
            raise PlatformBusy("the mail server is not available")
        if word == b"NO" and is_login:
            raise _login_refused([code] if code in _SAYS_WHY else [])
        raise _babble("it does not take an ordinary command")


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


def _login_refused(codes: list[bytes]) -> ConsentGone:
    said = f" ({' '.join(code.decode() for code in codes)})" if codes else ""
    return ConsentGone("login_refused", f"the mail server does not take user name and password{said}")


def _no_login(login: Login) -> Refused:
    return Refused("no_login", f"{login.place} offers no login by user name and password here")


def _babble(why: str) -> Refused:
    return Refused("protocol", f"that is no mail server of this kind: {why}")
