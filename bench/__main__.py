"""`make bench`: the goals of the hub, measured here and now."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from bench.backlog import backlog
from bench.fanout import fanout
from bench.isolation import isolation
from bench.machine import cores, described
from bench.remote import Failed
from bench.stages import Bench, Plan
from bench.system import has_sync

STAGES: Final = ("gateway", "delivery", "flow", "isolation", "fanout", "backlog")
_GATEWAY_TIMES: Final = 4.0
_DELIVERY_TIMES: Final = 2.0
_P50_MS: Final = 20.0
_P99_MS: Final = 60.0
_RESIDENT_MB: Final = 120.0
_BESIDE_TIMES: Final = 1.2
_BACKLOG_TIMES: Final = 2.0


def main() -> int:
    """Run the stages that are asked for, print the table; 1 when something could not be measured."""
    wanted = _arguments()
    plan = Plan.quick(wanted.bus) if wanted.quick else Plan(wanted.bus)
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
            "delivery": bench.delivery,
            "flow": bench.end_to_end,
            "isolation": lambda: isolation(bench),
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
    console.print(_table(measured))
    if wanted.json:
        wanted.json.write_text(json.dumps({"machine": about, **measured}, indent=1) + "\n", encoding="utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--bus", choices=("embedded", "kafka"), default="embedded", help="the broker")
    parser.add_argument("--quick", action="store_true", help="some seconds, to see that it works")
    parser.add_argument("--only", action="append", choices=STAGES, help="this stage; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser.parse_args()


def _table(measured: dict[str, Any]) -> Table:
    table = Table(box=MARKDOWN)
    for title in ("what", "goal", "measured", "", "beside it"):
        table.add_column(title)

    def row(what: str, goal: float, unit: str, value: float, beside: str) -> None:
        met = "met" if value <= goal else "missed"
        table.add_row(what, f"<= {goal:g}{unit}", f"{value:.1f}{unit}", met, beside)

    for stage, goal, against in (
        ("gateway", _GATEWAY_TIMES, "bare ASGI"),
        ("delivery", _DELIVERY_TIMES, "bare client"),
    ):
        if found := measured.get(stage):
            beside = (
                f"{found['cpu_us']:.0f} us, bare {found['bare_cpu_us']:.0f} us; "
                f"{found['per_s']:,.0f}/s, bare {found['bare_per_s']:,.0f}/s"
            )
            row(f"{stage}: CPU against {against}", goal, "x", found["times_bare"], beside)
    if flow := measured.get("flow"):
        half = flow["at_half"]
        beside = f"at {half['in_per_s']:,.0f}/s, half of {flow['most_per_s']:,.0f}/s"
        row("webhook in to webhook out, p50", _P50_MS, " ms", half["p50_ms"], beside)
        row("webhook in to webhook out, p99", _P99_MS, " ms", half["p99_ms"], beside)
        for name, resident in flow["resident_mb"].items():
            row(f"{name}: resident memory", _RESIDENT_MB, " MB", resident, "after that load")
    if found := measured.get("isolation"):
        beside = (
            f"{found['beside']['p99_ms']:.1f} ms, alone {found['alone']['p99_ms']:.1f} ms; "
            f"p50 {found['beside']['p50_ms']:.1f} ms, alone {found['alone']['p50_ms']:.1f} ms"
        )
        what = f"p99 beside dead endpoints with {found['waiting']:,} waiting"
        row(what, _BESIDE_TIMES, "x", found["p99_times"], beside)
    if found := measured.get("backlog"):
        least, most = found["sizes"][0], found["sizes"][-1]
        beside = f"{most['claim_p50_ms']:.1f} ms, {least['claim_p50_ms']:.1f} ms with {least['due']:,}"
        row(f"a claim, up to {most['due']:,} due", _BACKLOG_TIMES, "x", found["claim_times"], beside)
        beside = f"{most['drained_per_s']:,.0f}/s, {least['drained_per_s']:,.0f}/s with {least['due']:,}"
        row(f"working off, up to {most['due']:,} due", _BACKLOG_TIMES, "x", found["drain_times"], beside)
    return table


if __name__ == "__main__":
    sys.exit(main())
