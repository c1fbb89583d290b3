"""Free loopback ports."""

import os
import socket
from itertools import cycle, islice
from secrets import randbelow
from typing import Final

_FIRST: Final = 10_000
_PER_PROCESS: Final = 1_000
"""Of each process that runs tests, so that two of them never choose the same port."""

_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
_ports = islice(
    cycle(range(_FIRST + _process * _PER_PROCESS, _FIRST + (_process + 1) * _PER_PROCESS)),
    randbelow(_PER_PROCESS),
    None,
)


def free_port() -> int:
    """Choose a port that nobody listens on now, below those that the kernel gives to outgoing connections.

    Among those, any client of this machine may be given the port before it is used. A client that keeps
    trying to reach a server that is down can even be given the server's own port, and connect to itself.
    """
    return next(filter(is_free, _ports))


def is_free(port: int) -> bool:
    """Return whether a server can listen on the loopback port, for TCP and for UDP."""
    with (
        socket.socket(type=socket.SOCK_STREAM) as stream,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
    ):
        # As servers do it: connections of the last one in TIME_WAIT are not in the way.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            stream.bind(("127.0.0.1", port))
            datagrams.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
