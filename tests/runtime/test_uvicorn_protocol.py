"""The HTTP protocol of every service, with uvicorn's server: lost connections, and responses in one write."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPResponse

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.runtime.web.service_app import ServiceApp
from shared.runtime.web.uvicorn_protocol import BoundedHeadProtocol
from shared.runtime.web.whole_response import write_response
from shared.wire.forwarded import TrustedProxies

REQUEST = b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n"


async def _no_checks() -> Mapping[str, bool]:
    return {}


async def _no_metrics() -> bytes:
    return b""


@contextmanager
def _serving(app: ASGIApp) -> Iterator[int]:
    """Serve an app as services do; yields the port."""
    outermost = ServiceApp(
        app, TrustedProxies(()), ready=_no_checks, alive=_no_checks, exposition=_no_metrics
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            outermost,
            http=BoundedHeadProtocol,
            loop="none",
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)

        def serve() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server.serve([listening]))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def test_a_lost_connection_ends_its_first_request_too(caplog: pytest.LogCaptureFixture) -> None:
    """Its newest request is the second one, which has not started."""
    received: list[str] = []
    ended = threading.Event()

    async def wait_and_respond(_scope: Scope, receive: Receive, send: Send) -> None:
        received.append((await receive())["type"])
        received.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})
        ended.set()

    with _serving(wait_and_respond) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(2 * REQUEST + b"no HTTP\r\n\r\n")
            while connection.recv(1000):  # the server refuses the third, and closes the connection
                pass
        assert ended.wait(60)
    assert received == ["http.request", "http.disconnect"]
    assert "Exception in ASGI application" not in caplog.text


def test_a_response_is_one_write_in_every_service() -> None:
    """`write_response` needs uvicorn's own `send`: nothing on the way may replace it."""
    written: list[bool] = []

    async def respond(_scope: Scope, _receive: Receive, send: Send) -> None:
        written.append(write_response(send, 202, b"x-test: one\r\n", b"done"))

    with (
        _serving(respond) as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        connection.sendall(REQUEST)
        response = HTTPResponse(connection)
        response.begin()
        assert (response.status, response.headers["x-test"], response.read()) == (202, "one", b"done")
    assert written == [True]
