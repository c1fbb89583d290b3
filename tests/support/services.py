"""Services as processes of their own, forked off one that has imported them all.

What a service imports and reads of the catalogue is most of its start, and a run starts hundreds of them.
How an operator starts them, `interlink up` and `interlink serve`, is what `tests/cli` is about.
"""

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Final

from shared.runtime.failpoints import FAILPOINT_VARIABLE, failpoint, failpoint_for

_FORKED: Final = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["tests.support.preloaded"])


class Child:
    """A process that runs a module as `python -m` does; what it writes goes to the end of a file."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._process: ForkServerProcess = _FORKED.Process(
            target=_run, args=(list(command), dict(env), str(log)), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, within_s: float) -> int:
        """Until it has ended: its exit status. Raises `TimeoutExpired`."""
        self._process.join(within_s)
        status = self.poll()
        if status is None:
            raise TimeoutExpired(list(self._command), within_s)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(command: list[str], env: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    with open(log, "ab") as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if crash_at := env.get(FAILPOINT_VARIABLE):  # it was read when it was imported
        for module in list(sys.modules.values()):
            if vars(module).get("failpoint") is failpoint:
                vars(module)["failpoint"] = failpoint_for(crash_at)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
