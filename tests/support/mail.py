"""Mail servers on this machine: SMTP by aiosmtpd, strict IMAP of our own, and servers that misbehave.

They run in one thread with an event loop of its own. Each notes who logged in, and how; what a client does
that it should not stands in `faults`.
"""

import asyncio
import base64
import re
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Self, TypeVar

from aiosmtpd.smtp import SMTP, AuthResult

from tests.support.certificates import Authority, server_tls
from tests.support.recorded_secrets import record_secret

T = TypeVar("T")
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_HTTP: Final = "http/1.1"
_PATIENCE_S: Final = 30.0
_ARGUMENT: Final = re.compile(rb'"((?:[^"\\\r\n]|\\["\\])*)"|([^\x00-\x20"\\(){%*\x7f-\xff]+)|\{(\d+)\}$')


@dataclass(frozen=True)
class LoggedIn:
    """A login that was right."""

    username: str
    how: str
    """The mechanism: PLAIN, LOGIN or the IMAP command LOGIN."""
    secure: bool


@dataclass
class Mailbox:
    """What servers share: who may log in, and what they have seen."""

    users: dict[str, str]
    logins: list[LoggedIn] = field(default_factory=list)
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    def take(self, username: str, password: str, how: str, tls: ssl.SSLObject | None) -> bool:
        """Whether this is a user's password."""
        if tls is not None and tls.selected_alpn_protocol() == _HTTP:
            self.faults.append("HTTP was offered to a mail server")
        if self.users.get(username) != password:
            self.refused += 1
            return False
        record_secret("a password", password)
        self.logins.append(LoggedIn(username, how, secure=tls is not None))
        return True


class MailServers:
    """Servers on free ports of loopback, for the time of the context; `tls` is what they have."""

    def __init__(self, authority: Authority) -> None:
        self.tls = server_tls(authority)
        self.tls.set_alpn_protocols([_HTTP])  # to see who offers it
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def smtp(self, mailbox: Mailbox, security: str, *, without: Iterable[str] = ()) -> int:
        """The port of an SMTP server; `without` are mechanisms that it does not offer."""

        def check(server: Any, session: Any, _envelope: Any, mechanism: str, given: Any) -> AuthResult:
            if session.host_name != "[127.0.0.1]":
                mailbox.faults.append(f"EHLO {session.host_name}")
            tls = server.transport.get_extra_info("ssl_object")
            right = mailbox.take(given.login.decode(), given.password.decode(), mechanism, tls)
            return AuthResult(success=right, handled=False)

        def made() -> SMTP:
            return SMTP(
                None,
                hostname="mail.example.com",
                ident="SMTP",
                tls_context=self.tls if security == "starttls" else None,
                require_starttls=security == "starttls",
                authenticator=check,
                auth_require_tls=security == "starttls",
                auth_exclude_mechanism=tuple(without),
                loop=self._loop,
            )

        return self._listen(
            self._loop.create_server(made, "127.0.0.1", 0, ssl=self.tls if security == "tls" else None)
        )

    def imap(self, mailbox: Mailbox, security: str, *, plain: bool = True) -> int:
        """The port of an IMAP server; `plain` says whether it knows AUTHENTICATE PLAIN."""

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _Imap(reader, writer, mailbox, security, self.tls, plain=plain).talk()

        return self.talking(talk, tls=security == "tls")

    def talking(self, talk: Talk, *, tls: bool = False, host: str = "127.0.0.1") -> int:
        """The port of a server that says what `talk` says, and closes."""

        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, EOFError):
                async with asyncio.timeout(_PATIENCE_S):
                    await talk(reader, writer)
            writer.close()

        return self._listen(asyncio.start_server(served, host, 0, ssl=self.tls if tls else None))

    def _listen(self, starting: Coroutine[Any, Any, asyncio.Server]) -> int:
        server = self._run(starting)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _run(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)


