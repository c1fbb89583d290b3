"""SMTP over a checked socket: a client of aiosmtplib, with the bounds that it does not have.

aiosmtplib holds at most 32 KiB of a response. But it reads that from its beginning again whenever a part of
it comes in, so that many short lines, each sent alone, would cost seconds of CPU: lines are counted here.
"""

import asyncio
import socket
import ssl
from typing import Final, cast

from aiosmtplib import SMTP, SMTPResponse
from aiosmtplib.protocol import SMTPProtocol

from shared.runtime.egress.line_connection import MAX_LINES

_CLIENT_NAME: Final = "[127.0.0.1]"
"""An address literal, as RFC 5321 requires of a client without a name. It does not reveal our address."""


class _BoundedProtocol(SMTPProtocol):
    """Closes the connection at the 201st line."""

    lines = 0

    def data_received(self, data: bytes) -> None:
        self.lines += data.count(b"\n")
        if self.lines > MAX_LINES:
            self.close()
        else:
            super().data_received(data)

    def close(self) -> None:
        if self.transport is not None:
            cast("asyncio.Transport", self.transport).abort()


class SmtpConnection:
    """An SMTP connection, made by `open_smtp_connection`. The caller bounds its time, and closes it.

    `client` is aiosmtplib's, connected: `connect` is not to be called. Its calls and those of this class
    raise `aiosmtplib.SMTPException`, `ssl.SSLError` and `OSError`.
    """

    def __init__(self, protocol: _BoundedProtocol, host: str, tls: ssl.SSLContext) -> None:
        self._protocol = protocol
        self.client: Final = SMTP(
            hostname=host, local_hostname=_CLIENT_NAME, tls_context=tls, start_tls=False, timeout=None
        )
        self.client.protocol, self.client.transport = protocol, protocol.transport

    @property
    def line_limit_exceeded(self) -> bool:
        """True if the connection was closed because the server sent too many lines."""
        return self._protocol.lines > MAX_LINES

    async def read_greeting(self) -> SMTPResponse:
        """Return the greeting, with which the server begins."""
        return await self._protocol.read_response()

    def quit(self) -> None:
        """Send QUIT, and do not wait for the answer."""
        self._protocol.write(b"QUIT\r\n")

    def close(self) -> None:
        """Close the connection at once, without waiting for the server to answer the end of TLS."""
        self._protocol.close()


async def open_smtp_connection(
    opened: socket.socket, host: str, tls: ssl.SSLContext, *, encrypted: bool
) -> SmtpConnection:
    """Return an SMTP connection over a connected socket, which it closes.

    `tls` is used at once if `encrypted`, else by STARTTLS; the certificate has to be that of `host`. Raises
    `ssl.SSLError`, `OSError`.
    """
    protocol = _BoundedProtocol()
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: protocol,
            sock=opened,
            ssl=tls if encrypted else None,
            server_hostname=host if encrypted else None,
        )
    except BaseException:
        opened.close()
        raise
    return SmtpConnection(protocol, host, tls)
