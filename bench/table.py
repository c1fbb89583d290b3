"""What was measured, as a table: each goal met or missed, and what has no goal."""

from typing import Any, Final

from rich.box import MARKDOWN
from rich.table import Table

_GATEWAY_TIMES: Final = 4.0
_DELIVERY_TIMES: Final = 2.0
_P50_MS: Final = 20.0
_P99_MS: Final = 60.0
_RESIDENT_MB: Final = 120.0
_BESIDE_TIMES: Final = 1.2
_BACKLOG_TIMES: Final = 2.0


def table(measured: dict[str, Any]) -> Table:
    """The stages that were run."""
    shown = _Shown()
    for stage, show in (
        ("gateway", shown.gateway),
        ("schemes", shown.schemes),
        ("delivery", shown.delivery),
        ("flow", shown.flow),
        ("isolation", shown.isolation),
        ("fairness", shown.fairness),
        ("resolution", shown.resolution),
        ("fanout", shown.fanout),
        ("backlog", shown.backlog),
    ):
        if found := measured.get(stage):
            show(found)
    return shown.table


class _Shown:
    def __init__(self) -> None:
        self.table = Table(box=MARKDOWN)
        for title in ("what", "goal", "measured", "", "beside it"):
            self.table.add_column(title)

    def gateway(self, found: dict[str, Any]) -> None:
        self._row("gateway: CPU against bare ASGI", _GATEWAY_TIMES, "x", found["times_bare"], _sides(found))

    def schemes(self, found: dict[str, Any]) -> None:
        us = found["us"]
        for name in sorted(us, key=lambda name: us[name]):
            self._fact(f"verification: {name}", f"{us[name]:.1f} us", "1.5 KB")
        through = found["gateway"]
        cheap, dear = through["cheapest"], through["dearest"]
        rates = f"{through['per_s'][dear]:,.0f}/s, with {cheap} {through['per_s'][cheap]:,.0f}/s"
        self._fact(f"gateway: CPU with {dear} against {cheap}", f"{through['times']:.2f}x", rates)

    def delivery(self, found: dict[str, Any]) -> None:
        self._row(
            "delivery: CPU against bare client", _DELIVERY_TIMES, "x", found["times_bare"], _sides(found)
        )
        kept = found["written"]
        beside = f"{kept['rows']:.2f} rows; statistics {kept['statistics_bytes']:.1f} bytes"
        if kept["disk_bytes"] is not None:
            beside += f"; {kept['disk_bytes']:,.0f} bytes to disk, with indexes and journal"
        self._fact("delivery: BSON in the log", f"{kept['bson_bytes']:,.0f} bytes", beside)

    def flow(self, found: dict[str, Any]) -> None:
        half = found["at_half"]
        beside = f"at {half['in_per_s']:,.0f}/s, half of {found['most_per_s']:,.0f}/s"
        self._row("webhook in to webhook out, p50", _P50_MS, " ms", half["p50_ms"], beside)
        self._row("webhook in to webhook out, p99", _P99_MS, " ms", half["p99_ms"], beside)
        for name, resident in found["resident_mb"].items():
            self._row(f"{name}: resident memory", _RESIDENT_MB, " MB", resident, "after that load")

    def isolation(self, found: dict[str, Any]) -> None:
        times = found["times"]
        beside = (
            f"{found['beside']['p99_ms']:.1f} ms, alone {found['alone']['p99_ms']:.1f} ms; "
            f"p50 {found['beside']['p50_ms']:.1f} ms, alone {found['alone']['p50_ms']:.1f} ms; "
            f"CPU of delivery {times['delivery_cpu_s']:.2f}x, of the store {times['store_cpu_s']:.2f}x"
        )
        what = f"p99 beside dead endpoints with {found['waiting']:,} waiting"
        self._row(what, _BESIDE_TIMES, "x", times["p99_ms"], beside)

    def fairness(self, found: dict[str, Any]) -> None:
        for attack, measured in found.items():
            ratios = measured["ratios"]["p99_ms"]
            beside = (
                f"{measured['beside']['p99_ms']:.1f} ms, alone {measured['alone']['p99_ms']:.1f} ms; "
                f"p50 {measured['beside']['p50_ms']:.1f} ms, alone {measured['alone']['p50_ms']:.1f} ms; "
                f"{len(ratios)} rounds, {min(ratios):.2f}x to {max(ratios):.2f}x"
            )
            what = f"a neighbour's p99 beside the attack of {attack}"
            self._row(what, _BESIDE_TIMES, "x", measured["times"]["p99_ms"], beside)

    def resolution(self, found: dict[str, Any]) -> None:
        beside = (
            f"{found['slow']['p99_ms']:.1f} ms, names that fail at once {found['quick']['p99_ms']:.1f} ms; "
            f"p50 {found['slow']['p50_ms']:.1f} ms and {found['quick']['p50_ms']:.1f} ms; "
            f"CPU of delivery {found['times']['delivery_cpu_s']:.2f}x"
        )
        what = f"p99 beside {found['slow_names']} slow names of another workspace"
        self._row(what, _BESIDE_TIMES, "x", found["times"]["p99_ms"], beside)

    def fanout(self, found: dict[str, Any]) -> None:
        what = f"{found['events']} events to {found['endpoints']:,} endpoints"
        beside = f"{found['seconds']:.1f} s, {found['cpu_us']:.0f} us of CPU each, each exactly once"
        self._fact(what, f"{found['per_s']:,.0f}/s", beside)

    def backlog(self, found: dict[str, Any]) -> None:
        least, most = found["sizes"][0], found["sizes"][-1]
        beside = f"{most['claim_p50_ms']:.1f} ms, {least['claim_p50_ms']:.1f} ms with {least['due']:,}"
        self._row(f"a claim, up to {most['due']:,} due", _BACKLOG_TIMES, "x", found["claim_times"], beside)
        beside = f"{most['drained_per_s']:,.0f}/s, {least['drained_per_s']:,.0f}/s with {least['due']:,}"
        self._row(
            f"working off, up to {most['due']:,} due", _BACKLOG_TIMES, "x", found["drain_times"], beside
        )

    def _row(self, what: str, goal: float, unit: str, value: float, beside: str) -> None:
        met = "met" if value <= goal else "missed"
        measured = f"{value:.2f}" if unit == "x" else f"{value:.1f}"
        self.table.add_row(what, f"<= {goal:g}{unit}", measured + unit, met, beside)

    def _fact(self, what: str, measured: str, beside: str) -> None:
        self.table.add_row(what, "", measured, "", beside)


def _sides(found: dict[str, Any]) -> str:
    return (
        f"{found['cpu_us']:.0f} us, bare {found['bare_cpu_us']:.0f} us; "
        f"{found['per_s']:,.0f}/s, bare {found['bare_per_s']:,.0f}/s"
    )
