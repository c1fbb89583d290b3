"""Downloads over real sockets: whole files, resumed ones, and servers that do not what they said."""

import asyncio
import gzip
import hashlib
import os
import random
import resource
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from shared.runtime.egress import part_file
from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.download import Download, DownloadFailed, DownloadFailure, download
from shared.runtime.egress.part_file import PartFile
from shared.runtime.egress.progress import TransferDeadlines
from tests.support.certificates import Authority, server_tls
from tests.support.egress import RawRequest, RawServer, answer, calling, on_each_loop, raw_server

CONTENT: Final = random.Random(1).randbytes(300_000)  # noqa: S311 -- only has to differ everywhere
SHA256: Final = hashlib.sha256(CONTENT).hexdigest()
ETAG: Final = '"v1"'
PATIENT: Final = TransferDeadlines(20, interval_s=10, answer_s=10)
HASTY: Final = TransferDeadlines(20, interval_s=0.5, interval_bytes=1000, answer_s=0.5)


async def fetch(client: EgressClient, url: str, target: Path, **options: Any) -> Download:
    arguments: dict[str, Any] = {"max_bytes": 1_000_000, "deadlines": PATIENT} | options
    return await download(client, url, target, **arguments)


async def failure_of(client: EgressClient, url: str, target: Path, **options: Any) -> DownloadFailed:
    with pytest.raises(DownloadFailed) as caught:
        await fetch(client, url, target, **options)
    return caught.value


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@dataclass
class FileServer:
    """Serves `content` with ranges. `cut_at` breaks off the next response there, `reply` replaces it."""

    content: bytes = CONTENT
    headers: dict[str, Any] = field(default_factory=lambda: {"ETag": ETAG, "Content_Type": "text/csv"})
    cut_at: int | None = None
    reply: bytes | None = None
    hold: asyncio.Event | None = None
    """The cut response stays open until this is set."""
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    """A cut response was sent, and read by the client."""

    async def handle(
        self, request: RawRequest, _: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        whole = self.reply
        if whole != b"":  # aiohttp repeats a GET whose connection was closed without an answer
            self.reply = None
        cut = False
        if whole is None:
            more: dict[str, Any] = {}
            offset, status = 0, 200
            if "range" in request.headers and request.headers["if-range"] in self.headers.values():
                offset = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
                size, status = len(self.content), 206
                more = {"Content_Range": f"bytes {offset}-{size - 1}/{size}"}
            body = self.content[offset:]
            whole = answer(status, body, **self.headers, **more)
            if self.cut_at is not None:
                whole = whole[: len(whole) - len(body) + self.cut_at]
                self.cut_at = None
                cut = True
        writer.write(whole)
        await writer.drain()
        if cut:  # the client shares this loop: it has read what was sent
            await asyncio.sleep(0.1)
            self.sent.set()
        if self.hold is not None:
            await self.hold.wait()


@asynccontextmanager
async def serving(files: FileServer) -> AsyncIterator[tuple[RawServer, EgressClient]]:
    async with raw_server(files.handle) as server, calling() as client:
        yield server, client


# Whole files


@on_each_loop
async def test_a_whole_file(tmp_path: Path) -> None:
    async with serving(FileServer()) as (server, client):
        target = tmp_path / "export.csv"
        target.write_text("an earlier export")
        done = await fetch(client, server.url, target, headers={"Authorization": "Bearer x"}, sha256=SHA256)
    assert done == Download(target, len(CONTENT), "text/csv", SHA256, 0)
    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["export.csv"]
    [request] = server.requests
    assert (request.headers["authorization"], request.headers["accept-encoding"]) == ("Bearer x", "identity")
    assert "range" not in request.headers


@on_each_loop
async def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    chunk, count = b"x" * 1_000_000, 100

    async def handle(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, length=len(chunk) * count))
        for _number in range(count):
            writer.write(chunk)
            await writer.drain()

    async with raw_server(handle) as server, calling() as client:
        tracemalloc.start()
        try:
            done = await fetch(client, server.url, tmp_path / "f", max_bytes=10**9)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert done.size == (tmp_path / "f").stat().st_size == len(chunk) * count
    assert peak < 12_000_000


