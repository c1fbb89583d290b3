"""The overview: health, queues, failures, live events, and objects that need attention."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from operator import is_
from time import monotonic
from typing import Any, Final
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Member, Refusal
from services.console.live.event_feed import EventFeed
from services.console.live.events import EventFilter
from services.console.web.frame import Frame
from services.console.web.visits import Visit
from shared.runtime.cached_reads import CachedReads
from shared.runtime.web.api_keys import Scope

_PARTS: Final[Mapping[str, tuple[Scope, str, Mapping[str, str]]]] = {
    "queue": ("webhooks:read", "/api/queue/stats", {}),
    "counts": ("webhooks:read", "/api/statistics", {}),
    "hours": ("webhooks:read", "/api/queue/stats/hours", {}),
    "sync": ("sync:read", "/api/sync/queue/stats", {}),
    "dead": ("webhooks:read", "/api/dead-letters", {"limit": "5"}),
    "ended": ("integrations:read", "/api/integrations", {"status": "reauth_required", "limit": "10"}),
    "broken": ("integrations:read", "/api/integrations", {"status": "error", "limit": "10"}),
    "endpoints": ("integrations:read", "/api/inbound-endpoints", {"status": "error", "limit": "10"}),
    "webhooks": ("webhooks:read", "/api/outgoing-webhooks", {"status": "failing", "limit": "10"}),
    "mappings": ("sync:read", "/api/mappings", {"status": "error", "limit": "10"}),
    "imports": ("imports:read", "/api/imports", {"limit": "5"}),
    "jobs": ("webhooks:read", "/api/delivery-jobs", {"limit": "5"}),
}
"""The parts of the page: the scope that a member needs, and the call."""
_SHOWN: Final = 10
_ROWS: Final = 50
_FRESH_S: Final = 1.9
"""A part is read at most this often for all viewers of a workspace together; streams look every 2 s."""
_MAX_FILTER: Final = 100


def filter_of(request: Request) -> EventFilter:
    """Return the event filter of the query parameters."""
    given = request.query_params
    values = (given.get(name, "").strip()[:_MAX_FILTER] for name in ("provider", "type", "endpoint"))
    return EventFilter(*values)


class Overview:
    """Read all parts concurrently. A part that is not available is shown as such, beside the others."""

    def __init__(self, hub: HubApi, frame: Frame, feed: EventFeed) -> None:
        self._hub = hub
        self._frame = frame
        self._feed = feed
        self._reads: CachedReads[Any] = CachedReads(min_s=_FRESH_S, factor=20, at_once=None)
        self._rendered: dict[tuple[str, ...], tuple[float, Sequence[Any], Markup]] = {}
        """By workspace and parts: the time of rendering, the results that were rendered, and the HTML."""

    async def show(self, request: Request, visit: Visit) -> Response:
        """Return the page."""
        wanted, key = filter_of(request), visit.member.key
        values = {"provider": wanted.provider, "type": wanted.type, "endpoint": wanted.endpoint}
        query = urlencode({name: value for name, value in values.items() if value})
        ring = self._feed.ring(key.workspace)
        figures = await self.figures(visit)
        return self._frame.page(
            "overview.html",
            visit,
            title="Overview",
            figures=figures,
            wanted=wanted,
            events=ring.newest(wanted, key, _ROWS).events,
            available=self._feed.is_available,
            stream=f"/console/live?{query}" if query else "/console/live",
            sees_events=key.allows("integrations:read") or key.allows("webhooks:read"),
            live=True,
        )

    async def figures(self, visit: Visit) -> Markup:
        """Return the figures as HTML. They are rendered again only if a part was read again."""
        key = visit.member.key
        names = [name for name, (scope, _, _) in _PARTS.items() if key.allows(scope)]
        found = await asyncio.gather(
            self._reads.get("", "services", self._hub.readiness),
            *(self._reads.get(key.workspace, name, partial(self._read, name, visit)) for name in names),
        )
        rendered = self._rendered.get((key.workspace, *names))
        if rendered and all(map(is_, rendered[1], found)):
            return rendered[2]
        services, *values = found
        parts = dict(zip(names, values, strict=True))
        html = self._frame.fragment(
            "overview_figures.html",
            services=services,
            parts=parts,
            failing={
                "accounts": _items(parts.get("ended"), parts.get("broken")),
                "endpoints": _items(parts.get("endpoints")),
                "webhooks": _items(parts.get("webhooks")),
            },
            running=[item for item in _items(parts.get("jobs")) or () if item["status"] == "running"],
        )
        now = monotonic()
        self._rendered = {name: one for name, one in self._rendered.items() if now - one[0] <= 2 * _FRESH_S}
        self._rendered[key.workspace, *names] = now, found, html
        return html

    async def _read(self, name: str, visit: Visit) -> Any:
        """Return the response of a part's call, or the refusal."""
        _, path, params = _PARTS[name]
        # With the whole time of a request.
        member = Member(visit.member.key, visit.member.address, traceparent=visit.member.context())
        try:
            return await self._hub.call(member, "GET", path, params=params)
        except Refusal as refusal:
            return refusal


def _items(*lists: Any) -> list[Any] | None:
    """Return the first ten items of some lists; None if one of them could not be read."""
    if any(found is None or isinstance(found, Refusal) for found in lists):
        return None
    return [item for found in lists for item in found["items"]][:_SHOWN]
