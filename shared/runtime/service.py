"""The skeleton that every service runs in: settings, logs, bus, store, keys, health, readiness, drain.

A service's `app.py` gets a `Runtime`, builds what it is made of and returns a `Service`; `serve` starts
it, answers `/healthz`, `/readyz` and `/metrics`, and drains it on SIGTERM or SIGINT: first no longer
ready, then no new requests, then the batches at hand, then the connections.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Protocol

import orjson
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.contracts.errors import DatabaseRefused, DatabaseUnavailable, Misconfigured
from shared.contracts.topics import Topic
from shared.runtime import metrics
from shared.runtime.configuration import Configuration
from shared.runtime.kafka.connection import connection
from shared.runtime.kafka.consumer import BatchHandler, Consumer, DurabilityBarrier
from shared.runtime.kafka.producer import Producer
from shared.runtime.logs import Log, configure
from shared.runtime.mongo import Mongo
from shared.runtime.secrets import Vault, open_vault
from shared.runtime.settings import HubSettings, KafkaSettings, MongoSettings, load
from shared.runtime.web import problems
from shared.runtime.web.access import Keyring
from shared.runtime.web.body_limit import BodyLimit
from shared.runtime.web.idempotency import Idempotency
from shared.runtime.web.openapi import OpenApiApp, operation_id
from shared.runtime.web.uvicorn_protocol import BoundedHeadProtocol
from shared.wire.forwarded import TrustedProxies
from shared.wire.paths import AMBIGUOUS_PATH_ERROR, is_ambiguous

VERSION: Final = "0.4.0"
_REMOVED_VARIABLE: Final = "FORWARDED_ALLOW_IPS"
"""What uvicorn reads. Ignoring it in silence would make endpoints see the proxy's address instead."""
_DATABASE_TIMEOUT_S: Final = 30.0
_PING_INTERVAL_S: Final = 2.0


