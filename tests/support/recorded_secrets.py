"""Secrets of a run: what fakes and the hub issue, and what tests enter.

The code that issues one records it; at the end `leaks.py` searches for all of them wherever none may be.
"""

import json
import re
from pathlib import Path
from threading import Lock

from tests.support import run

MIN_LENGTH = 16
"""Characters. What is shorter looks like other text, and is not recorded."""
MIN_DISTINCT = 8
"""Different characters among them. Tests of limits enter long rows of the same letter."""

_NAME = "secrets"
_known: set[str] = set()
_lock = Lock()


def record_secret(kind: str, *secrets: str) -> None:
    """Record secrets of this run; `kind` names them in a finding."""
    with _lock:
        new = [each for each in dict.fromkeys(secrets) if _can_be_found(each) and each not in _known]
        _known.update(new)
    if new:
        run.append(_NAME, b"".join(json.dumps([kind, each]).encode() + b"\n" for each in new))


def _can_be_found(secret: str) -> bool:
    """Return whether it can be told from other text, and encoded at all: hostile JSON has lone surrogates."""
    enough = len(secret) >= MIN_LENGTH and len(set(secret)) >= MIN_DISTINCT
    return enough and not re.search("[\ud800-\udfff]", secret)


def is_recorded(secret: str) -> bool:
    """Return whether this process has recorded it."""
    return secret in _known


def recorded_secrets(base: Path) -> dict[str, str]:
    """Return all secrets of the run with this base folder, and the kind of each."""
    lines = [line for file in run.files(base, _NAME) for line in file.read_text().splitlines()]
    return {secret: kind for kind, secret in map(json.loads, lines)}
