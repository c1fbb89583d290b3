"""Egress clients for tests, names that resolve as a test likes, and every notation of a loopback address."""

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import uvloop

from shared.runtime.egress.checked_resolver import PrivateNetworks
from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.resolver import DnsResolver
from tests.support.dns_server import DnsServer, Reply

LOOPBACK_URLS = (
    "http://127.0.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://017700000001:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://localhost.:{port}/",
    "http://LOCALHOST:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::ffff:0:127.0.0.1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[::1%25lo]:{port}/",
    "http://8.8.8.8@127.0.0.1:{port}/",
    "http://8.8.8.8:80@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@8.8.8.8/",
    "http://8.8.8.8\\@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@8.8.8.8/",
    "http://127.0.0.1:{port}?@8.8.8.8/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://\uff11\uff12\uff17.0.0.1:{port}/",
    "http://127\u30020\u30020\u30021:{port}/",
    "http://127.0.0.1:{port}/ HTTP/1.1\r\nX-Injected: 1\r\n\r\n",
    "http:127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "ws://127.0.0.1:{port}/",
    "tcp://127.0.0.1:{port}/",
    "file:///etc/hostname",
)
"""URLs of `127.0.0.1:{port}`, as attackers write them; the last ones are no http URLs."""


@asynccontextmanager
async def calling(allow: PrivateNetworks = "loopback", **settings: Any) -> AsyncIterator[EgressClient]:
    client = EgressClient(allow, max_connections=20, **settings)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


@contextmanager
def resolving(*answers: list[str], ttl: int = 0) -> Iterator[tuple[DnsServer, DnsResolver]]:
    """A DNS server that answers with these addresses in turn, and a resolver that asks it."""
    with DnsServer({"hooks.example": Reply(answers, ttl=ttl)}) as server:
        yield server, DnsResolver([("127.0.0.1", server.port)])


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on both event loops that are in use: asyncio's and uvloop's."""
    parameters = inspect.signature(test).parameters

    def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(**arguments))

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    own = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*parameters.values(), own])  # type: ignore[attr-defined]
    run.pytestmark = list(getattr(test, "pytestmark", ()))  # type: ignore[attr-defined]
    factories = pytest.mark.parametrize(
        "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    return cast("Callable[..., None]", factories(run))


@dataclass
class RawRequest:
    """The head of a request; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


RawHandler = Callable[[RawRequest, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass
class RawServer:
    """A server on the test's own loop that answers with bytes of the test's choice."""

    port: int
    requests: list[RawRequest] = field(default_factory=list)
    open: set[asyncio.Task[None]] = field(default_factory=set)
    """Connections that the server has not ended."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/file"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/socket"


@contextmanager
def _closed(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Suppress uvloop's error about a write to a connection that is closed; asyncio ignores such a write."""
    try:
        yield
    except RuntimeError:
        if not writer.is_closing():
            raise


@asynccontextmanager
async def raw_server(handler: RawHandler, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Serve each connection with `handler`, once its first request's head is there; then close it."""
    server = RawServer(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError), _closed(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            method, path, _ = first.split(" ")
            fields = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            request = RawRequest(method, path, fields)
            server.requests.append(request)
            await handler(request, reader, writer)
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        server.open.add(task)
        task.add_done_callback(server.open.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in server.open:
            task.cancel()
        await asyncio.gather(*server.open, return_exceptions=True)


def answer(status: int, body: bytes = b"", *, length: int | None = -1, **headers: str) -> bytes:
    """Return a response; `length` replaces the true `Content-Length`, None leaves it out."""
    lines = [f"HTTP/1.1 {status} Text"]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
