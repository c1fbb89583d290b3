"""Log in to a mail server by IMAP (RFC 9051): the four commands that this needs.

The server is not trusted: what is not understood is an error. Of the answer to a rejected login only the
response code is shown, never its text, which could repeat the password.
"""

import re
import ssl
from collections.abc import Iterable
from typing import Final

from services.oauth.credentials.mail_server import (
    MailLogin,
    login_refused,
    no_login_mechanism,
    no_starttls,
    protocol_error,
)
from shared.manifests.provider_response import ProviderUnavailable
from shared.runtime.egress.line_connection import LineConnection

_RESULT: Final = re.compile(rb"(OK|NO|BAD)\b(?: \[([A-Z-]+))?", re.IGNORECASE)
_REPORTED_CODES: Final = frozenset(
    {b"AUTHENTICATIONFAILED", b"AUTHORIZATIONFAILED", b"EXPIRED", b"PRIVACYREQUIRED", b"CONTACTADMIN"}
)
"""Response codes of RFC 5530 that an error text may repeat."""
_TRANSIENT_CODES: Final = frozenset({b"UNAVAILABLE", b"INUSE", b"SERVERBUG", b"LIMIT"})
"""Response codes of RFC 5530 for a rejection that is not about the password."""


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
        raise protocol_error("its greeting is not IMAP's")
    commands = _TaggedCommands(connection)
    capabilities = await commands.capabilities()
    if login.security == "starttls":
        if b"STARTTLS" not in capabilities:
            raise no_starttls(login)
        await commands.command(b"STARTTLS")
        await connection.start_tls(tls, login.host)
        capabilities = await commands.capabilities()
    if b"AUTH=PLAIN" in capabilities:
        await commands.command(b"AUTHENTICATE PLAIN", answers=[login.sasl_plain], is_login=True)
    elif b"LOGINDISABLED" not in capabilities:
        first, rest = _arguments(login.username, login.password)
        await commands.command(b"LOGIN " + first, answers=rest, is_login=True)
    else:
        raise no_login_mechanism(login)
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
                raise protocol_error("it does not speak IMAP")
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
            raise login_refused([code.decode()] if code in _REPORTED_CODES else [])
        raise protocol_error("it rejects an ordinary command")


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
