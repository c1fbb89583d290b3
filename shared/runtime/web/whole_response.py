"""A response in one write, for paths that are called as often as webhooks are.

uvicorn takes a response in two ASGI messages and examines each of its headers. That costs more than receiving
the request. Here the lines of constant headers are there already, and the response is one write.
"""

from collections.abc import Iterable

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as they are sent, for `write_response`. The caller vouches for names and values."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def write_response(send: Send, status: int, lines: bytes, body: bytes) -> bool:
    """Send a whole response; return False, and send nothing, if the caller has to do it with `send`.

    `lines` are its headers without `content-length`, from `header_lines`. False is returned if `send` is not
    that of uvicorn itself, if the connection is to be closed, is closed or congested, and for `HEAD`.
    """
    cycle = getattr(send, "__self__", None)
    if (
        type(cycle) is not RequestResponseCycle
        or not cycle.keep_alive
        or cycle.disconnected
        or cycle.response_started
        or cycle.flow.write_paused
        or cycle.scope["method"] == "HEAD"
    ):
        return False
    # What `RequestResponseCycle.send` does for the two messages of such a response.
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.chunked_encoding = False
    cycle.transport.write(
        b"%b%b%bcontent-length: %d\r\n\r\n%b"
        % (STATUS_LINE[status], header_lines(cycle.default_headers), lines, len(body), body)
    )
    cycle.message_event.set()
    cycle.on_response()
    return True
