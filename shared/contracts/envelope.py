"""The event envelope: CloudEvents 1.0 in Kafka binary mode, attributes as headers, data as value.

Internal services may publish with any Kafka client, so everything that comes in is checked here:
a header that is null or not UTF-8, an attribute that is missing, a time that is none. What fails
raises `Malformed` and goes to the dead-letter topic; it is never dropped.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from shared.contracts.errors import Malformed

Header = tuple[str, bytes | None]

JSON_CONTENT_TYPE: Final = "application/json"
_ATTRIBUTES: Final = ("id", "type", "source", "time", "subject")
_ENVELOPE_HEADERS: Final = frozenset(
    {"content-type", "traceparent", "workspace", "ce_specversion", *(f"ce_{name}" for name in _ATTRIBUTES)}
)
_MAX_ATTRIBUTE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One fact in the past tense, about one workspace.

    `data` is the body as it travels; it is parsed where it is needed and never re-encoded.
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
    attributes: Mapping[str, str] = field(default_factory=dict)

    def headers(self) -> list[tuple[str, bytes]]:
        """The Kafka headers of this event."""
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
        """The correlation id: one from the platform's request to the last delivery attempt."""
        return self.traceparent[3:35]


def parse_event(headers: Iterable[Header], value: bytes | None) -> Event:
    """The event that a Kafka record carries.

    Raises `Malformed` when a required attribute is missing, unreadable or over 1024 characters.
    A header that the envelope does not know is dropped when it is not readable text: a stranger's
    tracing header must not cost an event.
    """
    own: dict[str, str] = {}
    attributes: dict[str, str] = {}
    for name, raw in headers:
        if name in _ENVELOPE_HEADERS:
            own[name] = _decode_header(name, raw)
        elif raw is not None:
            try:
                attributes[name] = raw.decode()
            except UnicodeDecodeError:
                continue
    for name in ("ce_id", "ce_type", "ce_source", "workspace"):
        if not own.get(name):
            raise Malformed(f"header {name} is missing: it is required of every event")
    if own.get("ce_specversion", "1.0") != "1.0":
        raise Malformed(f"ce_specversion is {own['ce_specversion']!r}: only 1.0 is understood")
    return Event(
        id=own["ce_id"],
        type=own["ce_type"],
        source=own["ce_source"],
        workspace=own["workspace"],
        time=_validate_time(own["ce_time"]) if own.get("ce_time") else now(),
        data=value or b"",
        subject=own.get("ce_subject", ""),
        content_type=own.get("content-type", JSON_CONTENT_TYPE),
        traceparent=own.get("traceparent", ""),
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
    raise Malformed(f"ce_time is {text[:40]!r}: not an RFC 3339 time with its offset")


def rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as every time in the API and on the topics is written."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now() -> str:
    return rfc3339(datetime.now(UTC))
