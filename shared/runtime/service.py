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

from shared.contracts.errors import Misconfigured, StoreRefuses, StoreUnavailable
from shared.contracts.topics import Topic
from shared.runtime import metrics, problems
from shared.runtime.access import Keyring
from shared.runtime.bounds import BoundedBody
from shared.runtime.configuration import Configuration
from shared.runtime.documents import Documented, operation_id
from shared.runtime.idempotency import Idempotency
from shared.runtime.kafka.connection import connection
from shared.runtime.kafka.consume import Consumer, Durable, Handler
from shared.runtime.kafka.produce import Producer
from shared.runtime.logs import Log, configure
from shared.runtime.mongo import Mongo
from shared.runtime.protocol import BoundedHead
from shared.runtime.secrets import Vault, open_vault
from shared.runtime.settings import HubSettings, KafkaSettings, MongoSettings, load
from shared.wire.forwarded import TrustedProxies
from shared.wire.paths import REFUSAL, is_ambiguous

VERSION: Final = "0.4.0"
_REPLACED: Final = "FORWARDED_ALLOW_IPS"
"""What uvicorn reads. Ignoring it in silence would make endpoints see the proxy's address instead."""
_STORE_WAIT_S: Final = 30.0
_PING_EVERY_S: Final = 2.0


class Part(Protocol):
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
        handler: Handler,
        max_records: int = 500,
        durable: Durable | None = None,
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

    def management_app(self, title: str, *, most_body: int = 1024 * 1024) -> FastAPI:
        """A FastAPI app with problem details, bounded bodies, API keys and idempotency keys in place."""
        app = Documented(
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
        problems.install(app, self.log)
        app.add_middleware(
            Idempotency, mongo=self.mongo, vault=self.vault, keyring=self.keyring, service=self.name
        )
        app.add_middleware(BoundedBody, most=most_body)
        return app


@dataclass
class Service:
    """What a service is made of. Parts start in order, before the consumers, and stop in reverse."""

    app: ASGIApp
    parts: Sequence[Part] = ()
    consumers: Sequence[Consumer] = ()


Build = Callable[[Runtime], Awaitable[Service]]


@contextlib.asynccontextmanager
async def runtime(name: str) -> AsyncIterator[Runtime]:
    """The connections of one process. Raises `Misconfigured`; waits up to 30 s for the store."""
    if _REPLACED in os.environ:
        raise Misconfigured(f"{_REPLACED} is not read any more: set INTERLINK_TRUSTED_PROXIES instead")
    hub, kafka, mongo_settings = load(HubSettings), load(KafkaSettings), load(MongoSettings)
    connection(kafka)  # a file or a password that is not there is said now, not by a client in the background
    log = configure(name, hub.log_level)
    vault = open_vault(hub)
    mongo = Mongo(mongo_settings, app=f"interlink-{name}")
    producer = Producer(kafka, log, client_id=f"interlink-{name}")
    configuration = Configuration(mongo, log)
    keyring = Keyring(mongo, configuration, vault, log)
    try:
        await _store_answers(mongo)
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
        door = _Door(service, here)
        server = _Server(
            uvicorn.Config(
                door,
                http=BoundedHead,
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
        started: list[Part] = []
        try:
            for part in service.parts:
                await part.start()
                started.append(part)
            for consumer in service.consumers:
                consumer.start()
            gc.collect()
            gc.freeze()
            gc.set_threshold(100_000, 50, 100)
            with _on_signal(door, server):
                here.log.info("started", host=here.hub.host, port=here.hub.port)
                await server.serve(sockets=[listening])
        finally:
            await asyncio.gather(
                *(consumer.stop(within_s=here.hub.drain_seconds / 2) for consumer in service.consumers)
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
def _on_signal(door: "_Door", server: uvicorn.Server) -> Iterator[None]:
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
class _Door:
    """The outermost ASGI app: health, readiness and metrics, then the service itself."""

    service: Service
    here: Runtime
    draining: bool = False
    _store_ok: bool = False
    _store_checked: float = field(default=-_PING_EVERY_S)
    _proxies: TrustedProxies = field(init=False)

    def __post_init__(self) -> None:
        self._proxies = self.here.hub.proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if is_ambiguous(scope["raw_path"].partition(b"?")[0]):
                refused = problems.problem_response(400, REFUSAL, headers=dict(problems.NEVER_A_PAGE))
                return await refused(scope, receive, send)
            self._take_client(scope)
            if path == "/healthz":
                return await _answer(send, 200, b'{"status":"alive"}')
            if path == "/readyz":
                checks = await self._checks()
                ready = all(checks.values())
                body = orjson.dumps({"ready": ready, "checks": checks})
                return await _answer(send, 200 if ready else 503, body)
            if path == "/metrics":
                return await _answer(
                    send, 200, metrics.exposition(), b"text/plain; version=0.0.4; charset=utf-8"
                )
        try:
            await self.service.app(scope, receive, send)
        except asyncio.CancelledError:
            if not self.draining or scope["type"] != "http":
                raise
            headers = {"Retry-After": "1", **problems.NEVER_A_PAGE}
            late = problems.problem_response(503, "the service is stopping: send it again", headers=headers)
            with contextlib.suppress(RuntimeError):  # the answer had begun
                await late(scope, receive, send)

    def _take_client(self, scope: Scope) -> None:
        """Set the request's client to the address that trusted proxies vouch for."""
        if scope["client"]:
            forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
            peer, port = scope["client"]
            client = self._proxies.client(peer, forwarded)
            scope["client"] = (client, port if client == peer else 0)

    async def _checks(self) -> dict[str, bool]:
        if monotonic() - self._store_checked >= _PING_EVERY_S:
            try:
                async with asyncio.timeout(2):
                    await self.here.mongo.ping()
                self._store_ok = True
            except (StoreUnavailable, TimeoutError):
                self._store_ok = False
            self._store_checked = monotonic()
        checks = {
            "not_draining": not self.draining,
            "producer_has_metadata": self.here.producer.ready,
            "store_answers": self._store_ok,
        }
        checks |= {f"{consumer.group}_assigned": consumer.ready for consumer in self.service.consumers}
        return checks


async def _answer(send: Send, status: int, body: bytes, media: bytes = b"application/json") -> None:
    headers = [(b"content-type", media), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _store_answers(mongo: Mongo) -> None:
    deadline = monotonic() + _STORE_WAIT_S
    while True:
        try:
            return await mongo.ping()
        except StoreRefuses as error:
            raise Misconfigured(str(error)) from None
        except StoreUnavailable as error:
            if monotonic() > deadline:
                raise Misconfigured(
                    f"MONGODB_URI: the store did not answer within {_STORE_WAIT_S:.0f} s ({error})"
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
