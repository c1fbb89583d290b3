"""Event patterns: an exact type (`github.push`) or trigger, a prefix (`github.*`) or everything (`*`)."""

import re
from collections.abc import Iterable
from typing import Final

from shared.contracts.chat import INBOUND, SIGNAL
from shared.contracts.event_types import canonical
from shared.contracts.history import HISTORY

PATTERN: Final = re.compile(r"\*|[a-z0-9_-]+(\.[A-Za-z0-9_:-]+)*(\.\*)?")


def is_pattern(text: str) -> bool:
    """Return whether a text is a valid pattern for `matches`."""
    return len(text) <= 200 and PATTERN.fullmatch(text) is not None


def parse_pattern(text: str) -> str:
    """Return a pattern with the canonical name of its event type. Raises `ValueError` if it is invalid."""
    if not is_pattern(text):
        raise ValueError("must be an event type (message.created), a prefix (message.*), a trigger's id or *")
    return canonical(text)


def matches(patterns: Iterable[str], *names: str) -> bool:
    """Return whether one of the patterns matches one of an event's names: its type, or a trigger of it.

    `a.*` matches `a.b` and `a.b.c`, not `a`. Types of `chat.inbound` are matched only by a pattern that
    begins with `inbound.`, so `*` does not match them: they repeat what the chat's own events report. For the
    same reason, types of an import's history are matched only by `history.`. Nothing matches a signal.
    """
    return any(_covers(pattern, name) for pattern in patterns for name in names)


def includes(allowed: Iterable[str], pattern: str) -> bool:
    """Return whether one of the patterns `allowed` matches everything that `pattern` matches."""
    if pattern == "*":
        return "*" in allowed
    if pattern.endswith(".*"):
        prefix = pattern[:-1]
        return any(item == pattern or _covers(item, prefix) for item in allowed)
    return matches(allowed, pattern)


def _covers(pattern: str, name: str) -> bool:
    if name == SIGNAL:
        return False
    if pattern == "*":
        return not name.startswith((INBOUND, HISTORY))
    return pattern == name or (pattern.endswith(".*") and name.startswith(pattern[:-1]))
