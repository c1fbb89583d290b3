"""The address rules hold for downloads, their redirects, uploads and WebSockets as for every other call."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest

from shared.runtime.egress.client import WEB_PORTS, EgressClient
from shared.runtime.egress.download import DownloadFailed, download
from shared.runtime.egress.progress import TransferDeadlines
from shared.runtime.egress.resolver import DnsResolver
from shared.runtime.egress.upload import FormFile, upload, upload_form
from shared.runtime.egress.websocket import WebSocketLimits, WebSocketRefused, connect_websocket
from tests.support.dns_server import DnsServer, Reply
from tests.support.egress import (
    LOOPBACK_URLS,
    RawRequest,
    answer,
    calling,
    on_each_loop,
    raw_server,
    resolving,
)

DEADLINES: Final = TransferDeadlines(5, interval_s=3, answer_s=3)
REFUSED: Final = ("address_refused", "dns", "bad_url")

Attempt = Callable[[EgressClient, str, Path], Coroutine[Any, Any, str | None]]
"""Calls a URL and returns the class of failure."""


async def by_download(client: EgressClient, url: str, folder: Path) -> str | None:
    try:
        await download(client, url, folder / "f", max_bytes=1000, deadlines=DEADLINES)
    except DownloadFailed as error:
        return error.failure
    return None


async def by_upload(client: EgressClient, url: str, folder: Path) -> str | None:
    file = folder / "up"
    file.write_bytes(b"content")
    return (await upload(client, "PUT", url, file, deadlines=DEADLINES)).failure


async def by_form(client: EgressClient, url: str, folder: Path) -> str | None:
    file = folder / "up"
    file.write_bytes(b"content")
    form = [FormFile("file", file, "f")]
    return (await upload_form(client, url, [], form, deadlines=DEADLINES)).failure


async def by_websocket(client: EgressClient, url: str, _: Path) -> str | None:
    """Open a WebSocket; the test's server answers 200, which is no address error."""
    if url.startswith("http:"):
        url = "ws:" + url.removeprefix("http:")
    elif url.startswith("ws:"):
        url = "http:" + url.removeprefix("ws:")
    try:
        async with connect_websocket(
            client, url, allow_plain=True, limits=WebSocketLimits(open_s=5)
        ) as websocket:
            await websocket.close()
    except WebSocketRefused as error:
        return None if error.status == 200 else error.failure
    return None


ATTEMPTS: Final = (by_download, by_upload, by_form, by_websocket)


async def accept(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, b"internal"))
    await writer.drain()


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("url", LOOPBACK_URLS)
async def test_every_notation_of_a_loopback_address(tmp_path: Path, url: str, attempt: Attempt) -> None:
    async with raw_server(accept) as server:
        async with calling("none") as client:
            assert await attempt(client, url.format(port=server.port), tmp_path) in REFUSED
        assert server.requests == []
        async with calling("loopback") as client:  # the control: the server is there and answers
            assert await attempt(client, server.url, tmp_path) is None
        assert not (tmp_path / "f.part").exists()


@pytest.mark.parametrize("url", [*LOOPBACK_URLS, "https://10.0.0.1/", "//10.0.0.1/", "http://[::1]:{port}/"])
async def test_a_redirect_to_an_internal_address(tmp_path: Path, url: str) -> None:
    """A public server redirects. It is behind an egress proxy, which must be asked for nothing else."""

    async def handle(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        location = url.format(port=server.port).replace("\r\n", " ").encode()
        writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")
        await writer.drain()

    async with raw_server(handle) as server:
        async with calling("none", proxy=f"http://127.0.0.1:{server.port}") as client:
            failure = await by_download(client, "http://8.8.8.8/file", tmp_path)
        # "http:127.0.0.1" has no host: it is a path at the same server.
        assert failure in (*REFUSED, "too_many_redirects")
        assert all(request.path.startswith("http://8.8.8.8/") for request in server.requests)
        assert (failure == "too_many_redirects") == (len(server.requests) > 1)


async def test_ports(tmp_path: Path) -> None:
    async with raw_server(accept) as server, calling(ports=WEB_PORTS) as client:
        for attempt in ATTEMPTS:
            assert await attempt(client, server.url, tmp_path) == "address_refused"
        assert server.requests == []


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("bad", ["10.0.0.1", "169.254.169.254", "64:ff9b::a00:1", "::ffff:10.0.0.1", "::"])
@on_each_loop
async def test_a_name_with_an_internal_address(tmp_path: Path, attempt: Attempt, bad: str) -> None:
    async with raw_server(accept) as server:
        url = f"http://hooks.example:{server.port}/"
        for addresses in ([bad], [bad, "127.0.0.1"], ["127.0.0.1", bad]):
            with resolving(addresses) as (_, names):
                async with calling(resolver=names) as client:
                    assert await attempt(client, url, tmp_path) == "address_refused"
        assert server.requests == []


@pytest.mark.parametrize("attempt", ATTEMPTS)
@on_each_loop
async def test_a_name_that_changes_after_it_was_checked(tmp_path: Path, attempt: Attempt) -> None:
    """One lookup for each connection: the checked address is the one that is connected to."""
    async with raw_server(accept) as server:
        url = f"http://hooks.example:{server.port}/"
        with resolving(["127.0.0.1"], ["10.0.0.1"]) as (dns, names):
            async with calling(resolver=names) as client:
                assert await attempt(client, url, tmp_path) is None
                assert dns.count("hooks.example") == 1
            async with calling(resolver=names) as client:
                assert await attempt(client, url, tmp_path) == "address_refused"
        assert len(server.requests) == 1


@on_each_loop
async def test_a_redirect_to_a_name_that_leads_inside(tmp_path: Path) -> None:
    """Each hop is looked up and checked for itself, also the same name a second time (rebinding)."""

    async def handle(_: RawRequest, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(302, Location=target))
        await writer.drain()

    async with raw_server(handle) as server:
        first = f"http://hooks.example:{server.port}/"
        for target, addresses in (
            (first, (["127.0.0.1"], ["10.0.0.1"])),
            (f"http://inside.example:{server.port}/", (["127.0.0.1"],)),
            (f"http://10.0.0.1:{server.port}/", (["127.0.0.1"],)),
            (f"http://[::ffff:10.0.0.1]:{server.port}/", (["127.0.0.1"],)),
            (f"http://0xa.1:{server.port}/", (["127.0.0.1"],)),
            ("file:///etc/hostname", (["127.0.0.1"],)),
            ("ftp://hooks.example/", (["127.0.0.1"],)),
            (f"http://user@hooks.example:{server.port}/", (["127.0.0.1"],)),
        ):
            replies = {"hooks.example": Reply(addresses, ttl=0), "inside.example": Reply(["10.0.0.1"])}
            server.requests.clear()
            with DnsServer(replies) as dns:
                names = DnsResolver([("127.0.0.1", dns.port)])
                async with calling(resolver=names) as client:
                    assert await by_download(client, first, tmp_path) in REFUSED, target
            assert len(server.requests) == 1
