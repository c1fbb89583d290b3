"""A hub that has nothing to do."""

from pathlib import Path
from time import sleep

import pytest

from tests.support.backends import Bus, Store
from tests.support.hub import Hub

_COUNTED_S = 4
_MAX_WAKE_UPS_PER_S = 100


def wake_ups(pid: int) -> int:
    """How often the main thread of a process has waited for something, and gone on."""
    lines = Path(f"/proc/{pid}/task/{pid}/status").read_text().splitlines()
    [count] = [line.split()[1] for line in lines if line.startswith("voluntary_ctxt_switches:")]
    return int(count)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts what Linux counts")
def test_an_idle_hub_wakes_up_rarely(tmp_path: Path, bus: Bus, store: Store) -> None:
    with Hub(tmp_path, bus, store) as hub:
        sleep(4)  # consumers pause for longer after some quiet time
        before = {name: wake_ups(hub.pid(name)) for name in hub.services}
        sleep(_COUNTED_S)
        counts = {name: wake_ups(hub.pid(name)) - before[name] for name in hub.services}
    assert sum(counts.values()) <= _MAX_WAKE_UPS_PER_S * _COUNTED_S, counts
