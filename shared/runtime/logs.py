"""JSON logs on standard output, one object per line. `trace_id` links a webhook with its deliveries."""

import logging
import sys
from datetime import UTC, datetime
from typing import Final

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
    structlog.configure(
        processors=[_render_line],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
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
