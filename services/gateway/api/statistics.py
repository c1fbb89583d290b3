"""`/api/statistics`: events by type, answers 429 by provider, and requests by endpoint, by the hour."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Query
from pydantic import AwareDatetime, BaseModel

from services.gateway.ingest.endpoint_records import EndpointRepository
from services.gateway.ingest.request_counts import percentile_ms
from shared.contracts.envelope import rfc3339
from shared.runtime.clock import utcnow
from shared.runtime.hourly_counts import RETENTION_DAYS, CountKind, HourlyCounts
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Cursor, Limit, decode_position
from shared.runtime.web.routes import Routes

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
EndpointReader = Annotated[ApiKey, Depends(requires("integrations:read"))]
_Since = Annotated[
    AwareDatetime | None, Query(description="The default is a day ago; at most 31 days before `until`.")
]
_Until = Annotated[AwareDatetime | None, Query(description="The default is now.")]
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


class RequestCountsOut(BaseModel):
    """Requests to endpoints. `limited` were turned away by a limit of the hub, or while it was not available.

    `success_rate` is the share of `accepted` in `accepted` and `refused`, `mean_ms` the mean time from the
    first byte of those to the response, and `p50_ms` and `p95_ms` its percentiles: null without any. The
    percentiles are interpolated in buckets that each end at twice the time of the one before.
    """

    accepted: int
    refused: int
    limited: int
    success_rate: float | None
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None


class RequestHourOut(RequestCountsOut):
    """Requests of one UTC hour."""

    hour: str


class EndpointRequestsOut(RequestCountsOut):
    """Requests to one endpoint; to an app webhook, those with events of one integration.

    `name` and `provider` are null for an integration, for an endpoint that was deleted, and for `other`.
    """

    endpoint_id: str
    name: str | None
    provider: str | None


class EndpointStatisticsOut(BaseModel):
    """A page of the endpoints, those with the most requests first, and the requests to all of them."""

    together: RequestCountsOut
    hours: list[RequestHourOut]
    items: list[EndpointRequestsOut]
    next_cursor: str | None


_REQUEST_KINDS: Final[Mapping[CountKind, str]] = {
    "requests_accepted": "accepted",
    "requests_refused": "refused",
    "requests_limited": "limited",
    "requests_ms": "ms",
}
_LATENCY: Final = "latency "
"""Begins the names of latency buckets among the counts."""


class StatisticsApi:
    """The routes of statistics."""

    def __init__(self, counts: HourlyCounts, endpoints: EndpointRepository) -> None:
        self._counts = counts
        self._endpoints = endpoints
        self._readers = WorkspaceLimits(1)

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/statistics").add
        add("", self.read, methods=["GET"])
        add("/endpoints", self.read_endpoints, methods=["GET"])

    async def read(self, key: Reader, since: _Since = None, until: _Until = None) -> StatisticsOut:
        """Count events by type and responses 429 by provider, for each UTC hour from that of `since` on.

        Counts appear after about 5 s. A killed process loses those of its last 5 s. In each hour and process,
        names beyond the first 200 count as `other`.
        """
        begin, end = _span(since, until)
        # One at a time: a workspace with many names makes its own calls wait, not those of others.
        async with self._readers.hold(key.workspace):
            return StatisticsOut(
                events=await self._sum(key.workspace, "events", begin, end),
                rate_limited=await self._sum(key.workspace, "rate_limited", begin, end),
            )

    async def read_endpoints(
        self,
        key: EndpointReader,
        since: _Since = None,
        until: _Until = None,
        endpoint_id: Annotated[
            str | None, Query(max_length=100, description="Only the requests to this one.")
        ] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> EndpointStatisticsOut:
        """Count requests to endpoints, in total and for each UTC hour from that of `since` on.

        Every request is counted, about 5 s late. A killed process loses those of its last 5 s. In each hour
        and process, endpoints of a workspace beyond the first 200 count as `other`.
        """
        begin, end = _span(since, until)
        position = decode_position(cursor)
        by_endpoint: defaultdict[str, Counter[str]] = defaultdict(Counter)
        by_hour: defaultdict[datetime, Counter[str]] = defaultdict(Counter)
        async with self._readers.hold(key.workspace):
            for kind, field in _REQUEST_KINDS.items():
                async for hour, counts in self._counts.read(key.workspace, kind, begin, end):
                    for name, count in counts.items():
                        if endpoint_id in (None, name):
                            by_endpoint[name][field] += count
                            by_hour[hour][field] += count
            async for hour, counts in self._counts.read(key.workspace, "requests_latency", begin, end):
                for entry, count in counts.items():
                    name, _, bucket = entry.rpartition(" ")
                    if endpoint_id in (None, name):
                        by_endpoint[name][_LATENCY + bucket] += count
                        by_hour[hour][_LATENCY + bucket] += count
        ordered = sorted(by_endpoint, key=lambda name: (-_requests(by_endpoint[name]), name))
        shown = ordered[position : position + limit]
        known = await self._endpoints.find_some(shown, key.workspace)
        return EndpointStatisticsOut(
            together=RequestCountsOut(**_shown(sum(by_endpoint.values(), Counter()))),
            hours=[RequestHourOut(hour=rfc3339(hour), **_shown(by_hour[hour])) for hour in sorted(by_hour)],
            items=[
                EndpointRequestsOut(
                    endpoint_id=name,
                    name=known[name].name if name in known else None,
                    provider=known[name].provider if name in known else None,
                    **_shown(by_endpoint[name]),
                )
                for name in shown
            ],
            next_cursor=str(position + limit) if position + limit < len(ordered) else None,
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


def _span(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    """Return the time that is read: a day by default, at most 31 days, and within the retention."""
    now = utcnow()
    end = max(min(until or now, now), now - timedelta(days=RETENTION_DAYS))
    return min(max(since or end - _DAY, end - _MAX_SPAN), end), end


def _requests(counts: Counter[str]) -> int:
    return counts["accepted"] + counts["refused"] + counts["limited"]


def _shown(counts: Counter[str]) -> dict[str, Any]:
    """Return the fields of `RequestCountsOut`."""
    timed = counts["accepted"] + counts["refused"]
    latency = {
        int(name.removeprefix(_LATENCY)): count for name, count in counts.items() if name.startswith(_LATENCY)
    }
    return {
        "accepted": counts["accepted"],
        "refused": counts["refused"],
        "limited": counts["limited"],
        "success_rate": round(counts["accepted"] / timed, 4) if timed else None,
        "mean_ms": round(counts["ms"] / timed, 1) if timed else None,
        "p50_ms": percentile_ms(latency, 0.5),
        "p95_ms": percentile_ms(latency, 0.95),
    }