@on_each_loop
async def test_an_empty_file(tmp_path: Path) -> None:
    async with serving(FileServer(content=b"")) as (server, client):
        done = await fetch(client, server.url, tmp_path / "f")
    assert (done.size, (tmp_path / "f").read_bytes()) == (0, b"")


# Resumed files


@on_each_loop
async def test_an_interrupted_download_is_resumed(tmp_path: Path) -> None:
    files = FileServer(cut_at=100_000)
    async with serving(files) as (server, client):
        failed = await failure_of(client, server.url, tmp_path / "f")
        assert (failed.failure, failed.retryable) == ("closed_mid_response", True)
        assert names(tmp_path) == ["f.part", "f.part.json"]
        files.cut_at = 50_000
        await failure_of(client, server.url + "?signature=other", tmp_path / "f")
        done = await fetch(client, server.url, tmp_path / "f", sha256=SHA256)
    assert done == Download(tmp_path / "f", len(CONTENT), "text/csv", SHA256, 150_000)
    assert names(tmp_path) == ["f"]
    assert [request.headers.get("range") for request in server.requests] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
    ]
    assert server.requests[1].headers["if-range"] == ETAG


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"Last_Modified": "Mon, 02 Nov 2026 10:00:00 GMT", "Date": "Mon, 02 Nov 2026 10:00:02 GMT"}, True),
        ({"Last_Modified": "Mon, 02 Nov 2026 10:00:00 GMT", "Date": "Mon, 02 Nov 2026 10:00:00 GMT"}, False),
        ({"Last_Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}, False),
        ({"Last_Modified": "yesterday", "Date": "today"}, False),
        ({"ETag": 'W/"v1"'}, False),
        ({"ETag": "v1"}, False),
        ({}, False),
    ],
)
@on_each_loop
async def test_only_a_strong_validator_is_resumed(
    tmp_path: Path, headers: dict[str, str], validator: bool
) -> None:
    files = FileServer(headers=headers, cut_at=1000)
    async with serving(files) as (server, client):
        await failure_of(client, server.url, tmp_path / "f")
        assert bool(names(tmp_path)) == validator
        done = await fetch(client, server.url, tmp_path / "f", sha256=SHA256)
    assert done.resumed_from == (1000 if validator else 0)
    assert server.requests[1].headers.get("if-range") == (headers["Last_Modified"] if validator else None)


NEW: Final = b"another version" * 100
RANGE: Final = f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"
REST: Final = CONTENT[1000:]


@pytest.mark.parametrize(
    ("reply", "requests"),
    [
        (answer(200, NEW, ETag='"v2"'), 2),
        (answer(206, REST, ETag='"v2"', Content_Range=RANGE), 3),
        (answer(206, REST, ETag=ETAG, Content_Range=RANGE.replace("1000", "999")), 3),
        (answer(206, REST, ETag=ETAG, Content_Range=RANGE.replace("1000", "1001")), 3),
        (answer(206, REST, ETag=ETAG, Content_Range=RANGE + "0"), 3),
        (answer(206, REST, ETag=ETAG, Content_Range=RANGE.rpartition("/")[0] + "/*"), 3),
        (answer(206, REST, ETag=ETAG, Content_Range="bytes 1000-5/300000"), 3),
        (answer(206, REST, ETag=ETAG, Content_Range="lines 1000-299999/300000"), 3),
        (answer(206, REST, ETag=ETAG), 3),
        (answer(206, REST + b"x", ETag=ETAG, Content_Range=RANGE), 3),
        (answer(206, REST, Content_Type="multipart/byteranges; boundary=x"), 3),
        (answer(416, Content_Range="bytes */15"), 3),
    ],
    ids=[
        *("200", "changed", "too early", "too late", "other total", "no total", "backwards", "other unit"),
        *("no range", "longer", "multipart", "416"),
    ],
)
@on_each_loop
async def test_a_server_that_does_not_resume(tmp_path: Path, reply: bytes, requests: int) -> None:
    """The download starts again from the first byte, and mixes nothing."""
    files = FileServer(cut_at=1000)
    async with serving(files) as (server, client):
        await failure_of(client, server.url, tmp_path / "f")
        files.reply, files.content, files.headers = reply, NEW, {"ETag": '"v2"'}
        done = await fetch(client, server.url, tmp_path / "f")
    assert (done.resumed_from, (tmp_path / "f").read_bytes()) == (0, NEW)
    assert done.sha256 == hashlib.sha256(NEW).hexdigest()
    assert len(server.requests) == requests
    assert names(tmp_path) == ["f"]


