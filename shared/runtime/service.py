"""The frame that every service runs in: settings, logs, Kafka, MongoDB, keys, health, readiness and drain.

A service's `app.py` gets a `Runtime`, builds the service's parts and returns a `Service`. `serve` starts it
and answers `/healthz`, `/readyz` and `/metrics`. SIGTERM or SIGINT drains it in this order: it is no longer
ready, takes no new requests, finishes the current batches, and closes its connections.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from shared.contracts.errors import Misconfigured
from shared.contracts.topics import Topic
from shared.runtime import metrics, tracing
from shared.runtime.clock import ClockWatch
from shared.runtime.configuration import Configuration
from shared.runtime.draining import Draining
from shared.runtime.encryption_keys import open_vault
from shared.runtime.expiry import Expiry
from shared.runtime.health import HealthChecks
from shared.runtime.kafka.batch import BatchHandler
from shared.runtime.kafka.connection import connection
from shared.runtime.kafka.consumer import Consumer, Drain
from shared.runtime.kafka.producer import Producer
from shared.runtime.kafka.traced_producer import TracedProducer
from shared.runtime.logs import Log, configure
from shared.runtime.mongo import Index, Mongo
from shared.runtime.periodic_task import PeriodicTask
from shared.runtime.prerequisites import wait_for_database, wait_for_topics_and_indexes
from shared.runtime.secrets import Vault
from shared.runtime.settings import HubSettings, KafkaSettings, MongoSettings, load
from shared.runtime.start_metrics import set_start_metrics
from shared.runtime.version import VERSION
from shared.runtime.web import problems
from shared.runtime.web.access import Keyring
from shared.runtime.web.audit import Audit, audited_routes
from shared.runtime.web.audit_entries import AuditEntries
from shared.runtime.web.bare_route import BareHandler, BareRoute
from shared.runtime.web.body_limit import BodyLimit
from shared.runtime.web.idempotency import Idempotency
from shared.runtime.web.idempotency_keys import IdempotencyKeys
from shared.runtime.web.openapi import OpenApiApp, operation_id
from shared.runtime.web.server import Server
from shared.runtime.web.service_app import ServiceApp
from shared.runtime.web.shared_indexes import SHARED_INDEXES
from shared.runtime.web.traced_requests import TracedRequests
from shared.runtime.web.uvicorn_protocol import BoundedHeadProtocol
from shared.runtime.workers.fork import Worker, bind
from shared.runtime.workers.memory import SharedMemory
from shared.runtime.workers.siblings import Siblings
from shared.runtime.workspaces import DeleteData, WorkspaceCleanup, Workspaces

_REMOVED_VARIABLE: Final = "FORWARDED_ALLOW_IPS"
"""A variable of uvicorn. If it were silently ignored, the proxy would count as the client of all requests."""
_BROKER_CHECK_INTERVAL_S: Final = 5.0


class ServicePart(Protocol):
    """A part of a service that ends with the service: a client, a cache."""

    async def stop(self) -> None: ...


@runtime_checkable
class RunningPart(ServicePart, Protocol):
    """A part of a service that runs as long as the service: a snapshot, a scheduler, a flusher."""

    async def start(self) -> None: ...


class ManagementApi(Protocol):
    """The routes of one resource of a management API."""

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""


@dataclass
class Runtime:
    """The settings and connections of one process, and what a service builds with them."""

    name: str
    hub: HubSettings
    kafka: KafkaSettings
    log: Log
    mongo: Mongo
    configuration: Configuration
    producer: Producer
    keyring: Keyring
    vault: Vault
    worker: Worker | None = None
    """None if this process is the whole service."""
    draining: Draining = field(default_factory=Draining)

    @property
    def instance(self) -> str:
        """The name of this process: host name and listening address. After a restart it is the same."""
        return _instance(self.hub, self.worker)

    @property
    def workers(self) -> int:
        """The number of processes that serve together on one port, this one included."""
        return self.worker.count if self.worker else 1

    @property
    def memory(self) -> SharedMemory | None:
        """The memory that these processes share; None if there is only this one.

        Take parts of it only while the service is built: all workers must take the same parts in the same
        order.
        """
        return self.worker.memory if self.worker else None

    def workspace_cleanup(self, *steps: DeleteData) -> ServicePart:
        """Return the part that deletes this service's data of deleted workspaces with these steps."""
        return WorkspaceCleanup(Workspaces(self.mongo), self.name, steps, self.log).worker

    def consumer(
        self,
        *,
        group: str,
        topics: Sequence[Topic],
        handler: BatchHandler,
        max_records: int = 500,
        drain: Drain | None = None,
    ) -> Consumer:
        """Return a new member of the consumer group `<service>-<group>`; see `Consumer`."""
        return Consumer(
            self.kafka,
            self.producer,
            self.log,
            group=f"{self.name}-{group}",
            topics=topics,
            handler=handler,
            max_records=max_records,
            instance=self.instance,
            drain=drain,
        )

    def management_app(
        self,
        title: str,
        apis: Iterable[ManagementApi],
        *,
        max_body_bytes: int = 1024 * 1024,
        unaudited: Collection[str] = (),
        bare: Mapping[str, BareHandler] = MappingProxyType({}),
    ) -> FastAPI:
        """Return the management API of this service, composed of the routes of `apis`.

        Whatever the routes are, the app answers errors as problem details, bounds bodies, gives repeats with
        an `Idempotency-Key` the first response, and stores an audit entry for each call that changes
        something. `unaudited` are the paths of routes without entries: they change no configuration. Each
        route names its scope with `requires`, which also rejects unknown parameters. `bare` has the handlers
        of `POST` calls that the framework only documents, by path; they are not audited. The OpenAPI document
        is at `/openapi/<service>.json`.
        """
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
        for api in apis:
            api.mount(app)
        app.state.keyring = self.keyring
        problems.install_handlers(app, self.log)
        # The middleware that is added last is outermost. `Idempotency` and `Audit` rely on a bounded,
        # complete body; a repeat that `Idempotency` answers must not get to `Audit`.
        app.add_middleware(
            Audit,
            routes=audited_routes(app.routes, {*unaudited, *bare}),
            entries=self.audit_entries,
            keyring=self.keyring,
            service=self.name,
            log=self.log,
        )
        for path, handler in bare.items():
            app.add_middleware(BareRoute, path=path, handler=handler, log=self.log)
        app.add_middleware(
            Idempotency,
            keys=IdempotencyKeys(self.mongo),
            vault=self.vault,
            keyring=self.keyring,
            service=self.name,
        )
        app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
        return app

    @cached_property
    def audit_entries(self) -> AuditEntries:
        """The audit log of all services."""
        return AuditEntries(
            self.mongo,
            ttl=timedelta(days=self.hub.audit_days),
            per_workspace=self.hub.audit_entries_per_workspace,
        )


