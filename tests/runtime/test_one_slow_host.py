"""A host that does not answer delays only its own calls."""

import asyncio

import pytest

from shared.runtime.egress.client import EgressClient


async def _serve(answer: bool) -> asyncio.Server:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if not answer:
            await asyncio.sleep(30)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", 0)


def _url(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize("max_per_host", [5])
async def test_a_host_that_does_not_answer_leaves_connections_for_others(max_per_host: int) -> None:
    client = EgressClient("loopback", max_connections=20, max_per_host=max_per_host)
    await client.start()
    slow, quick = await _serve(answer=False), await _serve(answer=True)
    try:
        waiting = [asyncio.create_task(client.get(_url(slow), timeout_s=5)) for _ in range(40)]
        await asyncio.sleep(0.2)
        answer = await client.get(_url(quick), timeout_s=4)
        assert answer.status == 200
        assert {response.failure for response in await asyncio.gather(*waiting)} == {"timeout"}
    finally:
        await client.stop()
        for server in (slow, quick):
            server.close()


async def test_a_workspace_whose_hosts_do_not_answer_leaves_connections_for_others() -> None:
    client = EgressClient("loopback", max_connections=20, max_per_host=5, max_per_workspace=10)
    await client.start()
    slow, quick = [await _serve(answer=False) for _ in range(8)], await _serve(answer=True)
    try:
        waiting = [
            asyncio.create_task(client.get(_url(server), timeout_s=5, workspace="hostile"))
            for server in slow
            for _ in range(5)
        ]
        await asyncio.sleep(0.2)
        for workspace in ("other", ""):
            answer = await client.get(_url(quick), timeout_s=4, workspace=workspace)
            assert answer.status == 200
        assert {response.failure for response in await asyncio.gather(*waiting)} == {"timeout"}
        answer = await client.get(_url(quick), timeout_s=4, workspace="hostile")
        assert answer.status == 200, "its slots are released"
    finally:
        await client.stop()
        for server in (*slow, quick):
            server.close()
