"""Time, CPU and bytes of the console's pages over a database that is full."""

from collections.abc import Callable
from math import ceil
from os import sysconf
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

from bench.console_fill import fill
from bench.console_viewers import SIGN_IN, first_paint, viewers
from bench.machine import proportional_mb
from bench.stages import Bench, Plan
from bench.system import System
from tests.console.person import Person

SERVICES: Final = ("gateway", "delivery", "oauth", "sync", "importer", "console")
_TICK_MS: Final = 1000 / sysconf("SC_CLK_TCK")


def console_pages(bench: Bench) -> dict[str, Any]:
    """Return p95, CPU and bytes of every page, the console's memory in MB, and what viewers cost."""
    plan = bench.plan
    with bench.hub("console", *SERVICES, pins=False) as hub:
        started = perf_counter()
        paths = fill(hub, plan.console_endpoints, plan.console_rows)
        bench.say(
            f"console: {plan.console_rows:,} deliveries and messages in {perf_counter() - started:.0f} s"
        )
        return {"rows": plan.console_rows} | measured(hub, paths, plan, bench.say)


def measured(hub: System, paths: list[str], plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the pages of a hub with a full database, its viewers, and the first paint in a browser."""
    person = Person(hub.url("console"))
    person.sign_in(hub.admin_key)
    pages = {}
    for path in paths:
        pages[path] = page = _measure(hub, person, path, plan.console_repeats)
        say(
            f"console, {path}: first {page['first_ms']:.0f} ms, p50 {page['p50_ms']:.0f} ms, "
            f"p95 {page['p95_ms']:.0f} ms, CPU {page['cpu_ms']:.0f} ms, "
            f"database {page['database_ms']:.0f} ms, {page['bytes']:,} bytes"
        )
    paint = first_paint(hub, [SIGN_IN, "/console", "/console/deliveries"], plan.console_paints)
    say(f"console, first paint: {paint}")
    live = viewers(hub, plan.console_viewers, plan.console_viewers_s)
    say(f"console, viewers: {live}")
    return {"pages": pages, "paint": paint, "live": live, "memory_mb": proportional_mb(hub.pid("console"))}


def _measure(hub: System, person: Person, path: str, repeats: int) -> dict[str, float]:
    """Open a page again and again; the first time, which may read more, is apart."""
    started = perf_counter()
    answer = person.open(path)
    first_ms = (perf_counter() - started) * 1000
    if answer.status != 200:
        raise AssertionError(f"{path}: status {answer.status}")
    pids = [hub.pid(name) for name in SERVICES]
    before, database = sum(map(_cpu_ms, pids)), _cpu_ms(hub.store_pid)
    times = []
    for _ in range(repeats):
        started = perf_counter()
        person.client.get(path)
        times.append((perf_counter() - started) * 1000)
    times.sort()
    return {
        "first_ms": first_ms,
        "p50_ms": median(times),
        "p95_ms": times[ceil(len(times) * 0.95) - 1],
        "cpu_ms": (sum(map(_cpu_ms, pids)) - before) / repeats,
        "database_ms": (_cpu_ms(hub.store_pid) - database) / repeats,
        "bytes": len(answer.response.content),
    }


def _cpu_ms(pid: int) -> float:
    """Return the CPU time of a process in ms."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_MS
