"""What the journals of both sides say together, counted while they grow."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

Fact = Mapping[str, Any]
PATHS: Final = ("any", "strict")


class Owed(NamedTuple):
    """A delivery: a path of the receiver, and a webhook of the provider."""

    path: str
    conversation: int
    number: int


class Tally:
    """Counts in a few bytes per webhook. `strict` are the conversations that the path `strict` is owed."""

    def __init__(self, strict: Iterable[int]) -> None:
        self._strict = frozenset(strict)
        self._acknowledged: dict[int, bytearray] = defaultdict(bytearray)
        self._taken: dict[tuple[str, int], bytearray] = defaultdict(bytearray)
        self._furthest: dict[int, int] = {}
        self.intents = 0
        self.acknowledged = 0
        self.failures: Counter[str] = Counter()
        """Requests that the gateway did not take, by status or error."""
        self.taken: Counter[str] = Counter()
        self.duplicates: Counter[str] = Counter()
        self.inversions = 0
        """Webhooks of `strict` that came after a later one of their conversation."""
        self.unsent = 0
        """Deliveries of webhooks that nobody sent."""
        self.missing: set[Owed] = set()
        """What is acknowledged and was not taken yet."""
        self.last_taken_at = 0.0
        self.last_acknowledged_at = 0.0
        self._intended: dict[int, int] = defaultdict(int)

    @property
    def unknown(self) -> int:
        """Webhooks without an acknowledgement: they may be there or not."""
        return self.intents - self.acknowledged

    def sent(self, facts: Iterable[Fact]) -> None:
        """Count facts of the provider."""
        for fact in facts:
            conversation, number = fact["conversation"], fact["number"]
            if fact["what"] == "intent":
                self.intents += 1
                self._intended[conversation] = number
            elif fact["what"] == "failed":
                self.failures[fact["reason"]] += 1
            else:
                self.acknowledged += 1
                self.last_acknowledged_at = fact["at"]
                _add(self._acknowledged[conversation], number)
                for path in PATHS:
                    owed = path == "any" or conversation in self._strict
                    if owed and not _count(self._taken[path, conversation], number):
                        self.missing.add(Owed(path, conversation, number))

    def received(self, facts: Iterable[Fact]) -> None:
        """Count facts of the receiver. The provider's of the same time have to be counted before."""
        for fact in facts:
            path, conversation, number = fact["path"], fact["conversation"], fact["number"]
            self.last_taken_at = fact["at"]
            if number > self._intended[conversation]:
                self.unsent += 1
            if _add(self._taken[path, conversation], number) > 1:
                self.duplicates[path] += 1
                continue
            self.taken[path] += 1
            self.missing.discard(Owed(path, conversation, number))
            if path == "strict":
                if number < self._furthest.get(conversation, 0):
                    self.inversions += 1
                else:
                    self._furthest[conversation] = number


def _count(counts: bytearray, number: int) -> int:
    return counts[number] if number < len(counts) else 0


def _add(counts: bytearray, number: int) -> int:
    """Count a number, up to 255 times; return how often it was counted."""
    if number >= len(counts):
        counts.extend(bytes(number + 1 - len(counts)))
    counts[number] = min(counts[number] + 1, 255)
    return counts[number]
