"""The process that services are forked off: it has imported them already, so they start quickly.

`python -m interlink.fork_server MODULE...` imports the modules, writes to its standard input, a socket, that
it is ready, and forks for each request that comes there (`fork_client` sends them). It ends when the other
side is closed. It has no threads, no event loop, no other sockets and no secrets: it never reads a child's
environment and arguments. The child reads them, from a pipe.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from setproctitle import setproctitle

READY: Final = b"r"
FORK: Final = b"f"
"""A request. Four file descriptors come with it: of the pipe with the child's description, of its output and
its error output, and of the pipe for its process id and its exit status."""


def main(modules: Sequence[str]) -> None:
    """Import the modules, and fork until the control socket is closed. Returns in no other case."""
    # What is imported is never freed. Frozen, it is in no later collection, which would write to its pages.
    gc.disable()
    for module in modules:
        import_module(module)
    gc.freeze()
    setproctitle("interlink fork-server")
    child = _ForkServer(socket.socket(fileno=sys.stdin.fileno())).serve()
    if child:
        _run(*child)


class _ForkServer:
    """Forks for each request, and tells the exit status of each child through its pipe."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._status_pipes: dict[int, int] = {}
        """The writing end of each running child's pipe, by its process id."""

    def serve(self) -> tuple[int, int, int] | None:
        """Return, in each child, its description and output files; in the server, None at the end."""
        signal.signal(signal.SIGCHLD, self._report_ended)
        self._control.sendall(READY)
        while True:
            request, descriptors, _, _ = socket.recv_fds(self._control, 1, 4)
            if not request:
                return None
            description, output, errors, status_pipe = descriptors
            # A child that ends at once must be in the table before its end is handled.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            pid = os.fork()
            if pid == 0:
                self._leave()
                return description, output, errors
            self._status_pipes[pid] = status_pipe
            for descriptor in (description, output, errors):
                os.close(descriptor)
            _write_line(status_pipe, pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _leave(self) -> None:
        """Give up, in the child, what belongs to the server: its signals, the control socket, other pipes.

        The child's own pipe stays open in it: its end shows the end of the child even if the server is gone.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.setsid()
        self._control.detach()  # the descriptor is replaced below
        for descriptor in self._status_pipes.values():
            os.close(descriptor)

    def _report_ended(self, *_: Any) -> None:
        while self._status_pipes:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # This handler interrupted itself: the child still in the table was reaped by the outer call.
                return
            if pid == 0:
                return
            pipe = self._status_pipes.pop(pid)
            _write_line(pipe, os.waitstatus_to_exitcode(status))
            os.close(pipe)


def _write_line(pipe: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody asks any more
        os.write(pipe, b"%d\n" % number)


def _run(description: int, output: int, errors: int) -> None:
    """Take the files, the environment and the name of the child, and run its module as `python -m` does."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((nothing, 0), (output, 1), (errors, 2)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    with os.fdopen(description, "rb") as pipe:
        described = json.loads(pipe.read())
    os.environ.clear()
    os.environ.update(described["env"])
    time.tzset()
    command: list[str] = described["command"]
    setproctitle(" ".join(command))
    gc.enable()
    sys.argv = command
    status = 0
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise  # a text, which the interpreter prints
        status = end.code or 0
    _exit(status)


def _exit(status: int) -> None:
    """End this process as `multiprocessing` ends one that it has forked.

    The interpreter would free each object one by one. That copies the pages that the child shares with the
    server, and is most of the work of a service's end.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
