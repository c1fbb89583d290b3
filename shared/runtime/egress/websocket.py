"""WebSockets to URLs that others chose, under the address rules and limits of the egress client.

aiohttp speaks the protocol. This module adds what it leaves open: deadlines for everything that the server
can delay, a pong that has to be the answer to our ping, and a limit on control frames. Compression is off.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self

import aiohttp
from aiohttp import WSMsgType

from shared.contracts.errors import InterlinkError
from shared.runtime.egress.certificates import ClientCertificate
from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.errors import EgressFailure, classify_error
from shared.runtime.egress.sessions import AbortableWebSocket
from shared.runtime.egress.urls import handshake_url

_GOING_AWAY: Final = 1001
_NO_STATUS: Final = 1005
_ABNORMAL: Final = 1006
_POLICY_VIOLATION: Final = 1008
_NEVER_SENT: Final = frozenset({_NO_STATUS, _ABNORMAL})
"""Codes that stand for the lack of a close frame."""
_MAX_CONTROL_FRAMES: Final = 100
_CONTROL_PERIOD_S: Final = 10.0
"""More control frames than this in the period end the connection: each ping makes us send a pong."""
_MAX_REASON_BYTES: Final = 123
_DATA: Final = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})
_CONTROL: Final = frozenset({WSMsgType.PING, WSMsgType.PONG})


@dataclass(frozen=True, slots=True)
class WebSocketLimits:
    """The bounds of one WebSocket; times are in seconds.

    `open_s` bounds the handshake, with the wait for a slot of the workspace. `max_queued` messages wait for
    the reader; then nothing more is read from the connection. Every `ping_s`, the server gets a ping, and has
    to answer it within `pong_s`. `send_s` bounds one `send`, `close_s` the closing handshake.
    """

    open_s: float = 20.0
    max_message_bytes: int = 1024 * 1024
    max_queued: int = 16
    ping_s: float = 20.0
    pong_s: float = 20.0
    send_s: float = 20.0
    close_s: float = 5.0


@dataclass(frozen=True, slots=True)
class WebSocketEnd:
    """End of a WebSocket: the server's close code and reason, or ours.

    The code is 1005 if the server named none, and 1006 if there was no close frame. `detail` is a text for
    people; the reason is the server's own text, not more than 123 bytes.
    """

    code: int
    reason: str
    detail: str


class WebSocketRefused(InterlinkError):
    """The handshake failed. `status` and `headers` are those of the server's answer, if it gave one."""

    def __init__(
        self,
        failure: EgressFailure,
        detail: str,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"the WebSocket was not opened: {detail}")
        self.failure = failure
        self.detail = detail
        self.status = status
        self.headers: Mapping[str, str] = headers or {}


class WebSocketClosed(InterlinkError):
    """A message cannot be sent: the WebSocket has ended. `end` says why."""

    def __init__(self, end: WebSocketEnd) -> None:
        super().__init__(f"the WebSocket has ended: {end.detail}")
        self.end = end


@asynccontextmanager
async def connect_websocket(
    client: EgressClient,
    url: str,
    *,
    limits: WebSocketLimits | None = None,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] = (),
    workspace: str = "",
    certificate: ClientCertificate | None = None,
    allow_plain: bool = False,
) -> AsyncIterator["WebSocket"]:
    """Open a WebSocket for the time of the context, and close it at its end. Raises `WebSocketRefused`.

    The URL is a `wss` URL; `ws` only with `allow_plain`. Redirects are not followed. The WebSocket holds one
    slot of its workspace and one connection of the client while it is open: use a client for WebSockets
    alone, or they take the slots of calls.
    """
    limits = limits or WebSocketLimits()
    async with AsyncExitStack() as stack:
        try:
            target = handshake_url(url, allow_plain=allow_plain)
            async with asyncio.timeout(limits.open_s):
                await stack.enter_async_context(client.workspace_slot(workspace))
                connection = await client.open_websocket(
                    target,
                    headers or {},
                    subprotocols=subprotocols,
                    max_message_bytes=limits.max_message_bytes,
                    close_s=limits.close_s,
                    workspace=workspace,
                    certificate=certificate,
                )
        except aiohttp.WSServerHandshakeError as error:
            answered = None if error.status == 101 else error.status
            detail = f"the server answered {answered}" if answered else error.message.lower()
            raise WebSocketRefused("protocol", detail, answered, error.headers) from None
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise WebSocketRefused(*classify_error(error, answered=False, proxied=client.proxied)) from None
        websocket = WebSocket(connection, limits)
        try:
            yield websocket
        finally:
            await websocket.close()


