"""Ambiguous request paths, which two programs may interpret differently.

A proxy that checks a path and a client library that normalises it before sending must mean the same path. So
a path with dot segments, empty segments, backslashes or encoded separators is refused before it is routed.
"""

from typing import Final
from urllib.parse import unquote_to_bytes

_MAX_DECODINGS: Final = 3
AMBIGUOUS_PATH_ERROR: Final = "the path has '..', '//', '\\' or an encoded slash: send it in its plain form"


def is_ambiguous(raw_path: bytes) -> bool:
    """Return whether another program could interpret a path of a request line as a different path.

    The path is checked as sent and after each percent-decoding, because a second program may decode again. A
    path that is still encoded after three decodings counts as ambiguous.
    """
    path = raw_path
    for _ in range(_MAX_DECODINGS):
        if b".." in path or b"//" in path or b"\\" in path or b"/./" in path or path.endswith(b"/."):
            return True
        if b"%" not in path:
            return False
        decoded = unquote_to_bytes(path)
        # Another number of slashes: an encoded one was decoded.
        if decoded.count(b"/") != path.count(b"/"):
            return True
        if decoded == path:
            return False
        path = decoded
    return True