@dataclass
class Service:
    """The components of a service. Parts start in order, before the consumers, and stop in reverse order."""

    app: ASGIApp
    parts: Sequence[ServicePart] = ()
    consumers: Sequence[Consumer] = ()
    indexes: Mapping[str, Sequence[Index]] = field(default_factory=dict)
    """The indexes of the service's own collections."""
    is_edge: bool = False
    """True if strangers call this service: whether their requests are traced is the hub's decision."""
    gc_thresholds: tuple[int, int, int] = (100_000, 50, 100)


Build = Callable[[Runtime], Awaitable[Service]]


def _instance(hub: HubSettings, worker: Worker | None) -> str:
    name = f"{socket.gethostname()}-{hub.host}-{hub.port}"
    return f"{name}-w{worker.number}" if worker and worker.number else name


@contextlib.asynccontextmanager
async def runtime(name: str, worker: Worker | None = None) -> AsyncIterator[Runtime]:
    """Open the connections of one process, which may be one of several workers, for the time of the context.

    Waits up to 30 s for MongoDB. Raises `Misconfigured` if a setting is missing or wrong, or MongoDB does not
    answer.
    """
    if _REMOVED_VARIABLE in os.environ:
        raise Misconfigured(
            f"{_REMOVED_VARIABLE} is not read any more: set INTERLINK_TRUSTED_PROXIES instead"
        )
    hub, kafka, mongo_settings = load(HubSettings), load(KafkaSettings), load(MongoSettings)
    connection(kafka)  # so that a missing file or password fails here, not in a background task
    log = configure(name, hub.log_level)
    if worker:
        log = log.bind(worker=worker.number)
    vault = open_vault(hub)
    mongo = Mongo(mongo_settings, app=f"interlink-{name}")
    tracer = tracing.tracer = tracing.start_tracing(
        name, instance=_instance(hub, worker), ratio=hub.trace_ratio
    )
    client_id = f"interlink-{name}"
    producer = (
        TracedProducer(kafka, log, client_id=client_id, tracer=tracer)
        if tracer
        else Producer(kafka, log, client_id=client_id)
    )
    clock_watch = ClockWatch(mongo, log)
    configuration = Configuration(mongo, log)
    keyring = Keyring(mongo, configuration, vault, log)
    try:
        await wait_for_database(mongo)
        await clock_watch.start()
        await configuration.start()
        await keyring.start()
        producer.start()
        yield Runtime(name, hub, kafka, log, mongo, configuration, producer, keyring, vault, worker)
    finally:
        await clock_watch.stop()
        await keyring.stop()
        await configuration.stop()
        await producer.stop()
        mongo.close()
        if tracer:
            await tracer.stop()


