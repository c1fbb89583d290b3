"""The processes that `interlink up` answers for: none outlives it, and none ends unnoticed.

Plain and blocking, so that the tests' embedded pair uses the same code; `up` adds the waiting.
"""

import contextlib
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Final

_MAX_LOG_BYTES: Final = 10 * 1024 * 1024
_POLL_INTERVAL_S: Final = 0.02
_STABLE_AFTER_S: Final = 60.0
_INITIAL_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 15.0

# Reads lists of process ids, the newest counts; the end of its input is the end of whoever wrote them.
_GUARD: Final = 'pids=; while read -r line; do pids=$line; done; [ -z "$pids" ] || kill -9 $pids'


class ProcessGroup:
    """Kills what it holds (SIGKILL) as soon as this process is gone, however it ended.

    A shell waits for the end of its input, a pipe that only this process holds open. It works where
    there is no PR_SET_PDEATHSIG, and for children that a thread started which has ended since.
    """

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def add(self, pid: int) -> None:
        with self._lock:
            self._held.add(pid)
            self._write_pids()

    def remove(self, pid: int) -> None:
        """Let go of a process that has ended: its id may soon be somebody else's."""
        with self._lock:
            self._held.discard(pid)
            self._write_pids()

    def close(self) -> None:
        """Let go of everything without killing it."""
        with self._lock:
            if self._guard:
                self._guard.kill()
                self._guard.communicate()
                self._guard = None

    def _write_pids(self) -> None:
        line = (" ".join(map(str, sorted(self._held))) + "\n").encode()
        for _ in range(2):
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
            except BrokenPipeError:  # somebody killed the guard: the next one is told everything
                self._guard.communicate()
                self._guard = None
            else:
                return


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run: `env` is the whole environment, `log` takes its output, kept under about 10 MB twice."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    stop_timeout_s: float = 25.0


class Child:
    """One process in a session of its own, so that Ctrl-C in the terminal reaches only its supervisor."""

    def __init__(self, spec: ProcessSpec, process_group: ProcessGroup) -> None:
        self.spec = spec
        self.name = spec.name
        self._process_group = process_group
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self.status: int | None = None
        """How the last one ended: its exit status, or minus the signal's number."""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it. Raises `OSError` when the command cannot be run."""
        self.trim_log()
        with self.spec.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 -- commands are ours
                self.spec.command,
                env=dict(self.spec.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.status = None
        self._process_group.add(self._process.pid)

    def running(self) -> bool:
        """Whether it still runs; when not, `status` says how it ended."""
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
        """Ask it to end (SIGTERM), also when it is paused."""
        if self.running() and self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once (SIGKILL) and wait until it is gone."""
        if self.running() and self._process:
            self._process.kill()
            self._process.wait()
            self.running()

    def stop(self) -> bool:
        """SIGTERM, then SIGKILL when its time is over; whether it went by itself."""
        self.terminate()
        deadline = monotonic() + self.spec.stop_timeout_s
        while self.running():
            if monotonic() > deadline:
                self.kill()
                return False
            sleep(_POLL_INTERVAL_S)
        return True

    def memory_mb(self) -> int:
        """Its resident memory in MB; 0 when it does not run or nobody can tell."""
        if not self.running() or self._process is None:
            return 0
        try:
            shown = subprocess.run(  # noqa: S603 -- a number
                ["/bin/ps", "-o", "rss=", "-p", str(self._process.pid)],
                capture_output=True,
                timeout=5,
                check=True,
            )
            return int(shown.stdout) // 1024
        except (OSError, subprocess.SubprocessError, ValueError):
            return 0

    def trim_log(self) -> None:
        """Keep the log bounded: over 10 MB it moves to `<log>.1`, its writer goes on with an empty one."""
        with contextlib.suppress(OSError):  # not there, or the disk is full: no reason to end anything
            if self.spec.log.stat().st_size > _MAX_LOG_BYTES:
                shutil.copyfile(self.spec.log, self.spec.log.with_name(self.spec.log.name + ".1"))
                with self.spec.log.open("r+b") as log:
                    log.truncate(0)
                self._log_start = 0

    def last_lines(self, count: int = 10) -> list[str]:
        """The end of what the last run wrote, without empty lines."""
        try:
            with self.spec.log.open("rb") as log:
                end = log.seek(0, 2)
                log.seek(max(self._log_start, end - 16_384))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        return [line for line in text.splitlines() if line.strip()][-count:]


class Backoff:
    """How long to wait before the next start: longer each time, short again after a steady minute."""

    def __init__(self) -> None:
        self._pause = _INITIAL_BACKOFF_S

    def after(self, ran_s: float) -> float:
        """The pause in seconds after a run of `ran_s` seconds."""
        if ran_s >= _STABLE_AFTER_S:
            self._pause = _INITIAL_BACKOFF_S
        pause, self._pause = self._pause, min(self._pause * 2, _MAX_BACKOFF_S)
        return pause


def describe_exit(status: int | None) -> str:
    """How a process ended, in words: `status 1`, `signal SIGKILL`."""
    if status is None:
        return "no process"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-status).name}"
    return f"status {status}"
