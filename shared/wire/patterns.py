"""Event patterns: an exact type (`github.push`), a prefix (`github.*`) or everything (`*`)."""

import re
from collections.abc import Iterable
from typing import Final

PATTERN: Final = re.compile(r"\*|[a-z0-9_-]+(\.[A-Za-z0-9_:-]+)*(\.\*)?")


def is_pattern(text: str) -> bool:
    """Whether `text` is a pattern that `matches` understands."""
    return len(text) <= 200 and PATTERN.fullmatch(text) is not None


def matches(patterns: Iterable[str], event_type: str) -> bool:
    """Whether one of the patterns covers the type. `a.*` covers `a.b` and `a.b.c`, not `a`."""
    return any(
        pattern in ("*", event_type) or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
        for pattern in patterns
    )
