"""`make bench`: the goals of the hub, measured here and now."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.backlog import backlog
from bench.fairness import fairness
from bench.fanout import fanout
from bench.isolation import isolation
from bench.machine import cores, described
from bench.remote import Failed
from bench.resolution import resolution
from bench.schemes import schemes
from bench.stages import Bench, Plan
from bench.system import has_sync
from bench.table import table

STAGES: Final = (
    "gateway",
    "schemes",
    "delivery",
    "flow",
    "isolation",
    "fairness",
    "resolution",
    "fanout",
    "backlog",
)


def main() -> int:
    """Run the stages that are asked for, print the table; 1 when something could not be measured."""
    wanted = _arguments()
    plan = Plan.quick(wanted.bus) if wanted.quick else Plan(wanted.bus)
    if wanted.due:
        plan = replace(plan, most_due=wanted.due)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    about = described() | {"bus": wanted.bus, "pinning": cores().said}
    if not has_sync():
        about["sync"] = "not there yet: not measured"
    for name, value in about.items():
        console.print(f"{name}: {value}", soft_wrap=True)
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="interlink-bench-") as folder:
        bench = Bench(plan, cores(), Path(folder), lambda line: console.print(line, style="dim"))
        run: dict[str, Callable[[], Any]] = {
            "gateway": lambda: bench.gateway().document(),
            "schemes": lambda: schemes(bench),
            "delivery": bench.delivery,
            "flow": bench.end_to_end,
            "isolation": lambda: isolation(bench),
            "fairness": lambda: fairness(bench),
            "resolution": lambda: resolution(bench),
            "fanout": lambda: fanout(bench),
            "backlog": lambda: backlog(bench),
        }
        try:
            for stage in wanted.only or STAGES:
                measured[stage] = run[stage]()
        except (Failed, AssertionError) as error:
            console.print(f"bench: {stage}: {error}", style="red")
            return 1
        finally:
            bench.close()
    console.print(table(measured))
    if wanted.json:
        wanted.json.write_text(json.dumps({"machine": about, **measured}, indent=1) + "\n", encoding="utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--bus", choices=("embedded", "kafka"), default="embedded", help="the broker")
    parser.add_argument("--quick", action="store_true", help="some seconds, to see that it works")
    parser.add_argument("--only", action="append", choices=STAGES, help="this stage; may be repeated")
    parser.add_argument(
        "--due",
        type=int,
        metavar="N",
        help="the largest backlog: 1,000, ten times as many, and so on up to N; 1,000,000 take long to enter",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
