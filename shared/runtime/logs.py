"""JSON logs on standard output, one object per line. `trace_id` links a webhook with its deliveries."""

import asyncio
import atexit
import logging
import sys
from datetime import UTC, datetime
from threading import Lock
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


class _LineWriter:
    """Writes the lines of one turn of the event loop together: a write costs more than a line.

    A line from level warning up, and one outside an event loop, is written at once, after those before it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lines: list[bytes] = []
        self._lock = Lock()
        self._flushing_loop: asyncio.AbstractEventLoop | None = None
        atexit.register(self.flush)

    def info(self, line: bytes) -> None:
        with self._lock:
            self._lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if loop is not self._flushing_loop:
            self._flushing_loop = loop
            loop.call_soon(self.flush)

    debug = info

    def warning(self, line: bytes) -> None:
        with self._lock:
            self._lines.append(line)
        self.flush()

    error = critical = warning

    def flush(self) -> None:
        """Write the lines that wait."""
        self._flushing_loop = None
        with self._lock:
            lines, self._lines = self._lines, []
            if lines:
                self._file.write(b"\n".join(lines) + b"\n")
                self._file.flush()


def configure(service: str, level: str) -> Log:
    """Set up logging for this process and return its logger, bound to the service's name.

    Loggers of libraries write to it too, from level warning up.
    """
    numeric = _LEVELS[level]
    writer = _LineWriter(sys.stdout.buffer)
    structlog.configure(
        processors=[_render_line],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=lambda *_: writer,
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
