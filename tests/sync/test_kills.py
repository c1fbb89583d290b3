"""kill -9 of sync at every failpoint and at random, under load: nothing is lost, and nothing doubles.

Telegram cannot be asked whether it has a message: there, each kill may double one message, and the trace of
that message says so. `INTERLINK_TEST_KILLS` is how often it is killed at random, `INTERLINK_TEST_SEED` when.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from time import monotonic, sleep
from typing import Any, Final

from shared.runtime.failpoints import FAILPOINTS
from tests.support.fakes.telegram_api import Fault
from tests.sync.places import ADA
from tests.sync.three_legs import ThreeLegs, World

KILLS: Final = int(os.environ.get("INTERLINK_TEST_KILLS", "2"))
SEED: Final = int(os.environ.get("INTERLINK_TEST_SEED", "0")) or random.SystemRandom().randrange(10**6)
OURS: Final = tuple(name for name in FAILPOINTS if name.startswith(("sync.", "carry.", "translate.")))
MAPPINGS: Final = 6
"""So many, because Telegram takes 20 messages of a bot a minute in each group."""
_PAUSE_S: Final = 0.2
_WITHIN_S: Final = 90.0


class Load:
    """Somebody who writes in all places of several mappings, and edits, reacts to and deletes messages.

    Meanwhile, the providers refuse a call now and then.
    """

    def __init__(self, world: World, rng: random.Random) -> None:
        self.legs = [world.mapped(own_ids=bool(number % 2)) for number in range(MAPPINGS)]
        self.expected: list[list[str]] = [[] for _ in self.legs]
        """The texts that each mapping shows in the end."""
        self._world = world
        self._random = rng
        self._numbers = count(1)

    def run(self, enough: Callable[[], bool], within_s: float) -> None:
        """Act until it is enough; fails if that takes longer."""
        deadline = monotonic() + within_s
        while not enough():
            assert monotonic() < deadline, f"not within {within_s} s: {enough.__doc__ or enough}"
            self.act()
            sleep(_PAUSE_S)

    def act(self) -> None:
        """Write a message somewhere, and mostly do something more with it."""
        number = next(self._numbers)
        if number % 5 == 0:
            self._world.slack.faults.fail("chat.postMessage")
            self._world.telegram.fail(Fault(502, method="sendMessage"))
        legs, expected = self.legs[number % MAPPINGS], self.expected[number % MAPPINGS]
        text = f"message {number}"
        place: Any = self._random.choice(legs.places)
        message = place.write(text)
        act = self._random.choice(["nothing", "edit", "react", "delete"])
        if act == "edit":
            text += ", edited"
            place.edit(message, text)
        elif act == "react":
            place.react(message, "+1" if place is legs.slack else "👍", by=ADA)
        elif act == "delete" and place is not legs.telegram:
            place.delete(message)
            return
        expected.append(text)

    def check(self, kills: int) -> None:
        """Wait until every place shows what it should, and count what Telegram shows twice."""
        extra = 0
        for legs, expected in zip(self.legs, self.expected, strict=True):
            legs.until(_agrees(legs, expected), _WITHIN_S)
        for legs, expected in zip(self.legs, self.expected, strict=True):
            legs.quiet(0.3)
            legs.until(_agrees(legs, expected), 0)
            doubled = Counter(legs.telegram.texts()) - Counter(expected)
            assert {_first_form(text) for text in doubled} <= _marked(legs), legs.report()
            extra += doubled.total()
        assert extra <= kills


def _agrees(legs: ThreeLegs, expected: Sequence[str]) -> Callable[[], bool]:
    wanted = Counter(expected)

    def agrees() -> bool:
        exact = all(Counter(place.texts()) == wanted for place in (legs.slack, legs.chat))
        return exact and wanted <= Counter(legs.telegram.texts())

    agrees.__doc__ = f"{sorted(expected)} in all places"
    return agrees


def _first_form(text: str) -> str:
    return text.partition(",")[0]


def _marked(legs: ThreeLegs) -> set[str]:
    """The messages whose trace says that they may exist twice, by their first form."""
    return {
        _first_form(message["excerpt"])
        for message in legs.synced()
        for target in message["targets"]
        if any(entry["step"] == "duplicate_possible" for entry in target["trace"])
    }


def test_a_kill_at_each_failpoint_loses_and_doubles_nothing(world: World) -> None:
    assert OURS, "the engine names no failpoints"
    load = Load(world, random.Random(SEED))  # noqa: S311 -- to be repeated

    def died() -> bool:
        """Sync has killed itself at the failpoint."""
        return world.hub.ended("sync") == -signal.SIGKILL

    for point in OURS:
        world.restart_sync(crash_at=point)
        load.run(died, 30)
    world.restart_sync()
    load.check(len(OURS) + 1)


def test_kills_at_random_lose_and_double_nothing(world: World, note: Callable[[str], None]) -> None:
    note(f"kills of sync: seed {SEED}")
    rng = random.Random(SEED)  # noqa: S311 -- to be repeated
    load = Load(world, rng)
    for _ in range(KILLS):
        over = monotonic() + rng.uniform(0.2, 3.0)
        load.run(lambda over=over: monotonic() > over, 10)  # type: ignore[misc]  # no such lambda
        world.restart_sync()
    load.check(KILLS)
