"""What the services are compared with: the same server and the same client with nothing of ours in them."""

import asyncio
import gc
import socket
from time import perf_counter, process_time
from typing import Any

import aiohttp
import uvicorn

from bench.remote import answer

_kept: set[asyncio.Task[None]] = set()


async def _accept(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def serve() -> dict[str, Any]:
    """Answer 202 to everything, on the server that `shared/runtime/service.py` sets up."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            _accept,
            http="httptools",
            loop="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=65,
        )
    )
    _tuned()
    task = asyncio.create_task(server._serve(sockets=[listening]))
    _kept.add(task)
    while not server.started:  # noqa: ASYNC110 -- uvicorn has no event for it
        await asyncio.sleep(0.01)
    return {"port": listening.getsockname()[1]}


async def post(url: str, body: str, total: int, concurrency: int) -> dict[str, Any]:
    """POST `total` times from `concurrency` loops over one pool; seconds and CPU seconds of the loops."""
    raw = body.encode()
    headers = {"Content-Type": "application/json"}
    left = total

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:

        async def loop() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                async with session.post(url, data=raw, headers=headers) as response:
                    await response.read()

        _tuned()
        started, cpu = perf_counter(), process_time()
        await asyncio.gather(*(loop() for _ in range(concurrency)))
        return {"seconds": perf_counter() - started, "cpu": process_time() - cpu}


def _tuned() -> None:
    """The collector as the services set it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


if __name__ == "__main__":
    import uvloop

    uvloop.run(answer({"serve": serve, "post": post}))
