"""Workers: several processes of one service on one port, forked from a parent that restarts those that die.

The parent has imported the service and does nothing but wait. It has no event loop, no threads, no
connections, and no secrets but those of its environment. SIGTERM or SIGINT drains all workers. If the parent
is killed, its workers see the end of a pipe, and drain too.

The kernel spreads new connections over the workers, each of which listens with SO_REUSEPORT. With one socket
for all, the worker that is awake takes most of them, and keeps them as long as their clients do.
"""

import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final

from shared.contracts.errors import Misconfigured
from shared.runtime.logs import Log, configure
from shared.runtime.retry import Backoff
from shared.runtime.settings import HubSettings, load
from shared.runtime.workers.memory import SharedMemory

_MEMORY_BYTES: Final = 8 << 20
_MEMORY_PER_WORKER_BYTES: Final = 2 << 20
_BACKOFF: Final = Backoff(0.5, 15)
_STABLE_AFTER_S: Final = 60.0
"""A worker that ran for longer is restarted as after its first failure."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Worker:
    """Number and shared resources of one worker among its siblings."""

    number: int
    """From 0. A restarted worker has the number of its predecessor."""
    count: int
    memory: SharedMemory
    mailboxes: Sequence[tuple[socket.socket, socket.socket]]
    """For each worker, the socket that it receives datagrams from, and the one that others send them to."""
    started: memoryview
    """One byte for each worker, which it sets when it serves."""
    parent: int
    """A file descriptor that becomes readable when the parent has ended."""


def fork_workers(service: str, count: int) -> Worker:
    """Fork this process into workers of a service; return in each worker only.

    In the parent, raises `SystemExit` with the exit status when all workers have ended. Raises
    `Misconfigured` before the fork if a setting of every service is wrong or the port is taken.
    """
    log = _check_settings(service)
    memory = SharedMemory(_MEMORY_BYTES + count * _MEMORY_PER_WORKER_BYTES)
    parent_alive, parent_end = os.pipe()
    mailboxes = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
    for end in (end for pair in mailboxes for end in pair):
        end.setblocking(False)
    started = memory.take(-(-count // 8))[:count]
    workers = [Worker(number, count, memory, mailboxes, started, parent_alive) for number in range(count)]
    return _Parent(workers, parent_end, log).run()


def _check_settings(service: str) -> Log:
    """Return the parent's logger. Raises `Misconfigured`."""
    hub = load(HubSettings)
    bind(hub.host, hub.port).close()
    return configure(service, hub.log_level)


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a bound socket; with `shared`, one of several on the same address.

    Raises `Misconfigured` if the address is in use or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Misconfigured(f"cannot listen on {host}:{port}: {error.strerror}; set INTERLINK_PORT") from None
    listener.set_inheritable(False)
    return listener


class _Parent:
    def __init__(self, workers: Sequence[Worker], parent_end: int, log: Log) -> None:
        self._workers = workers
        self._started = workers[0].started
        self._parent_end = parent_end
        self._log = log
        self._pids: dict[int, int] = {}
        """The number of each running worker, by its process id."""
        self._forked_at = [0.0] * len(workers)
        self._failures = [0] * len(workers)
        self._due = dict.fromkeys(range(len(workers)), 0.0)
        """Times at which to fork each worker that does not run, on the monotonic clock."""
        self._has_served = False
        self._signalled = self._stopping = False
        self._status = 0

    def run(self) -> Worker:
        """Fork the workers, and again those that die. See `fork_workers`."""
        # No `finally` and no context manager here: a worker leaves through the same frames.
        wakeup, signalled = os.pipe()
        os.set_blocking(signalled, False)
        os.set_blocking(wakeup, False)
        before = {number: signal.signal(number, self._note_signal) for number in _SIGNALS}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
        while True:
            if self._signalled:
                self._signalled = False
                self._stop()
            for number in [number for number, due in self._due.items() if due <= monotonic()]:
                # Signals wait during the fork, so that the child gets none with the parent's handlers.
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
                if self._signalled:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                    break
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for signal_number, handler in before.items():
                        signal.signal(signal_number, handler)
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                    for descriptor in (self._parent_end, wakeup, signalled):
                        os.close(descriptor)
                    return self._workers[number]
                self._pids[pid] = number
                self._forked_at[number] = monotonic()
                del self._due[number]
                self._log.info("worker.forked", worker=number, pid=pid)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            if self._stopping and not self._pids:
                sys.exit(self._status)
            # A signal that came since the look at `_signalled` is in the pipe.
            pause = min(self._due.values(), default=None)
            select.select([wakeup], [], [], None if pause is None else max(0.0, pause - monotonic()))
            with suppress(BlockingIOError):
                os.read(wakeup, 4096)
            self._reap()

    def _note_signal(self, *_: object) -> None:
        """Handle SIGTERM and SIGINT. The loop stops the workers, between two of its steps."""
        self._signalled = True

    def _stop(self) -> None:
        """Drain all workers, and restart none. It can be repeated."""
        self._stopping = True
        self._due.clear()
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _reap(self) -> None:
        """Note the workers that have ended, and when to restart them."""
        self._has_served = self._has_served or any(self._started)
        for pid, number in list(self._pids.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del self._pids[pid]
            self._started[number] = 0
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                self._status = self._status or (code if code >= 0 else 128 - code)
            elif code > 0 and not self._has_served:
                # The service cannot start at all, as it would without workers. The worker has said why.
                self._status = code
                self._stop()
            else:
                self._restart_later(number, code)

    def _restart_later(self, number: int, code: int) -> None:
        now = monotonic()
        is_stable = now - self._forked_at[number] >= _STABLE_AFTER_S
        self._failures[number] = 1 if is_stable else self._failures[number] + 1
        pause_s = _BACKOFF.pause_s(self._failures[number])
        self._due[number] = now + pause_s
        self._log.error("worker.ended", worker=number, status=code, restart_in_s=pause_s)


def _ignore(*_: object) -> None:
    """Handle SIGCHLD: its handler makes the signal wake the parent."""
