"""Exchange a request and a response as streams: neither body is held in memory.

The caller says how the request is sent: by the egress client, or to a service of the hub.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from shared.contracts.errors import InterlinkError
from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.errors import EgressFailure, classify_error
from shared.runtime.egress.progress import ProgressDeadline, TooSlow, TransferDeadlines
from shared.runtime.egress.sessions import body_of_connection

ExchangeFailure = EgressFailure | Literal["too_large"]
_TRANSFER_ERRORS: Final = (TimeoutError, aiohttp.ClientError, OSError, ValueError)


class ExchangeFailed(InterlinkError):
    """The server did not answer, or its answer broke off, took too long or was too long."""

    def __init__(self, failure: ExchangeFailure, detail: str) -> None:
        super().__init__(f"{failure}: {detail}")
        self.failure = failure
        self.detail = detail


class StreamedBody(aiohttp.Payload):
    """A request body that is sent while it arrives.

    `size` is its number of bytes; None sends it chunked. When the response is there, the rest is not sent.
    """

    def __init__(self, chunks: AsyncIterable[bytes], size: int | None) -> None:
        super().__init__(chunks, content_type="application/octet-stream")
        self._size = size
        self._chunks: Final = aiter(chunks)
        self._started = False
        self._stopped = False
        self._transport: asyncio.Transport | None = None
        self.sent = False
        """True if all bytes were handed to the system."""
        self.error: Exception | None = None
        """The error of the source of the chunks."""
        self.on_sent: Callable[[int], None] = lambda _count: None
        self.on_end: Callable[[], None] = lambda: None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        raise TypeError("a streamed body is only sent")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body; only once, although aiohttp repeats some requests on another connection."""
        if self._started:
            raise aiohttp.ClientConnectionError("the connection was closed while the body was sent")
        self._started = True
        self._transport = getattr(writer, "transport", None)
        while (chunk := await self._next()) is not None:
            if self._stopped:
                # The connection has to stay as it is until the response is read. Then this task is cancelled.
                await asyncio.get_running_loop().create_future()
            await writer.write(chunk)
            await writer.drain()
            self.on_sent(len(chunk))
        self.sent = True
        self.on_end()

    def stop(self) -> None:
        """Send no more of it: the response is there."""
        self._stopped = True

    def abort(self) -> None:
        """Drop the connection unless all was sent: a close would wait until the server has read the rest."""
        if self._transport is not None and not self.sent:
            self._transport.abort()

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._chunks, None)
        except Exception as error:  # aiohttp would take it for an error of the connection
            self.error = error
            raise


Body = StreamedBody | bytes | None
SendRequest = Callable[[Body], Awaitable[aiohttp.ClientResponse]]


def sender(
    client: EgressClient, method: str, url: str, headers: CIMultiDict[str], *, workspace: str
) -> SendRequest:
    """Return how a request is sent to a URL that others chose; the caller holds a slot of the workspace."""

    async def send(body: Body) -> aiohttp.ClientResponse:
        return await client.send(method, url, framed(headers, body), body, workspace=workspace)

    return send


def framed(headers: CIMultiDict[str], body: Body) -> CIMultiDict[str]:
    """Return the headers with the length of a streamed body, if it is known."""
    if isinstance(body, StreamedBody) and body.size is not None:
        return CIMultiDict(headers, **{"Content-Length": str(body.size)})
    return headers


