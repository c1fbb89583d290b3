"""The page of a whole path: from the request of a webhook to deliveries, and to messages at each target."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.path_words import needs_retry, summary
from services.console.web.frame import Frame
from services.console.web.visits import Visit
from shared.contracts.envelope import rfc3339
from shared.runtime.web.api_keys import Scope

Json = Mapping[str, Any]
TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_MAX_ID: Final = 1000
_MAX_ITEMS: Final = 10
"""Objects of each part; further ones are in the lists that the page links."""
_MAX_IDS: Final = 3
"""Events, and traces, that are followed from what was found first."""
_BEFORE: Final = timedelta(minutes=1)
_AFTER: Final = timedelta(hours=1)
"""The time in which the delivery log is searched for a trace, which is in none of its indexes (ADR 0083)."""


@dataclass(slots=True)
class Part:
    """One part of a path: what was found, by id, and why it may not be everything."""

    scope: Scope
    allowed: bool
    items: dict[str, Json] = field(default_factory=dict)
    refusal: Refusal | None = None
    """The service does not answer."""
    more: str = ""
    """The list with the rest."""

    def newest_first(self) -> list[Json]:
        """Return the items in the order of the list."""
        return list(self.items.values())


class PathPages:
    """Follow an id through the services; each part of the page stands for itself."""

    def __init__(self, hub: HubApi, frame: Frame) -> None:
        self._hub = hub
        self._frame = frame

    async def show(self, request: Request, visit: Visit) -> Response:
        """Return the page of an event, a trace, a delivery, or another id of something on a path."""
        wanted = request.path_params["id"][:_MAX_ID]
        path = _Path(self._hub, visit, wanted)
        await path.follow()
        executions, deliveries, messages = path.executions, path.deliveries, path.messages
        return self._frame.page(
            "path.html",
            visit,
            title="Whole path",
            here="find",
            wanted=wanted,
            executions=executions,
            deliveries=deliveries,
            messages=messages,
            events=path.events(),
            traces=path.traces(),
            unmatched=path.unmatched,
            needs_retry=needs_retry,
            summary=summary(*(part.newest_first() for part in (executions, deliveries, messages))),
        )


class _Path:
    """The records of one path. Each round of calls uses the ids that the previous round returned."""

    def __init__(self, hub: HubApi, visit: Visit, wanted: str) -> None:
        self._hub = hub
        self._visit = visit
        self._wanted = wanted
        self._asked: set[tuple[str, str]] = set()
        self.executions = self._part("integrations:read")
        self.deliveries = self._part("webhooks:read")
        self.messages = self._part("sync:read")
        self.unmatched = ""
        """Why no webhook got the event, if that is known."""

    def _part(self, scope: Scope) -> Part:
        return Part(scope, self._visit.member.key.allows(scope))

    async def follow(self) -> None:
        """Read what has the id, then what has its events and traces, then the details."""
        wanted = self._wanted
        if wanted.startswith("dlv_"):
            await self._read_one(self.deliveries, f"/api/deliveries/{quote(wanted, safe='')}")
        elif wanted.startswith("syn_"):
            await self._read_one(self.messages, f"/api/synced-messages/{quote(wanted, safe='')}")
        else:
            await self._related([wanted], [wanted] if TRACE_ID.fullmatch(wanted) else [])
        await self._related(self.events()[:_MAX_IDS], self.traces()[:_MAX_IDS])
        if not self.deliveries.items:
            await self._read_unmatched()
        await asyncio.gather(
            *(self._read_one(self.deliveries, f"/api/deliveries/{id_}") for id_ in self.deliveries.items),
            *(self._read_one(self.messages, f"/api/synced-messages/{id_}") for id_ in self.messages.items),
        )

    def events(self) -> list[str]:
        """Return the ids of the events of what was found."""
        found = [
            item["event_id"] for item in (*self.deliveries.items.values(), *self.messages.items.values())
        ]
        return list(dict.fromkeys(filter(None, (*self._event_ids(), *found))))

    def traces(self) -> list[str]:
        """Return the traces of what was found, those of deliveries and messages first.

        A repeated request has a trace of its own, which leads to nothing else.
        """
        parts = (self.deliveries, self.messages, self.executions)
        found = (item["trace_id"] for part in parts for item in part.items.values())
        return list(dict.fromkeys(filter(None, found)))

    def _event_ids(self) -> Iterable[str]:
        return (event for item in self.executions.items.values() for event in item["event_ids"])

    async def _related(self, ids: list[str], traces: list[str]) -> None:
        """Read what has one of these ids, or is of one of these traces."""
        names = dict.fromkeys((*ids, *traces))
        window = self._window()
        calls = [self._list(self.executions, "/api/executions", "", {"related_id": id_}) for id_ in names]
        searches = [{"related_id": id_} for id_ in names]
        # Such an id is the hub's, or the chat's own one.
        searches += [{"message_id": id_} for id_ in names if id_.startswith("msg_")]
        calls += [
            self._list(self.messages, "/api/synced-messages", "messages", params) for params in searches
        ]
        searches = [{"event_id": id_} for id_ in ids] + [{"trace_id": id_} | window for id_ in traces]
        calls += [self._list(self.deliveries, "/api/deliveries", "deliveries", params) for params in searches]
        await asyncio.gather(*calls)

    def _window(self) -> dict[str, str]:
        """Return the time in which deliveries of a trace are searched; the newest, if no time is known."""
        times = [item["at"] for item in self.executions.items.values()]
        times += [item["created_at"] for item in self.deliveries.items.values()]
        times += [item["received_at"] for item in self.messages.items.values()]
        if not times:
            return {}
        first = min(datetime.fromisoformat(time) for time in times)
        return {"since": rfc3339(first - _BEFORE), "until": rfc3339(first + _AFTER), "order": "oldest"}

    async def _list(self, part: Part, api: str, page: str, params: Mapping[str, str]) -> None:
        """Add the items of a list to a part. What was asked for before is not asked for again."""
        asked = api, urlencode(params)
        if not part.allowed or asked in self._asked:
            return
        self._asked.add(asked)
        try:
            found = await self._hub.call(
                self._visit.member, "GET", api, params={**params, "limit": str(_MAX_ITEMS)}
            )
        except Refusal as refusal:
            part.refusal = refusal if refusal.is_outage else part.refusal  # else it is no id of this kind
            return
        for item in found["items"]:
            if len(part.items) < _MAX_ITEMS:
                part.items.setdefault(item["id"], item)
        if page and found["next_cursor"]:
            part.more = f"/console/{page}?{urlencode(params)}"

    async def _read_unmatched(self) -> None:
        """Read why there is no delivery, if it is one of the last events without one."""
        events = {self._wanted, *self.events()}
        if not self.deliveries.allowed:
            return
        try:
            found = await self._hub.call(self._visit.member, "GET", "/api/events/unmatched")
        except Refusal:
            return  # the part says that its service is away
        reasons = (item["reason"] for item in found["events"] if item["id"] in events)
        self.unmatched = next(reasons, "")

    async def _read_one(self, part: Part, api: str) -> None:
        """Add one object to a part, or its details in place of what its list has."""
        if not part.allowed:
            return
        try:
            item = await self._hub.call(self._visit.member, "GET", api)
        except Refusal as refusal:
            part.refusal = refusal if refusal.is_outage else part.refusal
            return
        part.items[item["id"]] = item
