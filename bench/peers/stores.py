"""PostgreSQL, Redis and RabbitMQ from their installed programs, each new and with its defaults.

What they acknowledge survives a kill -9 of every process, not a power cut: PostgreSQL runs without fsync, and
Redis appends to its file before it answers and calls fsync once a second.
"""

import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import Final

from bench.peers.processes import Processes
from bench.remote import Failed
from tests.support.ports import free_port

_POSTGRES_USER: Final = "postgres"
_POSTGRES_SETTINGS: Final = {
    "max_connections": "300",
    "shared_buffers": "256MB",
    "synchronous_commit": "on",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "4GB",
}
# The distribution's wrapper on the PATH would change the user.
_RABBITMQ_FOLDERS: Final = "/usr/lib/rabbitmq/bin"


def missing_postgres() -> str | None:
    """Return why PostgreSQL cannot be started; None if it can."""
    return None if _postgres("postgres") and _postgres("initdb") else "PostgreSQL is not installed"


def missing_redis() -> str | None:
    """Return why Redis cannot be started; None if it can."""
    return None if shutil.which("redis-server") else "Redis is not installed"


def missing_rabbitmq() -> str | None:
    """Return why RabbitMQ cannot be started; None if it can."""
    return None if _rabbitmq() and shutil.which("epmd") else "RabbitMQ is not installed"


def start_postgres(processes: Processes, database: str) -> int:
    """Start PostgreSQL with an empty database; return its port. It trusts every local client."""
    user = _POSTGRES_USER if os.geteuid() == 0 else None  # it refuses to run as root
    # Not in the folder of the bench, which only this user may enter.
    data = Path(tempfile.mkdtemp(prefix="interlink-bench-postgres-"))
    if user:
        shutil.chown(data, user, user)
    processes.at_stop(lambda: shutil.rmtree(data, ignore_errors=True))
    port = free_port()
    initdb = [_postgres("initdb"), "-D", str(data), "-A", "trust", "-U", _POSTGRES_USER, "--no-sync"]
    processes.run(initdb, {}, user=user)
    settings = [f"--{name}={value}" for name, value in _POSTGRES_SETTINGS.items()]
    listen = ["-p", str(port), "-h", "127.0.0.1", "-k", ""]
    processes.start_store(
        "postgres",
        [_postgres("postgres"), "-D", str(data), *listen, *settings],
        {},
        user=user,
        stop_signal=signal.SIGINT,  # it would wait for clients after SIGTERM
    )
    ready = [_postgres("pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    processes.wait("PostgreSQL", 60, lambda: _succeeds(processes, ready))
    create = ["-h", "127.0.0.1", "-p", str(port), "-U", _POSTGRES_USER, database]
    processes.run([_postgres("createdb"), *create], {})
    return port


def start_redis(processes: Processes) -> int:
    """Start Redis with an append-only file; return its port."""
    port = free_port()
    folder = processes.folder / "redis"
    folder.mkdir()
    options = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    listen = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    processes.start_store("redis", [shutil.which("redis-server") or "", *listen, *options], {})
    processes.wait("Redis", 20, lambda: _redis_answers(port))
    return port


def start_rabbitmq(processes: Processes) -> int:
    """Start RabbitMQ; return its port. Its user is guest."""
    port, mapper_port = free_port(), free_port()
    folder = processes.folder / "rabbitmq"
    folder.mkdir()
    config = folder / "rabbitmq.conf"
    config.write_text(f"listeners.tcp.default = 127.0.0.1:{port}\nlog.console = false\n", encoding="utf-8")
    env = {
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(mapper_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_NODENAME": "bench@localhost",
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONFIG_FILE": str(config),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
    }
    # Otherwise RabbitMQ starts one as a daemon, which nobody stops.
    mapper = [shutil.which("epmd") or "", "-port", str(mapper_port), "-address", "127.0.0.1"]
    processes.start_store("epmd", mapper, env)
    processes.start_store("rabbitmq", [_rabbitmq() or ""], env)
    processes.wait("RabbitMQ", 90, lambda: _listens(port))
    return port


def _postgres(program: str) -> str:
    """Return the path of a program of PostgreSQL, of its newest version; "" if it is not installed."""
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{program}")
    newest = max(map(str, versions), key=lambda path: int(path.split("/")[4].split(".")[0]), default="")
    return newest or shutil.which(program) or ""


def _rabbitmq() -> str | None:
    return shutil.which("rabbitmq-server", path=f"{_RABBITMQ_FOLDERS}:{os.environ.get('PATH', '')}")


def _succeeds(processes: Processes, command: list[str]) -> bool:
    try:
        processes.run(command, {})
    except Failed:
        return False
    return True


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"
    except OSError:
        return False


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False
