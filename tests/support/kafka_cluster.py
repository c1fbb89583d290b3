"""Three Apache Kafka brokers as they are run in production: TLS, logins, ACLs, three replicas, racks.

The first is the controller too, so the other two can be killed at the same time. Each has two listeners for
the hub: one with TLS and SCRAM, one with TLS and client certificates, whose common name is the user. Without
an ACL, only the brokers and `ADMIN` may do anything. A third listener is for the tests' own clients, which
speak plain Kafka and may do everything.
"""

import asyncio
import contextlib
import socket
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from shared.contracts.kafka_acls import Acl
from shared.runtime.kafka.connection import connection
from shared.runtime.settings import KafkaSettings
from tests.support.apache_kafka import CLUSTER_ID, ApacheKafka, formatted_storage
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.recorded_secrets import record_secret

ADMIN: Final = "admin"
_BROKERS: Final = 3
_HEAP: Final = ("-Xmx256m",)
_RESOURCES: Final = {"topic": 2, "group": 3, "cluster": 4}
_OPERATIONS: Final = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "IdempotentWrite": 12}
_LITERAL, _PREFIXED = 3, 4
_ALLOW: Final = 3


class KafkaCluster:
    """The brokers, each in a folder of its own below `folder`; `users` have passwords, by name."""

    def __init__(self, folder: Path, users: Iterable[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.authority = Authority("the brokers' authority")
        self.ca_file = self._write("ca.pem", self.authority.pem)
        # The same in every run, so that storage is formatted once.
        self._passwords = {name: f"{name}-password-of-the-tests" for name in (ADMIN, *users)}
        record_secret("a password of Kafka", *self._passwords.values())
        self._sasl_ports = [free_port() for _ in range(_BROKERS)]
        self._tls_ports = [free_port() for _ in range(_BROKERS)]
        self._plain_ports = [free_port() for _ in range(_BROKERS)]
        self._controller_port = free_port()
        self.brokers = [self._broker(number) for number in range(1, _BROKERS + 1)]

    @property
    def plain_bootstrap(self) -> str:
        """The listeners of the tests' own clients."""
        return _addresses(self._plain_ports)

    def start(self) -> None:
        """Start all brokers; returns when all answer. Raises RuntimeError with the end of a log."""
        formatted_storage(self._passwords)
        with ThreadPoolExecutor(_BROKERS) as together:
            list(together.map(ApacheKafka.start, self.brokers))

    def stop(self) -> None:
        """Kill all brokers: a clean stop would move each partition to the next broker that is to stop."""
        for broker in self.brokers:
            broker.kill()

    def env(self, user: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """The settings of a client that logs in."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": _addresses(self._sasl_ports),
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SSL_CAFILE": str(self.ca_file),
            "KAFKA_SASL_MECHANISM": mechanism,
            "KAFKA_SASL_USERNAME": user,
            "KAFKA_SASL_PASSWORD": self._passwords[user],
        }

    def certificate_env(self, user: str) -> dict[str, str]:
        """The settings of a client with a certificate."""
        certificate, key = self.authority.pair(user)
        return {
            "KAFKA_BOOTSTRAP_SERVERS": _addresses(self._tls_ports),
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_SSL_CAFILE": str(self.ca_file),
            "KAFKA_SSL_CERTFILE": str(self._write(f"{user}.crt", certificate)),
            "KAFKA_SSL_KEYFILE": str(self._write(f"{user}.key", key)),
        }

    def settings(self, user: str = ADMIN, **changed: Any) -> KafkaSettings:
        """The same settings, for clients in this process."""
        env = {name.removeprefix("KAFKA_").lower(): value for name, value in self.env(user).items()}
        return KafkaSettings(**(env | changed))

    def allow(self, acls: Mapping[str, Iterable[Acl]]) -> None:
        """Add ACLs, by user."""
        requests = [
            CreateAclsRequest(
                *(_RESOURCES[acl.resource], acl.name, _PREFIXED if acl.is_prefix else _LITERAL),
                *(f"User:{user}", "*", _OPERATIONS[acl.operation], _ALLOW),
            )
            for user, of_user in acls.items()
            for acl in of_user
        ]
        for response in self._send(requests):
            for code, message in response.creation_responses:
                assert code == 0, message

    def disallow(self, user: str, acl: Acl) -> None:
        """Remove one ACL."""
        request = DeleteAclsRequest(
            *(_RESOURCES[acl.resource], acl.name, _PREFIXED if acl.is_prefix else _LITERAL),
            *(f"User:{user}", "*", _OPERATIONS[acl.operation], _ALLOW),
        )
        [response] = self._send([request])
        assert [len(found[2]) for found in response.filter_responses] == [1]

    def denied(self) -> list[str]:
        """What the authorizers have refused so far: a line of their logs each."""
        return [
            line
            for broker in self.brokers
            for line in broker.log.read_text("utf-8", "replace").splitlines()
            if "is Denied operation" in line
        ]

    def _send(self, requests: Iterable[Any]) -> list[Any]:
        async def send() -> list[Any]:
            admin = AIOKafkaAdminClient(**connection(self.settings()))
            await admin.start()
            try:
                return [await admin._send_to_controller(request) for request in requests]
            finally:
                await admin.close()

        return asyncio.run(send())

    def _broker(self, number: int) -> ApacheKafka:
        name = f"broker-{number}"
        key_store = self._write(f"{name}.pem", "".join(reversed(self.authority.pair("broker", "127.0.0.1"))))
        sasl, tls = self._sasl_ports[number - 1], self._tls_ports[number - 1]
        plain = self._plain_ports[number - 1]
        addresses = f"SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls},PLAIN://127.0.0.1:{plain}"
        controller = f",CONTROLLER://127.0.0.1:{self._controller_port}" if number == 1 else ""
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        settings = {
            "node.id": str(number),
            "process.roles": "broker,controller" if number == 1 else "broker",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": addresses + controller,
            "advertised.listeners": addresses,
            "listener.security.protocol.map": "SASL:SASL_SSL,TLS:SSL,PLAIN:PLAINTEXT,CONTROLLER:SSL",
            "inter.broker.listener.name": "TLS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(key_store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            "listener.name.tls.ssl.client.auth": "required",
            "listener.name.controller.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+)$/$1/",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:broker;User:{ADMIN};User:ANONYMOUS",
            "broker.rack": f"zone-{number}",
            "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
            "default.replication.factor": "3",
            "min.insync.replicas": "2",
            "offsets.topic.replication.factor": "3",
            "transaction.state.log.replication.factor": "3",
            "share.coordinator.state.topic.replication.factor": "3",
            "replica.lag.time.max.ms": "3000",
        }
        return ApacheKafka(
            self._folder / name,
            sasl,
            settings=settings,
            answers=lambda: _listens(sasl),
            storage=lambda: self._storage(number),
            heap=_HEAP,
        )

    def _storage(self, number: int) -> Path:
        """Storage of this broker: with the users, and with ids of its own."""
        copy = self._folder / f"storage-{number}"
        copy.mkdir()
        for file in formatted_storage(self._passwords).iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        directory = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        properties = {"version": "1", "cluster.id": CLUSTER_ID, "node.id": number, "directory.id": directory}
        lines = (f"{name}={value}\n" for name, value in properties.items())
        (copy / "meta.properties").write_text("".join(lines), encoding="utf-8")
        return copy

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text, encoding="utf-8")
        return path


def _addresses(ports: Iterable[int]) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ports)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def kafka_cluster(folder: Path, users: Iterable[str]) -> Iterator[KafkaCluster]:
    """A cluster, started."""
    cluster = KafkaCluster(folder, users)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
