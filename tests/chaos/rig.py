"""The hub under chaos: two processes of each service, servers that may die, and lines that may be slow.

The provider sends to the gateways as a load balancer would, to those that are members.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Final, Self
from urllib.parse import urlsplit

from interlink.embedded import EmbeddedServer, database
from interlink.supervise import ProcessGroup
from tests.chaos.provider import CONVERSATIONS
from tests.chaos.tally import Tally
from tests.support.apache_kafka import ApacheKafka
from tests.support.backends import Bus, Store
from tests.support.group_lag import delivery_is_behind
from tests.support.hub import Hub
from tests.support.journal import Reading
from tests.support.ports import free_port

_STRICT_EVERY: Final = 8
"""Every eighth conversation is of events that a webhook gets in strict order, besides the one for all."""
SERVICES: Final = ("gateway", "delivery")
PRESTOP_S: Final = 1.0


class Program:
    """A process outside the hub that takes lines and ends with its input."""

    def __init__(self, folder: Path, module: str, *arguments: str) -> None:
        with (folder / f"{module}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def tell(self, line: str) -> None:
        """Write a line to its input."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Wait for a line of its output."""
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        """End its input and wait. Raises `CalledProcessError` if it failed. Can be repeated."""
        assert self._process.stdin
        self._process.stdin.close()
        if status := self._process.wait(60):
            raise subprocess.CalledProcessError(status, self._process.args)


@dataclass
class Member:
    """One process of a service."""

    hub: Hub
    service: str
    module: Sequence[str] = ()

    def start(self, **env: str) -> None:
        """Start it; return when it is ready."""
        self.hub.start_service(self.service, module=self.module, **env)
        self.hub.wait_ready(self.service)


