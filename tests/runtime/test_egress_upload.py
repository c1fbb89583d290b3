"""Uploads over real sockets: raw files and forms, early answers, and servers that take nothing."""

# ruff: noqa: ASYNC110, ASYNC240 -- small files, and a server that reads slowly

import asyncio
import hashlib
import random
import tracemalloc
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import BodyPartReader, web

from shared.runtime.egress.client import EgressClient, EgressResponse
from shared.runtime.egress.progress import TransferDeadlines
from shared.runtime.egress.upload import FormFile, upload, upload_form
from tests.support.egress import RawRequest, answer, calling, on_each_loop, raw_server

CONTENT: Final = random.Random(3).randbytes(3_000_000)  # noqa: S311 -- only has to differ everywhere
PATIENT: Final = TransferDeadlines(20, interval_s=10, answer_s=10)
HASTY: Final = TransferDeadlines(20, interval_s=0.5, answer_s=0.5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "upload.bin"
    path.write_bytes(CONTENT)
    return path


async def put(client: EgressClient, url: str, path: Path, **options: Any) -> EgressResponse:
    return await upload(client, "PUT", url, path, **({"deadlines": PATIENT} | options))


async def read_rest(request: RawRequest, reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int(request.headers["content-length"]))


@on_each_loop
async def test_a_raw_file(file: Path) -> None:
    bodies: list[bytes] = []

    async def handle(request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await read_rest(request, reader))
        writer.write(answer(201, b"stored", X_Id="7"))

    async with raw_server(handle) as server, calling() as client:
        headers = {"Authorization": "x", "transfer-encoding": "chunked", "Content-Length": "5"}
        done = await put(client, server.url, file, content_type="text/csv", headers=headers)
        file.write_bytes(b"")
        empty = await put(client, server.url, file)
    assert (done.status, done.failure, done.body, done.headers["X-Id"]) == (201, None, b"stored", "7")
    assert done.address == "127.0.0.1"
    assert empty.status == 201
    assert bodies == [CONTENT, b""]
    [request, _] = server.requests
    assert (request.method, request.headers["authorization"]) == ("PUT", "x")
    assert (request.headers["content-type"], request.headers["content-length"]) == ("text/csv", "3000000")
    assert "transfer-encoding" not in request.headers


@on_each_loop
async def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as sparse:
        sparse.truncate(100_000_000)

    async def handle(request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = int(request.headers["content-length"])
        while left:
            left -= len(await reader.read(2**16))
        writer.write(answer(200))

    async with raw_server(handle) as server, calling() as client:
        tracemalloc.start()
        try:
            assert (await put(client, server.url, path)).status == 200
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8_000_000


@on_each_loop
async def test_a_form(file: Path, tmp_path: Path) -> None:
    """As a browser sends it; read by aiohttp's own server."""
    hostile = 'a"; filename="x.exe\r\nX-Injected: 1\r\n\r\n\u00e9%22\\'
    small = tmp_path / "small"
    small.write_bytes(b"--interlink\r\nnot a boundary")
    got: list[tuple[str | None, str | None, str | None, bytes]] = []
    length: list[int | None] = []

    async def handle(request: web.Request) -> web.Response:
        length.append(request.content_length)
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            kind, data = part.headers.get("Content-Type"), bytes(await part.read())
            got.append((part.name, part.filename, kind, data))
        return web.Response(text="ok")

    app = web.Application(client_max_size=10**8)
    app.router.add_post("/", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with calling() as client:
            done = await upload_form(
                client,
                f"http://127.0.0.1:{runner.addresses[0][1]}/",
                [("title", "one\ntwo\rthree\r\n"), (hostile, "value")],
                [FormFile("file", file, "report.csv", "text/csv"), FormFile("f\nf", small, hostile)],
                deadlines=PATIENT,
            )
    finally:
        await runner.cleanup()
    assert (done.status, done.body) == (200, b"ok")
    escaped = "a%22; filename=%22x.exe%0D%0AX-Injected: 1%0D%0A%0D%0A\u00e9%22\\"  # aiohttp shows it as it is
    assert [(name, data) for name, _, _, data in got] == [
        ("title", b"one\ntwo\rthree\r\n"),
        (escaped, b"value"),
        ("file", CONTENT),
        ("f%0D%0Af", small.read_bytes()),
    ]
    assert [(name, kind) for _, name, kind, _ in got[2:]] == [
        ("report.csv", "text/csv"),
        (escaped, "application/octet-stream"),
    ]
    assert length[0] is not None
    assert length[0] > len(CONTENT)


@on_each_loop
async def test_the_bytes_of_a_form(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"content")
    bodies: list[bytes] = []

    async def handle(request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await read_rest(request, reader))
        writer.write(answer(200))

    async with raw_server(handle) as server, calling() as client:
        name, file_name = 'a"\n', 'b"\r\n\n\u00e9'
        await upload_form(
            client, server.url, [(name, "1\n2")], [FormFile(name, small, file_name)], deadlines=PATIENT
        )
        with pytest.raises(ValueError, match="content type"):
            await upload_form(
                client, server.url, [], [FormFile("x", small, "x", "a/b\r\nX: 1")], deadlines=PATIENT
            )
        with pytest.raises(ValueError, match="content type"):
            await put(client, server.url, small, content_type="a/b\r\nX: 1")
    assert len(server.requests) == 1
    kind, _, boundary = server.requests[0].headers["content-type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    assert bodies == [
        (
            f'--{boundary}\r\nContent-Disposition: form-data; name="a%22%0D%0A"\r\n\r\n1\n2\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="a%22%0D%0A"; '
            f'filename="b%22%0D%0A%0A\u00e9"\r\nContent-Type: application/octet-stream\r\n\r\ncontent\r\n'
            f"--{boundary}--\r\n"
        ).encode()
    ]


@pytest.mark.parametrize("status", [401, 413, 302])
@pytest.mark.parametrize("closes", [True, False], ids=["closes", "stays"])
@on_each_loop
async def test_an_early_answer_is_the_result(tmp_path: Path, status: int, closes: bool) -> None:
    """The server answers before it has read the body, and reads none of it."""
    path = tmp_path / "large"
    with path.open("wb") as sparse:
        sparse.truncate(50_000_000)
    end = asyncio.Event()

    async def handle(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(status, b"no", Location="http://127.0.0.1:1/"))
        await writer.drain()
        if not closes:
            await end.wait()

    async with raw_server(handle) as server, calling(max_per_workspace=1) as client:
        for _number in range(5):
            done = await put(client, server.url, path, workspace="w")
            assert (done.status, done.failure, done.headers["Location"]) == (
                status,
                None,
                "http://127.0.0.1:1/",
            )
            assert done.body == b"no"
        assert len(server.requests) == 5
        end.set()


@pytest.mark.parametrize("reads", [0, 2**16, 10**9], ids=["nothing", "a little", "all"])
@on_each_loop
async def test_a_server_that_takes_or_answers_nothing(tmp_path: Path, reads: int) -> None:
    path = tmp_path / "large"
    with path.open("wb") as sparse:
        sparse.truncate(30_000_000)

    async def handle(_: RawRequest, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        left = reads
        while left > 0 and (chunk := await reader.read(2**16)):
            left -= len(chunk)
        await asyncio.sleep(3600)

    async with raw_server(handle) as server, calling(max_per_workspace=1) as client:
        for _number in range(2):  # the second one needs the slot of the first
            done = await put(client, server.url, path, deadlines=HASTY, workspace="w")
            assert (done.status, done.failure) == (None, "timeout")
            assert done.detail == "fewer than 16384 bytes in 0.5 seconds"


@pytest.mark.parametrize("where", ["head", "body", "interim"])
@on_each_loop
async def test_a_slow_answer(file: Path, where: str) -> None:
    start = {"head": b"HTTP/1.1 200 OK\r\nX: ", "body": answer(200, length=1000), "interim": b""}[where]

    async def handle(request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_rest(request, reader)
        writer.write(start)
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" if where == "interim" else b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_server(handle) as server, calling() as client:
        done = await put(client, server.url, file, deadlines=HASTY)
    assert (done.status, done.failure) == (None, "timeout")


@on_each_loop
async def test_a_steady_upload_ends_at_the_total(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as sparse:
        sparse.truncate(10**9)

    async def handle(_: RawRequest, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        while await reader.read(2**16):
            await asyncio.sleep(0.02)

    async with raw_server(handle) as server, calling() as client:
        done = await put(client, server.url, path, deadlines=TransferDeadlines(1, interval_s=0.9))
    assert (done.failure, done.detail) == ("timeout", "not complete within 1 seconds")


@on_each_loop
async def test_an_answer_without_end_is_cut(file: Path) -> None:
    async def handle(request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_rest(request, reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    async with raw_server(handle) as server, calling() as client:
        done = await put(client, server.url, file, max_response_bytes=500)
    assert (done.status, done.body) == (200, b"x" * 500)


@pytest.mark.parametrize("change", ["shorter", "longer", "missing before", "missing"])
@on_each_loop
async def test_a_file_that_changes_meanwhile(file: Path, change: str) -> None:
    async def handle(request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_rest(request, reader)
        writer.write(answer(200))

    async with raw_server(handle) as server, calling(max_per_workspace=1) as client:
        async with client.workspace_slot("w"):  # the upload waits here, after it has seen the size
            if change == "missing before":
                file.unlink()
            task = asyncio.create_task(put(client, server.url, file, workspace="w"))
            await asyncio.sleep(0.1)
            if change == "shorter":
                file.write_bytes(CONTENT[:-1])
            elif change == "longer":
                file.write_bytes(CONTENT + b"x")
            elif change == "missing":
                file.unlink()
        with pytest.raises(OSError, match="No such file" if "missing" in change else "changed its size"):
            await task
        file.write_bytes(CONTENT)
        assert (await put(client, server.url, file, workspace="w")).status == 200


@on_each_loop
async def test_a_cancelled_upload_frees_its_slot(file: Path) -> None:
    taken = asyncio.Event()

    async def handle(request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not taken.is_set():
            taken.set()
            await asyncio.sleep(3600)
        digest = hashlib.sha256(await read_rest(request, reader)).digest()
        writer.write(answer(200, digest))

    async with raw_server(handle) as server, calling(max_per_workspace=1) as client:
        task = asyncio.create_task(put(client, server.url, file, workspace="w"))
        await taken.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        done = await put(client, server.url, file, workspace="w")
    assert done.body == hashlib.sha256(CONTENT).digest()
