"""When to try again: named schedules, jitter, and what a receiver asks for with `Retry-After`. Pure.

A schedule is the seconds to wait before each attempt, so its length is the number of attempts.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_M: Final = 60.0
_H: Final = 3600.0

NCHAT: Final = (0.0, 5.0, 10.0, 20.0)
"""nself-chat: three retries, 5 s doubling."""

STANDARD: Final = (0.0, 5.0, 5 * _M, 30 * _M, 2 * _H, 5 * _H, 10 * _H, 14 * _H, 20 * _H, 24 * _H)
"""The example of the Standard Webhooks specification, "Deliverability and reliability"."""

CHATWOOT: Final = (0.0, *(float(executions**4 + 2) for executions in range(1, 5)))
"""Chatwoot: 5 attempts, as Rails spaces them by `:polynomially_longer` without its jitter
(activejob `exceptions.rb`, `determine_delay`: executions**4 + 2, so 3, 18, 83 and 258 s)."""

SCHEDULES: Final[Mapping[str, tuple[float, ...]]] = {
    "nchat": NCHAT,
    "standard": STANDARD,
    "chatwoot": CHATWOOT,
}

MAX_ATTEMPTS: Final = 50
MAX_WAIT_S: Final = 7 * 24 * 3600.0
RETRY_AFTER_CAP_S: Final = 24 * _H

_MAX_DATE_CHARACTERS: Final = 40  # the longest form of RFC 9110 has 33 characters


def attempt_delay(schedule: Sequence[float], attempt: int) -> float | None:
    """Seconds between attempt `attempt - 1` and `attempt` (from 1); None when there is none left."""
    if attempt > len(schedule):
        return None
    return schedule[attempt - 1]


def add_jitter(wait_s: float, share: float, *seed: str) -> float:
    """The wait, longer by 0 to `share` (0 to 1) of itself, evenly spread.

    The same seed (delivery id, attempt) gives the same wait, so that a repeat after a crash does not move it.
    """
    digest = hashlib.blake2b("\0".join(seed).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return wait_s * (1 + share * int.from_bytes(digest) / 2**64)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a `Retry-After` header asks to wait, at most a day (RFC 9110, 10.2.3).

    Seconds or a date; a date that has passed is 0. None when it is absent or cannot be read.
    """
    text = (value or "").strip(" \t")
    if not text.isascii():
        return None
    if text.isdigit():
        return min(float(text), RETRY_AFTER_CAP_S)
    moment = _parse_http_date(text)
    if moment is None:
        return None
    return min(max((moment - now).total_seconds(), 0.0), RETRY_AFTER_CAP_S)


def _parse_http_date(text: str) -> datetime | None:
    """One of the three date forms of RFC 9110, which are all in GMT."""
    if not text[:1].isalpha() or len(text) > _MAX_DATE_CHARACTERS:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
