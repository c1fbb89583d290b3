"""Find an object by any id: of the hub, of an event, or of the provider."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.registry import page_of
from services.console.web.frame import Frame, see_other
from services.console.web.visits import Visit
from shared.runtime.web.api_keys import Scope

_MAX_ID: Final = 200
_PATH_IDS: Final = ("evt_", "exe_", "msg_", "dlv_", "syn_")
"""Prefixes of ids that lead to the page of their whole path."""
_PATHS: Final = frozenset({"executions", "deliveries", "messages"})
_SEARCHES: Final[tuple[tuple[str, Scope, str, str, str], ...]] = (
    ("Requests with this id", "integrations:read", "/api/executions", "related_id", "executions"),
    ("Deliveries of this event", "webhooks:read", "/api/deliveries", "event_id", "deliveries"),
    ("Deliveries of this trace", "webhooks:read", "/api/deliveries", "trace_id", "deliveries"),
    ("Messages with this id", "sync:read", "/api/synced-messages", "related_id", "messages"),
    ("Accounts with this id", "integrations:read", "/api/integrations", "account_id", "integrations"),
    ("Accounts of this user", "integrations:read", "/api/integrations", "user", "integrations"),
    ("Mappings with this conversation", "sync:read", "/api/mappings", "conversation", "mappings"),
    ("Changes of this object", "admin", "/api/audit", "resource", "audit"),
    ("Changes by this key", "admin", "/api/audit", "actor", "audit"),
)
"""Title, scope, path of the API, its parameter, and the page of what is found."""


class Find:
    """One field for any id.

    An id of the hub leads to its object, or to the whole path that it is a part of. Others are searched for.
    """

    def __init__(self, hub: HubApi, frame: Frame) -> None:
        self._hub = hub
        self._frame = frame

    async def show(self, request: Request, visit: Visit) -> Response:
        """Go to the object of an id, or return the page with what is known of it."""
        wanted = request.query_params.get("id", "").strip()[:_MAX_ID]
        path = f"/console/paths/{quote(wanted, safe='')}"
        if wanted.startswith(_PATH_IDS):
            return see_other(path)
        if page := page_of(wanted):
            return see_other(f"/console/{page}/{quote(wanted, safe='')}")
        found: list[Mapping[str, Any]] = []
        if wanted:
            searches = [search for search in _SEARCHES if visit.member.key.allows(search[1])]
            found = await asyncio.gather(*(self._search(visit, wanted, *search) for search in searches))
        pages = {item["page"] for item in found if item["items"]}
        if pages and pages <= _PATHS and not any(item["refusal"] for item in found):
            return see_other(path)
        return self._frame.page(
            "find.html",
            visit,
            title="Find",
            here="find",
            wanted=wanted,
            found=[item for item in found if item["items"]],
            path=path if pages & _PATHS else "",
            unavailable=[item["refusal"] for item in found if item["refusal"]],
        )

    async def _search(
        self, visit: Visit, wanted: str, title: str, _scope: Scope, path: str, parameter: str, page: str
    ) -> Mapping[str, Any]:
        items: list[Any] = []
        refusal = None
        try:
            found = await self._hub.call(visit.member, "GET", path, params={parameter: wanted, "limit": "10"})
            items = found["items"]
        except Refusal as error:
            refusal = error if error.is_outage else None  # it is no id of this kind
        href = "" if page == "executions" else f"/console/{page}?{parameter}={quote(wanted, safe='')}"
        return {"title": title, "items": items, "href": href, "page": page, "refusal": refusal}
