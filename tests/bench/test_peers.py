"""The comparison with other engines: what it counts, what it leaves out, and how it judges."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from bench.peers import stores
from bench.peers.engine import event
from bench.peers.processes import Processes
from bench.peers.run import missing_peers
from bench.peers.table import described, peers_table
from bench.remote import Failed
from bench.webhook import SIZE
from tests.support.eventually import eventually

BURNT_S = 0.2
BURN = f"import time\nwhile time.process_time() < {BURNT_S} + 0.05: pass\n"
START_AND_WAIT = "import subprocess, time; subprocess.run({child}); print('done', flush=True); time.sleep(60)"
linux = pytest.mark.skipif(sys.platform != "linux", reason="it measures on Linux only")


def test_a_peer_without_a_binary_is_left_out_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BENCH_WEBHOOKX", "BENCH_OUTPOST", "BENCH_SVIX"):
        monkeypatch.delenv(name, raising=False)
    missing = missing_peers()
    assert list(missing) == ["WebhookX", "Outpost", "Svix"]
    if sys.platform == "linux":
        assert missing["Outpost"] == "BENCH_OUTPOST does not name its binary"


@linux
def test_a_peer_without_its_store_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_SVIX", "/bin/true")
    monkeypatch.setattr(stores, "missing_postgres", lambda: "PostgreSQL is not installed")
    assert missing_peers()["Svix"] == "PostgreSQL is not installed"


def test_the_event_has_its_size() -> None:
    text = json.dumps(event()).replace("@ID@", "0123456789abcdef-0000").replace("@KEY@", "07")
    assert abs(len(text) - SIZE) < 10


@linux
def test_cpu_and_memory_are_counted_by_tree_and_kind(tmp_path: Path) -> None:
    """The CPU of children that have ended counts; a store that the engine starts is not its own process."""
    processes = Processes(tmp_path / "engine", ["embedded-store"])
    try:
        processes.start("engine", _python(START_AND_WAIT.format(child=_python(BURN))), {}, cwd=tmp_path)
        processes.wait("the engine", 20, lambda: "done" in (tmp_path / "engine/engine.log").read_text())
        alone = processes.cpu()
        assert alone.own > BURNT_S
        assert alone.stores == 0
        embedded = [*_python(BURN + "time.sleep(60)"), "embedded-store"]
        processes.start("other", _python(START_AND_WAIT.format(child=embedded)), {}, cwd=tmp_path)
        eventually(lambda: processes.cpu().stores > BURNT_S)
        processes.start_store("store", _python(BURN + "time.sleep(60)"), {})
        eventually(lambda: processes.cpu().stores > 2 * BURNT_S)
        memory = processes.memory_mb()
        assert memory.own > 0
        assert memory.stores > 0
    finally:
        processes.stop()
    assert processes.cpu().total == 0


@linux
def test_a_program_that_ends_early_fails_with_its_log(tmp_path: Path) -> None:
    processes = Processes(tmp_path / "engine")
    try:
        processes.start("engine", _python("raise SystemExit('no such database')"), {}, cwd=tmp_path)
        with pytest.raises(Failed, match=r"(?s)ended with status 1.*engine.log: no such database"):
            processes.wait("the engine", 20, lambda: False)
        with pytest.raises(Failed, match="status 3: wrong key"):
            processes.run(_python("import sys; print('wrong key', file=sys.stderr); sys.exit(3)"), {})
    finally:
        processes.stop()


def test_the_table_compares_with_the_best_peer_and_judges_goals() -> None:
    result = {
        "plan": {"runs": 3, "events": 10_000, "idle_s": 60.0, "steady_s": 20.0},
        "load_before": (0.1, 0.1, 0.1),
        "load_after": (1.0, 0.5, 0.2),
        "left_out": {"Svix": "BENCH_SVIX does not name its binary"},
        "engines": {
            "Interlink, embedded": _measured(per_s=1_500, own_us=900, ready_s=3.0),
            "WebhookX": _measured(per_s=1_000, own_us=500, ready_s=0.2, inbound=False),
            "Outpost": _measured(per_s=1_200, own_us=600, ready_s=0.3, inbound=False),
        },
    }
    rows = {str(row[0]): [str(cell) for cell in row[1:]] for row in _rows(peers_table(result))}
    assert rows["deliveries/s, published by API"] == [
        "1,500",
        "1,000",
        "1,200",
        "1.25x (goal >= 1x: met)",
    ]
    assert rows["CPU per event by API, own (us)"][-1] == "1.80x (goal <= 0.64x: missed)"
    assert rows["deliveries/s, signed webhooks in"] == ["1,500", "-", "-", ""]
    assert rows["start to ready (s)"][-1] == "15.00x (goal <= 4: met)"
    lines = described(result)
    assert "Svix: left out, BENCH_SVIX does not name its binary" in lines
    assert not any("busy" in line for line in lines)
    assert any("busy" in line for line in described(result | {"load_before": (0.6, 0.1, 0.1)}))


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _rows(table: Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.cells for column in table.columns), strict=True))


def _measured(*, per_s: float, own_us: float, ready_s: float, inbound: bool = True) -> dict[str, Any]:
    usage = {"own": 0.01, "stores": 0.02}
    part = {
        "per_s": per_s,
        "own_us": own_us,
        "stores_us": 500.0,
        "p50_ms": 2.0,
        "p99_ms": 8.0,
        "rate": 100.0,
    }
    medians = {"ready_s": ready_s, "idle": usage, "memory_mb": usage}
    medians |= dict.fromkeys(("publish", "steady", "half"), part)
    return {
        "version": "1",
        "durability": "a store",
        "median": medians | ({"inbound": part} if inbound else {}),
    }
