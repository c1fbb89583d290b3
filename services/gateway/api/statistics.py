"""`GET /api/statistics`: events by type and answers 429 by provider, by the hour."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Query
from pydantic import AwareDatetime, BaseModel

from shared.contracts.envelope import rfc3339
from shared.runtime.hourly_counts import RETENTION_DAYS, CountKind, HourlyCounts
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.mongo import utcnow
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.routes import Routes

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
_DAY: Final = timedelta(days=1)
_MAX_SPAN: Final = timedelta(days=31)
_MAX_SHOWN: Final = 100


class NamedCountOut(BaseModel):
    """The count of an event type or provider."""

    name: str
    count: int


class CountedHourOut(BaseModel):
    """The count of one UTC hour, of all names."""

    hour: str
    count: int


class CountsOut(BaseModel):
    """The 100 most frequent names, the most frequent first; and the hours with counts, oldest first."""

    total: int
    by_name: list[NamedCountOut]
    hours: list[CountedHourOut]


class StatisticsOut(BaseModel):
    """`events` by type, and `rate_limited`: responses with status 429 by provider."""

    events: CountsOut
    rate_limited: CountsOut


class StatisticsApi:
    """The route of statistics."""

    def __init__(self, counts: HourlyCounts) -> None:
        self._counts = counts
        self._readers = WorkspaceLimits(1)

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        Routes(app, "/api/statistics").add("", self.read, methods=["GET"])

    async def read(
        self,
        key: Reader,
        since: Annotated[
            AwareDatetime | None,
            Query(description="The default is a day ago; at most 31 days before `until`."),
        ] = None,
        until: Annotated[AwareDatetime | None, Query(description="The default is now.")] = None,
    ) -> StatisticsOut:
        """Count events by type and responses 429 by provider, for each UTC hour from that of `since` on.

        Counts appear after about 5 s. A killed process loses those of its last 5 s. In each hour and process,
        names beyond the first 200 count as `other`.
        """
        now = utcnow()
        end = max(min(until or now, now), now - timedelta(days=RETENTION_DAYS))
        begin = min(max(since or end - _DAY, end - _MAX_SPAN), end)

        # One at a time: a workspace with many names makes its own calls wait, not those of others.
        async with self._readers.hold(key.workspace):
            return StatisticsOut(
                events=await self._sum(key.workspace, "events", begin, end),
                rate_limited=await self._sum(key.workspace, "rate_limited", begin, end),
            )

    async def _sum(self, workspace: str, kind: CountKind, begin: datetime, end: datetime) -> CountsOut:
        names: Counter[str] = Counter()
        hours = []
        async for hour, counts in self._counts.read(workspace, kind, begin, end):
            names.update(counts)
            hours.append(CountedHourOut(hour=rfc3339(hour), count=sum(counts.values())))
        shown = names.most_common(_MAX_SHOWN)
        return CountsOut(
            total=names.total(),
            by_name=[NamedCountOut(name=name, count=count) for name, count in shown],
            hours=hours,
        )
