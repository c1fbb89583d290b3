"""The results as a table: each goal met or missed, and measurements without a goal."""

from typing import Any, Final

from rich.box import MARKDOWN
from rich.table import Table

_MAX_GATEWAY_TIMES: Final = 4.0
_MAX_EVENTS_TIMES: Final = 1.0
_MAX_DELIVERY_TIMES: Final = 2.0
_MAX_LEAST_TIMES: Final = 1.2
_MAX_P50_MS: Final = 20.0
_MAX_P99_MS: Final = 60.0
_MAX_QUIET_P99_MS: Final = 60.0
_MAX_RESIDENT_MB: Final = 120.0
_MAX_BESIDE_TIMES: Final = 1.2
_MAX_BACKLOG_TIMES: Final = 2.0
_MAX_TEXT_US: Final = 100.0
_MAX_SYNC_P50_MS: Final = 100.0
_MAX_SYNC_P99_MS: Final = 300.0
_MIN_SYNC_PER_S: Final = 300.0
_MAX_SYNC_TIMES: Final = 3.0
_MAX_SYNC_MB: Final = 150.0
_MIN_IMPORT_PER_S: Final = 11_000.0
_MAX_IMPORT_TIMES: Final = 12.0
_MAX_IMPORT_MB: Final = 300.0
_MAX_IMPORT_GROWTH: Final = 1.1
_MAX_RESPONSE_MS: Final = 200.0
_MAX_PAGE_MS: Final = 200.0
_MAX_PAINT_MS: Final = 1_000
_MAX_VIEWERS_PERCENT: Final = 5
_MAX_SEEN_S: Final = 3
_MAX_CONSOLE_MB: Final = 120.0


def table(measured: dict[str, Any]) -> Table:
    """Return the table of the stages that were run."""
    results = _ResultTable()
    for stage, show in (
        ("gateway", results.gateway),
        ("schemes", results.schemes),
        ("text", results.text),
        ("delivery", results.delivery),
        ("flow", results.flow),
        ("quiet", results.quiet),
        ("isolation", results.isolation),
        ("fairness", results.fairness),
        ("resolution", results.resolution),
        ("fanout", results.fanout),
        ("backlog", results.backlog),
        ("bridge", results.bridge),
        ("history", results.history),
        ("console", results.console),
    ):
        if result := measured.get(stage):
            show(result)
    return results.table


