"""The importer under load: a large export of Slack, reports of many channels, live messages beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psutil

from bench.machine import cpu_seconds, proportional_mb
from bench.remote import Failed, Remote
from bench.slack_export import write_export
from bench.stages import Bench
from bench.system import System

_WITHIN_S: Final = 900.0
_CHUNK: Final = 8 * 1024 * 1024
_SAMPLE_INTERVAL_S: Final = 0.25
_LIVE_PER_S: Final = 50.0
_WARM_UP_S: Final = 5.0
_SETTLE_S: Final = 2.0
_CALLS: Final = 10
_BARE_READS: Final = 5
_BROKEN: Final = 5
"""Records of each channel that fail, for the list of issues."""
_AGES: Final = ("p50_ms", "p99_ms")


def history(bench: Bench) -> dict[str, Any]:
    """Return the figures of every part."""
    plan = bench.plan
    exports = {count: _export(bench, count) for count in (plan.history_messages // 10, plan.history_messages)}
    with bench.hub("history", "importer", pins=False, env=_env(bench)) as hub, _chat(bench, hub) as chat:
        small, large = [_run(bench, hub, chat, path, count) for path, count in exports.values()]
        report = _report(bench, hub)
    path, _ = exports[plan.history_messages]
    return {"small": small, "large": large, "report": report, "live": _live(bench, path)}


def _export(bench: Bench, messages: int) -> tuple[Path, int]:
    """Write an export of about so many messages; return its path, and how many it has."""
    path = bench.folder / f"export-{messages}.zip"
    return path, write_export(path, messages, team=f"T{messages:08d}")


def _env(bench: Bench) -> dict[str, str]:
    return {"INTERLINK_UPLOAD_FOLDER": str(bench.folder / "uploads")}


@contextmanager
def _chat(bench: Bench, hub: System) -> Iterator[Remote]:
    chat = bench.helper("bench.history_chat")
    chat.call("start", bootstrap=hub.bootstrap, workspace=hub.workspace)
    try:
        yield chat
    finally:
        chat.call("stop")  # the broker ends before the process


def _run(bench: Bench, hub: System, chat: Remote, path: Path, count: int) -> dict[str, Any]:
    """Import an export of so many messages; return its rate, its CPU beside the baseline, and memory."""
    bare = bench.helper("bench.history_bare")
    import_id = _ready(hub, path)
    chat.call("reset")
    # Before and after: whatever else the machine does meanwhile slows both down.
    reads = [bare.call("read", path=str(path))["cpu_s"] for _ in range(_BARE_READS // 2)]
    pid = hub.pid("importer")
    with _memory(pid) as peak:
        own, everything, started = cpu_seconds(pid), _cpu_s(pid), monotonic()
        hub.call("POST", f"/api/imports/{import_id}/start", {})
        done = _reached(hub, import_id, "completed")
        seconds = monotonic() - started
    used, service_s = _cpu_s(pid) - everything, cpu_seconds(pid) - own
    seen = chat.call("seen")
    if not seen["counts"].get("messages", 0) == done["added"] == count:
        raise Failed(f"{seen['counts']} of {count} messages were imported: {done['counts']}")
    reads += [bare.call("read", path=str(path))["cpu_s"] for _ in range(_BARE_READS - len(reads))]
    base = median(reads)
    result = {
        "messages": count,
        "seconds": seconds,
        "per_s": count / seconds,
        "cpu_us": used / count * 1e6,
        "reader_us": (used - service_s) / count * 1e6,
        "bare_us": base / count * 1e6,
        "times_bare": used / base,
        "memory_mb": max(peak),
        "bytes": seen["bytes"],
    }
    bench.say(
        f"history of {count:,} messages: {seconds:.1f} s, {result['per_s']:,.0f}/s; "
        f"{result['cpu_us']:.1f} us, of it the reader {result['reader_us']:.1f} us; "
        f"bare {result['bare_us']:.1f} us, {result['times_bare']:.1f} times; "
        f"at most {result['memory_mb']:.0f} MB"
    )
    hub.call("DELETE", f"/api/uploads/{done['upload_id']}", expect=204)
    return result


def _report(bench: Bench, hub: System) -> dict[str, Any]:
    """Measure the report of an import of many channels, and a page of its channels."""
    path = bench.folder / "export-channels.zip"
    channels = bench.plan.history_channels
    write_export(path, channels, team="TCHANNELS", channels=channels, broken=_BROKEN)
    import_id = _ready(hub, path)
    hub.call("POST", f"/api/imports/{import_id}/start", {})
    done = _reached(hub, import_id, "completed")
    result = {
        name: _answer_ms(hub, f"/api/imports/{import_id}/{name}") for name in ("report", "issues", "channels")
    }
    times = ", ".join(f"{name} {ms:.0f} ms" for name, ms in result.items())
    bench.say(f"history: {channels:,} channels, {done['issues']:,} issues: {times}")
    return {"channels": channels, "issues": done["issues"], "ms": result}


def _answer_ms(hub: System, path: str) -> float:
    headers = {"authorization": f"Bearer {hub.admin_key}"}
    durations = []
    with httpx.Client(base_url=hub.url("importer"), headers=headers, timeout=30) as client:
        for _ in range(_CALLS):
            started = monotonic()
            client.get(path).raise_for_status()
            durations.append((monotonic() - started) * 1000)
    return median(durations)


def _live(bench: Bench, path: Path) -> dict[str, Any]:
    """Measure webhooks in to webhooks out beside an import, and while it is paused, in turns."""
    plan = bench.plan
    services = ("gateway", "delivery", "importer")
    rounds: dict[str, list[dict[str, Any]]] = {"alone": [], "beside": []}
    with bench.hub("history-live", *services, pins=False, env=_env(bench)) as hub, _chat(bench, hub):
        heads = hub.heads(channels=True)
        bench.subscribe(hub)
        import_id = _ready(hub, path)
        at = f"/api/imports/{import_id}"
        bench.steady(hub, heads, _LIVE_PER_S, _WARM_UP_S)
        for number in range(plan.history_rounds):
            rounds["alone"].append(bench.steady(hub, heads, _LIVE_PER_S, plan.history_live_s))
            hub.call("POST", f"{at}/resume" if number else f"{at}/start", *(() if number else ({},)))
            _progressing(hub, import_id)
            rounds["beside"].append(bench.steady(hub, heads, _LIVE_PER_S, plan.history_live_s))
            done = hub.call("GET", at)
            if done["status"] != "running":
                raise Failed(f"the import was {done['status']} before the live messages had ended")
            hub.call("POST", f"{at}/pause")
            sleep(_SETTLE_S)
            ages = {name: measured[-1]["p99_ms"] for name, measured in rounds.items()}
            bench.say(
                f"history, round {number + 1}: live p99 {ages['beside']:.1f} ms beside an import "
                f"({done['items_processed']:,} imported), {ages['alone']:.1f} ms alone"
            )
        hub.call("POST", f"{at}/cancel")
    ratios = {
        age: [
            beside[age] / alone[age] for alone, beside in zip(rounds["alone"], rounds["beside"], strict=True)
        ]
        for age in _AGES
    }
    return {
        **{name: {age: median(item[age] for item in ages) for age in _AGES} for name, ages in rounds.items()},
        "ratios": ratios,
        "times": {age: median(values) for age, values in ratios.items()},
        "rounds": rounds,
    }


def _ready(hub: System, path: Path) -> str:
    """Upload an export and wait until its contents are known; return the import's id."""
    headers = {"authorization": f"Bearer {hub.admin_key}", "tus-resumable": "1.0.0"}
    with httpx.Client(base_url=hub.url("importer"), headers=headers, timeout=120) as client:
        created = client.post("/api/uploads", headers={"upload-length": str(path.stat().st_size)})
        location = urlsplit(created.raise_for_status().headers["location"]).path
        sent = 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                patch = {"upload-offset": str(sent), "content-type": "application/offset+octet-stream"}
                client.patch(location, content=chunk, headers=patch).raise_for_status()
                sent += len(chunk)
    upload_id = location.rpartition("/")[2]
    made = hub.call("POST", "/api/imports", {"upload_id": upload_id}, expect=201)
    return str(_reached(hub, made["id"], "ready")["id"])


