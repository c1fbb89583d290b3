"""The supervisor's side of the fork server: start it, ask it for processes, and follow how they end.

A fork server retains a private copy of each page that all of its processes have copied. To free that memory,
it can be ended when they run: on Linux, this process adopts them.
"""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import TimeoutExpired
from typing import IO, Final

from interlink.embedded import plain_environment
from interlink.fork_server import FORK, READY
from interlink.supervise import Child, ProcessGroup, ProcessSpec

_FORK_TIMEOUT_S: Final = 10.0
_UNKNOWN_STATUS: Final = 255
_NOT_RUNNING: Final = "the fork server does not run"
_ALLOCATOR: Final = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""For glibc: one pool of memory for all threads, and memory of large buffers returned when they are freed.

By default, glibc keeps the memory of buffers up to 32 MB, such as bulk writes, once one was freed."""
_PR_SET_CHILD_SUBREAPER: Final = 36


def adopt_orphans() -> bool:
    """Make this process adopt orphaned descendants, and return whether the platform can do that.

    The exit status of an adopted process is known even if its fork server has exited.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


class ForkServer:
    """The process that others are forked off. One that has ended is started again as `child`."""

    def __init__(self, modules: Sequence[str], log: Path, process_group: ProcessGroup) -> None:
        """`modules` are imported before the first fork. `log` receives what goes wrong in that."""
        command = (sys.executable, "-P", "-m", "interlink.fork_server", *modules)
        # None of the user's settings: what is in the server's memory is in that of every child.
        interpreter = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
        spec = ProcessSpec("fork-server", command, plain_environment() | _ALLOCATOR | interpreter, log)
        self.child = Child(spec, process_group, self._start)
        self._control: socket.socket | None = None
        self._ready = False

    def is_ready(self) -> bool:
        """Return whether it has imported everything, so that it can fork."""
        if self._control and not self._ready:
            try:
                self._ready = self._control.recv(1, socket.MSG_DONTWAIT) == READY
            except OSError:  # nothing yet, or it has ended
                return False
        return self._ready

    def end(self) -> None:
        """End it at once. Processes that it has forked go on."""
        self.child.kill()

    def launch(self, spec: ProcessSpec, log: IO[bytes]) -> "ForkedProcess":
        """Fork a process with its output in one file, for `Child`. Raises `OSError` as `fork`."""
        return self.fork(spec.command, spec.env, log, log)

    def fork(
        self, command: Sequence[str], env: Mapping[str, str], output: IO[bytes], errors: IO[bytes]
    ) -> "ForkedProcess":
        """Return a new process that runs `command`, a module and its arguments, in this environment.

        Raises `OSError` if the server does not run, or has not imported everything yet.
        """
        if self._control is None or not self.is_ready():
            raise ConnectionError(_NOT_RUNNING)
        description_reader, description_writer = os.pipe()
        status_reader, status_writer = os.pipe()
        try:
            descriptors = [description_reader, output.fileno(), errors.fileno(), status_writer]
            socket.send_fds(self._control, [FORK], descriptors)
        except OSError:
            os.close(description_writer)
            os.close(status_reader)
            raise ConnectionError(_NOT_RUNNING) from None
        finally:
            os.close(description_reader)
            os.close(status_writer)
        with os.fdopen(description_writer, "wb") as pipe:
            process = ForkedProcess(status_reader)
            # Written after the fork: the server itself must never read it.
            pipe.write(json.dumps({"command": list(command), "env": dict(env)}).encode())
        return process

    def _start(self, spec: ProcessSpec, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        if self._control:
            self._control.close()
        self._control, theirs = socket.socketpair()
        self._ready = False
        with theirs:
            return subprocess.Popen(  # noqa: S603 -- our own module
                spec.command,
                env=dict(spec.env),
                stdin=theirs.fileno(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class ForkedProcess:
    """A process of the fork server, with the methods of `Popen` that supervision needs."""

    def __init__(self, pipe: int) -> None:
        """Wait until the process is forked. Raises `OSError` if the fork server ends before."""
        self._pipe = pipe
        self._received = b""
        self.returncode: int | None = None
        line = self._read_line(_FORK_TIMEOUT_S)
        if not line:
            os.close(pipe)
            raise ConnectionError(_NOT_RUNNING)
        self.pid = int(line)

    def poll(self) -> int | None:
        """Return the exit status, minus the number of the signal that ended it, or None while it runs.

        It is 255 if the fork server was gone when the process ended, and this process did not adopt it.
        """
        return self._poll(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once the process has ended. Raises `TimeoutExpired`."""
        status = self._poll(timeout)
        if status is None:
            raise TimeoutExpired([f"process {self.pid}"], timeout or 0)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _poll(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            line = self._read_line(timeout_s)
            if line is not None:
                self.returncode = int(line) if line else self._reap()
                os.close(self._pipe)
        return self.returncode

    def _reap(self) -> int:
        """Wait for this process as its adoptive parent, and return its exit status; 255 if it has another."""
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:  # another process has adopted it
            return _UNKNOWN_STATUS
        return os.waitstatus_to_exitcode(status)

    def _read_line(self, timeout_s: float | None) -> bytes | None:
        """Return the next line, nothing at the end of the pipe, and None if there is neither in this time."""
        while b"\n" not in self._received:
            if not select.select([self._pipe], [], [], timeout_s)[0]:
                return None
            received = os.read(self._pipe, 64)
            if not received:
                return b""
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line
