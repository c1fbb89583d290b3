"""Services as processes of their own, forked off the fork server of `interlink up`.

What a service imports and reads of the catalogue is most of its start, and a run starts hundreds of them.
How an operator starts them, `interlink up` and `interlink serve`, is what `tests/cli` is about.
"""

import atexit
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from time import sleep
from typing import Final
from unittest import mock

from interlink.fork_client import ForkServer
from interlink.supervise import Process, ProcessGroup, ProcessSpec, run_program
from shared.runtime.failpoints import FAILPOINT_VARIABLE

_ROOT: Final = Path(__file__).parents[2]


class Child:
    """A process that runs a module as `python -m` does; what it writes goes to the end of a file."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        server, self._process_group = _fork_server()
        if env.get(FAILPOINT_VARIABLE):
            command = ("tests.support.at_failpoint", *command)
        with log.open("ab") as output:
            if "LD_PRELOAD" in env:  # read when a program starts, so that it does nothing in a fork
                program = ProcessSpec(command[0], [sys.executable, "-m", *command], env, log)
                self._process: Process = run_program(program, output)
            else:
                self._process = server.fork(command, env, output, output)
        self.pid: int = self._process.pid
        self._process_group.add(self.pid)

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        status = self._process.poll()
        if status is not None:
            self._process_group.remove(self.pid)
        return status

    def wait(self, within_s: float) -> int:
        """Until it has ended: its exit status. Raises `TimeoutExpired`."""
        return self._process.wait(within_s)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()


def completed(command: Sequence[str], env: Mapping[str, str], within_s: float) -> CompletedProcess[bytes]:
    """Run a module as `python -m` does, to its end; its exit status and outputs. Raises `TimeoutExpired`."""
    server, _ = _fork_server()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = server.fork(command, env, output, errors)
        try:
            status = process.wait(within_s)
        finally:
            process.kill()
        output.seek(0)
        errors.seek(0)
        return CompletedProcess(command, status, output.read(), errors.read())


@cache
def _fork_server() -> tuple[ForkServer, ProcessGroup]:
    """The fork server of this process, and the group that ends with it."""
    process_group = ProcessGroup()
    log = Path(tempfile.mkdtemp(prefix="interlink-fork-server-")) / "log"
    modules = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    with mock.patch.dict(os.environ, {"PYTHONPATH": modules}):  # modules of tests run in it too
        server = ForkServer(["interlink.preload"], log, process_group)
    server.child.start()
    atexit.register(server.child.kill)
    while not server.is_ready():
        assert server.child.running(), log.read_text("utf-8")
        sleep(0.02)
    return server, process_group
