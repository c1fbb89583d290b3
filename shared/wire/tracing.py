"""W3C Trace Context: one trace id from the platform's request to the last delivery attempt."""

import re
import secrets
from typing import Final

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


def child_of(traceparent: str) -> str:
    """A new span in the given trace; a new trace when the header is absent or not well formed."""
    match = _TRACEPARENT.fullmatch(traceparent)
    trace = match[1] if match else secrets.token_hex(16)
    return f"00-{trace}-{secrets.token_hex(8)}-{match[2] if match else '01'}"
