"""The first page: is everything healthy, what waits, what fails, and what needs somebody."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from time import monotonic
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.web.frame import Frame
from services.console.web.visits import Visit
from shared.runtime.web.api_keys import Scope

_PARTS: Final[Mapping[str, tuple[Scope, str, Mapping[str, str]]]] = {
    "queue": ("webhooks:read", "/api/queue/stats", {}),
    "sync": ("sync:read", "/api/sync/queue/stats", {}),
    "dead": ("webhooks:read", "/api/dead-letters", {"limit": "5"}),
    "ended": ("integrations:read", "/api/integrations", {"status": "reauth_required", "limit": "10"}),
    "broken": ("integrations:read", "/api/integrations", {"status": "error", "limit": "10"}),
    "endpoints": ("integrations:read", "/api/inbound-endpoints", {"limit": "500"}),
    "webhooks": ("webhooks:read", "/api/outgoing-webhooks", {"limit": "500"}),
    "mappings": ("sync:read", "/api/mappings", {"status": "error", "limit": "10"}),
    "imports": ("imports:read", "/api/imports", {"limit": "5"}),
}
"""The parts of the page: the scope that a member needs, and the call."""
_SHOWN: Final = 10
_FRESH_S: Final = 2.5
"""A part is read at most this often for all viewers of a workspace together."""
_SERVICES: Final = ("", "services")


class Overview:
    """Reads all parts side by side. One that is not available says so; the others are shown."""

    def __init__(self, hub: HubApi, frame: Frame) -> None:
        self._hub = hub
        self._frame = frame
        self._stored: dict[tuple[str, str], tuple[float, asyncio.Task[Any]]] = {}

    async def show(self, _request: Request, visit: Visit) -> Response:
        """Return the page."""
        key = visit.member.key
        names = [name for name, (scope, _, _) in _PARTS.items() if key.allows(scope)]
        services, *found = await asyncio.gather(
            self._shared(_SERVICES, self._hub.readiness),
            *(self._shared((key.workspace, name), partial(self._read, name, visit)) for name in names),
        )
        parts = dict(zip(names, found, strict=True))
        return self._frame.page(
            "overview.html",
            visit,
            title="Overview",
            services=services,
            parts=parts,
            failing={
                "accounts": _both(parts.get("ended"), parts.get("broken")),
                "endpoints": _failing(parts.get("endpoints"), lambda item: item["status"] == "error"),
                "webhooks": _failing(parts.get("webhooks"), _webhook_fails),
            },
            live=True,
        )

    async def _shared(self, name: tuple[str, str], read: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Return what was read for another viewer just now, or is being read; else read it."""
        now = monotonic()
        at, task = self._stored.get(name, (0.0, None))
        if task is None or now - at > _FRESH_S:
            # Parts may have megabytes: none is held for a workspace that nobody looks at.
            self._stored = {part: one for part, one in self._stored.items() if now - one[0] <= _FRESH_S}
            task = asyncio.create_task(read())
            self._stored[name] = now, task
        return await asyncio.shield(task)

    async def _read(self, name: str, visit: Visit) -> Any:
        """Return what a part shows, or the refusal."""
        _, path, params = _PARTS[name]
        try:
            return await self._hub.call(visit.member, "GET", path, params=params)
        except Refusal as refusal:
            return refusal


def _failing(found: Any, fails: Any) -> list[Any] | None:
    """Return the items that need somebody; None if they could not be read."""
    if found is None or isinstance(found, Refusal):
        return None
    return [item for item in found["items"] if fails(item)][:_SHOWN]


def _both(ended: Any, broken: Any) -> list[Any] | None:
    """Return the accounts of two lists; None if one of them could not be read."""
    if any(found is None or isinstance(found, Refusal) for found in (ended, broken)):
        return None
    return [*ended["items"], *broken["items"]][:_SHOWN]


def _webhook_fails(item: Mapping[str, Any]) -> bool:
    return bool(item["disabled_reason"] or item["health"]["failing_since"])
