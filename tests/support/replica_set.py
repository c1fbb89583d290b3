"""A replica set of one member with TLS, whose primary steps down when a test says so.

It is the embedded database with the test commands of MongoDB: `replSetStepDown` and `failCommand`. It records
the results of retryable writes as MongoDB does. There is no second member: nothing is elected, nothing is
taken back.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from interlink.embedded import plain_environment
from interlink.supervise import Child, ProcessGroup, ProcessSpec
from tests.support.certificates import Authority
from tests.support.ports import free_port

_START_S = 60.0


class ReplicaSet:
    """The member; usable as a context manager. `folder` has its data, its log and `ca.pem`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority("the database's authority")
        certificate, key = authority.pair("database", "127.0.0.1")
        for name, text in (("ca", authority.pem), ("cert", certificate), ("key", key), ("config", "")):
            (folder / f"{name}.pem").write_text(text, encoding="utf-8")
        self.ca_file = folder / "ca.pem"
        self.port = free_port()
        # Clients ask for the member's state: it does not tell them when it is the primary again.
        monitoring = "serverMonitoringMode=poll&heartbeatFrequencyMS=500"
        self.base_uri = f"mongodb://127.0.0.1:{self.port}/?tls=true&tlsCAFile={self.ca_file}&{monitoring}"
        self._process_group = ProcessGroup()
        command = [
            *(sys.executable, "-P", "-m", "secantus", "--config", str(folder / "config.pem")),
            *("--host", "127.0.0.1", "--port", str(self.port), "--log-level", "ERROR"),
            *("--storage-path", str(folder / "store"), "--enable-test-commands"),
            *("--tls-cert-file", str(folder / "cert.pem"), "--tls-key-file", str(folder / "key.pem")),
        ]
        spec = ProcessSpec("replica set", command, plain_environment(), folder / "log", stop_timeout_s=15.0)
        self._child = Child(spec, self._process_group)
        self._admin: MongoClient[Any] = MongoClient(self.base_uri, serverSelectionTimeoutMS=1_000)

    def __enter__(self) -> Self:
        self._child.start()
        deadline = monotonic() + _START_S
        while True:
            try:
                self._admin.admin.command("ping")
            except PyMongoError:
                assert self._child.running(), self._child.last_lines()
                assert monotonic() < deadline, self._child.last_lines()
                sleep(0.1)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._admin.close()
        self._child.kill()
        self._process_group.close()

    def step_down(self, seconds: int) -> None:
        """Make the primary a secondary for a while: it refuses writes, and the reads that need a primary."""
        self._admin.admin.command({"replSetStepDown": seconds, "force": True})

    def fail(self, commands: Sequence[str], times: int, app: str, **how: Any) -> None:
        """Let the next commands of a service fail: `closeConnection=True` before they run, `errorCode=...`,
        or `writeConcernError={...}` after they ran."""
        data = {"failCommands": list(commands), "appName": app, **how}
        self._admin.admin.command(
            {"configureFailPoint": "failCommand", "mode": {"times": times}, "data": data}
        )
