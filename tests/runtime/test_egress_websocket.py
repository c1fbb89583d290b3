"""WebSockets over real sockets: messages both ways, and servers that break or bend the protocol."""

import asyncio
import base64
import hashlib
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import WSMsgType, web

from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.websocket import (
    WebSocket,
    WebSocketClosed,
    WebSocketLimits,
    WebSocketRefused,
    connect_websocket,
)
from tests.support.certificates import Authority, server_tls
from tests.support.egress import RawRequest, RawServer, answer, calling, on_each_loop, raw_server

HASTY: Final = WebSocketLimits(
    open_s=1, max_message_bytes=1000, max_queued=4, ping_s=0.2, pong_s=0.5, send_s=0.5, close_s=0.3
)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


# A whole conversation, with aiohttp's server


@asynccontextmanager
async def echoing(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[web.Request]]]:
    """A server that sends every message back, and closes at "end"."""
    requests: list[web.Request] = []

    async def handle(request: web.Request) -> web.WebSocketResponse:
        requests.append(request)
        websocket = web.WebSocketResponse(protocols=("chat.v2",), compress=True)
        await websocket.prepare(request)
        async for message in websocket:
            if message.data == "end":
                await websocket.close(code=4004, message=b"enough")
            elif message.type is WSMsgType.TEXT:
                await websocket.send_str(message.data)
            else:
                await websocket.send_bytes(message.data)
        return websocket

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield runner.addresses[0][1], requests
    finally:
        await runner.cleanup()


@on_each_loop
async def test_a_conversation(tmp_path: Path) -> None:
    authority = Authority("servers")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(authority.pem)
    async with echoing(server_tls(authority)) as (port, requests):
        url = f"wss://localhost:{port}/socket?ticket=1"
        async with (
            calling(ca_file=ca_file) as client,
            connect_websocket(
                client, url, headers={"Authorization": "x"}, subprotocols=("chat.v1", "chat.v2")
            ) as websocket,
        ):
            assert websocket.subprotocol == "chat.v2"
            big = "\u00e9" * 200_000
            for message in ("text", b"\0binary", "", big):
                await websocket.send(message)
            await websocket.send("end")
            assert [message async for message in websocket] == ["text", b"\0binary", "", big]
            assert websocket.end is not None
            assert (websocket.end.code, websocket.end.reason) == (4004, "enough")
            with pytest.raises(WebSocketClosed) as closed:
                await websocket.send("more")
            assert closed.value.end.code == 4004
            await websocket.close()
        async with calling() as client:
            with pytest.raises(WebSocketRefused) as refused:
                await connect_websocket(client, url).__aenter__()
            assert refused.value.failure == "tls"
    [request] = requests
    assert (request.path_qs, request.headers["Authorization"]) == ("/socket?ticket=1", "x")
    assert "Sec-WebSocket-Extensions" not in request.headers


@on_each_loop
async def test_closing_from_this_side() -> None:
    async with echoing() as (port, _), calling(max_per_workspace=1) as client:
        url = f"ws://127.0.0.1:{port}/"
        for _number in range(2):
            async with connect_websocket(client, url, workspace="w", allow_plain=True) as websocket:
                await websocket.close(4000, "done")
                assert [message async for message in websocket] == []
                assert websocket.end is not None
                assert (websocket.end.code, websocket.end.reason) == (4000, "done")
            with pytest.raises(ValueError, match="123"):
                await websocket.close(reason="x" * 124)


@on_each_loop
async def test_a_cancelled_reader_and_sender_lose_nothing() -> None:
    async with echoing() as (port, _), calling() as client:
        url = f"ws://127.0.0.1:{port}/"
        async with connect_websocket(client, url, allow_plain=True) as websocket:
            for _number in range(20):
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await anext(websocket)
            senders = [asyncio.create_task(websocket.send(f"{number}" * 50_000)) for number in range(10)]
            await asyncio.sleep(0)
            senders[0].cancel()
            results = await asyncio.gather(*senders, return_exceptions=True)
            assert results[1:] == [None] * 9
            got = [await anext(websocket) for _number in range(9)]
            assert set(got) >= {f"{number}" * 50_000 for number in range(1, 9)}


