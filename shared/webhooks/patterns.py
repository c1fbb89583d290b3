"""Event patterns: an exact type (`github.push`) or trigger, a prefix (`github.*`) or everything (`*`)."""

import re
from collections.abc import Iterable
from typing import Final

PATTERN: Final = re.compile(r"\*|[a-z0-9_-]+(\.[A-Za-z0-9_:-]+)*(\.\*)?")


def is_pattern(text: str) -> bool:
    """Return whether a text is a valid pattern for `matches`."""
    return len(text) <= 200 and PATTERN.fullmatch(text) is not None


def matches(patterns: Iterable[str], *names: str) -> bool:
    """Return whether one of the patterns matches one of an event's names: its type, or a trigger of it.

    `a.*` matches `a.b` and `a.b.c`, not `a`.
    """
    return any(
        pattern in ("*", name) or (pattern.endswith(".*") and name.startswith(pattern[:-1]))
        for pattern in patterns
        for name in names
    )
