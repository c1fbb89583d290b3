"""The real bus and store that the tests run on, in the order: given by variables, Docker, jars, embedded.

`KAFKA_BOOTSTRAP_SERVERS` / `MONGODB_URI` first; then containers where Docker answers; then Apache Kafka
from its published jars where Java and Maven are; else the embedded pair. `name` says which it is.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Protocol
from urllib.parse import urlsplit

from interlink.embedded import (
    EmbeddedPair,
    EmbeddedServer,
    broker,
    broker_settings,
    kafka_bootstrap,
)
from interlink.supervise import ProcessGroup
from tests.support import capture
from tests.support.apache_kafka import ApacheKafka
from tests.support.apache_kafka import available as jars_reason
from tests.support.recorded_secrets import record_secret


class Broker(Protocol):
    """A broker that the test may kill and bring back."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


@dataclass
class Bus:
    """Where Kafka is, the settings of its clients, and the broker when it is ours to kill."""

    name: str
    env: Mapping[str, str]
    broker: Broker | None = None
    close: Callable[[], None] = field(default=lambda: None)
    service_env: Callable[[str], dict[str, str]] = field(default=lambda _: {})
    """Settings of the clients of one service, or of `init`, where each has a user of its own."""

    def keep(self, *, last: bool = False) -> None:
        """Keep what is on its topics for the search; `last`: it is about to end.

        An embedded broker has them in memory: when a test has ended it, they are gone.
        """
        life = ""
        if isinstance(self.broker, EmbeddedServer):
            if not self.broker.child.running():
                return
            life = str(self.broker.child.pid)
        capture.topics(self.env["KAFKA_BOOTSTRAP_SERVERS"], life, last=last)


@dataclass
class Store:
    """Where MongoDB is; every hub gets a database of its own. `base_uri` is the address of any other one."""

    name: str
    base_uri: str
    close: Callable[[], None] = field(default=lambda: None)

    def uri(self) -> str:
        return in_database(self.base_uri, f"test_{token_hex(6)}")


def in_database(uri: str, name: str) -> str:
    """Return the address of another database, or of none, of the same server."""
    return urlsplit(uri)._replace(path=f"/{name}").geturl()


@cache
def docker_answers() -> bool:
    """Whether a Docker engine (not only its client) is there."""
    if shutil.which("docker") is None:
        return False
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


class _Pair(EmbeddedPair):
    def stop(self) -> None:
        """Both, after what is in them was kept for the search."""
        embedded_bus(self).keep(last=True)
        if self.database.child.running():
            capture.documents(in_database(self.mongodb_uri, ""))
        super().stop()


def embedded(folder: Path) -> EmbeddedPair:
    """The embedded pair, started."""
    pair = _Pair(folder)
    record_secret("the embedded store's password", urlsplit(pair.mongodb_uri).password or "")
    pair.start()
    return pair


def embedded_bus(pair: EmbeddedPair) -> Bus:
    return Bus(
        "the embedded broker (Tansu)",
        {"KAFKA_BOOTSTRAP_SERVERS": pair.kafka_bootstrap, **broker_settings(pair.folder)},
        pair.broker,
    )


def embedded_broker(folder: Path) -> Bus:
    """An embedded broker alone, started."""
    processes = ProcessGroup()
    half = broker(folder, processes)
    half.start()
    env = {"KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap(half.port), **broker_settings(folder)}
    bus = Bus("the embedded broker (Tansu)", env, half)

    def close() -> None:
        bus.keep(last=True)
        half.stop()
        processes.close()

    bus.close = close
    return bus


def started_kafka(folder: Path) -> Bus:
    """Apache Kafka from its jars, started: it keeps its data, and is the test's to kill.

    Its sessions last a third of what a broker allows at least by default: after each kill, the group waits
    for one to pass.
    """
    session = {"group.min.session.timeout.ms": _SHORT_SESSION_MS}
    kafka = ApacheKafka(folder, settings=session)
    kafka.start()
    env = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_SESSION_TIMEOUT_MS": _SHORT_SESSION_MS}
    return Bus("Apache Kafka from its jars", env, kafka, kafka.stop)


def best_bus(folder: Path, pair: EmbeddedPair) -> Bus:
    """The most real broker that is to be had here."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        return Bus("Kafka of KAFKA_BOOTSTRAP_SERVERS", {"KAFKA_BOOTSTRAP_SERVERS": given})
    if docker_answers():
        from testcontainers.kafka import KafkaContainer

        container = KafkaContainer("apache/kafka:4.1.0").with_kraft()
        container.start()
        env = {"KAFKA_BOOTSTRAP_SERVERS": container.get_bootstrap_server(), **_QUICK}
        return Bus("Apache Kafka in a container", env, close=container.stop)
    if jars_reason() is None:
        kafka = ApacheKafka(folder)
        kafka.start()
        env = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, **_QUICK}
        return Bus("Apache Kafka from its jars", env, kafka, kafka.stop)
    return embedded_bus(pair)


def best_store(pair: EmbeddedPair) -> Store:
    """The most real store that is to be had here."""
    given = os.environ.get("MONGODB_URI")
    if given:
        return Store("MongoDB of MONGODB_URI", given)
    if docker_answers():
        from testcontainers.mongodb import MongoDbContainer

        container = MongoDbContainer("mongo:8")
        container.start()
        return Store("MongoDB in a container", container.get_connection_url(), container.stop)
    return Store("the embedded store (SecantusDB)", pair.mongodb_uri)


_SHORT_SESSION_MS = "2000"
_QUICK = {"KAFKA_SESSION_TIMEOUT_MS": "6000"}
