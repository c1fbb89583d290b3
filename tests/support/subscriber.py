"""A subscriber of outgoing webhooks: a real HTTP server that keeps what it gets and misbehaves on request."""

import asyncio
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Self

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from tests.support import capture


@dataclass(frozen=True)
class WebhookRequest:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    client: str = ""
    """The common name of the client's certificate, with TLS that asks for one."""


Answer = Callable[[WebhookRequest], web.StreamResponse | None]


class Subscriber:
    """Listens on a port of its own, in a thread of its own; usable as a context manager.

    `answer` decides per request (default 204); `secret` makes it verify every request with the
    `standardwebhooks` library and answer 401 when that refuses. `tls` makes it speak HTTPS only.
    """

    def __init__(
        self,
        answer: Answer | None = None,
        secret: str | None = None,
        delay_s: float = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.got: list[WebhookRequest] = []
        self.refused: list[WebhookRequest] = []
        self.answer = answer
        self.secret = secret
        self.delay_s = delay_s
        self.in_progress = 0
        self.max_concurrent = 0
        """Of requests that were taken and not answered yet, with `delay_s`."""
        self._tls = tls
        self._port = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        capture.include_ports(self._port)
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def wait_for(self, count: int, within_s: float = 60) -> list[WebhookRequest]:
        """The requests, once there are `count`; fails when they do not come."""
        deadline = monotonic() + within_s
        while len(self.got) < count and monotonic() < deadline:
            sleep(0.02)
        assert len(self.got) >= count, f"{len(self.got)} of {count} requests came within {within_s} s"
        return list(self.got)

    async def _start(self) -> None:
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]
        capture.exclude_ports(self._port)
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}/hook"

    async def _stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        got = WebhookRequest(
            request.path,
            {k.lower(): v for k, v in request.headers.items()},
            await request.read(),
            monotonic(),
            _common_name(request),
        )
        if self.secret:
            try:
                Webhook(self.secret).verify(got.body, got.headers)
            except WebhookVerificationError:
                self.refused.append(got)
                return web.Response(status=401)
        self.got.append(got)
        if self.delay_s:
            self.in_progress += 1
            self.max_concurrent = max(self.max_concurrent, self.in_progress)
            try:
                await asyncio.sleep(self.delay_s)
            finally:
                self.in_progress -= 1
        return (self.answer(got) if self.answer else None) or web.Response(status=204)


def _common_name(request: web.Request) -> str:
    certificate = request.get_extra_info("peercert") or {}
    named = [pair for part in certificate.get("subject", ()) for pair in part]
    return next((value for name, value in named if name == "commonName"), "")
