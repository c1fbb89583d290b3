"""The API of events that no outgoing webhook got."""

from fastapi import FastAPI
from pydantic import BaseModel

from services.delivery.api.fields import Reader
from services.delivery.log.unmatched import UnmatchedEventLog, UnmatchedReason
from shared.contracts.envelope import rfc3339
from shared.runtime.web.routes import Routes


class UnmatchedEventOut(BaseModel):
    """An event that no outgoing webhook got, and when the hub found that.

    `reason`: `no_webhook` (the workspace has none), `no_pattern` (none has a pattern for the type),
    `disabled` (only disabled ones have), `filtered` (every filter rejected it).
    """

    id: str
    type: str
    source: str
    reason: UnmatchedReason
    at: str


class UnmatchedTypeOut(BaseModel):
    """Number of events of a type that no outgoing webhook got since the first one."""

    type: str
    count: int
    since: str
    last_at: str


class UnmatchedEventsOut(BaseModel):
    """Unmatched events: counts by type, highest first, and the last events, latest first."""

    types: list[UnmatchedTypeOut]
    events: list[UnmatchedEventOut]


class UnmatchedApi:
    """The route and what it needs."""

    def __init__(self, unmatched: UnmatchedEventLog) -> None:
        self._unmatched = unmatched

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        routes = Routes(app, "/api")
        routes.add("/events/unmatched", self.list_unmatched, methods=["GET"])

    async def list_unmatched(self, key: Reader) -> UnmatchedEventsOut:
        """List the workspace's events that matched no outgoing webhook: counts by type, and the last 100.

        A type's count expires seven days after its last such event. Types beyond 500 are counted together, as
        `(other types)`. An event appears about a second after it was handled.
        """
        counts = await self._unmatched.counts(key.workspace)
        last = await self._unmatched.last(key.workspace)
        return UnmatchedEventsOut(
            types=[
                UnmatchedTypeOut(
                    type=item.event_type,
                    count=item.count,
                    since=rfc3339(item.since),
                    last_at=rfc3339(item.last_at),
                )
                for item in counts
            ],
            events=[
                UnmatchedEventOut(
                    id=event.id,
                    type=event.event_type,
                    source=event.source,
                    reason=event.reason,
                    at=rfc3339(event.at),
                )
                for event in last
            ],
        )