@on_each_loop
async def test_a_websocket_holds_a_slot_of_its_workspace() -> None:
    async with echoing() as (port, requests), calling(max_per_workspace=1) as client:
        url = f"ws://127.0.0.1:{port}/"
        limits = WebSocketLimits(open_s=0.3)

        def connect(workspace: str) -> Any:
            return connect_websocket(client, url, workspace=workspace, allow_plain=True, limits=limits)

        async with connect("w"):
            with pytest.raises(WebSocketRefused) as refused:
                await connect("w").__aenter__()
            assert (refused.value.failure, len(requests)) == ("timeout", 1)
            async with connect("v"):
                pass
        async with connect("w"):
            pass


# The handshake


def upgrade(request: RawRequest, **headers: str) -> bytes:
    key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()  # noqa: S324 -- RFC 6455
    fields: dict[str, Any] = {"Upgrade": "websocket", "Connection": "Upgrade", **headers}
    return answer(101, length=None, Sec_WebSocket_Accept=accept, **fields)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (answer(401, b"no", WWW_Authenticate="Bearer"), 401),
        (answer(429, Retry_After="9"), 429),
        (answer(200, b"not a socket"), 200),
        (answer(302, Location="/elsewhere"), 302),
        (answer(307, Location="http://10.0.0.1/"), 307),
        (answer(101, length=None, Upgrade="websocket", Connection="Upgrade"), None),
        (
            answer(101, length=None, Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Accept="x"),
            None,
        ),
        (answer(101, length=None), None),
        (b"HTTP/1.1 101 \r\n" + b"X: y\r\n" * 100_000 + b"\r\n", None),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n", None),
        (b"garbage\r\n\r\n", None),
        (b"", None),
    ],
)
@on_each_loop
async def test_a_refused_handshake(reply: bytes, status: int | None) -> None:
    async def handle(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()

    async with raw_server(handle) as server, calling(max_per_workspace=1) as client:
        with pytest.raises(WebSocketRefused) as refused:
            await connect_websocket(client, server.ws, workspace="w", allow_plain=True).__aenter__()
        assert (refused.value.status, refused.value.failure in ("protocol", "closed_mid_response")) == (
            status,
            True,
        )
        if status == 429:
            assert refused.value.headers["Retry-After"] == "9"
        assert {request.path for request in server.requests} == {"/socket"}
        async with asyncio.timeout(60), client.workspace_slot("w"):
            pass


@on_each_loop
async def test_a_subprotocol_that_was_not_offered() -> None:
    async def handle(request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(upgrade(request, Sec_WebSocket_Protocol="other"))
        await reader.read()

    async with raw_server(handle) as server, calling() as client:
        for offered in ((), ("chat",)):
            with pytest.raises(WebSocketRefused, match="subprotocol"):
                await connect_websocket(
                    client, server.ws, subprotocols=offered, allow_plain=True
                ).__aenter__()


@pytest.mark.parametrize("where", ["nothing", "head", "interim"])
@on_each_loop
async def test_a_slow_handshake(where: str) -> None:
    async def handle(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Ok\r\nX: " if where == "head" else b"")
        while True:
            if where != "nothing":
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" if where == "interim" else b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_server(handle) as server, calling() as client:
        with pytest.raises(WebSocketRefused) as refused:
            await connect_websocket(client, server.ws, limits=HASTY, allow_plain=True).__aenter__()
    assert refused.value.failure == "timeout"


@on_each_loop
async def test_a_url_without_tls_needs_permission() -> None:
    async with echoing() as (port, requests), calling() as client:
        for url in (f"ws://127.0.0.1:{port}/", f"http://127.0.0.1:{port}/", f"WS://127.0.0.1:{port}/"):
            with pytest.raises(WebSocketRefused) as refused:
                await connect_websocket(client, url).__aenter__()
            assert refused.value.failure == "bad_url"
        assert requests == []


# Servers that break or bend the protocol


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, length: int = -1) -> bytes:
    size = len(payload) if length < 0 else length
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if size < 126:
        head = bytes((first, size))
    elif size < 2**16:
        head = bytes((first, 126)) + size.to_bytes(2)
    else:
        head = bytes((first, 127)) + size.to_bytes(8)
    return head + payload


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@asynccontextmanager
async def talking(
    talk: Talk, limits: WebSocketLimits = HASTY
) -> AsyncIterator[tuple[WebSocket, EgressClient, RawServer]]:
    """Open a WebSocket to a server that upgrades, and then does what `talk` does."""

    async def handle(request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(upgrade(request))
        with suppress(OSError):
            await talk(reader, writer)

    async with (
        raw_server(handle) as server,
        calling(max_per_workspace=1) as client,
        connect_websocket(client, server.ws, limits=limits, workspace="w", allow_plain=True) as websocket,
    ):
        yield websocket, client, server


async def ended(websocket: WebSocket) -> tuple[int, str]:
    """Read to the end, which has to come soon, and return its code and detail."""
    async with asyncio.timeout(60):
        async for _ in websocket:
            pass
    assert websocket.end is not None
    return websocket.end.code, websocket.end.detail


BOMB: Final = zlib.compressobj(wbits=-15)
BAD_FRAMES: Final = {
    "compressed": (frame(TEXT, BOMB.compress(b"\0" * 10**7) + BOMB.flush(), rsv=4), 1002),
    "reserved bits": (frame(TEXT, b"x", rsv=2), 1002),
    "unknown opcode": (frame(3, b"x"), 1002),
    "unknown control opcode": (frame(11, b"x"), 1002),
    "fragmented control frame": (frame(PING, b"x", fin=False), 1002),
    "long control frame": (frame(PING, b"x" * 126), 1002),
    "huge close reason": (frame(CLOSE, b"\x03\xe8" + b"x" * 10**6), 1002),
    "close reason that is no text": (frame(CLOSE, b"\x03\xe8\xff\xff"), 1007),
    "close code that is none": (frame(CLOSE, b"\x03\xe7"), 1002),
    "half a close code": (frame(CLOSE, b"x"), 1002),
    "text that is none": (frame(TEXT, b"\xff"), 1007),
    "too large": (frame(TEXT, b"x" * 1001), 1009),
    "too large, only declared": (frame(TEXT, b"x", length=2**62), 1009),
    "too large for any length": (frame(TEXT, b"x", length=2**64 - 1), 1009),
    "too large in fragments": (
        frame(TEXT, b"x" * 600, fin=False) + frame(0, b"x" * 600, fin=False),
        1009,
    ),
    "continuation of nothing": (frame(0, b"x"), 1002),
    "message within a message": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
@on_each_loop
async def test_a_frame_that_breaks_the_protocol(name: str) -> None:
    sent, code = BAD_FRAMES[name]
    received: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(TEXT, b"before") + sent)
        received.append(await reader.read(2))

    async with talking(talk) as (websocket, _, server):
        assert await anext(websocket) == "before"
        assert (await ended(websocket))[0] == code
        async with asyncio.timeout(60):
            await asyncio.gather(*server.open)
    assert received[0][0] == 0x80 | CLOSE


@on_each_loop
async def test_a_message_of_the_largest_size_and_in_fragments() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(TEXT, b"x" * 1000) + frame(BINARY, b"a" * 500, fin=False))
        writer.write(frame(PING, b"?") + frame(0, b"b" * 499, fin=False) + frame(0, b"c"))
        await reader.readexactly(7)
        writer.write(frame(CLOSE))
        await reader.read()

    async with talking(talk) as (websocket, _, __):
        got = [message async for message in websocket]
        assert got == ["x" * 1000, b"a" * 500 + b"b" * 499 + b"c"]
        assert (await ended(websocket))[0] == 1005


@pytest.mark.parametrize("drip", ["nothing", "a frame", "fragments", "wrong pongs"])
@on_each_loop
async def test_a_server_without_pongs(drip: str) -> None:
    """Whatever it sends in between: only the answer to our ping counts."""
    starts = {"a frame": frame(BINARY, length=999), "fragments": frame(TEXT, fin=False)}
    pieces = {"nothing": b"", "a frame": b"x", "fragments": frame(0, fin=False), "wrong pongs": frame(PONG)}

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(starts.get(drip, b""))
        while True:
            writer.write(pieces[drip])
            await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.15 if drip == "wrong pongs" else 0.01):
                    if not await reader.read(2**16):  # the pings, until the other side has closed
                        return

    async with talking(talk) as (websocket, client, server):
        assert await ended(websocket) == (1006, "the server sent no pong within 0.5 seconds")
        async with asyncio.timeout(60):
            await asyncio.gather(*server.open)
    async with asyncio.timeout(60), client.workspace_slot("w"):
        pass


@pytest.mark.parametrize("opcode", [PING, PONG])
@on_each_loop
async def test_a_flood_of_control_frames(opcode: int) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(frame(opcode, b"x" * 125) * 100)
            await writer.drain()

    async with talking(talk) as (websocket, _, server):
        assert await ended(websocket) == (1008, "the server sent too many control frames")
        async with asyncio.timeout(60):
            await asyncio.gather(*server.open)


@pytest.mark.parametrize("piece", [frame(0, fin=False), frame(TEXT), frame(TEXT, b"x" * 1000)])
@on_each_loop
async def test_a_flood_of_frames_takes_little_memory(piece: bytes) -> None:
    """Fragments without end, and messages that nobody reads: the loop goes on, and the close too."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(TEXT, b"x", fin=False) if piece == frame(0, fin=False) else b"")
        while True:
            writer.write(piece * 1000)
            await writer.drain()

    tracemalloc.start()
    try:
        async with talking(talk) as (websocket, _, server):
            for _number in range(20):
                await asyncio.sleep(0.05)
            _, peak = tracemalloc.get_traced_memory()
            async with asyncio.timeout(60):
                await websocket.close()
                await asyncio.gather(*server.open)
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000


@on_each_loop
async def test_a_slow_reader_holds_the_server_and_keeps_the_connection() -> None:
    """While nobody reads, pongs wait behind messages; that is not the server's fault."""
    held = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        for number in range(20_000):
            writer.write(frame(TEXT, b"%01000d" % number))
            if transport.get_write_buffer_size() > 2**16:
                held.set()
            await writer.drain()
        writer.write(frame(CLOSE, b"\x03\xe8"))
        await reader.read()

    async with talking(talk) as (websocket, _, __):
        await held.wait()
        await asyncio.sleep(2 * (HASTY.ping_s + HASTY.pong_s))
        assert websocket.end is None
        got = [message async for message in websocket]
    assert got == [f"{number:01000d}" for number in range(20_000)]


@on_each_loop
async def test_a_server_that_reads_nothing() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(3600)

    limits = WebSocketLimits(ping_s=100, send_s=0.5, close_s=0.3)
    async with talking(talk, limits) as (websocket, client, _):
        with suppress(WebSocketClosed):
            for _number in range(100):
                await websocket.send(b"x" * 1_000_000)
        assert websocket.end is not None
        assert websocket.end.detail == "the server took no data for 0.5 seconds"
        assert [message async for message in websocket] == []
    async with asyncio.timeout(60), client.workspace_slot("w"):
        pass


@pytest.mark.parametrize("sent", [b"", frame(TEXT, b"x" * 100)[:50]])
@on_each_loop
async def test_a_connection_that_breaks_off(sent: bytes) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(TEXT, b"before") + sent)
        await writer.drain()

    async with talking(talk) as (websocket, _, __):
        assert await anext(websocket) == "before"
        assert await ended(websocket) == (1006, "the connection was lost")


@on_each_loop
async def test_a_task_that_is_cancelled_within_the_context() -> None:
    opened = asyncio.Event()
    async with echoing() as (port, _), calling(max_per_workspace=1) as client:

        async def converse() -> None:
            url = f"ws://127.0.0.1:{port}/"
            async with connect_websocket(client, url, workspace="w", allow_plain=True) as websocket:
                opened.set()
                async for _ in websocket:
                    pass

        task = asyncio.create_task(converse())
        await opened.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) < 10
        async with asyncio.timeout(60), client.workspace_slot("w"):
            pass
