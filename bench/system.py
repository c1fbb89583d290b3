"""The hub under test: a new broker and database, and the services as processes on their cores."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from bench.machine import Cores, pin, pinned
from bench.webhook import EVENTS, body, request_head
from interlink.embedded import EmbeddedPair, broker_settings
from interlink.supervise import ProcessGroup
from tests.support.apache_kafka import ApacheKafka
from tests.support.apache_kafka import available as unavailable_reason
from tests.support.backends import Bus, Store
from tests.support.hub import Hub

BusName = Literal["embedded", "kafka"]
CONCURRENCY = 64


class System(Hub):
    """The services of one stage. `modules` runs a service from another module: its name and arguments."""

    def __init__(
        self,
        folder: Path,
        bus: Bus,
        store: Store,
        services: Sequence[str],
        cores: Cores,
        group: ProcessGroup,
        *,
        store_pid: int,
        modules: Mapping[str, Sequence[str]] = MappingProxyType({}),
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        env = {"INTERLINK_DRAIN_SECONDS": "2", **env}
        # The console shows all services, so it needs the addresses that the entrance has.
        entrance = "console" in services
        super().__init__(folder, bus, store, services=services, env=env, entrance=entrance)
        self.bootstrap = bus.env["KAFKA_BOOTSTRAP_SERVERS"]
        self.store_uri = self.env["MONGODB_URI"]
        self.store_pid = store_pid
        self._cores = cores
        self._process_group = group
        self._modules = modules

    def start_service(self, name: str, *, module: Sequence[str] = (), **env: str) -> None:
        """Start a service as a test does, but on its core. It ends with the bench."""
        super().start_service(name, module=module or self._modules.get(name, ()), **env)
        # The fork server keeps the cores of its own start.
        pin(self.pid(name), self._cores.system)
        self._process_group.add(self.pid(name))

    def kill(self, name: str) -> None:
        super().kill(name)
        self._process_group.remove(self.pid(name))

    def stop_service(self, name: str) -> int:
        status = super().stop_service(name)
        self._process_group.remove(self.pid(name))
        return status

    def heads(self, *, channels: bool) -> list[str]:
        """Create one endpoint per event; return the heads of requests to them, up to the delivery id."""
        payload = body()
        heads: list[str] = []
        for event in EVENTS:
            channel = {"channel_id": f"ch_{event}"} if channels else {}
            endpoint = self.github_endpoint(rate_limit=100_000_000, **channel)
            path = f"/api/webhooks/github/{endpoint['id']}"
            heads.append(
                request_head(path, f"127.0.0.1:{self.ports['gateway']}", endpoint["secret"], event, payload)
            )
        return heads

    def subscribe(self, port: int) -> None:
        """Create one outgoing webhook per event, so that each received webhook causes one delivery."""
        for event in EVENTS:
            url = f"http://127.0.0.1:{port}/hooks/{event}"
            max_in_flight: Any = CONCURRENCY // len(EVENTS)
            self.outgoing_webhook(url, events=[f"github.{event}"], max_in_flight=max_in_flight)


def has_sync() -> bool:
    """Return whether the sync service is installed."""
    return find_spec("services.sync.app") is not None


@contextlib.contextmanager
def system(
    folder: Path,
    bus_name: BusName,
    services: Sequence[str],
    cores: Cores,
    group: ProcessGroup,
    *,
    modules: Mapping[str, Sequence[str]] = MappingProxyType({}),
    env: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[System]:
    """Run a hub with these services on its own broker and database. It is ready inside the block."""
    with contextlib.ExitStack() as stack:
        pair = EmbeddedPair(folder / "pair")
        kafka: ApacheKafka | None = None
        with pinned(cores.rest):
            if bus_name == "kafka":
                if reason := unavailable_reason():
                    raise SystemExit(f"bench: {reason}")
                kafka = ApacheKafka(folder / "kafka", load=True)
                stack.callback(kafka.stop)
                kafka.start()
                stack.callback(pair.database.stop)
                pair.database.start()
            else:
                stack.callback(pair.stop)
                pair.start()
        bus = (
            {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_SESSION_TIMEOUT_MS": "6000"}
            if kafka
            else {"KAFKA_BOOTSTRAP_SERVERS": pair.kafka_bootstrap, **broker_settings(pair.folder)}
        )
        store = Store("the embedded store", pair.mongodb_uri)
        hub = System(
            folder / "hub",
            Bus(bus_name, bus),
            store,
            services,
            cores,
            group,
            store_pid=pair.database.child.pid or 0,
            modules=modules,
            env=env,
        )
        stack.callback(hub.stop)
        yield hub.start()
