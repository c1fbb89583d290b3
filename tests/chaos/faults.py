"""The faults, by name. Each leaves the hub whole again: a fault ends when nothing is broken any more."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

from interlink.embedded import EmbeddedServer
from tests.chaos.others import OTHERS, Others
from tests.chaos.proxy import MODES
from tests.chaos.rig import Member, Rig
from tests.support.apache_kafka import ApacheKafka

_LASTS_S: Final = 10.0
_STANDS_STILL_S: Final = 15.0
"""Longer than a member of a consumer group, and any lease, may be silent."""
_FLOWS_WITHIN_S: Final = 30.0
"""How long a kill waits until deliveries flow, so that there is something to lose."""
_CLOCK: Final = Path(__file__).with_name("clock.c")
_JUMPS_S: Final = (3600, -3600, 0)


class Impossible(Exception):
    """The fault cannot be caused on this machine. The message says why."""


def _members(rig: Rig, service: str) -> list[Member]:
    return [member for member in rig.members if member.service == service]


def _killed(service: str, rig: Rig) -> None:
    """Kill each process of a service in turn, with requests in its hands, and start it again."""
    for member in _members(rig, service):
        at = monotonic()
        rig.until(lambda: rig.tally.last_taken_at > at, _FLOWS_WITHIN_S)  # noqa: B023 -- asked at once
        rig.lines["receiver"].tell("silent")
        rig.wait(1.5)
        member.hub.kill(service)
        rig.lines["receiver"].tell("reset")  # what the line holds of the killed process is gone as well
        rig.lines["receiver"].tell("pass")
        rig.wait(1)
        member.start()


def _suspended(service: str, rig: Rig) -> None:
    """Stop a process for longer than its leases last, and let it go on."""
    member = _members(rig, service)[0]
    pid = member.hub.pid(service)
    os.kill(pid, signal.SIGSTOP)
    try:
        rig.wait(_STANDS_STILL_S)
    finally:
        os.kill(pid, signal.SIGCONT)
    if member.hub.ended(service) is not None:  # it may have found that it was replaced
        member.start()


def _replace(rig: Rig, member: Member, **env: str) -> None:
    """Replace a process as an upgrade does: a gateway leaves the load balancer before SIGTERM."""
    if member.service == "gateway":
        rig.leave(member)
    status = member.hub.stop_service(member.service)
    assert status == 0, f"{member.service} ended with {status} after SIGTERM"
    member.start(**env)
    if member.service == "gateway":
        rig.join(member)


def _rolling(rig: Rig) -> None:
    """Replace every process, one after the other."""
    for member in rig.members:
        _replace(rig, member)
        rig.wait(0.5)


def rolling_others(services: Sequence[str], rig: Rig) -> None:
    """Replace every process of the services that no webhook passes, while their APIs are called."""
    others = Others(rig, services)
    with others.running():
        for member in others.members:
            others.replace(member)
    rig.calls += others.calls
    rig.failed_calls += others.failed


def _server_killed(name: str, rig: Rig) -> None:
    """Kill the broker or the database, and start it again three seconds later."""
    with _down(name, rig) as server:
        server.kill()
        rig.wait(3)
        server.start()


@contextmanager
def _down(name: str, rig: Rig) -> Iterator[ApacheKafka | EmbeddedServer]:
    """A server that a fault may end."""
    rig.is_database_down = name == "database"
    yield rig.broker if name == "broker" else rig.database
    rig.is_database_down = False


def _line(name: str, mode: str, rig: Rig) -> None:
    """Disturb a line; what was half-open is reset at its end, as by the system at the other end."""
    rig.lines[name].tell(mode)
    rig.wait(_LASTS_S)
    if mode == "silent":
        rig.lines[name].tell("reset")
    rig.lines[name].tell("pass")


def _full(name: str, rig: Rig) -> None:
    """Fill the disk of the broker or the database; give the room back, and start it again if it has ended."""
    disk = rig.disks[name]
    if not disk.limited:
        raise Impossible("a disk of its own needs root and tmpfs")
    with _down(name, rig) as server:
        disk.fill()
        try:
            rig.wait(_LASTS_S)
        finally:
            disk.free()
        server.kill()
        server.start()


def _clocks(rig: Rig) -> None:
    """Let the clocks of one gateway and one delivery jump an hour forwards, two back, and right again."""
    file, library = rig.folder / "shift", rig.folder / "clock.so"
    compile_it = ["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(_CLOCK)]
    try:
        subprocess.run(compile_it, check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Impossible(f"the shifted clock is built with gcc: {error}") from error
    file.write_text("0")
    shifted = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(file)}
    chosen = [_members(rig, service)[-1] for service in ("gateway", "delivery")]
    for member in chosen:
        _replace(rig, member, **shifted)
    for jump in _JUMPS_S:
        file.write_text(str(jump))
        rig.wait(_LASTS_S / 2)
    for member in chosen:
        _replace(rig, member)


FAULTS: Final[Mapping[str, Callable[[Rig], None]]] = {
    "kill -9 of the gateways": partial(_killed, "gateway"),
    "kill -9 of delivery": partial(_killed, "delivery"),
    "gateway stands still": partial(_suspended, "gateway"),
    "delivery stands still": partial(_suspended, "delivery"),
    "rolling restart": _rolling,
    "rolling restart of the others": partial(rolling_others, OTHERS),
    "kill -9 of the broker": partial(_server_killed, "broker"),
    "kill -9 of the database": partial(_server_killed, "database"),
    **{
        f"{name}: line {mode}": partial(_line, name, mode)
        for name in ("broker", "database", "receiver")
        for mode in MODES[1:]
    },
    "broker: disk full": partial(_full, "broker"),
    "database: disk full": partial(_full, "database"),
    "clocks jump": _clocks,
}
