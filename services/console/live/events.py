"""Events as people watch them pass: their names and ids, never their data."""

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
"""The topics that are watched."""


def _scope_of(topic: str) -> Scope:
    """Return the scope that lists the events of a topic elsewhere in the API."""
    return "integrations:read" if topic == WEBHOOKS_RECEIVED.name else "webhooks:read"


_MAX_TEXT: Final = 200
RING: Final = 200
"""Events of a workspace that are held."""


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """An event of a workspace, as its row shows it. Every text is from a stranger, and cut."""

    id: str
    type: str
    at: str
    provider: str
    """The provider, or what else sent it."""
    endpoint_id: str
    """The endpoint that received it; empty for an event of another origin."""
    scope: Scope


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What a viewer wants to see; an empty field takes all. `type` may be a part of the event's type."""

    provider: str = ""
    type: str = ""
    endpoint: str = ""

    def takes(self, event: LiveEvent) -> bool:
        """Return whether an event is wanted."""
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
class Passed:
    """What passed since a viewer last looked, oldest first, and how many more did that are not there.

    `position` is where to look from the next time. `is_incomplete`: some may have been missed unseen.
    """

    position: int
    events: Sequence[LiveEvent]
    left_out: int = 0
    is_incomplete: bool = False


class EventRing:
    """The newest events of one workspace. Positions count all that it has had."""

    def __init__(self) -> None:
        self._events: deque[LiveEvent] = deque(maxlen=RING)
        self._end = 0
        self.gaps = 0
        """How often some may have been missed."""

    def add(self, event: LiveEvent) -> None:
        """Add an event; the oldest one gives way."""
        self._events.append(event)
        self._end += 1

    def newest(self, wanted: EventFilter, key: ApiKey, limit: int) -> Passed:
        """Return the newest events, with the position behind them."""
        events = [event for event in self._events if wanted.takes(event) and key.allows(event.scope)]
        return Passed(self._end, events[-limit:])

    def after(self, event_id: str, wanted: EventFilter, key: ApiKey, limit: int) -> Passed:
        """Return what came after an event; if it is not here any more, the newest events as incomplete."""
        for index, event in enumerate(self._events):
            if event.id == event_id:
                return self.since(self._end - len(self._events) + index + 1, wanted, key, limit)
        found = self.newest(wanted, key, limit)
        return Passed(found.position, found.events, is_incomplete=True)

    def since(self, position: int, wanted: EventFilter, key: ApiKey, limit: int) -> Passed:
        """Return what came from a position on: the newest `limit` of it."""
        first = self._end - len(self._events)
        passed = list(self._events)[max(0, position - first) :]
        events = [event for event in passed if wanted.takes(event) and key.allows(event.scope)]
        shown = events[-limit:]
        # What fell out of the ring before the viewer looked may have been wanted, or not.
        return Passed(self._end, shown, left_out=len(events) - len(shown), is_incomplete=position < first)