@on_each_loop
async def test_a_part_of_the_range_is_resumed_by_the_next_call(tmp_path: Path) -> None:
    files = FileServer(cut_at=1000)
    async with serving(files) as (server, client):
        await failure_of(client, server.url, tmp_path / "f")
        files.reply = answer(206, CONTENT[1000:5000], ETag=ETAG, Content_Range="bytes 1000-4999/300000")
        failed = await failure_of(client, server.url, tmp_path / "f")
        assert (failed.failure, failed.detail) == (
            "closed_mid_response",
            "the body is shorter than the server said",
        )
        done = await fetch(client, server.url, tmp_path / "f", sha256=SHA256)
    assert done.resumed_from == 5000


@on_each_loop
async def test_a_complete_part_needs_no_request(tmp_path: Path) -> None:
    """The process ended between the last byte and the rename."""
    files = FileServer(cut_at=1000)
    async with serving(files) as (server, client):
        await failure_of(client, server.url, tmp_path / "f")
        state = tmp_path / "f.part.json"
        (tmp_path / "f.part").write_bytes(CONTENT)
        state.write_text(state.read_text().replace('"size":1000', f'"size":{len(CONTENT)}'))
        done = await fetch(client, server.url, tmp_path / "f", sha256=SHA256)
    assert done == Download(tmp_path / "f", len(CONTENT), "text/csv", SHA256, len(CONTENT))
    assert len(server.requests) == 1


@pytest.mark.parametrize("damage", ["state", "shape", "type", "short", "no part", "other url"])
@on_each_loop
async def test_a_damaged_part_is_not_used(tmp_path: Path, damage: str) -> None:
    files = FileServer(cut_at=1000)
    async with serving(files) as (server, client):
        url = server.url
        await failure_of(client, url, tmp_path / "f")
        part, state = tmp_path / "f.part", tmp_path / "f.part.json"
        if damage == "state":
            state.write_bytes(b"\0" * 100)
        elif damage == "shape":
            state.write_text('{"validator": "x"}')
        elif damage == "type":
            state.write_text(state.read_text().replace("1000", '"1000"'))
        elif damage == "short":
            part.write_bytes(CONTENT[:999])
        elif damage == "no part":
            part.unlink()
        else:
            url = server.url.replace("/file", "/other")
        done = await fetch(client, url, tmp_path / "f", sha256=SHA256)
    assert (done.resumed_from, names(tmp_path)) == (0, ["f"])


@on_each_loop
async def test_bytes_that_are_not_known_to_be_on_the_disk_are_not_used(tmp_path: Path) -> None:
    files = FileServer(cut_at=1000)
    async with serving(files) as (server, client):
        await failure_of(client, server.url, tmp_path / "f")
        with (tmp_path / "f.part").open("ab") as part:
            part.write(b"\0" * 5000)
        done = await fetch(client, server.url, tmp_path / "f", sha256=SHA256)
    assert done.resumed_from == 1000


