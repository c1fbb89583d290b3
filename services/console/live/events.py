"""Live events of a workspace for viewers: names and ids, never payloads."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.contracts.envelope import parse_event
from shared.contracts.errors import Malformed
from shared.contracts.topics import CHAT_EVENTS, CHAT_INBOUND, INTEGRATION_EVENTS, WEBHOOKS_RECEIVED, Topic
from shared.runtime.kafka.tail import TailedRecord
from shared.runtime.web.access import ApiKey
from shared.runtime.web.api_keys import Scope

TOPICS: Final[Sequence[Topic]] = (WEBHOOKS_RECEIVED, CHAT_EVENTS, INTEGRATION_EVENTS, CHAT_INBOUND)
"""The topics with the events that viewers see."""


def _scope_of(topic: str) -> Scope:
    """Return the scope that lists the events of a topic elsewhere in the API."""
    return "integrations:read" if topic == WEBHOOKS_RECEIVED.name else "webhooks:read"


_MAX_TEXT: Final = 200
RING: Final = 200
"""The number of a workspace's newest events in memory."""


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """An event of a workspace as its row shows it. Every text is untrusted, and cut to 200 characters."""

    id: str
    type: str
    at: str
    provider: str
    """The provider; for an event without one, its CloudEvents `source`."""
    endpoint_id: str
    """The endpoint that received it; empty for an event of another origin."""
    scope: Scope


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects events by provider, part of the type, and endpoint id. An empty field selects all."""

    provider: str = ""
    type: str = ""
    endpoint: str = ""

    def matches(self, event: LiveEvent) -> bool:
        """Return True if the filter selects an event."""
        return (
            self.provider.lower() in ("", event.provider.lower())
            and self.type.lower() in event.type.lower()
            and self.endpoint in ("", event.endpoint_id)
        )


def parse_record(record: TailedRecord) -> tuple[str, LiveEvent] | None:
    """Return the workspace and the event of a record; None if it has no valid envelope."""
    try:
        event = parse_event(record.headers, None)
    except Malformed:
        return None
    attributes = event.attributes
    live = LiveEvent(
        event.id[:_MAX_TEXT],
        event.type[:_MAX_TEXT],
        event.time,
        (attributes.get("provider") or event.source)[:_MAX_TEXT],
        attributes.get("endpoint_id", "")[:_MAX_TEXT],
        _scope_of(record.topic),
    )
    return event.workspace, live


@dataclass(frozen=True, slots=True)
class EventPage:
    """The newest matching events after a position, oldest first.

    `position` is that of the next read. `left_out` counts older matching events that the limit left out.
    `is_incomplete` is True if further events may have been lost.
    """

    position: int
    events: Sequence[LiveEvent]
    left_out: int = 0
    is_incomplete: bool = False


class EventRing:
    """The newest events of one workspace. A position is a number of events since the ring was created."""

    def __init__(self) -> None:
        self._events: deque[LiveEvent] = deque(maxlen=RING)
        self._end = 0
        self.gaps = 0
        """The number of times at which events may have been lost."""

    def add(self, event: LiveEvent) -> None:
        """Add an event. A full ring drops its oldest one."""
        self._events.append(event)
        self._end += 1

    def newest(self, wanted: EventFilter, key: ApiKey, limit: int) -> EventPage:
        """Return the newest `limit` matching events that the key may see."""
        events = [event for event in self._events if wanted.matches(event) and key.allows(event.scope)]
        return EventPage(self._end, events[-limit:])

    def after(self, event_id: str, wanted: EventFilter, key: ApiKey, limit: int) -> EventPage:
        """Return the events after one with this id; the newest ones, as incomplete, without it."""
        for index, event in enumerate(self._events):
            if event.id == event_id:
                return self.since(self._end - len(self._events) + index + 1, wanted, key, limit)
        found = self.newest(wanted, key, limit)
        return EventPage(found.position, found.events, is_incomplete=True)

    def since(self, position: int, wanted: EventFilter, key: ApiKey, limit: int) -> EventPage:
        """Return the newest `limit` matching events from a position on.

        A position of an earlier ring, which was dropped while its viewer did not read, can be beyond the end.
        """
        first = self._end - len(self._events)
        is_known = first <= position <= self._end
        later = list(self._events)[position - first if is_known else 0 :]
        events = [event for event in later if wanted.matches(event) and key.allows(event.scope)]
        shown = events[-limit:]
        return EventPage(self._end, shown, left_out=len(events) - len(shown), is_incomplete=not is_known)
