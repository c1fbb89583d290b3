"""`python -m tests.chaos`: cause faults for some minutes, print the table, and fail if anything was lost."""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

from tests.chaos.faults import FAULTS, Impossible
from tests.chaos.rig import Rig
from tests.chaos.tally import Tally
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


def summary(tally: Tally, seconds: float) -> list[str]:
    """Return the totals as lines of text."""
    lost = len(tally.missing)
    lines = [
        f"{tally.acknowledged:,} webhooks acknowledged in {seconds / 60:.0f} minutes",
        f"{tally.unknown:,} of unknown fate, {tally.failures.total():,} requests failed and repeated",
        f"{tally.taken.total():,} deliveries, {lost:,} lost, {tally.duplicates.total():,} duplicates",
        f"{tally.inversions:,} overtaken in strict order, {tally.unsent:,} of webhooks that nobody sent",
    ]
    if not lost and tally.acknowledged:
        lines.append(
            f"0 lost of {tally.acknowledged:,} acknowledged: with 95 % confidence, fewer than "
            f"{3 / tally.acknowledged:.1e} of them are lost (3/n)"
        )
    return lines


def problems(tally: Tally, rows: Sequence[Row]) -> list[str]:
    """Return what must not be."""
    found = []
    if tally.missing:
        found.append(f"{len(tally.missing):,} deliveries are lost, such as {min(tally.missing)}")
    if tally.inversions:
        found.append(f"{tally.inversions:,} deliveries in strict order overtook an earlier one")
    if tally.unsent:
        found.append(f"{tally.unsent:,} deliveries are of webhooks that nobody sent")
    for row in rows:
        if row.fault == "rolling restart" and row.failed:
            found.append(f"{row.failed:,} requests failed while the processes were replaced")
        if row.fault == "rolling restart" and row.duplicates:
            found.append(f"{row.duplicates:,} deliveries were doubled while the processes were replaced")
    return found


def chaos(
    folder: Path,
    *,
    faults: Sequence[str],
    minutes: float,
    webhooks: int,
    rate: float,
    seed: int,
    disk_mb: int,
    broken: bool,
    recovery_s: float = _RECOVERY_S,
) -> int:
    """Cause each fault once, and more in random order; return the exit status.

    Faults go on until the minutes are over and as many webhooks are acknowledged.
    """
    rng = random.Random(seed)  # noqa: S311 -- to be repeated
    rows = {name: Row(name) for name in faults}
    began = monotonic()
    stuck = ""

    def is_over(rig: Rig) -> bool:
        return monotonic() - began >= minutes * 60 and rig.tally.acknowledged >= webhooks

    with Rig(folder, rate, disk_mb, broken) as rig:
        with rig.load():
            rig.until(lambda: rig.tally.acknowledged > rate, recovery_s)
            first = True
            while not stuck and (first or not is_over(rig)):
                for name in rng.sample(list(faults), len(faults)):
                    if not first and is_over(rig):
                        break
                    if stuck := cause(rig, rows[name], recovery_s):
                        break
                    _say(f"{rows[name]} {rig.tally.acknowledged:,} in all")
                first = False
        rig.until(lambda: not rig.tally.missing or rig.nothing_left(), _RECOVERY_S)
        rig.wait(1)  # for what is on its way to the receiver, and for duplicates
        tally = rig.look()
        for failure in rig.ended:
            _say(f"restarted: {failure}")
    _say("")
    _say(f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}, {rate:g} webhooks a second, two processes of a service")
    _say("")
    _say("| fault | times | acknowledged meanwhile | requests failed | duplicates | recovered within s |")
    _say("|---|---|---|---|---|---|")
    for row in rows.values():
        _say(str(row))
    _say("")
    for line in summary(tally, monotonic() - began):
        _say(line)
    if rig.calls:
        calls = ", ".join(f"{number:,} {name}" for name, number in sorted(rig.calls.items()))
        _say(f"calls of APIs: {calls}, {len(rig.failed_calls):,} failed")
    found = problems(tally, list(rows.values()))
    found += [f"a call while services were replaced: {line}" for line in rig.failed_calls[:_MAX_LINES]]
    if stuck:
        found.append(stuck)
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
    parser.add_argument("--rate", type=float, default=50, help="webhooks a second (default: 50)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", action="append", choices=list(FAULTS), help="this fault; can be repeated")
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
            faults=given.only or list(FAULTS),
            minutes=given.minutes,
            webhooks=given.webhooks,
            rate=given.rate,
            seed=given.seed,
            disk_mb=given.disk_mb,
            broken=given.broken,
        )


if __name__ == "__main__":
    sys.exit(main())
