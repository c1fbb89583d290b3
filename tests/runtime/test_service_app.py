"""What every service's outermost app does with connections."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from shared.runtime.web.service_app import ServiceApp
from shared.wire.forwarded import TrustedProxies


class Held:
    """An app that responds once it is released, and keeps what that raised."""

    def __init__(self) -> None:
        self.released, self.ended = threading.Event(), threading.Event()
        self.errors: list[RuntimeError] = []

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await asyncio.to_thread(self.released.wait, 20)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"late"})
        except RuntimeError as error:
            self.errors.append(error)
        finally:
            self.ended.set()


async def _no_checks() -> Mapping[str, bool]:
    return {}


async def _no_metrics() -> bytes:
    return b""


@contextmanager
def _serving(app: ServiceApp) -> Iterator[uvicorn.Server]:
    """Serve the app as services do, with uvicorn, httptools and uvloop."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app, http="httptools", lifespan="off", log_config=None, port=listening.getsockname()[1]
        )
        server = uvicorn.Server(config)

        def serve() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server.serve([listening]))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server
        finally:
            server.should_exit = True
            thread.join()


def test_a_connection_that_is_closed_with_two_requests_open_causes_no_error() -> None:
    held = Held()
    app = ServiceApp(held, TrustedProxies(()), _no_checks, _no_metrics)
    with _serving(app) as server:
        with socket.create_connection(("127.0.0.1", server.config.port), timeout=20) as connection:
            connection.sendall(2 * b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n" + b"no HTTP\r\n\r\n")
            while connection.recv(1000):  # the server refuses the third, and closes the connection
                pass
        held.released.set()
        assert held.ended.wait(20)
    assert held.errors == []
