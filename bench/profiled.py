"""A service with a profiler: SIGUSR1 starts the profiler, SIGUSR2 writes its result. Run by `bench.profile`.

`sample` reads the main thread's stack at every tick of consumed CPU time. It costs almost nothing, so its
shares are accurate, but the time of C code counts to its caller. `calls` is cProfile: it lists every
function, those in C too, and slows all of them down, cheap ones the most.
"""

import cProfile
import importlib
import json
import pstats
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Final

from shared.runtime.service import run

_TICK_S: Final = 0.001
_MAX_DEPTH: Final = 60


class Sampler:
    """Counts samples of the main thread: per function, per function with its callees, and per line."""

    def __init__(self) -> None:
        self.ticks = 0
        self.own: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, _TICK_S, _TICK_S)

    def stop(self, out: Path) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        profile = {"ticks": self.ticks, "own": self.own, "total": self.total, "lines": self.lines}
        out.write_text(json.dumps(profile), encoding="utf-8")

    def _sample(self, _number: int, frame: FrameType | None) -> None:
        self.ticks += 1
        if frame is None:
            return
        self.own[_name(frame)] += 1
        self.lines[f"{_file(frame)}:{frame.f_lineno} {frame.f_code.co_name}"] += 1
        seen: set[str] = set()
        for _ in range(_MAX_DEPTH):
            if frame is None:
                break
            seen.add(_name(frame))
            frame = frame.f_back
        self.total.update(seen)


class Calls:
    """cProfile of everything that the main thread calls."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()

    def start(self) -> None:
        self._profile.enable()

    def stop(self, out: Path) -> None:
        self._profile.disable()
        pstats.Stats(self._profile).dump_stats(out)


def _file(frame: FrameType) -> str:
    return "/".join(Path(frame.f_code.co_filename).parts[-3:])


def _name(frame: FrameType) -> str:
    return f"{_file(frame)} {frame.f_code.co_qualname}"


def main(service: str, how: str, out: str) -> None:
    """Run the service as `interlink serve` does."""
    profiler: Sampler | Calls = Sampler() if how == "sample" else Calls()

    def start(*_: Any) -> None:
        profiler.start()

    def stop(*_: Any) -> None:
        profiler.stop(Path(out))

    signal.signal(signal.SIGUSR1, start)
    signal.signal(signal.SIGUSR2, stop)
    run(service, importlib.import_module(f"services.{service}.app").build)


if __name__ == "__main__":
    main(*sys.argv[1:])
