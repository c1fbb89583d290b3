"""JSON logs on standard output, one object per line. `trace_id` links a webhook with its deliveries.

Lines of one iteration of the event loop are written together, because the hot paths log. A line waits for the
end of its iteration at most. From level warning up, it is written at once, after the lines before it.
"""

import asyncio
import atexit
import logging
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import BinaryIO, Final

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

Log = FilteringBoundLogger

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LIBRARIES: Final = ("aiokafka", "faststream", "motor", "pymongo", "uvicorn", "httpx", "aiohttp")


def _render_line(_logger: WrappedLogger, level: str, event: EventDict) -> bytes:
    """Return an event as a JSON line, with level and time. One processor, because the hot paths log."""
    event["level"] = level
    event["time"] = datetime.now(UTC)
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(_logger, level, event)
    return orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z)


def configure(service: str, level: str) -> Log:
    """Set up logging for this process and return its logger, bound to the service's name.

    Loggers of libraries write to it too, from level warning up.
    """
    numeric = _LEVELS[level]
    lines = LineLogger(sys.stdout.buffer)
    structlog.configure(
        processors=[_render_line],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=lambda: lines,
        cache_logger_on_first_use=True,
    )
    log: Log = structlog.get_logger(service=service).bind()
    root = logging.getLogger()
    root.handlers = [_StructlogHandler(log)]
    root.setLevel(max(numeric, logging.WARNING))
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
        library.setLevel(max(numeric, logging.WARNING))
    return log


class LineLogger:
    """Write rendered lines to a stream, in groups. structlog calls the method of the level."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._pending: list[bytes] = []
        self._scheduled_on: asyncio.AbstractEventLoop | None = None
        self._lock = threading.RLock()  # a signal handler may log while a line is added
        atexit.register(self.flush)

    def info(self, line: bytes) -> None:
        """Write a line at the end of this iteration of the event loop. Without a loop, write it at once."""
        with self._lock:
            self._pending.append(line)
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
                return
            if loop is not self._scheduled_on:
                self._scheduled_on = loop
                loop.call_soon(self.flush)

    debug = info

    def warning(self, line: bytes) -> None:
        """Write a line, and those before it, at once."""
        with self._lock:
            self._pending.append(line)
            self.flush()

    error = critical = warning

    def flush(self) -> None:
        """Write all pending lines. Lines that cannot be written are dropped, so that no request fails."""
        with self._lock:
            lines, self._pending = self._pending, []
            self._scheduled_on = None
            if lines:
                lines.append(b"")
                with suppress(OSError):
                    self._stream.write(b"\n".join(lines))
                    self._stream.flush()


class _StructlogHandler(logging.Handler):
    """Passes the records of libraries on to the structured logger."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(
            record.levelno,
            record.getMessage(),
            logger=record.name,
            **({"exc_info": record.exc_info} if record.exc_info else {}),
        )
