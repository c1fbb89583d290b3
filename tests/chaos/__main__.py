"""`python -m tests.chaos`: cause faults for some minutes, print the table, and fail if anything was lost."""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Final

from tests.chaos.faults import FAULTS, Impossible
from tests.chaos.rig import Rig
from tests.support.apache_kafka import available

_RECOVERY_S: Final = 180.0
_MAX_LINES: Final = 20


@dataclass
class Row:
    """What one fault did, summed over its repetitions."""

    fault: str
    times: int = 0
    acknowledged: int = 0
    failed: int = 0
    duplicates: int = 0
    max_recovery_s: float = 0.0
    """From the end of the fault until all that was acknowledged before is delivered."""
    skipped: str = ""

    def __str__(self) -> str:
        if self.skipped:
            return f"| {self.fault} | skipped: {self.skipped} | | | | |"
        return (
            f"| {self.fault} | {self.times} | {self.acknowledged:,} | {self.failed:,} | {self.duplicates:,} "
            f"| {self.max_recovery_s:.1f} |"
        )


def cause(rig: Rig, row: Row, recovery_s: float) -> str:
    """Cause a fault and wait until the hub has recovered; return what went wrong, or nothing."""
    before = rig.look()
    acknowledged, failed, duplicates = before.acknowledged, before.failures.total(), before.duplicates.total()
    try:
        FAULTS[row.fault](rig)
    except Impossible as error:
        row.skipped = str(error)
        return ""
    except Exception as error:  # noqa: BLE001 -- hours of counting before it are not thrown away
        return f"the fault {row.fault} failed: {error!r}"
    ended = monotonic()
    waiting = set(rig.look().missing)
    recovered = rig.until(lambda: not waiting & rig.tally.missing, recovery_s)
    # Something new has to get through as well.
    recovered = recovered and rig.until(lambda: rig.tally.last_acknowledged_at > ended, recovery_s)
    row.max_recovery_s = max(row.max_recovery_s, monotonic() - ended)
    row.times += 1
    row.acknowledged += rig.tally.acknowledged - acknowledged
    row.failed += rig.tally.failures.total() - failed
    row.duplicates += rig.tally.duplicates.total() - duplicates
    return "" if recovered else f"the hub did not recover from: {row.fault}"


@dataclass
class Totals:
    """Sums over the journals of all hubs of a run."""

    acknowledged: int = 0
    unknown: int = 0
    failures: int = 0
    taken: int = 0
    lost: list[str] = field(default_factory=list)
    duplicates: int = 0
    inversions: int = 0
    unsent: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    failed_calls: list[str] = field(default_factory=list)

    def add(self, rig: Rig) -> None:
        """Add what became of the webhooks of a hub, after its load has ended."""
        tally = rig.look()
        self.acknowledged += tally.acknowledged
        self.unknown += tally.unknown
        self.failures += tally.failures.total()
        self.taken += tally.taken.total()
        self.lost += sorted(map(str, tally.missing))
        self.duplicates += tally.duplicates.total()
        self.inversions += tally.inversions
        self.unsent += tally.unsent
        self.calls += rig.calls
        self.failed_calls += rig.failed_calls


def summary(totals: Totals, seconds: float) -> list[str]:
    """Return the totals as lines of text."""
    lines = [
        f"{totals.acknowledged:,} webhooks acknowledged in {seconds / 60:.0f} minutes",
        f"{totals.unknown:,} of unknown fate, {totals.failures:,} requests failed and repeated",
        f"{totals.taken:,} deliveries, {len(totals.lost):,} lost, {totals.duplicates:,} duplicates",
        f"{totals.inversions:,} overtaken in strict order, {totals.unsent:,} of webhooks that nobody sent",
    ]
    if not totals.lost and totals.acknowledged:
        lines.append(
            f"0 lost of {totals.acknowledged:,} acknowledged: with 95 % confidence, fewer than "
            f"{3 / totals.acknowledged:.1e} of them are lost (3/n)"
        )
    if totals.calls:
        calls = ", ".join(f"{number:,} {name}" for name, number in sorted(totals.calls.items()))
        lines.append(f"calls of APIs: {calls}, {len(totals.failed_calls):,} failed")
    return lines


def problems(totals: Totals, rows: Sequence[Row]) -> list[str]:
    """Return what must not be."""
    found = []
    if totals.lost:
        found.append(f"{len(totals.lost):,} deliveries are lost, such as {totals.lost[0]}")
    if totals.inversions:
        found.append(f"{totals.inversions:,} deliveries in strict order overtook an earlier one")
    if totals.unsent:
        found.append(f"{totals.unsent:,} deliveries are of webhooks that nobody sent")
    for row in rows:
        if row.fault == "rolling restart" and row.failed:
            found.append(f"{row.failed:,} requests failed while the processes were replaced")
        if row.fault == "rolling restart" and row.duplicates:
            found.append(f"{row.duplicates:,} deliveries were doubled while the processes were replaced")
    found += [f"a call while services were replaced: {line}" for line in totals.failed_calls[:_MAX_LINES]]
    return found