async def serve(name: str, build: Build, *, worker: Worker | None = None) -> None:
    """Run a service until SIGTERM or SIGINT. Raises `Misconfigured` if it cannot start."""
    async with runtime(name, worker) as context:
        listener = bind(context.hub.host, context.hub.port, shared=worker is not None)
        service = await build(context)
        indexes = [service.indexes, *SHARED_INDEXES]
        await wait_for_topics_and_indexes(name, context.kafka, context.mongo, indexes, context.log)
        health = HealthChecks(context.mongo, context.producer, service.consumers)
        ready, alive, exposition = health.ready, health.alive, _own_exposition
        number = worker.number if worker else 0
        await set_start_metrics(name, number, context.mongo, context.vault, context.kafka)
        broker_check = PeriodicTask(context.producer.check, _BROKER_CHECK_INTERVAL_S, context.log)
        parts = [*service.parts, broker_check]
        if worker is None or worker.number == 0:
            parts.append(Expiry(context.mongo, indexes, context.log))
        if worker:
            siblings = Siblings(worker, {"ready": ready, "alive": alive}, context.log)
            ready, alive, exposition = siblings.ready, siblings.alive, siblings.exposition
            parts.insert(0, siblings)
        own_app = service.app
        if tracing.tracer is not None:
            own_app = TracedRequests(own_app, tracing.tracer, is_edge=service.is_edge)
        app = ServiceApp(own_app, context.hub.proxies, ready=ready, alive=alive, exposition=exposition)
        server = Server(
            uvicorn.Config(
                app,
                http=BoundedHeadProtocol,
                loop="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                proxy_headers=False,  # `ServiceApp` sets the client
                server_header=False,
                timeout_keep_alive=65,
                timeout_graceful_shutdown=max(1, int(context.hub.drain_seconds / 2)),
            )
        )
        started: list[ServicePart] = []
        try:
            for part in parts:
                if isinstance(part, RunningPart):
                    await part.start()
                started.append(part)
            for consumer in service.consumers:
                consumer.start()
            # What exists now stays for the life of the process: freezing it keeps it out of every collection.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*service.gc_thresholds)
            with _drain_on_signal(app, server, worker, context.draining):
                if worker:
                    worker.started[worker.number] = 1
                context.log.info("service.started", host=context.hub.host, port=context.hub.port)
                await server.serve(sockets=[listener])
        finally:
            await asyncio.gather(
                *(consumer.stop(timeout_s=context.hub.drain_seconds / 2) for consumer in service.consumers)
            )
            for part in reversed(started):
                await part.stop()
            context.log.info("service.stopped")


async def _own_exposition() -> bytes:
    return metrics.exposition()


@contextlib.contextmanager
def _drain_on_signal(
    app: ServiceApp, server: Server, worker: Worker | None, draining: Draining
) -> Iterator[None]:
    """Start the drain on SIGTERM or SIGINT, or when the parent of a worker has ended.

    After the context, both signals are ignored.
    """
    loop = asyncio.get_running_loop()

    def drain() -> None:
        app.draining = True
        server.stop()
        draining.start()
        if worker:
            loop.remove_reader(worker.parent)  # it stays readable

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain)
    if worker:
        loop.add_reader(worker.parent, drain)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def run(name: str, build: Build, *, worker: Worker | None = None) -> None:
    """Run a service in this process on uvloop, until SIGTERM or SIGINT; as one of several for a `worker`."""
    import uvloop  # noqa: PLC0415 -- not on every platform

    uvloop.run(serve(name, build, worker=worker))
