"""What the journals of both sides say together: acknowledged, lost, duplicated, out of order, recovered.

Pure: facts in, a report out. `taken` is an answer 200, which the receiver wrote down before it gave it.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.support.journal import Fact


@dataclass(frozen=True)
class Report:
    """`lost` and `duplicated` are by the receiver's path, the disorders by those where order is promised."""

    acknowledged: int
    undecided: int
    """Events that were meant to be published, of unknown fate: they may be there or not."""
    lost: Mapping[str, frozenset[str]]
    duplicated: Mapping[str, int]
    invented: frozenset[str]
    """Events that were delivered though nobody meant to publish them, or not to this path."""
    jumped: Mapping[str, frozenset[str]]
    """Events that were taken after a later one of their conversation."""
    overtaking: Mapping[str, frozenset[str]]
    """Events that were sent while one that stands before them on the topic was not yet taken."""

    @property
    def lost_count(self) -> int:
        """Deliveries that were owed and never came."""
        return sum(map(len, self.lost.values()))

    @property
    def out_of_order(self) -> Mapping[str, frozenset[str]]:
        """Both kinds of disorder."""
        return {path: self.jumped[path] | events for path, events in self.overtaking.items()}

    def __str__(self) -> str:
        repeats = ", ".join(f"{count} {path}" for path, count in self.duplicated.items())
        disorder = ", ".join(
            f"{len(events)} {path} ({len(self.jumped[path])} within a conversation)"
            for path, events in self.out_of_order.items()
        )
        undecided = f" ({self.undecided} undecided)" if self.undecided else ""
        return (
            f"{self.acknowledged} acknowledged{undecided}, {self.lost_count} lost,"
            f" duplicated {repeats or 'none'}, out of order {disorder or 'not asked'}"
        )


def report(
    published: Sequence[Fact],
    answers: Iterable[Fact],
    wanted: Mapping[str, Container[str]],
    order: Mapping[str, Sequence[str]],
) -> Report:
    """The report of one run.

    `answers` is this run's part of the receiver's journal; `wanted` has the event types that each path is
    owed; `order` has, for each path where order is promised, the deliveries as they stand on the topic.
    """
    meant = {fact["event"]: fact for fact in published if fact["what"] == "intent"}
    acknowledged = {fact["event"] for fact in published if fact["what"] == "acknowledged"}
    asked: dict[str, list[Fact]] = {path: [] for path in wanted}
    for fact in answers:
        asked[fact["to"]].append(fact)
    taken = {path: _taken(facts) for path, facts in asked.items()}
    return Report(
        acknowledged=len(acknowledged),
        undecided=len(meant) - len(acknowledged),
        lost={
            path: frozenset(
                event
                for event in acknowledged
                if meant[event]["type"] in wanted[path] and event not in events
            )
            for path, events in taken.items()
        },
        duplicated={path: sum(events.values()) - len(events) for path, events in taken.items()},
        invented=frozenset(
            event
            for path, events in taken.items()
            for event in events
            if event not in meant or meant[event]["type"] not in wanted[path]
        ),
        jumped={path: jumping(taken[path], meant) for path in order},
        overtaking={path: overtaking(asked[path], stands) for path, stands in order.items()},
    )


def overtaking(asked: Sequence[Fact], order: Sequence[str]) -> frozenset[str]:
    """The events that were sent, even if only to be refused, while an earlier delivery was not yet taken.

    `order` is the deliveries as they stand on the topic. What was never taken is somebody else's to count.
    """
    ever = {fact["delivery"] for fact in asked if fact["status"] == 200}
    place = {name: index for index, name in enumerate(name for name in dict.fromkeys(order) if name in ever)}
    heads, done = list(place), set[str]()
    head = 0
    early = set[str]()
    for fact in asked:
        if place.get(fact["delivery"], -1) > head:
            early.add(fact["event"])
        if fact["status"] == 200:
            done.add(fact["delivery"])
        while head < len(heads) and heads[head] in done:
            head += 1
    return frozenset(early)


def jumping(taken: Iterable[str], meant: Mapping[str, Fact]) -> frozenset[str]:
    """The events that were first taken after a later one of their conversation."""
    furthest: dict[str, int] = {}
    late = set[str]()
    for event in taken:
        if event in meant:
            conversation, number = meant[event]["conversation"], meant[event]["number"]
            if number < furthest.get(conversation, 0):
                late.add(event)
            furthest[conversation] = max(number, furthest.get(conversation, 0))
    return frozenset(late)


def recovery(published: Iterable[Fact], answers: Sequence[Fact], back: float) -> tuple[float, float]:
    """Seconds from `back` to the first delivery, and to the last of what was acknowledged before `back`.

    The second is 0 when all of that had been delivered already. Raises `ValueError` without any delivery
    after `back`.
    """
    first = min((fact["at"] for fact in answers if fact["at"] > back), default=None)
    if first is None:
        raise ValueError("nothing was delivered any more")
    waiting = {fact["event"] for fact in published if fact["what"] == "acknowledged" and fact["at"] < back}
    seen = set[tuple[str, str]]()
    last = back
    for fact in answers:
        if fact["status"] == 200 and fact["event"] in waiting and (fact["to"], fact["event"]) not in seen:
            seen.add((fact["to"], fact["event"]))
            last = max(last, fact["at"])
    return first - back, last - back


def _taken(facts: Iterable[Fact]) -> Counter[str]:
    """How often each event was taken, in the order in which they were first."""
    return Counter(fact["event"] for fact in facts if fact["status"] == 200)
