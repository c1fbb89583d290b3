"""W3C Trace Context: one trace id from the provider's request to the last delivery attempt."""

import os
import re
from typing import Final

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]([0-9a-f])")
_ODD: Final = frozenset("13579bdf")


def is_traceparent(text: str) -> bool:
    """Return whether a text is a `traceparent` of version 00."""
    return _TRACEPARENT.fullmatch(text) is not None


def is_sampled(traceparent: str) -> bool:
    """Return whether a valid `traceparent` says that its trace is recorded; False for an invalid one."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match is not None and match[2] in _ODD


def new_traceparent(*, sampled: bool) -> str:
    """Return the `traceparent` of a new trace."""
    fresh = os.urandom(24).hex()
    return f"00-{fresh[:32]}-{fresh[32:]}-{'01' if sampled else '00'}"


def with_decision(traceparent: str, *, sampled: bool) -> str:
    """Return a valid `traceparent` whose flag says whether the trace is recorded."""
    return f"{traceparent[:53]}{'01' if sampled else '00'}"


def trace_id_of(traceparent: str) -> str:
    """Return the trace id of a `traceparent`; '' if it is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match else ""
