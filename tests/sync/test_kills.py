"""kill -9 of sync at every failpoint and at random, under load: nothing is lost, and nothing doubles.

Telegram cannot be asked whether it has a message: there, each kill may double one message of each
conversation, and the trace of that message says so. `INTERLINK_TEST_KILLS` is how often it is killed at
random, `INTERLINK_TEST_SEED` when.
The last test shows that a sync which links late is found out.
"""

import os
import random
import signal
from collections.abc import Callable
from time import sleep
from typing import Final

import pytest

from shared.runtime.failpoints import FAILPOINTS
from tests.support.eventually import eventually
from tests.sync.load import Load
from tests.sync.three_legs import World

KILLS: Final = int(os.environ.get("INTERLINK_TEST_KILLS", "2"))
SEED: Final = int(os.environ.get("INTERLINK_TEST_SEED", "0")) or random.SystemRandom().randrange(10**6)
OURS: Final = tuple(name for name in FAILPOINTS if name.startswith(("sync.", "carry.", "translate.")))
_REACHED: Final = 10
"""At which time a failpoint kills a sync that links late: some of the messages before are on Telegram."""


def _rng() -> random.Random:
    return random.Random(SEED)  # noqa: S311 -- to be repeated


def _died(world: World) -> None:
    """Wait until sync has killed itself at its failpoint."""

    def died() -> bool:
        """Sync has ended."""
        return world.hub.ended("sync") is not None

    eventually(died)
    assert world.hub.ended("sync") == -signal.SIGKILL, world.hub.log_tail("sync")


def test_a_kill_at_each_failpoint_loses_and_doubles_nothing(
    world: World, note: Callable[[str], None]
) -> None:
    assert OURS, "the engine names no failpoints"
    load = Load(world, _rng())
    with load.running():
        for point in OURS:
            world.restart_sync(crash_at=point)
            _died(world)
        world.restart_sync()
    note(f"sync killed at each failpoint: {load.check(len(OURS) + 1)}")


def test_kills_at_random_lose_and_double_nothing(world: World, note: Callable[[str], None]) -> None:
    note(f"kills of sync: seed {SEED}")
    rng = _rng()
    load = Load(world, rng)
    with load.running():
        for _ in range(KILLS):
            sleep(rng.uniform(0.2, 3.0))
            world.restart_sync()
    note(f"sync killed at random: {load.check(KILLS)}")


def test_links_that_are_written_late_are_found_out(world: World) -> None:
    load = Load(world, _rng())
    with load.running():
        world.restart_sync(crash_at=f"carry.written:{_REACHED}", module="tests.sync.links_late")
        _died(world)
        world.restart_sync()
    with pytest.raises(AssertionError, match="the answers are to"):
        load.check(2, within_s=20)