class ServicePart(Protocol):
    """Something that runs as long as the service: a snapshot, a scheduler, a flusher."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass
class Runtime:
    """What a service receives: its connections, and the helpers that bind them together."""

    name: str
    hub: HubSettings
    kafka: KafkaSettings
    log: Log
    mongo: Mongo
    configuration: Configuration
    producer: Producer
    keyring: Keyring
    vault: Vault

    @property
    def instance(self) -> str:
        """The name of this process, which the one that is started in its place has too."""
        return f"{socket.gethostname()}-{self.hub.host}-{self.hub.port}"

    def consumer(
        self,
        *,
        group: str,
        topics: Sequence[Topic],
        handler: BatchHandler,
        max_records: int = 500,
        durable: DurabilityBarrier | None = None,
    ) -> Consumer:
        """A member of the consumer group `<service>-<group>`."""
        return Consumer(
            self.kafka,
            self.producer,
            self.log,
            group=f"{self.name}-{group}",
            topics=topics,
            handler=handler,
            max_records=max_records,
            instance=self.instance,
            durable=durable,
        )

    def management_app(self, title: str, *, max_body_bytes: int = 1024 * 1024) -> FastAPI:
        """A FastAPI app with problem details, bounded bodies, API keys and idempotency keys in place."""
        app = OpenApiApp(
            title=title,
            version=VERSION,
            servers=[{"url": self.hub.public_base}],
            generate_unique_id_function=operation_id,
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
        )
        app.add_route(f"/openapi/{self.name}.json", app.document, include_in_schema=False)
        app.state.keyring = self.keyring
        problems.install_handlers(app, self.log)
        app.add_middleware(
            Idempotency, mongo=self.mongo, vault=self.vault, keyring=self.keyring, service=self.name
        )
        app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
        return app


@dataclass
class Service:
    """What a service is made of. Parts start in order, before the consumers, and stop in reverse."""

    app: ASGIApp
    parts: Sequence[ServicePart] = ()
    consumers: Sequence[Consumer] = ()


Build = Callable[[Runtime], Awaitable[Service]]


@contextlib.asynccontextmanager
async def runtime(name: str) -> AsyncIterator[Runtime]:
    """The connections of one process. Raises `Misconfigured`; waits up to 30 s for the store."""
    if _REMOVED_VARIABLE in os.environ:
        raise Misconfigured(
            f"{_REMOVED_VARIABLE} is not read any more: set INTERLINK_TRUSTED_PROXIES instead"
        )
    hub, kafka, mongo_settings = load(HubSettings), load(KafkaSettings), load(MongoSettings)
    connection(kafka)  # a file or a password that is not there is said now, not by a client in the background
    log = configure(name, hub.log_level)
    vault = open_vault(hub)
    mongo = Mongo(mongo_settings, app=f"interlink-{name}")
    producer = Producer(kafka, log, client_id=f"interlink-{name}")
    configuration = Configuration(mongo, log)
    keyring = Keyring(mongo, configuration, vault, log)
    try:
        await _wait_for_database(mongo)
        await configuration.start()
        await keyring.start()
        producer.start()
        yield Runtime(name, hub, kafka, log, mongo, configuration, producer, keyring, vault)
    finally:
        await keyring.stop()
        await configuration.stop()
        await producer.stop()
        mongo.close()


async def serve(name: str, build: Build) -> None:
    """Run a service until SIGTERM or SIGINT. Raises `Misconfigured` when it cannot start."""
    async with runtime(name) as here:
        listening = _bind(here.hub.host, here.hub.port)
        service = await build(here)
        door = _ServiceApp(service, here)
        server = _Server(
            uvicorn.Config(
                door,
                http=BoundedHeadProtocol,
                loop="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                proxy_headers=False,  # see `_Door._take_client`
                server_header=False,
                timeout_keep_alive=65,
                timeout_graceful_shutdown=max(1, int(here.hub.drain_seconds / 2)),
            )
        )
        started: list[ServicePart] = []
        try:
            for part in service.parts:
                await part.start()
                started.append(part)
            for consumer in service.consumers:
                consumer.start()
            gc.collect()
            gc.freeze()
            gc.set_threshold(100_000, 50, 100)
            with _drain_on_signal(door, server):
                here.log.info("started", host=here.hub.host, port=here.hub.port)
                await server.serve(sockets=[listening])
        finally:
            await asyncio.gather(
                *(consumer.stop(timeout_s=here.hub.drain_seconds / 2) for consumer in service.consumers)
            )
            for part in reversed(started):
                await part.stop()
            here.log.info("stopped")


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again before the batches at hand are done."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _drain_on_signal(door: "_ServiceApp", server: uvicorn.Server) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def drain() -> None:
        door.draining = True
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


@dataclass
class _ServiceApp:
    """The outermost ASGI app: health, readiness and metrics, then the service itself."""

    service: Service
    runtime: Runtime
    draining: bool = False
    _database_ok: bool = False
    _database_checked: float = field(default=-_PING_INTERVAL_S)
    _proxies: TrustedProxies = field(init=False)

    def __post_init__(self) -> None:
        self._proxies = self.runtime.hub.proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if is_ambiguous(scope["raw_path"].partition(b"?")[0]):
                refused = problems.problem_response(
                    400, AMBIGUOUS_PATH_ERROR, headers=dict(problems.SANDBOX_HEADERS)
                )
                return await refused(scope, receive, send)
            self._set_client(scope)
            if path == "/healthz":
                return await _send_response(send, 200, b'{"status":"alive"}')
            if path == "/readyz":
                checks = await self._checks()
                ready = all(checks.values())
                body = orjson.dumps({"ready": ready, "checks": checks})
                return await _send_response(send, 200 if ready else 503, body)
            if path == "/metrics":
                return await _send_response(
                    send, 200, metrics.exposition(), b"text/plain; version=0.0.4; charset=utf-8"
                )
        try:
            await self.service.app(scope, receive, send)
        except asyncio.CancelledError:
            if not self.draining or scope["type"] != "http":
                raise
            headers = {"Retry-After": "1", **problems.SANDBOX_HEADERS}
            late = problems.problem_response(503, "the service is stopping: send it again", headers=headers)
            with contextlib.suppress(RuntimeError):  # the answer had begun
                await late(scope, receive, send)

    def _set_client(self, scope: Scope) -> None:
        """Set the request's client to the address that trusted proxies vouch for."""
        if scope["client"]:
            forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
            peer, port = scope["client"]
            client = self._proxies.client(peer, forwarded)
            scope["client"] = (client, port if client == peer else 0)

    async def _checks(self) -> dict[str, bool]:
        if monotonic() - self._database_checked >= _PING_INTERVAL_S:
            try:
                async with asyncio.timeout(2):
                    await self.runtime.mongo.ping()
                self._database_ok = True
            except (DatabaseUnavailable, TimeoutError):
                self._database_ok = False
            self._database_checked = monotonic()
        checks = {
            "not_draining": not self.draining,
            "producer_has_metadata": self.runtime.producer.ready,
            "store_answers": self._database_ok,
        }
        checks |= {f"{consumer.group}_assigned": consumer.ready for consumer in self.service.consumers}
        return checks


async def _send_response(send: Send, status: int, body: bytes, media: bytes = b"application/json") -> None:
    headers = [(b"content-type", media), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _wait_for_database(mongo: Mongo) -> None:
    deadline = monotonic() + _DATABASE_TIMEOUT_S
    while True:
        try:
            return await mongo.ping()
        except DatabaseRefused as error:
            raise Misconfigured(str(error)) from None
        except DatabaseUnavailable as error:
            if monotonic() > deadline:
                raise Misconfigured(
                    f"MONGODB_URI: the store did not answer within {_DATABASE_TIMEOUT_S:.0f} s ({error})"
                ) from None
            await asyncio.sleep(0.5)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Misconfigured(f"cannot listen on {host}:{port}: {error.strerror}; set INTERLINK_PORT") from None
    listening.set_inheritable(False)
    return listening


def run(name: str, build: Build) -> None:
    """Run a service in this process on uvloop, until it is told to stop."""
    import uvloop  # noqa: PLC0415 -- not on every platform

    uvloop.run(serve(name, build))