def _reached(hub: System, import_id: str, state: str) -> dict[str, Any]:
    deadline = monotonic() + _WITHIN_S
    while True:
        found: dict[str, Any] = hub.call("GET", f"/api/imports/{import_id}")
        if found["status"] == state:
            return found
        if found["status"] == "failed" or monotonic() > deadline:
            raise Failed(f"the import is {found['status']}, not {state}: {found['error']}")
        sleep(0.2)


def _progressing(hub: System, import_id: str) -> None:
    """Wait until an import has published more than before."""

    def published() -> int:
        return int(hub.call("GET", f"/api/imports/{import_id}")["items_processed"])

    before, deadline = published(), monotonic() + _WITHIN_S
    while published() <= before:
        if monotonic() > deadline:
            raise Failed(f"the import stands still after {before} messages")
        sleep(0.2)


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process with its children, also of those that have ended."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        used = child.cpu_times()
        total += used.user + used.system
    return float(total)


@contextmanager
def _memory(pid: int) -> Iterator[list[float]]:
    """Sample the memory of a process and its children, in MB, while the block runs."""
    samples = [proportional_mb(pid)]
    ended = Event()

    def sample() -> None:
        while not ended.wait(_SAMPLE_INTERVAL_S):
            total = 0.0
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                try:
                    total += proportional_mb(process.pid)
                except psutil.NoSuchProcess:
                    continue
            samples.append(total)

    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