def test_a_process_that_is_killed_leaves_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_file, "_CHECKPOINT_BYTES", 1000)
    if not (child := os.fork()):
        part = PartFile(tmp_path / "f", "source")
        part.open()
        part.start(validator=ETAG, content_type="", total=5000)
        part.append(CONTENT[:1500])
        part.append(CONTENT[1500:1600])
        os._exit(0)
    os.waitpid(child, 0)
    part = PartFile(tmp_path / "f", "source")
    part.open()
    assert (part.size, part.sha256) == (1500, hashlib.sha256(CONTENT[:1500]).hexdigest())
    part.close()


# Bodies that are not what the head said


@on_each_loop
async def test_bytes_behind_the_content_length_are_not_in_the_file(tmp_path: Path) -> None:
    files = FileServer(reply=answer(200, CONTENT + b"surplus", length=len(CONTENT)))
    async with serving(files) as (server, client):
        assert (await fetch(client, server.url, tmp_path / "f")).sha256 == SHA256
        assert (await fetch(client, server.url, tmp_path / "g")).sha256 == SHA256


@on_each_loop
async def test_a_body_without_an_end_needs_a_digest(tmp_path: Path) -> None:
    files = FileServer(reply=answer(200, CONTENT, length=None))
    async with serving(files) as (server, client):
        failed = await failure_of(client, server.url, tmp_path / "f")
        assert (failed.failure, names(tmp_path)) == ("protocol", [])
        files.reply = answer(200, CONTENT, length=None)
        assert (await fetch(client, server.url, tmp_path / "f", sha256=SHA256.upper())).size == len(CONTENT)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", **headers: str) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    return answer(200, body, length=None, Transfer_Encoding="chunked", **headers)


@on_each_loop
async def test_a_chunked_body(tmp_path: Path) -> None:
    files = FileServer(reply=chunked(CONTENT[:9], CONTENT[9:]))
    async with serving(files) as (server, client):
        assert (await fetch(client, server.url, tmp_path / "f")).sha256 == SHA256
        for end in (b"", b"5\r\nab", b"xyz\r\n"):
            files.reply = chunked(CONTENT, end=end, ETag=ETAG)
            failed = await failure_of(client, server.url, tmp_path / "g")
            assert failed.failure == "closed_mid_response"
            assert names(tmp_path) == ["f"]  # without its size, a file is not resumed


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (answer(200, CONTENT), "too_large"),
        (chunked(*[CONTENT[:10_000]] * 20), "too_large"),
        (answer(200, gzip.compress(b"\0" * 10**7), Content_Encoding="gzip"), "protocol"),
        (answer(200, gzip.compress(b"\0" * 10**7), Content_Encoding="identity, gzip"), "protocol"),
        (answer(200, b"x", length=None, Transfer_Encoding="gzip, chunked"), "protocol"),
        (answer(204), "status"),
        (answer(206, b"x", Content_Range="bytes 0-0/1"), "status"),
        (answer(304), "status"),
        (answer(404, b"no"), "status"),
        (answer(503, b"later", Retry_After="7"), "status"),
        (answer(302), "status"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabcde", "protocol"),
        (b"garbage\r\n\r\n", "protocol"),
        (b"", "closed_mid_response"),
    ],
)
@on_each_loop
async def test_responses_that_are_no_file(tmp_path: Path, reply: bytes, failure: DownloadFailure) -> None:
    async with serving(FileServer(reply=reply)) as (server, client):
        failed = await failure_of(client, server.url, tmp_path / "f", max_bytes=100_000)
        assert failed.failure == failure, failed.detail
        assert names(tmp_path) == []
        if b"503" in reply[:20]:
            assert (failed.retryable, failed.status, failed.headers["Retry-After"]) == (True, 503, "7")
        else:
            assert failed.retryable == (failure == "closed_mid_response")


@on_each_loop
async def test_another_content_than_expected_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("before")
    async with serving(FileServer()) as (server, client):
        failed = await failure_of(client, server.url, tmp_path / "f", sha256="0" * 64)
    assert (failed.failure, failed.retryable) == ("checksum", False)
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_text() == "before"


