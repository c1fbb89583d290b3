"""People who use several mappings while parts of the hub are killed, and what must come of it.

load = Load(world, random.Random(1))
with load.running():
    world.restart_sync()
load.check(kills=1)
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tests.support.fakes.telegram_api import Fault
from tests.sync.places import ADA, GRACE, Place
from tests.sync.three_legs import ThreeLegs, World

MAPPINGS: Final = 12
"""So many, because Telegram takes 20 messages of a bot a minute in each group."""
_PAUSE_S: Final = 0.25
_ANSWER: Final = "answer to "


class Load:
    """Somebody who writes in all places of several mappings, and edits, reacts to and deletes messages.

    Meanwhile, the providers refuse a call now and then.
    """

    def __init__(self, world: World, rng: random.Random) -> None:
        self.legs = [world.mapped(own_ids=bool(number % 2)) for number in range(MAPPINGS)]
        self.expected: list[list[str]] = [[] for _ in self.legs]
        """The texts that each mapping shows in the end."""
        self.written = 0
        self._world = world
        self._random = rng

    @contextmanager
    def running(self) -> Iterator[None]:
        """Act all the time in a thread of its own. Raises what an act has raised."""
        over = threading.Event()
        failed: list[Exception] = []

        def run() -> None:
            try:
                while not over.wait(_PAUSE_S):
                    self.act()
            except Exception as error:  # noqa: BLE001 -- whatever it is, the test has to hear of it
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(60)
        assert not thread.is_alive(), "an act has not ended"
        if failed:
            raise failed[0]

    def act(self) -> None:
        """Write a message somewhere, and mostly do something more with it."""
        self.written += 1
        number = self.written
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

    def check(self, kills: int, within_s: float = 90.0) -> str:
        """Wait until every place shows what it should, and count what Telegram shows twice: the numbers.

        At last, every copy on Telegram is answered there: the answer has to find the message in the other
        places. (On Slack, a copy may be found by its marker, too.)
        """
        doubled = 0
        for legs, expected in zip(self.legs, self.expected, strict=True):
            legs.until(_agrees(legs, expected), within_s)
        for legs, expected in zip(self.legs, self.expected, strict=True):
            legs.quiet(0.3)
            legs.until(_agrees(legs, expected), 0)
            extra = Counter(legs.telegram.texts()) - Counter(expected)
            assert {_first_form(text) for text in extra} <= _marked(legs), legs.report()
            doubled += extra.total()
        assert doubled <= kills, f"{doubled} messages twice on Telegram after {kills} kills"
        answers = [_answer_copies(legs) for legs in self.legs]
        for legs, texts in zip(self.legs, answers, strict=True):
            legs.until(_answered(legs, texts), within_s)
        expected_total = sum(map(len, self.expected))
        return (
            f"{kills} kills, {self.written} messages written ({expected_total} not deleted), 0 lost, "
            f"doubled: 0 on Slack, 0 in the chat, {doubled} on Telegram; "
            f"{sum(map(len, answers))} copies on Telegram answered"
        )


def _agrees(legs: ThreeLegs, expected: Sequence[str]) -> Callable[[], bool]:
    wanted = Counter(expected)

    def agrees() -> bool:
        exact = all(Counter(place.texts()) == wanted for place in (legs.slack, legs.chat))
        return exact and wanted <= Counter(legs.telegram.texts())

    agrees.__doc__ = f"{sorted(expected)} in all places"
    return agrees


def _answer_copies(legs: ThreeLegs) -> set[str]:
    """Answer each message that the bot shows on Telegram, of two with one text the later: their texts."""
    bot = legs.telegram.bot.user
    copies = {one.text: one.id for one in legs.telegram.shown() if legs.telegram.raw(one.id).sender is bot}
    for text, message in copies.items():
        legs.telegram.reply(message, _ANSWER + text, by=GRACE)
    return set(copies)


def _answered(legs: ThreeLegs, texts: set[str]) -> Callable[[], bool]:
    def answered() -> bool:
        return all(_answers(place) == texts for place in (legs.slack, legs.chat))

    answered.__doc__ = f"on Slack and in the chat, the answers are to {sorted(texts)}"
    return answered


def _answers(place: Place) -> set[str]:
    """The texts of the messages that have their answer."""
    shown = place.shown()
    texts = {one.id: one.text for one in shown}
    return {
        texts[one.thread] for one in shown if one.thread in texts and one.text == _ANSWER + texts[one.thread]
    }


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
