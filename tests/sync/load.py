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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

from tests.support.fakes.telegram_api import Fault
from tests.sync.places import ADA, GRACE, Place
from tests.sync.three_legs import ThreeLegs, World

MAPPINGS: Final = 12
"""Telegram takes 20 messages and edits of a bot a minute in each group. The three places write 4 messages a
second, which makes 17 calls a minute in each of 12 groups. With fewer groups, what waits would grow for as
long as the load lasts."""
_PAUSE_S: Final = 0.75
"""Between two messages of a place."""
_PLACES: Final = ("slack", "telegram", "chat")
_FAULT_EVERY: Final = 5
"""Messages."""
_ANSWER: Final = "answer to "
_SLACK_S: Final = 1.5
"""Seconds for each answer: Slack takes one message a second in a channel."""


class Load:
    """Somebody who writes in all places of several mappings, and edits, reacts to and deletes messages.

    Meanwhile, the providers refuse a call now and then.
    """

    def __init__(self, world: World, rng: random.Random) -> None:
        self.legs = [world.mapped(own_ids=bool(number % 2)) for number in range(MAPPINGS)]
        self.expected: list[list[str]] = [[] for _ in self.legs]
        """The texts that each mapping shows in the end."""
        self._numbers = count(1)
        self._world = world
        self._seeds = [rng.random() for _ in _PLACES]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Act all the time, in a thread for each place: one whose place has to wait holds up no other.

        Raises what an act has raised.
        """
        over = threading.Event()

        def run(place: int) -> None:
            rng = random.Random(self._seeds[place])  # noqa: S311 -- to be repeated
            for turn in count():
                if over.wait(_PAUSE_S):
                    return
                self._act(turn % MAPPINGS, place, rng)

        with ThreadPoolExecutor(len(_PLACES)) as threads:
            acting = [threads.submit(run, place) for place in range(len(_PLACES))]
            try:
                yield
            finally:
                over.set()
        for done in acting:
            done.result()

    def _act(self, mapping: int, place_number: int, rng: random.Random) -> None:
        """Write a message in a place, and mostly do something more with it."""
        number = next(self._numbers)
        if number % _FAULT_EVERY == 0:
            self._fail_next_calls()
        legs, expected = self.legs[mapping], self.expected[mapping]
        text = f"{_PLACES[place_number]} {number}"
        place: Any = legs.places[place_number]
        message = place.write(text)
        act = rng.choice(["nothing", "edit", "react", "delete"])
        if act == "edit":
            text += ", edited"
            place.edit(message, text)
        elif act == "react":
            place.react(message, "+1" if place is legs.slack else "👍", by=ADA)
        elif act == "delete" and place is not legs.telegram:
            place.delete(message)
            return
        expected.append(text)

    def _fail_next_calls(self) -> None:
        """Let the next message fail at Slack and at Telegram, unless an earlier fault is still to come there.

        While sync is down, faults would add up, and each attempt of what waits then would meet one.
        """
        slack, telegram = self._world.slack, self._world.telegram
        if not slack.faults.pending:
            slack.faults.fail("chat.postMessage")
        if not telegram.pending_faults:
            telegram.fail(Fault(502, method="sendMessage"))

    def check(self, kills: int, within_s: float = 90.0) -> str:
        """Wait until every place shows what it should, and count what Telegram shows twice: the numbers.

        A conversation sends one message at a time: a kill doubles at most one in each.

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
            assert extra.total() <= kills, f"{kills} kills\n{legs.report()}"
            doubled += extra.total()
            self._check_order(legs)
        answers = [
            _answer_copies(legs, expected) for legs, expected in zip(self.legs, self.expected, strict=True)
        ]
        for legs, texts in zip(self.legs, answers, strict=True):
            legs.until(_answered(legs, texts), within_s + _SLACK_S * len(texts))
        return (
            f"{kills} kills, {next(self._numbers) - 1} messages written, "
            f"{sum(map(len, self.expected))} of them not deleted, 0 lost, "
            f"doubled: 0 on Slack, 0 in the chat, {doubled} on Telegram; "
            f"{sum(map(len, answers))} copies on Telegram answered"
        )

    def _check_order(self, legs: ThreeLegs) -> None:
        """No message has overtaken one that was written before it in the same place."""
        events = self._world.slack.events.deliveries
        repeated = any(len(delivery.answers) > 1 for delivery in events)  # it does so in any order
        for origin in _PLACES[1 if repeated else 0 :]:
            for place in legs.places:
                words = [_first_form(text).split() for text in place.texts()]
                numbers = [int(number) for name, number in words if name == origin]
                assert numbers == sorted(numbers), legs.report()


def _agrees(legs: ThreeLegs, expected: Sequence[str]) -> Callable[[], bool]:
    wanted = Counter(expected)

    def agrees() -> bool:
        exact = all(Counter(place.texts()) == wanted for place in (legs.slack, legs.chat))
        return exact and wanted <= Counter(legs.telegram.texts())

    agrees.__doc__ = f"{sorted(expected)} in all places"
    return agrees


def _answer_copies(legs: ThreeLegs, expected: Sequence[str]) -> set[str]:
    """Answer each message that the bot shows on Telegram, of one that exists twice the later: their texts.

    A second copy of a message that was deleted is left out: its answer has no place to go to.
    """
    bot, forms = legs.telegram.bot.user, {_first_form(text) for text in expected}
    shown = [one for one in legs.telegram.shown() if legs.telegram.raw(one.id).sender is bot]
    copies = {form: one for one in shown if (form := _first_form(one.text)) in forms}
    for copy in copies.values():
        legs.telegram.reply(copy.id, _ANSWER + copy.text, by=GRACE)
    return {copy.text for copy in copies.values()}


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