class _ResultTable:
    def __init__(self) -> None:
        self.table = Table(box=MARKDOWN)
        for title in ("what", "goal", "measured", "", "beside it"):
            self.table.add_column(title)

    def gateway(self, result: dict[str, Any]) -> None:
        self._row(
            "gateway: CPU against bare ASGI", _MAX_GATEWAY_TIMES, "x", result["times_bare"], _sides(result)
        )
        self._least("gateway", result)
        beside = f"{result['events_cpu_us']:.0f} us; {result['events_per_s']:,.0f}/s"
        self._row(
            "POST /api/events: CPU against a webhook", _MAX_EVENTS_TIMES, "x", result["events_times"], beside
        )

    def schemes(self, result: dict[str, Any]) -> None:
        us = result["us"]
        for name in sorted(us, key=lambda name: us[name]):
            self._fact(f"verification: {name}", f"{us[name]:.1f} us", "1.5 KB")
        through = result["gateway"]
        cheap, dear = through["cheapest"], through["dearest"]
        rates = f"{through['per_s'][dear]:,.0f}/s, with {cheap} {through['per_s'][cheap]:,.0f}/s"
        self._fact(f"gateway: CPU with {dear} against {cheap}", f"{through['times']:.2f}x", rates)

    def text(self, result: dict[str, Any]) -> None:
        for what, ways in result["us"].items():
            for way, us in ways.items():
                self._row(f"text: {way}, {what}", _MAX_TEXT_US, " us", us, "200 characters")
        beside = f"markdown-it-py alone {result['library_us']:.0f} us"
        self._fact("text: Markdown against its library alone", f"{result['times']:.2f}x", beside)

    def delivery(self, result: dict[str, Any]) -> None:
        self._row(
            "delivery: CPU against bare client",
            _MAX_DELIVERY_TIMES,
            "x",
            result["times_bare"],
            _sides(result),
        )
        self._least("delivery", result)
        stored = result["written"]
        beside = f"{stored['rows']:.2f} rows; statistics {stored['statistics_bytes']:.1f} bytes"
        if stored["disk_bytes"] is not None:
            beside += f"; {stored['disk_bytes']:,.0f} bytes to disk, with indexes and journal"
        self._fact("delivery: CPU of the database", f"{stored['cpu_us']:,.0f} us", "per delivery")
        self._fact("delivery: BSON in the log", f"{stored['bson_bytes']:,.0f} bytes", beside)

    def flow(self, result: dict[str, Any]) -> None:
        half = result["at_half"]
        beside = f"at {half['in_per_s']:,.0f}/s, half of {result['most_per_s']:,.0f}/s"
        self._row("webhook in to webhook out, p50", _MAX_P50_MS, " ms", half["p50_ms"], beside)
        self._row("webhook in to webhook out, p99", _MAX_P99_MS, " ms", half["p99_ms"], beside)
        for name, resident in result["resident_mb"].items():
            self._row(f"{name}: resident memory", _MAX_RESIDENT_MB, " MB", resident, "after that load")

    def quiet(self, result: dict[str, Any]) -> None:
        beside = f"{result['events']} webhooks; p50 {result['p50_ms']:.1f} ms, max {result['max_ms']:.1f} ms"
        what = f"first webhook after {result['pause_s']:g} s of quiet, p99"
        self._row(what, _MAX_QUIET_P99_MS, " ms", result["p99_ms"], beside)

    def isolation(self, result: dict[str, Any]) -> None:
        times = result["times"]
        beside = (
            f"{result['beside']['p99_ms']:.1f} ms, alone {result['alone']['p99_ms']:.1f} ms; "
            f"p50 {result['beside']['p50_ms']:.1f} ms, alone {result['alone']['p50_ms']:.1f} ms; "
            f"CPU of delivery {times['delivery_cpu_s']:.2f}x, of the store {times['store_cpu_s']:.2f}x"
        )
        what = f"p99 beside dead endpoints with {result['waiting']:,} waiting"
        self._row(what, _MAX_BESIDE_TIMES, "x", times["p99_ms"], beside)

    def fairness(self, result: dict[str, Any]) -> None:
        for attack, measured in result.items():
            ratios = measured["ratios"]["p99_ms"]
            beside = (
                f"{measured['beside']['p99_ms']:.1f} ms, alone {measured['alone']['p99_ms']:.1f} ms; "
                f"p50 {measured['beside']['p50_ms']:.1f} ms, alone {measured['alone']['p50_ms']:.1f} ms; "
                f"{len(ratios)} rounds, {min(ratios):.2f}x to {max(ratios):.2f}x"
            )
            what = f"a neighbour's p99 beside the attack of {attack}"
            self._row(what, _MAX_BESIDE_TIMES, "x", measured["times"]["p99_ms"], beside)

    def resolution(self, result: dict[str, Any]) -> None:
        beside = (
            f"{result['slow']['p99_ms']:.1f} ms, names that fail at once {result['quick']['p99_ms']:.1f} ms; "
            f"p50 {result['slow']['p50_ms']:.1f} ms and {result['quick']['p50_ms']:.1f} ms; "
            f"CPU of delivery {result['times']['delivery_cpu_s']:.2f}x"
        )
        what = f"p99 beside {result['slow_names']} slow names of another workspace"
        self._row(what, _MAX_BESIDE_TIMES, "x", result["times"]["p99_ms"], beside)

    def fanout(self, result: dict[str, Any]) -> None:
        what = f"{result['events']} events to {result['endpoints']:,} endpoints"
        beside = f"{result['seconds']:.1f} s, {result['cpu_us']:.0f} us of CPU each, each exactly once"
        self._fact(what, f"{result['per_s']:,.0f}/s", beside)

    def backlog(self, result: dict[str, Any]) -> None:
        least, most = result["sizes"][0], result["sizes"][-1]
        beside = f"{most['claim_p50_ms']:.1f} ms, {least['claim_p50_ms']:.1f} ms with {least['due']:,}"
        self._row(
            f"a claim, up to {most['due']:,} due", _MAX_BACKLOG_TIMES, "x", result["claim_times"], beside
        )
        beside = f"{most['drained_per_s']:,.0f}/s, {least['drained_per_s']:,.0f}/s with {least['due']:,}"
        self._row(
            f"working off, up to {most['due']:,} due", _MAX_BACKLOG_TIMES, "x", result["drain_times"], beside
        )

    def bridge(self, result: dict[str, Any]) -> None:
        seen, work = result["latency"], result["work"]
        for name, goal in (("p50", _MAX_SYNC_P50_MS), ("p99", _MAX_SYNC_P99_MS)):
            beside = f"at {seen['per_s']:g}/s; to the chat {seen[f'chat_{name}_ms']:.1f} ms"
            self._row(f"sync: message in to message out, {name}", goal, " ms", seen[f"{name}_ms"], beside)
        beside = f"bare {work['bare_per_s']:.0f}/s; CPU of the database {work['ours_store_cpu_us']:.0f} us"
        self._rate("sync: messages a second", _MIN_SYNC_PER_S, work["ours_per_s"], beside)
        beside = f"{work['ours_cpu_us']:.0f} us, bare {work['bare_cpu_us']:.0f} us"
        self._row("sync: CPU against a bare loop", _MAX_SYNC_TIMES, "x", work["times_bare"], beside)
        memory, beside_result = result["memory"], result["beside"]
        what = f"{memory['mappings']:,} mappings, {memory['links']:,} links, {memory['waiting']:,} waiting"
        beside = f"without them {memory['without_mb']:.0f} MB; both after a burst"
        self._row(f"sync: memory with {what}", _MAX_SYNC_MB, " MB", memory["with_mb"], beside)
        ratios = beside_result["ratios"]
        beside = (
            f"{beside_result['beside']['p99_ms']:.1f} ms, alone {beside_result['alone']['p99_ms']:.1f} ms; "
            f"p50 {beside_result['times']['p50_ms']:.2f}x; {len(ratios)} rounds, "
            f"{min(ratios):.2f}x to {max(ratios):.2f}x"
        )
        what = f"sync: p99 beside {beside_result['waiting']:,} waiting of one conversation"
        self._row(what, _MAX_BESIDE_TIMES, "x", beside_result["times"]["p99_ms"], beside)

    def history(self, result: dict[str, Any]) -> None:
        small, large = result["small"], result["large"]
        beside = (
            f"{large['messages']:,} in {large['seconds']:.0f} s; "
            f"{small['messages']:,} in {small['seconds']:.0f} s, {small['per_s']:,.0f}/s"
        )
        self._rate("import: messages of a Slack export a second", _MIN_IMPORT_PER_S, large["per_s"], beside)
        beside = (
            f"{large['cpu_us']:.1f} us, of it the reader {large['reader_us']:.1f} us; "
            f"bare {large['bare_us']:.1f} us; of {small['messages']:,} {small['times_bare']:.1f}x"
        )
        what = "import: CPU of service and reader against zipfile and orjson"
        self._row(what, _MAX_IMPORT_TIMES, "x", large["times_bare"], beside)
        beside = f"with {small['messages']:,} messages {small['memory_mb']:.0f} MB"
        what = "import: memory of service and reader"
        self._row(what, _MAX_IMPORT_MB, " MB", large["memory_mb"], beside)
        growth = large["memory_mb"] / small["memory_mb"]
        self._row(f"{what}, {large['messages']:,} against fewer", _MAX_IMPORT_GROWTH, "x", growth, beside)
        report = result["report"]
        for name, ms in report["ms"].items():
            beside = f"{report['channels']:,} channels, {report['issues']:,} issues"
            self._row(f"import: GET {name}", _MAX_RESPONSE_MS, " ms", ms, beside)
        live = result["live"]
        ratios = live["ratios"]["p99_ms"]
        beside = (
            f"{live['beside']['p99_ms']:.1f} ms, alone {live['alone']['p99_ms']:.1f} ms; "
            f"p50 {live['times']['p50_ms']:.2f}x; "
            f"{len(ratios)} rounds, {min(ratios):.2f}x to {max(ratios):.2f}x"
        )
        what = "webhook in to webhook out: p99 beside an import"
        self._row(what, _MAX_BESIDE_TIMES, "x", live["times"]["p99_ms"], beside)

    def console(self, result: dict[str, Any]) -> None:
        rows = f"{result['rows']:,} deliveries and messages"
        for path, page in result["pages"].items():
            beside = (
                f"CPU {page['cpu_ms']:.0f} ms, database {page['database_ms']:.0f} ms, {page['bytes']:,} bytes"
            )
            self._row(f"{path}, p95; {rows}", _MAX_PAGE_MS, " ms", page["p95_ms"], beside)
        self._row("console, memory", _MAX_CONSOLE_MB, " MB", result["memory_mb"], "after all of this")
        for path, paint in (result["paint"] or {}).items():
            beside = f"{paint['bytes'] / 1e3:.0f} KB over the wire"
            self._row(f"{path}, first paint without a cache", _MAX_PAINT_MS, " ms", paint["paint_ms"], beside)
        live = result["live"]
        for service, percent in live["core_percent"].items():
            goal = _MAX_VIEWERS_PERCENT if service != "console" else 100
            self._row(
                f"{service}: {live['viewers']} viewers", goal, " % of a core", percent, "an event a second"
            )
        beside = f"p50 {live['seen_p50_s']:.1f} s; the first one after {live['first_seen_s']:.1f} s"
        self._row("a published event is seen, longest", _MAX_SEEN_S, " s", live["seen_max_s"], beside)

    def _least(self, what: str, result: dict[str, Any]) -> None:
        beside = f"least {result['least_cpu_us']:.0f} us; {result['least_per_s']:,.0f}/s"
        self._row(
            f"{what}: CPU against the least Python that keeps its promise",
            _MAX_LEAST_TIMES,
            "x",
            result["times_least"],
            beside,
        )

    def _row(self, what: str, goal: float, unit: str, value: float, beside: str) -> None:
        met = "met" if value <= goal else "missed"
        measured = f"{value:.2f}" if unit == "x" else f"{value:.1f}"
        self.table.add_row(what, f"<= {goal:g}{unit}", measured + unit, met, beside)

    def _rate(self, what: str, goal: float, value: float, beside: str) -> None:
        met = "met" if value >= goal else "missed"
        self.table.add_row(what, f">= {goal:,.0f}/s", f"{value:,.0f}/s", met, beside)

    def _fact(self, what: str, measured: str, beside: str) -> None:
        self.table.add_row(what, "", measured, "", beside)


def _sides(result: dict[str, Any]) -> str:
    return (
        f"{result['cpu_us']:.0f} us, bare {result['bare_cpu_us']:.0f} us; "
        f"{result['per_s']:,.0f}/s, bare {result['bare_per_s']:,.0f}/s"
    )
