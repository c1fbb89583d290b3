"""The baseline of the services: the same HTTP server and client without any code of the hub."""

import asyncio
import gc
import socket
from time import perf_counter, process_time
from typing import Any

import aiohttp
import uvicorn

from bench.remote import answer

_tasks: set[asyncio.Task[None]] = set()


async def _accept(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def serve() -> dict[str, Any]:
    """Answer every request with 202, on the server that `shared/runtime/service.py` sets up."""
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
    await start(server, listening)
    return {"port": listening.getsockname()[1]}


async def start(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve on a bound socket until the process ends. Return once requests are accepted."""
    tune_collector()
    task = asyncio.create_task(server._serve(sockets=[listening]))
    _tasks.add(task)  # the event loop holds only weak references
    while not server.started:  # noqa: ASYNC110 -- uvicorn has no event for it
        await asyncio.sleep(0.01)


async def post(url: str, body: str, total: int, concurrency: int) -> dict[str, Any]:
    """POST `total` times from `concurrency` loops over one pool; return seconds and CPU seconds."""
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

        tune_collector()
        started, cpu = perf_counter(), process_time()
        await asyncio.gather(*(loop() for _ in range(concurrency)))
        return {"seconds": perf_counter() - started, "cpu": process_time() - cpu}


def tune_collector() -> None:
    """Set up the garbage collector as the services do."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


if __name__ == "__main__":
    import uvloop

    uvloop.run(answer({"serve": serve, "post": post}))
