"""The hub under test: a fresh bus and store, and the services as real processes, each on its cores."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from bench.machine import Cores, pinned
from bench.webhook import EVENTS, body, request_head
from interlink.embedded import BROKER_SETTINGS, Embedded
from interlink.supervise import Leash
from tests.support.apache_kafka import ApacheKafka
from tests.support.apache_kafka import available as why_not
from tests.support.backends import Bus, Store
from tests.support.hub import Hub

BusName = Literal["embedded", "kafka"]
CONCURRENCY = 64


class System(Hub):
    """The services of one stage; `profiled` starts that one under the profiler."""

    def __init__(
        self,
        folder: Path,
        bus: Bus,
        store: Store,
        services: Sequence[str],
        cores: Cores,
        leash: Leash,
        profiled: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, bus, store, services=services, env={"INTERLINK_DRAIN_SECONDS": "2"})
        self.bootstrap = bus.env["KAFKA_BOOTSTRAP_SERVERS"]
        self._cores = cores
        self._leash = leash
        self._profiled = profiled

    def start_service(self, name: str) -> None:
        command = [sys.executable, "-m", "interlink", "serve", name]
        if self._profiled and name == self._profiled[0]:
            command = [sys.executable, "-m", "bench.profiled", *self._profiled]
        env = self.env | {"INTERLINK_PORT": str(self.ports[name])}
        with (self.folder / f"{name}.log").open("ab") as log, pinned(self._cores.system):
            self._children[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        self._leash.hold(self.pid(name))

    def heads(self, *, channels: bool) -> list[str]:
        """One endpoint per event; the requests to them, up to the delivery id."""
        payload = body()
        made: list[str] = []
        for event in EVENTS:
            channel = {"channel_id": f"ch_{event}"} if channels else {}
            endpoint = self.github_endpoint(rate_limit=100_000_000, **channel)
            path = f"/api/webhooks/github/{endpoint['id']}"
            made.append(
                request_head(path, f"127.0.0.1:{self.ports['gateway']}", endpoint["secret"], event, payload)
            )
        return made

    def subscribe(self, port: int) -> None:
        """One outgoing webhook per event, which makes one delivery per webhook that comes in."""
        for event in EVENTS:
            url = f"http://127.0.0.1:{port}/hooks/{event}"
            most: Any = CONCURRENCY // len(EVENTS)
            self.outgoing_webhook(url, events=[f"github.{event}"], max_in_flight=most)


def has_sync() -> bool:
    return find_spec("services.sync.app") is not None


@contextlib.contextmanager
def system(
    folder: Path,
    bus_name: BusName,
    services: Sequence[str],
    cores: Cores,
    leash: Leash,
    profiled: Sequence[str] = (),
) -> Iterator[System]:
    """A hub with these services, ready, on a bus and a store of its own."""
    with contextlib.ExitStack() as stack:
        pair = Embedded(folder / "pair")
        kafka: ApacheKafka | None = None
        with pinned(cores.rest):
            if bus_name == "kafka":
                if reason := why_not():
                    raise SystemExit(f"bench: {reason}")
                kafka = ApacheKafka(folder / "kafka")
                stack.callback(kafka.stop)
                kafka.start()
                stack.callback(pair.store.stop)
                pair.store.start()
            else:
                stack.callback(pair.stop)
                pair.start()
        env = (
            {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_SESSION_TIMEOUT_MS": "6000"}
            if kafka
            else {"KAFKA_BOOTSTRAP_SERVERS": pair.kafka_bootstrap, **BROKER_SETTINGS}
        )
        store = Store("the embedded store", pair.mongodb_uri.rsplit("/", 1)[0])
        hub = System(folder / "hub", Bus(bus_name, env), store, services, cores, leash, profiled)
        stack.callback(hub.stop)
        yield hub.start()  # type: ignore[misc]  # returns itself