@on_each_loop
async def test_a_resumed_file_may_not_pass_the_limit(tmp_path: Path) -> None:
    files = FileServer(cut_at=1000)
    async with serving(files) as (server, client):
        await failure_of(client, server.url, tmp_path / "f")
        failed = await failure_of(client, server.url, tmp_path / "f", max_bytes=299_999)
        assert (failed.failure, len(server.requests)) == ("too_large", 1)


# Time


@pytest.mark.parametrize("where", ["nothing", "head", "interim", "body", "chunk extension", "trailers"])
@on_each_loop
async def test_a_slow_server_holds_nothing(tmp_path: Path, where: str) -> None:
    starts = {
        "nothing": b"",
        "head": b"HTTP/1.1 200 OK\r\nX-Slow: ",
        "interim": b"",
        "body": answer(200, b"x" * 5000, length=100_000, ETag=ETAG),
        "chunk extension": chunked(b"x" * 5000, end=b"5;name="),
        "trailers": chunked(b"x" * 5000, end=b"0\r\nX-Slow: "),
    }

    async def handle(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(starts[where])
        while not writer.is_closing():
            if where != "nothing":
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" if where == "interim" else b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_server(handle) as server, calling(max_per_workspace=1) as client:
        for _ in range(2):  # the second one needs the slot of the first
            failed = await failure_of(client, server.url, tmp_path / "f", deadlines=HASTY, workspace="w")
            assert (failed.failure, failed.retryable) == ("timeout", True)
        assert names(tmp_path) == (["f.part", "f.part.json"] if where == "body" else [])


@on_each_loop
async def test_a_steady_server_still_ends_at_the_total(tmp_path: Path) -> None:
    async def handle(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, length=10**9))
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()
            await asyncio.sleep(0.01)

    deadlines = TransferDeadlines(1, interval_s=0.9, interval_bytes=1000)
    async with raw_server(handle) as server, calling() as client:
        failed = await failure_of(client, server.url, tmp_path / "f", deadlines=deadlines, max_bytes=10**9)
    assert (failed.failure, failed.detail) == ("timeout", "not complete within 1 seconds")


# Redirects


