"""The table of the part `peers`: one column per engine, and the hub against the best peer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rich.box import MARKDOWN
from rich.table import Table

Value = Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True)
class Measure:
    """A row. A goal is a limit, or with `relative` a multiple of the best peer's value.

    `goals` are those of the hub on Apache Kafka, and on the embedded pair.
    """

    title: str
    value: Value
    digits: int = 0
    more_is_better: bool = False
    goals: tuple[float | None, float | None] = (None, None)
    relative: bool = True


def _of(part: str, name: str) -> Value:
    return lambda result: None if result.get(part) is None else float(result[part][name])


MEASURES: Final = (
    Measure("deliveries/s, published by API", _of("publish", "per_s"), more_is_better=True, goals=(1.0, 1.0)),
    Measure(
        "deliveries/s, signed webhooks in", _of("inbound", "per_s"), more_is_better=True, goals=(1.0, 1.0)
    ),
    Measure("CPU per event by API, own (us)", _of("publish", "own_us"), goals=(0.64, 0.64)),
    Measure("CPU per event by API, broker and store (us)", _of("publish", "stores_us"), goals=(1.11, 1.11)),
    Measure("CPU per webhook in, own (us)", _of("inbound", "own_us")),
    Measure("CPU per webhook in, broker and store (us)", _of("inbound", "stores_us")),
    Measure("arrival at 100/s, p50 (ms)", _of("steady", "p50_ms"), 1, goals=(5.2, 2.8)),
    Measure("arrival at 100/s, p99 (ms)", _of("steady", "p99_ms"), 1, goals=(5.5, 3.4)),
    Measure(
        "CPU per event at 100/s, all processes (us)",
        lambda result: result["steady"]["own_us"] + result["steady"]["stores_us"],
        goals=(0.98, 0.98),
    ),
    Measure("half of the engine's maximum (events/s)", _of("half", "rate")),
    Measure("arrival at that rate, p50 (ms)", _of("half", "p50_ms"), 1),
    Measure("arrival at that rate, p99 (ms)", _of("half", "p99_ms"), 1),
    Measure("memory, own (MB, PSS)", _of("memory_mb", "own"), goals=(250, 250), relative=False),
    Measure("memory, broker and store (MB, PSS)", _of("memory_mb", "stores")),
    Measure(
        "doing nothing, own (% of a core)",
        lambda result: result["idle"]["own"] * 100,
        2,
        goals=(2.0, 2.0),
        relative=False,
    ),
    Measure(
        "doing nothing, all processes (% of a core)",
        lambda result: (result["idle"]["own"] + result["idle"]["stores"]) * 100,
        2,
        goals=(None, 3.0),
        relative=False,
    ),
    Measure(
        "start to ready (s)", lambda result: float(result["ready_s"]), 1, goals=(None, 4.0), relative=False
    ),
)
"""The goals that are multiples were set from one quiet run, as the hub's goal over the best peer's value."""
_MAX_LOAD: Final = 0.5
_NO_RATIO: Final = "half of the engine's maximum (events/s)"


def peers_table(result: Mapping[str, Any]) -> Table:
    """Return the table: values, the hub as a multiple of the best peer, and whether its goals are met."""
    medians = {name: engine["median"] for name, engine in result["engines"].items()}
    ours = [name for name in medians if name.startswith("Interlink")]
    table = Table(box=MARKDOWN)
    for title in ("", *medians, *(f"{name} / best peer" for name in ours)):
        table.add_column(title)
    for measure in MEASURES:
        values = {name: measure.value(median) for name, median in medians.items()}
        others = [value for name, value in values.items() if name not in ours and value is not None]
        best = (max if measure.more_is_better else min)(others) if others else None
        cells = [_number(value, measure.digits) for value in values.values()]
        table.add_row(measure.title, *cells, *(_verdict(measure, name, values[name], best) for name in ours))
    return table


def described(result: Mapping[str, Any]) -> list[str]:
    """Return what has to be known beside the table: plan, load, versions and durability."""
    plan = result["plan"]
    before, after = (
        ", ".join(f"{load:.2f}" for load in result[name]) for name in ("load_before", "load_after")
    )
    what = (
        f"medians of {plan['runs']} runs in turn; {plan['events']:,} events of 1.5 KB over 32 connections, "
        f"one subscriber; {plan['idle_s']:.0f} s idle, steady rates for {plan['steady_s']:.0f} s; not pinned"
    )
    busy = (
        "; the machine was busy: trust only the ratios of CPU" if result["load_before"][0] > _MAX_LOAD else ""
    )
    durability = (
        "everything survives a kill -9 of every process, but for the embedded broker, which is memory only; "
        "nobody forces data to disk before the answer"
    )
    engines = result["engines"].items()
    return [
        what,
        f"load average before: {before}; after: {after}{busy}",
        durability,
        *(f"{name} {engine['version']}: {engine['durability']}" for name, engine in engines),
        *(f"{name}: left out, {reason}" for name, reason in result["left_out"].items()),
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _verdict(measure: Measure, name: str, value: float | None, best: float | None) -> str:
    """Return the multiple of the best peer, and the goal with whether it is met."""
    if value is None or measure.title == _NO_RATIO:
        return ""
    goal = measure.goals[0 if "Kafka" in name else 1]
    parts = [] if best is None else [f"{value / best:.2f}x"]
    if goal is not None and (best is not None or not measure.relative):
        limit = goal * best if measure.relative and best is not None else goal
        met = value >= limit if measure.more_is_better else value <= limit
        sign = ">=" if measure.more_is_better else "<="
        text = f"{goal:g}x" if measure.relative else f"{goal:g}"
        parts.append(f"(goal {sign} {text}: {'met' if met else 'missed'})")
    return " ".join(parts)
