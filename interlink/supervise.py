"""Child processes of `interlink up`: starting, stopping, and killing them when their parent is gone.

Blocking and without asyncio, so that tests use the same code. `up` adds waiting and restarts.
"""

import contextlib
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Final, Protocol

_MAX_LOG_BYTES: Final = 10 * 1024 * 1024
_POLL_INTERVAL_S: Final = 0.02
_STABLE_AFTER_S: Final = 60.0
_INITIAL_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 15.0

# Each input line is a list of process ids; the last one counts. The input ends when its writer is gone.
_GUARD: Final = 'pids=; while read -r line; do pids=$line; done; [ -z "$pids" ] || kill -9 $pids'


class ProcessGroup:
    """Kills its processes (SIGKILL) as soon as this process is gone, however it ended.

    A guard process, a shell, waits for the end of its input: a pipe that only this process holds open. Unlike
    PR_SET_PDEATHSIG, this works on every Unix and for children of threads that have ended.
    """

    def __init__(self) -> None:
        self._pids: set[int] = set()
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def add(self, pid: int) -> None:
        with self._lock:
            self._pids.add(pid)
            self._write_pids()

    def remove(self, pid: int) -> None:
        """Remove a process that has ended: the system may give its id to another process."""
        with self._lock:
            self._pids.discard(pid)
            self._write_pids()

    def close(self) -> None:
        """Stop guarding, without killing any process."""
        with self._lock:
            if self._guard:
                self._guard.kill()
                self._guard.communicate()
                self._guard = None

    def _write_pids(self) -> None:
        line = (" ".join(map(str, sorted(self._pids))) + "\n").encode()
        for _ in range(2):  # twice, because the guard may have been killed meanwhile
            if self._guard is None:
                self._guard = subprocess.Popen(  # noqa: S603 -- a constant
                    ["/bin/sh", "-c", _GUARD],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            assert self._guard.stdin is not None  # noqa: S101 -- opened above
            try:
                self._guard.stdin.write(line)
            except BrokenPipeError:  # the guard was killed: start another one with the whole list
                self._guard.communicate()
                self._guard = None
            else:
                return


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """Process to run. `env` is the whole environment. `log` receives the output: two files of about 10 MB.

    `command` is a program and its arguments; for a process of the fork server, a module and its arguments.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    stop_timeout_s: float = 25.0


class Process(Protocol):
    """Part of the interface of `subprocess.Popen` that supervision needs."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


Launch = Callable[[ProcessSpec, IO[bytes]], Process]
"""Starts a process in a session of its own, with its output in this file. Raises `OSError`."""


def run_program(spec: ProcessSpec, log: IO[bytes]) -> Process:
    """Run `spec.command` as a program."""
    return subprocess.Popen(  # noqa: S603 -- commands are ours
        spec.command,
        env=dict(spec.env),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


class Child:
    """One process in a session of its own, so that Ctrl-C in the terminal reaches only its supervisor."""

    def __init__(self, spec: ProcessSpec, process_group: ProcessGroup, launch: Launch = run_program) -> None:
        self.spec = spec
        self.name = spec.name
        self._process_group = process_group
        self._launch = launch
        self._process: Process | None = None
        self._log_start = 0
        self.status: int | None = None
        """Exit status of the last run, or the signal's number as a negative one."""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process. Raises `OSError` if the command cannot be run."""
        self.trim_log()
        with self.spec.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = self._launch(self.spec, log)
        self.status = None
        self._process_group.add(self._process.pid)

    def running(self) -> bool:
        """Return whether the process runs. If not, `status` says how it ended."""
        if self._process is None:
            return False
        status = self._process.poll()
        if status is None:
            return True
        self.status = status
        self._process_group.remove(self._process.pid)
        self._process = None
        return False

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM), also if it is suspended."""
        if self.running() and self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once (SIGKILL) and wait until it is gone."""
        if self.running() and self._process:
            self._process.kill()
            self._process.wait()
            self.running()

    def stop(self) -> bool:
        """Send SIGTERM, and SIGKILL after `stop_timeout_s`. Return False if it had to be killed."""
        self.terminate()
        deadline = monotonic() + self.spec.stop_timeout_s
        while self.running():
            if monotonic() > deadline:
                self.kill()
                return False
            sleep(_POLL_INTERVAL_S)
        return True

    def memory_mb(self) -> int:
        """Return the resident memory in MB; 0 if the process does not run or `ps` fails."""
        if not self.running() or self._process is None:
            return 0
        try:
            output = subprocess.run(  # noqa: S603 -- a number
                ["/bin/ps", "-o", "rss=", "-p", str(self._process.pid)],
                capture_output=True,
                timeout=5,
                check=True,
            )
            return int(output.stdout) // 1024
        except (OSError, subprocess.SubprocessError, ValueError):
            return 0

    def trim_log(self) -> None:
        """Copy a log of more than 10 MB to `<log>.1` and empty it, while the process goes on writing."""
        with contextlib.suppress(OSError):  # no file, or a full disk: no reason to stop the process
            if self.spec.log.stat().st_size > _MAX_LOG_BYTES:
                # The process writes in append mode, so that it continues at the new end after the truncation.
                shutil.copyfile(self.spec.log, self.spec.log.with_name(self.spec.log.name + ".1"))
                with self.spec.log.open("r+b") as log:
                    log.truncate(0)
                self._log_start = 0

    def last_lines(self, count: int = 10) -> list[str]:
        """Return the last lines that the last run wrote, without empty ones."""
        try:
            with self.spec.log.open("rb") as log:
                end = log.seek(0, 2)
                log.seek(max(self._log_start, end - 16_384))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        return [line for line in text.splitlines() if line.strip()][-count:]


class Backoff:
    """The pause before the next start: doubled each time, and short again after a run of a minute."""

    def __init__(self) -> None:
        self._pause = _INITIAL_BACKOFF_S

    def after(self, ran_s: float) -> float:
        """Return the pause in seconds after a run of `ran_s` seconds."""
        if ran_s >= _STABLE_AFTER_S:
            self._pause = _INITIAL_BACKOFF_S
        pause, self._pause = self._pause, min(self._pause * 2, _MAX_BACKOFF_S)
        return pause


def describe_exit(status: int | None) -> str:
    """Return how a process ended, as text: `status 1`, `signal SIGKILL`."""
    if status is None:
        return "no process"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-status).name}"
    return f"status {status}"