@on_each_loop
async def test_redirects_are_followed_and_secrets_stay(tmp_path: Path) -> None:
    files = FileServer()
    locations = {
        "/file": (301, "next?x=1#part"),
        "/next?x=1": (307, "//localhost:{port}/elsewhere"),
        "/elsewhere": (302, "http://127.0.0.1:{port}/back"),
    }

    async def handle(request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if redirect := locations.get(request.path):
            writer.write(answer(redirect[0], Location=redirect[1].format(port=server.port)))
        else:
            await files.handle(request, reader, writer)

    headers = {
        "Authorization": "secret",
        "PRIVATE-TOKEN": "secret",
        "Cookie": "a=secret",
        "Accept": "text/csv",
    }
    async with raw_server(handle) as server, calling() as client:
        files.cut_at = 1000
        await failure_of(client, server.url, tmp_path / "f", headers=headers)
        done = await fetch(client, server.url, tmp_path / "f", headers=headers, sha256=SHA256)
        assert done.resumed_from == 1000
        failed = await failure_of(client, server.url, tmp_path / "g", headers=headers, max_redirects=2)
        assert failed.failure == "too_many_redirects"
    for first in (0, 4):
        paths = [request.path for request in server.requests[first : first + 4]]
        assert paths == ["/file", "/next?x=1", "/elsewhere", "/back"]
        for number, request in enumerate(server.requests[first : first + 4]):
            assert request.headers["accept"] == "text/csv"
            assert ("secret" in str(request.headers)) == (number < 2)


@on_each_loop
async def test_a_redirect_from_https_to_http(tmp_path: Path) -> None:
    authority = Authority("servers")
    (tmp_path / "ca.pem").write_text(authority.pem)
    async with serving(FileServer()) as (plain, _):

        async def handle(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer(302, Location=plain.url))

        async with (
            raw_server(handle, server_tls(authority)) as server,
            calling(ca_file=tmp_path / "ca.pem") as client,
        ):
            failed = await failure_of(client, f"https://localhost:{server.port}/", tmp_path / "f")
        assert (failed.failure, plain.requests) == ("bad_url", [])


@on_each_loop
async def test_a_redirect_without_end(tmp_path: Path) -> None:
    async def handle(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(302, Location="/again"))

    async with raw_server(handle) as server, calling() as client:
        failed = await failure_of(client, server.url, tmp_path / "f")
    assert (failed.failure, failed.retryable, len(server.requests)) == ("too_many_redirects", False, 6)


# Disk, cancellation, and others at the same time


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@on_each_loop
async def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    content = random.Random(2).randbytes(5_000_000)  # noqa: S311
    async with serving(FileServer(content)) as (server, client):
        with largest_file(2_500_000):
            failed = await failure_of(client, server.url, tmp_path / "f", max_bytes=10**7)
        assert (failed.failure, failed.retryable, names(tmp_path)) == ("disk", False, [])
        assert (await fetch(client, server.url, tmp_path / "f", max_bytes=10**7)).size == len(content)
        failed = await failure_of(client, server.url, tmp_path / "missing" / "f")
        assert failed.failure == "disk"


@on_each_loop
async def test_a_part_file_is_never_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("untouched")
    (tmp_path / "f.part").symlink_to(tmp_path / "other")
    async with serving(FileServer()) as (server, client):
        failed = await failure_of(client, server.url, tmp_path / "f")
    assert (failed.failure, (tmp_path / "other").read_text()) == ("disk", "untouched")


@on_each_loop
async def test_a_cancelled_download_is_resumed(tmp_path: Path) -> None:
    files = FileServer(cut_at=100_000, hold=asyncio.Event())
    async with raw_server(files.handle) as server, calling(max_per_workspace=1) as client:
        task = asyncio.create_task(fetch(client, server.url, tmp_path / "f", workspace="w"))
        await files.sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert names(tmp_path) == ["f.part", "f.part.json"]
        files.hold = None
        done = await fetch(client, server.url, tmp_path / "f", sha256=SHA256, workspace="w")
    assert 0 < done.resumed_from <= 100_000


@on_each_loop
async def test_one_download_to_a_target_at_a_time(tmp_path: Path) -> None:
    files = FileServer(cut_at=1000, hold=asyncio.Event())
    async with serving(files) as (server, client):
        assert files.hold
        first = asyncio.create_task(fetch(client, server.url, tmp_path / "f"))
        await files.sent.wait()
        failed = await failure_of(client, server.url, tmp_path / "f")
        assert (failed.failure, failed.retryable) == ("in_use", True)
        files.hold.set()
        with pytest.raises(DownloadFailed):
            await first
        assert (await fetch(client, server.url, tmp_path / "f", sha256=SHA256)).resumed_from == 1000


@on_each_loop
async def test_a_workspace_has_its_slots_and_no_more(tmp_path: Path) -> None:
    files = FileServer(cut_at=1000, hold=asyncio.Event())
    async with raw_server(files.handle) as server, calling(max_per_workspace=1) as client:
        assert files.hold
        first = asyncio.create_task(fetch(client, server.url, tmp_path / "a", workspace="w"))
        await files.sent.wait()
        second = asyncio.create_task(fetch(client, server.url, tmp_path / "b", workspace="w"))
        hold, files.hold = files.hold, None
        assert (await fetch(client, server.url, tmp_path / "c", workspace="v")).sha256 == SHA256
        assert len(server.requests) == 2
        hold.set()
        with pytest.raises(DownloadFailed):
            await first
        assert (await second).sha256 == SHA256
