"""`GET /api/statistics`: events by type and answers 429 by provider, by the hour."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Query
from pydantic import AwareDatetime, BaseModel

from shared.contracts.envelope import rfc3339
from shared.runtime.hourly_counts import RETENTION_DAYS, CountKind, HourlyCounts
from shared.runtime.mongo import utcnow
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.routes import Routes

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
_DAY: Final = timedelta(days=1)
_MAX_SPAN: Final = timedelta(days=31)
_MAX_SHOWN: Final = 100


class NamedCountOut(BaseModel):
    """How often it was: an event type, or a provider."""

    name: str
    count: int


class CountedHourOut(BaseModel):
    """The sum of one UTC hour."""

    hour: str
    count: int


class CountsOut(BaseModel):
    """Counts by name, the most frequent first, 100 of them; and by hour, of all names, oldest first."""

    total: int
    by_name: list[NamedCountOut]
    hours: list[CountedHourOut]


class StatisticsOut(BaseModel):
    """What the hub has had: `events` by type, and calls that a provider refused as too many (429)."""

    events: CountsOut
    rate_limited: CountsOut


class StatisticsApi:
    """The route, and the counts that all services write."""

    def __init__(self, counts: HourlyCounts) -> None:
        self._counts = counts

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
        """Count events by type and answers 429 by provider, for each UTC hour from that of `since` on.

        Counts appear after about five seconds, and may lack those of a killed process. In each hour, names
        beyond the first 200 count as `other`.
        """
        now = utcnow()
        end = max(min(until or now, now), now - timedelta(days=RETENTION_DAYS))
        begin = min(max(since or end - _DAY, end - _MAX_SPAN), end)

        async def counts(kind: CountKind) -> CountsOut:
            hours = await self._counts.read(key.workspace, kind, begin, end)
            names: Counter[str] = Counter()
            for _, found in hours:
                names.update(found)
            shown: Sequence[tuple[str, int]] = names.most_common(_MAX_SHOWN)
            return CountsOut(
                total=names.total(),
                by_name=[NamedCountOut(name=name, count=count) for name, count in shown],
                hours=[
                    CountedHourOut(hour=rfc3339(hour), count=sum(found.values())) for hour, found in hours
                ],
            )

        return StatisticsOut(events=await counts("events"), rate_limited=await counts("rate_limited"))
