"""W3C Trace Context: one trace id from the provider's request to the last delivery attempt."""

import os
import re
from typing import Final

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


def child_traceparent(traceparent: str) -> str:
    """Return the `traceparent` of a new span: in the given trace, or in a new one if that is invalid."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match:
        return f"00-{match[1]}-{os.urandom(8).hex()}-{match[2]}"
    fresh = os.urandom(24).hex()
    return f"00-{fresh[:32]}-{fresh[32:]}-01"


def trace_id_of(traceparent: str) -> str:
    """Return the trace id of a `traceparent`; '' if it is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match else ""
