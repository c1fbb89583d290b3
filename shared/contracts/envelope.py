"""The event envelope: CloudEvents 1.0 in Kafka binary mode, attributes as headers, data as value.

Internal services may publish with any Kafka client, so every record is checked here: headers that are null
or not UTF-8, missing attributes, invalid times. An invalid record raises `Malformed` and goes to the
dead-letter topic; it is never dropped.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from time import gmtime, strftime, time_ns
from types import MappingProxyType
from typing import Final, NamedTuple

from shared.contracts.errors import Malformed

Header = tuple[str, bytes | None]

JSON_CONTENT_TYPE: Final = "application/json"
_ATTRIBUTES: Final = ("id", "type", "source", "time", "subject")
_ENVELOPE_HEADERS: Final = frozenset(
    {"content-type", "traceparent", "workspace", "ce_specversion", *(f"ce_{name}" for name in _ATTRIBUTES)}
)
_MAX_ATTRIBUTE_BYTES = 1024


class Event(NamedTuple):
    """One fact in the past tense, about one workspace.

    `data` is the body as published; it is parsed where it is needed and never encoded again.
    `attributes` are further headers (for a provider's webhook: provider, endpoint_id, event, ...).
    """

    id: str
    type: str
    source: str
    workspace: str
    time: str
    data: bytes
    subject: str = ""
    content_type: str = JSON_CONTENT_TYPE
    traceparent: str = ""
    attributes: Mapping[str, str] = MappingProxyType({})

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the Kafka headers of this event, in order."""
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_type", self.type.encode()),
            ("ce_source", self.source.encode()),
            ("ce_time", self.time.encode()),
            ("content-type", self.content_type.encode()),
            ("workspace", self.workspace.encode()),
        ]
        if self.subject:
            headers.append(("ce_subject", self.subject.encode()))
        if self.traceparent:
            headers.append(("traceparent", self.traceparent.encode()))
        headers.extend((name, value.encode()) for name, value in self.attributes.items())
        return headers

    @property
    def trace_id(self) -> str:
        """The trace id, the same from the provider's request to the last delivery attempt; else empty."""
        return self.traceparent[3:35]


class EventTemplate:
    """The constant headers of many events, encoded once. `Event.headers` encodes them for each event."""

    __slots__ = ("_headers",)

    def __init__(self, event_type: str, source: str, workspace: str, attributes: Mapping[str, str]) -> None:
        """Set what is constant. `attributes` are further headers, as in `Event`."""
        constant = {"ce_type": event_type, "ce_source": source, "workspace": workspace, **attributes}
        self._headers = (
            ("ce_specversion", b"1.0"),
            *((name, value.encode()) for name, value in constant.items()),
        )

    def headers(
        self, event_id: str, content_type: str, traceparent: str, attributes: Mapping[str, str]
    ) -> list[tuple[str, bytes]]:
        """Return the Kafka headers of an event of now, with further attributes."""
        headers = [
            *self._headers,
            ("ce_id", event_id.encode()),
            ("ce_time", now().encode()),
            ("content-type", content_type.encode()),
            ("traceparent", traceparent.encode()),
        ]
        for name, value in attributes.items():
            headers.append((name, value.encode()))
        return headers


def parse_event(headers: Iterable[Header], value: bytes | None) -> Event:
    """Parse the event of a Kafka record.

    Raises `Malformed` if a required attribute is missing, not UTF-8 or over 1024 bytes. A header that is not
    part of the envelope is dropped if it is not UTF-8, so that no foreign tracing header costs an event.
    """
    envelope: dict[str, str] = {}
    attributes: dict[str, str] = {}
    for name, raw in headers:
        if name in _ENVELOPE_HEADERS:
            envelope[name] = _decode_header(name, raw)
        elif raw is not None:
            # Headers of other systems: kept if they are text, and no reason to reject an event.
            try:
                attributes[name] = raw.decode()
            except UnicodeDecodeError:
                continue
    for name in ("ce_id", "ce_type", "ce_source", "workspace"):
        if not envelope.get(name):
            raise Malformed(f"header {name} is missing: every event must have it")
    if envelope.get("ce_specversion", "1.0") != "1.0":
        raise Malformed(f"ce_specversion is {envelope['ce_specversion']!r}: only 1.0 is supported")
    return Event(
        id=envelope["ce_id"],
        type=envelope["ce_type"],
        source=envelope["ce_source"],
        workspace=envelope["workspace"],
        time=_validate_time(envelope["ce_time"]) if envelope.get("ce_time") else now(),
        data=value or b"",
        subject=envelope.get("ce_subject", ""),
        content_type=envelope.get("content-type", JSON_CONTENT_TYPE),
        traceparent=envelope.get("traceparent", ""),
        attributes=attributes,
    )


def _decode_header(name: str, raw: bytes | None) -> str:
    if raw is None:
        raise Malformed(f"header {name} is null")
    if len(raw) > _MAX_ATTRIBUTE_BYTES:
        raise Malformed(f"header {name} has {len(raw)} bytes: at most {_MAX_ATTRIBUTE_BYTES}")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Malformed(f"header {name} is not UTF-8") from None


def _validate_time(text: str) -> str:
    try:
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    except ValueError:
        pass
    raise Malformed(f"ce_time is {text[:40]!r}: not an RFC 3339 time with an offset")


def rfc3339(moment: datetime) -> str:
    """Format a time as RFC 3339 in UTC with milliseconds, like every time in the API and on the topics."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now() -> str:
    """Return the current time as `rfc3339` formats it."""
    seconds, milliseconds = divmod(time_ns() // 1_000_000, 1000)
    return f"{_second_text(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=2)
def _second_text(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))
