"""The part `peers` of the bench: every engine that is to be had here, in turn, several times."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.peers.engine import Engine
from bench.peers.interlink import Interlink
from bench.peers.measure import PeerPlan, Run
from bench.peers.outpost import Outpost
from bench.peers.processes import Processes
from bench.peers.svix import Svix
from bench.peers.webhookx import WebhookX
from bench.remote import Failed, Remote
from interlink.supervise import ProcessGroup

PEERS: Final[tuple[Engine, ...]] = (WebhookX(), Outpost(), Svix())
_NOT_PINNED: Final[frozenset[int]] = frozenset()


def missing_peers() -> dict[str, str]:
    """Return why peers cannot be measured here, by name."""
    return {engine.name: reason for engine in PEERS if (reason := _missing(engine))}


def peers(folder: Path, plan: PeerPlan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the hub and every peer that is installed; return medians of the runs, and what is missing.

    An engine that fails in one run takes part in no other: `left_out` has the reason.

    The runs of the engines alternate, so that a slower minute of the machine does not hit one engine alone.
    Nothing is pinned: engine, stores, load generator and sink share all cores.
    """
    engines: list[Engine] = [Interlink("kafka"), Interlink("embedded"), *PEERS]
    left_out = {engine.name: reason for engine in engines if (reason := _missing(engine))}
    for name, reason in left_out.items():
        say(f"{name} is left out: {reason}")
    measured = [engine for engine in engines if engine.name not in left_out]
    load_before = os.getloadavg()
    runs: dict[str, list[dict[str, Any]]] = {engine.name: [] for engine in measured}
    for number in range(plan.runs):
        for engine in measured:
            if engine.name in left_out:
                continue
            try:
                result = _run(folder / f"{number}-{_folder_name(engine)}", plan, engine, say)
            except Failed as error:
                left_out[engine.name] = f"run {number + 1} failed: {error}"
                say(f"{engine.name}: {left_out[engine.name]}")
            else:
                runs[engine.name].append(result)
    return {
        "plan": vars(plan),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "left_out": left_out,
        "engines": {
            engine.name: {
                "version": engine.version,
                "durability": engine.durability,
                "median": _medians(runs[engine.name]),
                "runs": runs[engine.name],
            }
            for engine in measured
            if runs[engine.name]
        },
    }


def _folder_name(engine: Engine) -> str:
    """Return the engine's name without what has a meaning in settings: Kafka's list of folders has commas."""
    return re.sub(r"\W+", "-", engine.name)


def _missing(engine: Engine) -> str | None:
    return engine.missing() if sys.platform == "linux" else "processes are measured on Linux only"


def _run(folder: Path, plan: PeerPlan, engine: Engine, say: Callable[[str], None]) -> dict[str, Any]:
    group = ProcessGroup()
    processes = Processes(folder, engine.store_words)
    load = Remote("bench.load", _NOT_PINNED, group)
    sink = Remote("bench.sink", _NOT_PINNED, group)
    try:
        return Run(plan, engine, processes, load, sink).measure(sink.call("listen")["port"], say)
    finally:
        processes.stop()
        load.stop()
        sink.stop()
        group.close()


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each number of these results."""
    return {
        name: _medians([run[name] for run in runs])
        if isinstance(value, dict)
        else median(run[name] for run in runs)
        for name, value in runs[0].items()
    }