class Disk:
    """A folder that can be full. `limited` says whether it has a limit of its own, which takes root."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        self.limited = (
            os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
        )
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no byte."""
        with self._ballast.open("ab", buffering=0) as file:
            size = 1 << 20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Forget what was written."""
        if self.limited:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


class Rig:
    """Everything that a fault may touch, and what the journals say so far."""

    def __init__(self, folder: Path, rate: float, disk_mb: int, broken: bool) -> None:
        self.folder = folder
        self._rate = rate
        self._stack = ExitStack()
        self._group = ProcessGroup()
        self._stack.callback(self._group.close)
        self.disks = {name: Disk(folder / name, disk_mb) for name in ("broker", "database")}
        for disk in self.disks.values():
            self._stack.callback(disk.close)
        self._broken: Sequence[str] = ("tests.support.commits_first", "1") if broken else ()
        self.lines: dict[str, Program] = {}
        self.members: list[Member] = []
        self._addresses: list[str] = []
        self.services = SERVICES
        self.calls: Counter[str] = Counter()
        """Requests to the APIs of services that were replaced."""
        self.failed_calls: list[str] = []
        self.is_database_down = False
        """Whether a fault keeps the database down now."""
        self.ended: list[str] = []
        """How databases ended that no fault had killed."""
        strict = range(0, CONVERSATIONS, _STRICT_EVERY)
        self.tally = Tally(strict)
        self._events = ["issues" if number in strict else "push" for number in range(CONVERSATIONS)]

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        broker_port, database_line = free_port(), free_port()
        settings = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker_port}"}
        self.broker = ApacheKafka(self.disks["broker"].folder, settings=settings, load=True)
        self.broker.start()
        self._stack.callback(self.broker.kill)
        self._line("broker", broker_port, int(self.broker.bootstrap.rpartition(":")[2]))
        self.database: EmbeddedServer = database(self.disks["database"].folder, self._group)
        self.database.start()
        self._stack.callback(self.database.kill)
        self._line("database", database_line, self.database.port)
        receiver = Program(self.folder, "tests.chaos.receiver", str(self.folder / "receiver.jsonl"))
        self._stack.callback(receiver.stop)
        receiver_line = free_port()
        self._line("receiver", receiver_line, int(receiver.hear()))
        self._received = Reading(self.folder / "receiver.jsonl")
        self._sent = Reading(self.folder / "provider.jsonl")
        bus = self.bus = Bus("Apache Kafka", {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{broker_port}"})
        address = urlsplit(self.database.uri)
        uri = self.database.uri.replace(f":{address.port}", f":{database_line}")
        store = self.store = Store("the embedded store", uri)
        self._start_hub(bus, store, f"http://127.0.0.1:{receiver_line}")

    def _start_hub(self, bus: Bus, store: Store, receiver: str) -> None:
        first = Hub(
            self.folder / "first", bus, store, services=SERVICES, env={"KAFKA_REPLICATION_FACTOR": "1"}
        )
        second = Hub(self.folder / "second", bus, store, services=SERVICES, env=first.env)
        first.init(first.workspace)
        self.hubs = (first, second)
        for hub in self.hubs:
            self._stack.callback(hub.stop)
            self.members += [
                Member(hub, name, self._broken if name == "delivery" else ()) for name in SERVICES
            ]
        for member in self.members:
            member.hub.start_service(member.service, module=member.module)
        for member in self.members:
            member.hub.wait_ready(member.service)
        retry = {"schedule": [0] + [1] * 10 + [5] * 39}
        for path, events in (("any", ["github.*"]), ("strict", ["github.issues"])):
            order = {"ordering": "strict"} if path == "strict" else {}
            first.outgoing_webhook(f"{receiver}/{path}", events=events, retry=retry, timeout_s=5, **order)
        endpoints = [first.github_endpoint(rate_limit=100_000_000) for _ in self._events]
        described = [
            {"path": f"/api/webhooks/github/{endpoint['id']}", "secret": endpoint["secret"], "event": event}
            for endpoint, event in zip(endpoints, self._events, strict=True)
        ]
        (self.folder / "endpoints.json").write_text(json.dumps(described), "utf-8")

    def _line(self, name: str, port: int, target: int) -> None:
        line = self.lines[name] = Program(self.folder, "tests.chaos.proxy", str(port), str(target))
        self._stack.callback(line.stop)
        line.hear()

    @contextmanager
    def load(self) -> Iterator[None]:
        """Let the provider send meanwhile."""
        arguments = (
            str(self.folder / "provider.jsonl"),
            str(self.folder / "endpoints.json"),
            str(self._rate),
        )
        self._provider = Program(self.folder, "tests.chaos.provider", *arguments)
        try:
            for member in self.gateways():
                self.join(member)
            yield
        finally:
            self._provider.stop()
            self.look()

    def gateways(self) -> list[Member]:
        """Return the processes of the gateway."""
        return [member for member in self.members if member.service == "gateway"]

    def join(self, gateway: Member) -> None:
        """Make a gateway a member of the load balancer."""
        self._addresses.append(gateway.hub.url("gateway"))
        self._provider.tell(json.dumps(self._addresses))

    def leave(self, gateway: Member) -> None:
        """Take a gateway out of the load balancer, as long before its end as a cluster does it."""
        self._addresses.remove(gateway.hub.url("gateway"))
        self._provider.tell(json.dumps(self._addresses))
        sleep(PRESTOP_S)

    def look(self) -> Tally:
        """Count what the journals have got since the last look."""
        received = self._received.more()  # first: what was received was sent before
        self.tally.sent(self._sent.more())
        self.tally.received(received)
        return self.tally

    def nothing_left(self) -> bool:
        """Return whether delivery has nothing to do, so that what is missing will stay so."""
        if delivery_is_behind(self.bus):
            return False
        unfinished = {"status": ["pending", "delivering", "retrying"]}
        count = self.members[0].hub.call("GET", "/api/deliveries/count", params=unfinished)["count"]
        return bool(count == 0)

    def _restart_ended_servers(self) -> None:
        """Start a database again that has ended by itself, as `interlink up` does, and count it."""
        if not self.is_database_down and (failure := self.database.failure()):
            self.ended.append(failure)
            self.database.start()

    def wait(self, seconds: float) -> None:
        """Let a fault last, and keep counting."""
        self.until(lambda: False, seconds)

    def until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Keep counting until the condition holds; return whether it did in time."""
        deadline = monotonic() + within_s
        while True:
            self.look()
            self._restart_ended_servers()
            if condition():
                return True
            if monotonic() > deadline:
                return False
            sleep(0.05)