class StreamedResponse:
    """A response whose head has arrived."""

    def __init__(
        self, response: aiohttp.ClientResponse, deadlines: TransferDeadlines, ends_at: float, *, proxied: bool
    ) -> None:
        self._response = response
        self._deadlines = deadlines
        self._ends_at = ends_at
        self._proxied = proxied
        self._peeked: list[bytes] = []
        self.status: Final = response.status
        self.headers: Final[Sequence[tuple[bytes, bytes]]] = response.raw_headers
        """Names and values as they were received, in order and with repeats."""

    def header(self, name: str) -> str:
        """Return the first header of this name; '' if there is none."""
        return self._response.headers.get(name, "")

    @property
    def content_length(self) -> int | None:
        """The announced number of bytes of the body."""
        return self._response.content_length

    async def peek(self, max_bytes: int) -> bytes:
        """Return the beginning of the body, or all of it if it has at most `max_bytes` bytes.

        `relay` begins with it all the same. Raises `ExchangeFailed`.
        """
        size = 0

        async def keep(chunk: bytes) -> bool:
            nonlocal size
            self._peeked.append(chunk)
            size += len(chunk)
            return size <= max_bytes

        await self._read(keep)
        return b"".join(self._peeked)

    async def relay(self, write: Callable[[bytes], Awaitable[None]], max_bytes: int) -> None:
        """Call `write` with the body as it arrives.

        Raises `ExchangeFailed` if it breaks off, is too slow or has more than `max_bytes` bytes. What `write`
        takes counts as time of the server.
        """
        rest = max_bytes

        async def pass_on(chunk: bytes) -> bool:
            nonlocal rest
            rest -= len(chunk)
            if rest < 0:
                raise ExchangeFailed("too_large", f"the answer has more than {max_bytes} bytes")
            await write(chunk)
            return True

        peeked, self._peeked = self._peeked, []
        for chunk in peeked:
            await pass_on(chunk)
        await self._read(pass_on)

    async def _read(self, take: Callable[[bytes], Awaitable[bool]]) -> None:
        """Give the chunks of the body to `take` until it returns False or the body ends."""
        total = asyncio.timeout_at(self._ends_at)
        try:
            async with total, ProgressDeadline(self._deadlines) as progress:
                with body_of_connection(self._response):
                    while chunk := await self._response.content.readany():
                        if not await take(chunk):
                            return
                        progress.add(len(chunk))
        except _TRANSFER_ERRORS as error:
            raise _failed(error, total, self._deadlines, answered=True, proxied=self._proxied) from None


@asynccontextmanager
async def exchange(
    send: SendRequest, body: Body, deadlines: TransferDeadlines, *, proxied: bool = False
) -> AsyncIterator[StreamedResponse]:
    """Send a request, and return the context of its response; redirects are responses like others.

    `send` sends the request with this body. `proxied`: it goes through the egress proxy. A response that
    comes before the body was sent counts, and the rest is not sent. Raises `ExchangeFailed`, or what the
    source of the body raises.
    """
    stream = body if isinstance(body, StreamedBody) else None
    ends_at = asyncio.get_running_loop().time() + deadlines.total_s
    total = asyncio.timeout_at(ends_at)
    response: aiohttp.ClientResponse | None = None
    try:
        try:
            async with total, ProgressDeadline(deadlines, first_s=deadlines.answer_s) as progress:
                if stream is not None:
                    stream.on_sent = progress.add
                    stream.on_end = lambda: progress.restart(deadlines.answer_s)
                response = await send(body)
        except _TRANSFER_ERRORS as error:
            if stream is not None and stream.error is not None:
                raise stream.error from None
            raise _failed(error, total, deadlines, answered=False, proxied=proxied) from None
        if stream is not None:
            stream.stop()
        yield StreamedResponse(response, deadlines, ends_at, proxied=proxied)
    finally:
        if response is not None:
            _drop(response)
        if stream is not None:
            stream.abort()


def _drop(response: aiohttp.ClientResponse) -> None:
    """Drop the connection of a response that was not read to its end; else it is in the pool again already.

    A close would read on until the server ends TLS as well.
    """
    transport = response.connection.transport if response.connection is not None else None
    if transport is not None:
        transport.abort()
    response.close()


def _failed(
    error: Exception,
    total: asyncio.Timeout,
    deadlines: TransferDeadlines,
    *,
    answered: bool,
    proxied: bool,
) -> ExchangeFailed:
    failure, detail = classify_error(error, answered=answered, proxied=proxied)
    if total.expired():
        detail = f"not complete within {deadlines.total_s:g} seconds"
    elif isinstance(error, TooSlow) and answered:
        detail = str(error)
    return ExchangeFailed(failure, detail)
