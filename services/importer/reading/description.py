"""Describe an export in a sentence: what it is, what is in it, of which time, and what is not in it."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from shared.manifests.history_order import UNKNOWN
from shared.manifests.history_types import Contents, HistoryConversation

_WORDS: Final = {"channel": "channel", "private": "channel", "group": "group chat", "direct": "direct chat"}
_ORDER: Final = ("channel", "thread", "group chat", "direct chat")


def describe(contents: Contents) -> str:
    """Return "a Slack export of 14 channels, 2019-03 to 2024-11; direct messages are not in it"."""
    text = contents.kind
    if counted := _counted(contents.conversations):
        text += f" of {counted}"
    first, last = (day[:7] for day in days_of(contents))
    if first:
        text += f", {first}" if first == last else f", {first} to {last}"
    if contents.missing:
        text += f"; {joined(contents.missing)} are not in it"
    if open_questions := sum(item.required and item.answer is None for item in contents.choices):
        text += f"; {number_of(open_questions, 'question')} must be answered before it can be read"
    return text


def days_of(contents: Contents) -> tuple[str, str]:
    """Return the first and the last day of the messages (`2024-11-05`), empty if they are unknown."""
    days = [unit.day for unit in contents.units if unit.day]
    if days:
        return min(days), max(days)
    times = (contents.first_at, contents.last_at)
    if not all(times):
        return "", ""
    first, last = (datetime.fromtimestamp(at, UTC).date().isoformat() for at in times)
    return first, last


def number_of(count: int, word: str) -> str:
    """Return a count with its word: "1 channel", "1,200 channels"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def joined(words: Sequence[str]) -> str:
    """Return an enumeration: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _counted(conversations: Sequence[HistoryConversation]) -> str:
    counts = Counter(
        "thread" if item.parent is not None else _WORDS[item.kind]
        for item in conversations
        if item.id != UNKNOWN.id
    )
    return joined([number_of(counts[word], word) for word in _ORDER if counts[word]])
