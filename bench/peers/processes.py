"""The processes of an engine: starting, stopping, and what their trees use."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import httpx
import psutil

from bench.machine import cpu_seconds
from bench.remote import Failed
from interlink.supervise import ProcessGroup

_POLL_S: Final = 0.02
_STOP_S: Final = 20.0
_RUN_TIMEOUT_S: Final = 60.0
_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Usage:
    """CPU seconds or MB, of the engine's own processes and of its broker and store."""

    own: float
    stores: float

    @property
    def total(self) -> float:
        return self.own + self.stores

    def __sub__(self, earlier: "Usage") -> "Usage":
        return Usage(self.own - earlier.own, self.stores - earlier.stores)

    def per(self, units: float) -> "Usage":
        return Usage(self.own / units, self.stores / units)


class Processes:
    """The processes of one engine. Each starts in a session of its own, and ends with this process.

    `store_words` tell the broker and the store that an engine starts itself, by a word of their command line.
    """

    def __init__(self, folder: Path, store_words: Collection[str] = ()) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._store_words = tuple(store_words)
        self._group = ProcessGroup()
        self._own: list[subprocess.Popen[bytes]] = []
        self._stores: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []
        self._other_stores: list[int] = []
        self._at_stop: list[Callable[[], object]] = []

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str], *, cwd: Path) -> None:
        """Start a process of the engine itself."""
        self._own.append(self._spawn(name, command, env, cwd))

    def start_store(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Start a broker or a store, as another user if one is given."""
        self._stores.append((self._spawn(name, command, env, self.folder, user), stop_signal))

    def add_store(self, pid: int) -> None:
        """Count a broker or store that the caller has started."""
        self._other_stores.append(pid)

    def at_stop(self, callback: Callable[[], object]) -> None:
        """Have a function called after everything has stopped."""
        self._at_stop.append(callback)

    def run(self, command: Sequence[str], env: Mapping[str, str], *, user: str | None = None) -> str:
        """Run a command to its end; return its output. Raises `Failed`."""
        try:
            done = subprocess.run(
                command,
                check=False,
                env=plain_environment(env),
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_RUN_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{command[0]} did not end within {_RUN_TIMEOUT_S:.0f} s") from None
        if done.returncode:
            raise Failed(f"{command[0]} ended with status {done.returncode}: {done.stderr[-500:].strip()}")
        return done.stdout

    def wait(self, what: str, timeout_s: float, check: Callable[[], bool]) -> None:
        """Wait until the check holds. Raises `Failed` after the timeout, or when a process has ended."""
        deadline = monotonic() + timeout_s
        while not check():
            ended = [process for process in self._started() if process.poll() is not None]
            if ended or monotonic() > deadline:
                reason = (
                    f"ended with status {ended[0].returncode}" if ended else f"not ready in {timeout_s:.0f} s"
                )
                raise Failed(f"{what}: {reason}\n{self._last_lines()}")
            sleep(_POLL_S)

    def cpu(self) -> Usage:
        """Return the CPU seconds so far, of all processes and of their children that have ended."""
        return self._sum(_cpu_of)

    def memory_mb(self) -> Usage:
        """Return the proportional set size in MB (10^6 bytes): pages that processes share count once."""
        return self._sum(lambda process: process.memory_full_info().pss / 1e6)

    def stop(self) -> None:
        """Stop everything, the engine first. What is left after 20 s is killed with its whole session."""
        for processes in (
            [(process, signal.SIGTERM) for process in self._own],
            list(reversed(self._stores)),
        ):
            for process, number in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
            for process, _ in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_S)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._group.close()
        for callback in self._at_stop:
            callback()

    def _spawn(
        self, name: str, command: Sequence[str], env: Mapping[str, str], cwd: Path, user: str | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=plain_environment(env),
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._group.add(-process.pid)  # `kill` takes a negative number as a whole process group
        return process

    def _started(self) -> list[subprocess.Popen[bytes]]:
        return [*self._own, *(process for process, _ in self._stores)]

    def _sum(self, value: Callable[[psutil.Process], float]) -> Usage:
        own = stores = 0.0
        for process in self._own:
            for item, is_store in self._tree(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, OSError):
                    amount = value(item)
                    own, stores = (own, stores + amount) if is_store else (own + amount, stores)
        for pid in (*(process.pid for process, _ in self._stores), *self._other_stores):
            for item, _ in self._tree(pid):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, OSError):
                    stores += value(item)
        return Usage(own, stores)

    def _tree(self, pid: int) -> Iterator[tuple[psutil.Process, bool]]:
        """Yield a process and its descendants, each with whether it is a store."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    line = " ".join(process.cmdline())
                    yield process, any(word in line for word in self._store_words)

    def _last_lines(self) -> str:
        lines: list[str] = []
        for path in sorted(self.folder.glob("*.log")):
            lines += [f"{path.name}: {line}" for line in path.read_text("utf-8", "replace").splitlines()[-5:]]
        return "\n".join(lines)


def plain_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return these variables and those that any program needs."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | dict(env)


def answers(url: str) -> bool:
    """Return whether a GET is answered with a success within two seconds."""
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


class Api:
    """Calls of an engine's management API. Raises `Failed` for every response that is no success."""

    def __init__(self, base: str, bearer: str = "") -> None:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        self._client = httpx.Client(base_url=base, headers=headers, timeout=30, trust_env=False)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            response = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Failed(f"{method} {path}: {error}") from None
        if not response.is_success:
            raise Failed(f"{method} {path}: {response.status_code} {response.text[:300]}")
        return response.json() if response.content else None


def _cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    ended_children = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return cpu_seconds(process.pid) + float(ended_children)
