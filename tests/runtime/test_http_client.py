"""The client for calls between services."""

import gc

import httpx
from aiohttp import web

from shared.runtime.http_client import ApiClient
from tests.support.subscriber import Subscriber


async def test_a_call_leaves_nothing_for_the_collection_of_garbage() -> None:
    """Services collect garbage seldom: bodies that wait for it would fill the memory."""
    with Subscriber(lambda _: web.Response(text="answer")) as server:
        client = ApiClient(timeout_s=10)
        status, _, body = await client.call("POST", server.url, [], b"first")
        assert (status, body) == (200, b"answer")
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await client.call("POST", server.url, [], bytes(1000))
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [item for item in gc.garbage if isinstance(item, httpx.Request | httpx.Response)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        await client.close()
    assert left == []