@dataclass
class Run:
    """Causes faults in one hub after the other. A fault that failed, or was not recovered from, ends it.

    Each fault is caused once, and more in random order until the minutes are over and as many webhooks are
    acknowledged. A hub that has acknowledged `per_hub` is replaced by a new one, with an empty broker and
    database.
    """

    rows: Mapping[str, Row]
    minutes: float
    webhooks: int
    per_hub: int
    rng: random.Random
    recovery_s: float
    began: float = field(default_factory=monotonic)
    totals: Totals = field(default_factory=Totals)
    stuck: str = ""
    waiting: list[str] = field(default_factory=list)
    """The faults that come next."""
    is_complete: bool = False
    """True once each fault was caused."""

    def is_over(self, acknowledged: int = 0) -> bool:
        """Return whether no further fault is caused, with so many webhooks of the current hub."""
        is_enough = self.totals.acknowledged + acknowledged >= self.webhooks
        is_late = monotonic() - self.began >= self.minutes * 60
        return bool(self.stuck) or (self.is_complete and is_late and is_enough)

    def cause_faults(self, rig: Rig, rate: float) -> None:
        """Cause faults in a hub until it has acknowledged enough, or the run is over."""
        with rig.load():
            rig.until(lambda: rig.tally.acknowledged > rate, self.recovery_s)
            while not self.is_over(rig.tally.acknowledged):
                if self.per_hub and rig.tally.acknowledged >= self.per_hub:
                    break
                row = self.rows[self._next()]
                self.stuck = cause(rig, row, self.recovery_s)
                self.is_complete = self.is_complete or not self.waiting
                _say(f"{row} {self.totals.acknowledged + rig.tally.acknowledged:,} in all")
        rig.until(lambda: not rig.tally.missing or rig.nothing_left(), _RECOVERY_S)
        rig.wait(1)  # for what is on its way to the receiver, and for duplicates
        self.totals.add(rig)
        for failure in rig.ended:
            _say(f"restarted: {failure}")

    def _next(self) -> str:
        if not self.waiting:
            self.waiting = self.rng.sample(list(self.rows), len(self.rows))
        return self.waiting.pop()


def chaos(
    folder: Path,
    *,
    faults: Sequence[str],
    minutes: float,
    rate: float,
    seed: int,
    disk_mb: int,
    broken: bool,
    webhooks: int = 0,
    per_hub: int = 0,
    recovery_s: float = _RECOVERY_S,
) -> int:
    """Cause faults, print what became of the webhooks, and return the exit status: see `Run`."""
    rows = {name: Row(name) for name in faults}
    rng = random.Random(seed)  # noqa: S311 -- to be repeated
    run = Run(rows, minutes, webhooks, per_hub, rng, recovery_s)
    for number in count(1):
        with Rig(folder / str(number), rate, disk_mb, broken) as rig:
            run.cause_faults(rig, rate)
        if run.is_over():
            break
    _say("")
    _say(f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}, {rate:g} webhooks a second, two processes of a service")
    _say("")
    _say("| fault | times | acknowledged meanwhile | requests failed | duplicates | recovered within s |")
    _say("|---|---|---|---|---|---|")
    for row in rows.values():
        _say(str(row))
    _say("")
    for line in summary(run.totals, monotonic() - run.began):
        _say(line)
    found = problems(run.totals, list(rows.values())) + ([run.stuck] if run.stuck else [])
    for line in found:
        _say(f"FAILED: {line}")
    return 1 if found else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long faults begin (default: 10)")
    parser.add_argument("--webhooks", type=int, default=0, help="and until as many are acknowledged")
    parser.add_argument("--per-hub", type=int, default=0, help="begin a new hub after as many")
    parser.add_argument("--rate", type=float, default=50, help="webhooks a second (default: 50)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", action="append", choices=list(FAULTS), help="this fault; can be repeated")
    parser.add_argument(
        "--without", action="append", choices=list(FAULTS), help="not this one; can be repeated"
    )
    parser.add_argument("--recovery", type=float, default=_RECOVERY_S, help="s to recover in (default: 180)")
    parser.add_argument("--disk-mb", type=int, default=2048, help="size of the disks that are filled")
    parser.add_argument("--broken", action="store_true", help="a build that loses: the run has to fail")
    parser.add_argument("--folder", type=Path, help="where journals and logs stay (default: temporary)")
    given = parser.parse_args(arguments)
    if reason := available():
        parser.error(reason)
    with tempfile.TemporaryDirectory(prefix="interlink-chaos-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return chaos(
            folder,
            faults=[name for name in given.only or FAULTS if name not in (given.without or ())],
            minutes=given.minutes,
            webhooks=given.webhooks,
            per_hub=given.per_hub,
            recovery_s=given.recovery,
            rate=given.rate,
            seed=given.seed,
            disk_mb=given.disk_mb,
            broken=given.broken,
        )


if __name__ == "__main__":
    sys.exit(main())