class WebSocket:
    """An open WebSocket, made by `connect_websocket`.

    Iteration yields the messages: `str` for text, `bytes` for binary. It ends when the WebSocket has ended;
    then `end` says why, and nothing is raised: the messages before the end are yielded first. Any task may
    send, iterate and close, and may be cancelled meanwhile.
    """

    def __init__(self, connection: AbortableWebSocket, limits: WebSocketLimits) -> None:
        self._connection = connection
        self._limits = limits
        self._messages: deque[str | bytes] = deque()
        self._changed = asyncio.Event()
        """There is a message, or the end."""
        self._room = asyncio.Event()
        """The reader has taken a message, or the WebSocket has ended."""
        self._held = False
        """True if the server's frames had to wait for the reader since the last ping."""
        self._send_lock = asyncio.Lock()
        self._ping = b""
        self._pong = asyncio.Event()
        self._control_times: deque[float] = deque(maxlen=_MAX_CONTROL_FRAMES)
        self.end: WebSocketEnd | None = None
        self._tasks = [asyncio.create_task(self._receive_frames()), asyncio.create_task(self._send_pings())]

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server chose, one of those that were offered."""
        return self._connection.protocol

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        while not self._messages:
            if self.end is not None:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        self._room.set()
        return self._messages.popleft()

    async def send(self, message: str | bytes) -> None:
        """Send a text (`str`) or binary (`bytes`) message, and wait until the system has room for more.

        Raises `WebSocketClosed`. If the caller is cancelled, the message may have been sent.
        """
        if isinstance(message, str):
            await self._send_frame(message.encode(), WSMsgType.TEXT)
        else:
            await self._send_frame(message, WSMsgType.BINARY)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the WebSocket, and wait for the server's close frame for a short time.

        `reason` has at most 123 bytes. Nothing happens if the WebSocket has ended.
        """
        text = reason.encode()
        if len(text) > _MAX_REASON_BYTES:
            raise ValueError(f"the reason of a close has at most {_MAX_REASON_BYTES} bytes")
        try:
            await self._finish(code, reason, "closed by this side", text)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _finish(self, code: int, reason: str, detail: str, sent_reason: bytes = b"") -> None:
        """Note the end, unless there is one, and close the connection with a close frame of this code."""
        if self.end is None:
            self.end = WebSocketEnd(code, reason, detail)
        self._changed.set()
        self._room.set()
        sent_code = _GOING_AWAY if code in _NEVER_SENT else code
        try:
            # aiohttp's own timeout is for one message; a server that sends on would be read for ever.
            async with asyncio.timeout(self._limits.close_s):
                await self._connection.close(code=sent_code, message=sent_reason)
        except (TimeoutError, aiohttp.ClientError, OSError):
            self._connection.abort()
        finally:
            # A server that reads nothing would keep the connection open, with what waits to be sent.
            asyncio.get_running_loop().call_later(self._limits.close_s, self._connection.abort)

    async def _receive_frames(self) -> None:
        while self.end is None:
            try:
                frame = await self._connection.receive()
                if frame.type in _DATA:
                    await self._queue(frame.data)
                elif frame.type is WSMsgType.PONG and frame.data == self._ping:
                    self._pong.set()
                elif frame.type not in _CONTROL:
                    await self._finish(*_explain_end(frame))
                elif self._too_many_control_frames():
                    await self._finish(_POLICY_VIOLATION, "", "the server sent too many control frames")
                elif frame.type is WSMsgType.PING:
                    await self._send_frame(frame.data, WSMsgType.PONG)
            except WebSocketClosed:
                return
            except (TimeoutError, aiohttp.ClientError, OSError):
                await self._finish(_ABNORMAL, "", "the connection was lost")

    async def _queue(self, message: str | bytes) -> None:
        """Hand a message to the reader; wait while there are as many as may be queued."""
        while len(self._messages) >= self._limits.max_queued and self.end is None:
            self._held = True
            self._room.clear()
            await self._room.wait()
        if self.end is None:
            self._messages.append(message)
            self._changed.set()

    def _too_many_control_frames(self) -> bool:
        now = asyncio.get_running_loop().time()
        times = self._control_times
        many = len(times) == _MAX_CONTROL_FRAMES and now - times[0] < _CONTROL_PERIOD_S
        times.append(now)
        return many

    async def _send_pings(self) -> None:
        while self.end is None:
            await asyncio.sleep(self._limits.ping_s)
            self._ping = os.urandom(8)
            self._pong.clear()
            self._held = len(self._messages) >= self._limits.max_queued
            try:
                await self._send_frame(self._ping, WSMsgType.PING)
                async with asyncio.timeout(self._limits.pong_s):
                    await self._pong.wait()
            except WebSocketClosed:
                return
            except TimeoutError:
                if not self._held:  # otherwise the pong may be behind messages that nobody has read
                    detail = f"the server sent no pong within {self._limits.pong_s:g} seconds"
                    await self._finish(_ABNORMAL, "", detail)

    async def _send_frame(self, payload: bytes, kind: WSMsgType) -> None:
        """Send one frame. Raises `WebSocketClosed`, also if the server takes no data for `send_s` seconds."""
        try:
            # The lock: aiohttp lets all senders wait on one future, and cancelling one would cancel all.
            async with asyncio.timeout(self._limits.send_s), self._send_lock:
                if self.end is not None:
                    raise WebSocketClosed(self.end)
                await self._connection.send_frame(payload, kind)
        except TimeoutError:
            detail = f"the server took no data for {self._limits.send_s:g} seconds"
            await self._finish(_ABNORMAL, "", detail)
        except (aiohttp.ClientError, OSError):
            await self._finish(_ABNORMAL, "", "the connection was lost")
        else:
            return
        assert self.end is not None  # noqa: S101 -- _finish has set it
        raise WebSocketClosed(self.end)


def _explain_end(frame: aiohttp.WSMessage) -> tuple[int, str, str]:
    """Return code, reason and detail for what aiohttp returns in place of a message at the end."""
    if frame.type is WSMsgType.CLOSE:
        code = frame.data or _NO_STATUS
        return code, str(frame.extra or ""), f"closed by the server with code {code}"
    if frame.type is WSMsgType.ERROR and isinstance(frame.data, aiohttp.WebSocketError):
        return frame.data.code, "", f"the server broke the protocol: {frame.data}"
    return _ABNORMAL, "", "the connection was lost"
