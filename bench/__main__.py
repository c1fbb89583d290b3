"""`make bench`: measure the hub on this machine and compare the results with its goals."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.backlog import backlog
from bench.bridge import bridge
from bench.console_pages import console_pages
from bench.fairness import fairness
from bench.fanout import fanout
from bench.gateway import gateway
from bench.history import history
from bench.isolation import isolation
from bench.machine import cores, described
from bench.peers.measure import PeerPlan
from bench.peers.run import PEERS, missing_peers, peers
from bench.peers.table import described as described_peers
from bench.peers.table import peers_table
from bench.quiet import quiet
from bench.remote import Failed
from bench.resolution import resolution
from bench.schemes import schemes
from bench.stages import Bench, Plan
from bench.system import has_sync
from bench.table import table
from bench.text import text
from bench.trace import trace, trace_tables
from interlink.embedded import DATABASE_PROGRAM

STAGES: Final = (
    "gateway",
    "schemes",
    "text",
    "delivery",
    "flow",
    "quiet",
    "isolation",
    "fairness",
    "resolution",
    "fanout",
    "backlog",
    "bridge",
    "history",
    "console",
    "trace",
    "peers",
)


def main() -> int:
    """Run the selected stages and print the table. Return 1 if a stage could not be measured."""
    arguments = _arguments()
    plan = Plan.quick(arguments.bus) if arguments.quick else Plan(arguments.bus)
    if arguments.due:
        plan = replace(plan, max_due=arguments.due)
    if arguments.pause:
        plan = replace(plan, quiet_pause_s=arguments.pause)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    machine = described() | {"bus": arguments.bus, "pinning": cores().description}
    if program := os.environ.get(DATABASE_PROGRAM):
        machine["database"] = program
    if not has_sync():
        machine["sync"] = "not installed: not measured"
    for name, value in machine.items():
        console.print(f"{name}: {value}", soft_wrap=True)
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="interlink-bench-") as folder:
        bench = Bench(plan, cores(), Path(folder), lambda line: console.print(line, style="dim"))
        run: dict[str, Callable[[], Any]] = {
            "gateway": lambda: gateway(bench),
            "schemes": lambda: schemes(bench),
            "text": lambda: text(bench),
            "delivery": bench.delivery,
            "flow": bench.end_to_end,
            "quiet": lambda: quiet(bench),
            "isolation": lambda: isolation(bench),
            "fairness": lambda: fairness(bench),
            "resolution": lambda: resolution(bench),
            "fanout": lambda: fanout(bench),
            "backlog": lambda: backlog(bench),
            "bridge": lambda: bridge(bench),
            "history": lambda: history(bench),
            "console": lambda: console_pages(bench),
            "trace": lambda: trace(bench),
            "peers": lambda: peers(
                Path(folder) / "peers",
                PeerPlan.quick() if arguments.quick else PeerPlan(),
                bench.say,
            ),
        }
        try:
            for stage in arguments.only or _whole_run(console):
                measured[stage] = run[stage]()
        except (Failed, AssertionError) as error:
            console.print(f"bench: {stage}: {error}", style="red")
            return 1
        finally:
            bench.close()
    console.print(table(measured))
    for title, stage_table in trace_tables(measured.get("trace", {})):
        console.print(f"\n{title}")
        console.print(stage_table)
    if result := measured.get("peers"):
        for line in described_peers(result):
            console.print(line, soft_wrap=True)
        console.print(peers_table(result))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": machine, **measured}, indent=1) + "\n", encoding="utf-8"
        )
    return 0


def _whole_run(console: Console) -> list[str]:
    """Return the stages of a run without `--only`: without `peers` if there is no other engine to measure."""
    missing = missing_peers()
    if len(missing) < len(PEERS):
        return list(STAGES)
    for name, reason in missing.items():
        console.print(f"peers: {name} is left out: {reason}")
    console.print("peers: left out; docs/how-to/compare-with-peers.md says how to build these engines")
    return [stage for stage in STAGES if stage != "peers"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--bus", choices=("embedded", "kafka"), default="embedded", help="the broker")
    parser.add_argument(
        "--quick", action="store_true", help="run for some seconds only, to see that it works"
    )
    parser.add_argument(
        "--only", action="append", choices=STAGES, help="run only this stage; may be repeated"
    )
    parser.add_argument(
        "--due",
        type=int,
        metavar="N",
        help="the largest backlog: 1,000, then ten times as many, up to N; 1,000,000 take long to insert",
    )
    parser.add_argument(
        "--pause",
        type=float,
        metavar="SECONDS",
        help="the pause before each webhook of `quiet`: 40 by default",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
