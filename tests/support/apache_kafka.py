"""A real single-node Apache Kafka for the tests, run from its published jars.

Java 17 or newer and Maven are all it takes: no Docker, no download page. Maven fetches the jars that
`kafka/pom.xml` names into `.cache/kafka/<version>/` once; after that nothing is fetched. The broker can be
killed and started again on the same data and the same port, which is what the durability tests are about.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tests.support import maven
from tests.support.ports import free_port, is_free

_POM = Path(__file__).parent / "kafka" / "pom.xml"
_CACHE = Path(__file__).parents[2] / ".cache" / "kafka"
CLUSTER_ID = "aW50ZXJsaW5rLXRlc3RzIQ"
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0

# The serial collector and a small heap: the broker shares two cores with what is being tested.
_JVM = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")
# Half of a short life would be spent on optimising the code.
_SHORT_LIFE = ("-XX:TieredStopAtLevel=1",)

# Of the classes of a JVM that formats storage: a broker reads them from there, which is a third of its start.
_ARCHIVE = "classes.jsa"

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# After a kill -9 the broker is let in again when the session of its last life has ended: 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# What one small broker needs: the defaults reserve a third of the heap for the log cleaner.
log.cleaner.dedupe.buffer.size=8388608
num.network.threads=2
num.io.threads=4
background.threads=2
"""


@functools.cache
def available() -> str | None:
    """Say in one line why Apache Kafka cannot be run here; None if Java >= 17 and Maven (or the jars) are."""
    try:
        shown = subprocess.run([_java(), "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"Apache Kafka needs Java 17 or newer, and java does not run: {error}"
    version = re.search(r'version "(\d+)', shown.stderr + shown.stdout)
    if version is None or int(version[1]) < 17:
        return f"Apache Kafka needs Java 17 or newer, found {version[1] if version else 'an unknown version'}"
    if not maven.available() and not _is_fetched():
        return "Apache Kafka's jars are fetched with Maven once, and mvn is not on the PATH"
    return None


class ApacheKafka:
    """One broker, its own controller, on 127.0.0.1 only.

    All that it writes is in `folder`: the data, `server.properties` (with `settings` added to it) and
    `broker.log`. `{controller}` in a setting is the controller's port; `answers` says whether it is up, where
    it wants a login. A broker for `load` starts more slowly, and needs less CPU per record. Every `start`
    uses the same data and the same port, also when another object is made for the same folder without a
    port. The methods block (call them through `asyncio.to_thread` from a test that has to keep its loop
    going). The broker dies with the process that started it, however that one ends. `storage` returns a
    folder with formatted storage, which a new broker starts with; by default that of a broker alone.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        answers: Callable[[], bool] | None = None,
        storage: Callable[[], Path] | None = None,
        heap: Sequence[str] = (),
        load: bool = False,
    ) -> None:
        self._folder = folder.absolute()
        self._properties = self._folder / "server.properties"
        self._port = port or self._remembered_port() or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._settings = dict(settings or {})
        self._storage = storage or formatted_storage
        self._jvm = (*_JVM, *heap, *(() if load else _SHORT_LIFE))
        self._answers = answers or functools.partial(_answers, self._port)
        self.bootstrap = f"127.0.0.1:{self._port}"

    @property
    def log(self) -> Path:
        """The broker's log; restarts append to it."""
        return self._folder / "broker.log"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it is started: to measure it, or to pause it (SIGSTOP, SIGCONT)."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the broker, formatting its storage when it is new, and return when it answers.

        Raises RuntimeError with the last lines of the log when it does not come up within a minute.
        """
        if self._process is not None:
            raise RuntimeError(f"the broker on {self.bootstrap} is already started")
        if not is_free(self._port):
            raise RuntimeError(f"{self.bootstrap} is taken by another process")
        jars = _jars()
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        # Only this process talks to the controller's port, so it may be another one on every start.
        controller = str(free_port())
        properties = _PROPERTIES.format(port=self._port, controller=controller, data=data)
        for name, value in self._settings.items():
            properties += f"{name}={value.replace('{controller}', controller)}\n"
        self._properties.write_text(properties, encoding="utf-8")
        deadline = time.monotonic() + _START_SECONDS
        if not (data / "meta.properties").exists():
            shutil.copytree(self._storage(), data, dirs_exist_ok=True)
        archive = f"-XX:SharedArchiveFile={jars / _ARCHIVE}"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                _command((*self._jvm, archive), jars, "kafka.Kafka", str(self._properties)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard = _guard(self._process.pid)
        try:
            self._wait_until_it_answers(deadline)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the broker cleanly (SIGTERM), or kill it after 20 s. No-op when it is not started."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGCONT)  # a paused one has to wake up to stop
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill the broker at once (SIGKILL) and return when it is gone. No-op when it is not started."""
        if self._guard is not None:
            # First, so that it never signals a process id that has been given to somebody else.
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _remembered_port(self) -> int | None:
        if not self._properties.exists():
            return None
        text = self._properties.read_text(encoding="utf-8")
        found = re.search(r"^listeners=PLAINTEXT://127\.0\.0\.1:(\d+)", text, re.MULTILINE)
        return int(found[1]) if found else None

    def _wait_until_it_answers(self, deadline: float) -> None:
        assert self._process is not None
        while not self._answers():
            if (status := self._process.poll()) is not None:
                raise RuntimeError(f"the broker ended with status {status}:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answer on {self.bootstrap} in time:\n{self._last_lines()}")
            time.sleep(0.05)

    def _last_lines(self) -> str:
        return "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-30:])


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home, "bin", "java")) if home else "java"


