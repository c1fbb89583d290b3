"""Find the end of an HTTP/1.1 message: all that the load generator and the sink need of the protocol."""

import re
from typing import Final

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNKED: Final = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


def message_ends(buffer: bytes) -> tuple[int, int] | None:
    """Return the ends of the first message's head and of the message; None while it is incomplete.

    A chunked body keeps the lines between its chunks.
    """
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return None
    if length := _LENGTH.search(buffer, 0, head):
        end = head + 4 + int(length[1])
    elif _CHUNKED.search(buffer, 0, head):
        last = buffer.find(_LAST_CHUNK, head + 2)
        end = last + len(_LAST_CHUNK) if last >= 0 else len(buffer) + 1
    else:
        end = head + 4
    return (head, end) if len(buffer) >= end else None
