"""CPU profile of a service under load: `python -m bench.profile gateway`."""

import argparse
import json
import os
import pstats
import signal
import sys
import tempfile
from pathlib import Path
from time import sleep
from typing import Any

from bench.machine import cores, cpu_seconds
from bench.stages import Bench, Plan, Target
from bench.system import System


def main() -> int:
    """Profile the service under load, and print the hot spots per request or delivery."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="interlink-profile-") as name:
        folder = Path(name)
        out = folder / "profile.out"
        bench = Bench(Plan(arguments.bus), cores(), folder, lambda _line: None)
        module = ("bench.profiled", arguments.service, arguments.how, str(out))
        try:
            with bench.hub("profile", arguments.service, modules={arguments.service: module}) as hub:
                load = ServiceLoad(bench, hub, arguments.service, arguments.amount)
                load.warm_up()
                pid = hub.pid(arguments.service)
                _signal(pid, signal.SIGUSR1)
                units, cpu = load.run(pid)
                _signal(pid, signal.SIGUSR2)
        finally:
            bench.close()
        unit = "request" if arguments.service == "gateway" else "delivery"
        print(f"{units:.0f} units, {cpu / units * 1e6:.0f} us of CPU per {unit} (profiler included)\n")
        if arguments.how == "calls":
            stats = pstats.Stats(str(out))
            stats.strip_dirs().sort_stats("tottime").print_stats(arguments.top)
        else:
            _print_samples(json.loads(out.read_text("utf-8")), cpu / units * 1e6, arguments.top)
    return 0


class ServiceLoad:
    """The load of a service: requests for the gateway, webhook events on Kafka for delivery."""

    def __init__(self, bench: Bench, hub: System, service: str, amount: float) -> None:
        self._bench = bench
        self._hub = hub
        self._service = service
        self._amount = amount
        if service == "gateway":
            self._heads = hub.heads(channels=False)
        else:
            bench.subscribe(hub)

    def warm_up(self) -> None:
        self._go(0.2)

    def run(self, pid: int) -> tuple[float, float]:
        """Run the load; return the units of load and the CPU seconds."""
        before = cpu_seconds(pid)
        units = self._go(1.0)
        return units, cpu_seconds(pid) - before

    def _go(self, share: float) -> float:
        pid = self._hub.pid(self._service)
        if self._service == "gateway":
            seconds = 8.0 * self._amount * share
            target = Target(pid, self._hub.ports["gateway"], self._heads)
            _, rate = self._bench.load(target, seconds)
            return rate * seconds
        total = int(20_000 * self._amount * share)
        self._bench.deliver(self._hub, pid, total)
        return float(total)


def _signal(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)
    sleep(0.7)


def _print_samples(profile: dict[str, Any], us: float, top: int) -> None:
    ticks = profile["ticks"]
    print(f"{ticks} samples; microseconds per unit of work\n")
    for kind, title in (
        ("total", "including callees"),
        ("own", "without callees, but with the C code that it calls"),
        ("lines", "by line"),
    ):
        print(f"--- {title}")
        ranked = sorted(profile[kind].items(), key=lambda item: -item[1])
        for name, count in ranked[: top * 2 if kind == "total" else top]:
            print(f"{count / ticks * us:8.1f} us {count / ticks:6.1%}  {name}")
        print()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("service", choices=("gateway", "delivery"))
    parser.add_argument("--how", choices=("sample", "calls"), default="sample")
    parser.add_argument("--bus", choices=("embedded", "kafka"), default="embedded")
    parser.add_argument("--amount", type=float, default=1.0, help="how much load; 1 takes about ten seconds")
    parser.add_argument("--top", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