def _command(jvm: Sequence[str], jars: Path, main: str, *arguments: str) -> list[str]:
    logging = "-Dorg.apache.logging.log4j.level=INFO"
    return [_java(), *jvm, logging, "-cp", f"{jars}/*", main, *arguments]


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """Start a shell that kills `pid` when this process is gone, which it sees as the end of its input.

    PR_SET_PDEATHSIG would not do: it needs code between fork and exec, and it follows the thread that made
    the child, not the process.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill -9 "$1"', "kafka-guard", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _answers(port: int) -> bool:
    """Ask for the cluster's metadata (version 1, no topics); True when the answer lists a broker."""
    client = b"tests"
    body = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            with connection.makefile("rb") as stream:
                answer = stream.read(12)
    except OSError:
        return False
    return len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0


def _version() -> str:
    found = re.search(r"<kafka\.version>(.+?)</kafka\.version>", _POM.read_text(encoding="utf-8"))
    if found is None:
        raise RuntimeError("kafka/pom.xml names no kafka.version")
    return found[1]


def _is_fetched() -> bool:
    copy = _CACHE / _version() / "pom.xml"
    return copy.exists() and copy.read_bytes() == _POM.read_bytes()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _jars() -> Path:
    """Return the folder with the jars, fetched when they are not there yet or the POM has changed."""
    jars = _CACHE / _version()
    if _is_fetched():
        return jars
    with _locked(_CACHE):
        if not _is_fetched():  # another process may have been faster
            _fetch(jars)
    return jars


def formatted_storage(users: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Return a folder with the storage of a new broker, the same for every one, made by the first.

    With `users`, by name, it has their passwords for both mechanisms of SCRAM.
    """
    jars = _jars()
    scram = [
        argument
        for name, password in users.items()
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for argument in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
    ]
    suffix = f"-{hashlib.sha256(repr(scram).encode()).hexdigest()[:16]}" if scram else ""
    formatted = jars / f"formatted{suffix}"
    if formatted.exists():
        return formatted
    with _locked(_CACHE), tempfile.TemporaryDirectory(dir=jars) as folder:
        if not formatted.exists():  # another process may have been faster
            properties, data = Path(folder, "server.properties"), Path(folder, "data")
            data.mkdir()
            properties.write_text(_PROPERTIES.format(port=1, controller=2, data=data), encoding="utf-8")
            arguments = ("format", "-t", CLUSTER_ID, "-c", str(properties), *scram)
            archive = () if scram else (f"-XX:ArchiveClassesAtExit={jars / _ARCHIVE}",)
            done = subprocess.run(
                _command((*_JVM, *_SHORT_LIFE, *archive), jars, "kafka.tools.StorageTool", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_START_SECONDS,
                check=False,
            )
            if done.returncode != 0:
                raise RuntimeError(f"the broker's storage was not formatted:\n{done.stdout[-3000:]}")
            data.rename(formatted)
    return formatted


def _fetch(jars: Path) -> None:
    staging = jars.with_name(f"{jars.name}.partial")
    maven.copy_dependencies(_POM, staging, "-DincludeScope=runtime")
    shutil.copyfile(_POM, staging / "pom.xml")
    shutil.rmtree(jars, ignore_errors=True)
    staging.rename(jars)