class _Imap:
    """One connection. Only what a login needs is known; anything else is a fault."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        mailbox: Mailbox,
        security: str,
        tls: ssl.SSLContext,
        *,
        plain: bool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._mailbox = mailbox
        self._security = security
        self._tls = tls
        self._plain = plain

    async def talk(self) -> None:
        self._say(b"* OK [CAPABILITY IMAP4rev1] ready")
        try:
            while await self._one():
                pass
        except AssertionError as error:
            self._mailbox.faults.append(str(error))

    @property
    def _secure(self) -> ssl.SSLObject | None:
        found: ssl.SSLObject | None = self._writer.get_extra_info("ssl_object")
        return found

    @property
    def _may_log_in(self) -> bool:
        return self._secure is not None or self._security == "none"

    async def _one(self) -> bool:
        line = await self._line()
        tag, _, rest = line.partition(b" ")
        assert re.fullmatch(rb"[A-Za-z0-9]+", tag), f"a tag {tag!r}"
        command, _, arguments = rest.partition(b" ")
        known = {b"CAPABILITY": self._capability, b"STARTTLS": self._starttls, b"LOGIN": self._login}
        if command == b"LOGOUT":
            self._say(b"* BYE", tag + b" OK done")
            return False
        if command == b"AUTHENTICATE":
            await self._authenticate(tag, arguments)
        else:
            assert command in known, f"a command {command!r}"
            await known[command](tag, arguments)
        return True

    async def _capability(self, tag: bytes, arguments: bytes) -> None:
        assert not arguments, "CAPABILITY has arguments"
        able = [b"IMAP4rev1", b"ID"]
        if self._security == "starttls" and self._secure is None:
            able += [b"STARTTLS"]
        able += [b"AUTH=PLAIN"] if self._plain and self._may_log_in else []
        able += [] if self._may_log_in else [b"LOGINDISABLED"]
        self._say(b"* CAPABILITY " + b" ".join(able), tag + b" OK done")

    async def _starttls(self, tag: bytes, arguments: bytes) -> None:
        assert not arguments, "STARTTLS has arguments"
        assert self._security == "starttls", "STARTTLS was not offered"
        assert self._secure is None, "STARTTLS twice"
        self._say(tag + b" OK begin")
        await self._writer.start_tls(self._tls)

    async def _login(self, tag: bytes, arguments: bytes) -> None:
        assert self._may_log_in, "LOGIN in clear, and it was not offered"
        texts: list[str] = []
        rest = arguments
        while rest:
            found = _ARGUMENT.match(rest)
            assert found, f"no argument: {rest!r}"
            if found[3] is not None:
                self._say(b"+ go on")
                texts.append((await self._reader.readexactly(int(found[3]))).decode())
                rest = await self._line()
            else:
                raw = found[2] if found[1] is None else re.sub(rb"\\(.)", rb"\1", found[1])
                texts.append(raw.decode("ascii"))
                rest = rest[found.end() :]
            assert not rest or rest.startswith(b" "), f"arguments are not apart: {rest!r}"
            rest = rest.removeprefix(b" ")
        assert len(texts) == 2, f"LOGIN with {len(texts)} arguments"
        self._answer(tag, self._mailbox.take(texts[0], texts[1], "LOGIN", self._secure))

    async def _authenticate(self, tag: bytes, arguments: bytes) -> None:
        assert self._plain, "AUTHENTICATE was not offered"
        assert self._may_log_in, "AUTHENTICATE in clear, and it was not offered"
        assert arguments == b"PLAIN", f"the mechanism {arguments!r}"
        self._say(b"+ ")
        parts = base64.b64decode(await self._line(), validate=True).decode().split("\0")
        assert len(parts) == 3, "PLAIN has not three parts"
        assert not parts[0], "somebody is to be somebody else"
        self._answer(tag, self._mailbox.take(parts[1], parts[2], "PLAIN", self._secure))

    def _answer(self, tag: bytes, right: bool) -> None:
        self._say(tag + (b" OK done" if right else b" NO [AUTHENTICATIONFAILED] not right"))

    async def _line(self) -> bytes:
        line = await self._reader.readuntil(b"\n")
        assert line.endswith(b"\r\n"), "a line ends with LF alone"
        return line[:-2]

    def _say(self, *lines: bytes) -> None:
        self._writer.write(b"".join(line + b"\r\n" for line in lines))


# Servers that misbehave


def says(*lines: bytes, then: Talk | None = None) -> Talk:
    """A server that says these lines, one for each that it reads (the first unasked), and closes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for position, line in enumerate(lines):
            if position:
                await reader.readuntil(b"\n")
            writer.write(line)
            await writer.drain()
        if then is not None:
            await reader.readuntil(b"\n")
            await then(reader, writer)

    return talk


def endless(text: bytes, sent: list[int] | None = None) -> Talk:
    """A server that says the same for ever; how many bytes it got rid of goes into `sent`."""

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> NoReturn:
        total = 0
        while True:
            writer.write(text)
            await writer.drain()
            total += len(text)
            if sent is not None:
                sent[:] = [total]

    return talk


def dribble(text: bytes, every_s: float) -> Talk:
    """A server that says it slowly, a byte at a time, again and again."""

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> NoReturn:
        while True:
            for byte in text:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(every_s)

    return talk


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """A server that listens and says nothing."""
    while await reader.read(1024):
        pass


class Tunnel:
    """An HTTP proxy that connects to loopback and nowhere else; `asked` are the heads of its requests."""

    def __init__(self, servers: MailServers, *, answer: bytes = b"200 Connection established") -> None:
        self.asked: list[str] = []
        self._answer = answer
        self.port = servers.talking(self._talk)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        self.asked.append(head)
        writer.write(b"HTTP/1.1 " + self._answer + b"\r\nx-proxy: test\r\n\r\n")
        await writer.drain()
        if not self._answer.startswith(b"200"):
            return
        port = int(head.split(" ", 2)[1].rpartition(":")[2])
        inner = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, inner[1]), _copy(inner[0], writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()
