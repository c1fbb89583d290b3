"""Waiting for a state that is on its way."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], within_s: float = 20, every_s: float = 0.1) -> T:
    """What `look` returns once that is true; fails with what it returned last."""
    deadline = monotonic() + within_s
    while not (seen := look()):
        assert monotonic() < deadline, f"not within {within_s} s: {look.__doc__ or look.__name__}: {seen!r}"
        sleep(every_s)
    return seen
