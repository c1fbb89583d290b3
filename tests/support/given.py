"""Secrets that platforms, people and the hub give out or enter in a run.

Whoever gives one out notes it; at the end `leaks.py` looks for all of them wherever none may be.
"""

import json
import re
from pathlib import Path
from threading import Lock

from tests.support import run

LEAST = 16
"""Characters. What is shorter cannot be told from other text, and is not noted."""
LEAST_DIFFERENT = 8
"""Different characters among them. Tests of limits enter long rows of the same letter."""

_NAME = "secrets"
_known: set[str] = set()
_lock = Lock()


def note(kind: str, *secrets: str) -> None:
    """These are secret from now on; `kind` says in a finding what was found."""
    with _lock:
        new = [each for each in dict.fromkeys(secrets) if _can_be_found(each) and each not in _known]
        _known.update(new)
    if new:
        run.append(_NAME, b"".join(json.dumps([kind, each]).encode() + b"\n" for each in new))


def _can_be_found(secret: str) -> bool:
    """Whether it is like no other text, and can be written at all: hostile JSON has halves of characters."""
    enough = len(secret) >= LEAST and len(set(secret)) >= LEAST_DIFFERENT
    return enough and not re.search("[\ud800-\udfff]", secret)


def is_noted(secret: str) -> bool:
    """Whether this process has noted it."""
    return secret in _known


def noted(base: Path) -> dict[str, str]:
    """All secrets of the run with this base folder, and of which kind each is."""
    lines = [line for file in run.files(base, _NAME) for line in file.read_text().splitlines()]
    return {secret: kind for kind, secret in map(json.loads, lines)}
