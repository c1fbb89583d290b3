"""The first page: is everything healthy, what waits, what fails, and what needs somebody."""

import asyncio
from collections.abc import Mapping
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
    "accounts": ("integrations:read", "/api/integrations", {"limit": "200"}),
    "endpoints": ("integrations:read", "/api/inbound-endpoints", {"limit": "200"}),
    "webhooks": ("webhooks:read", "/api/outgoing-webhooks", {"limit": "200"}),
    "mappings": ("sync:read", "/api/mappings", {"status": "error", "limit": "10"}),
    "imports": ("imports:read", "/api/imports", {"limit": "5"}),
}
"""The parts of the page: the scope that a member needs, and the call."""
_SHOWN: Final = 10


class Overview:
    """Reads all parts side by side. One that is not available says so; the others are shown."""

    def __init__(self, hub: HubApi, frame: Frame) -> None:
        self._hub = hub
        self._frame = frame

    async def show(self, _request: Request, visit: Visit) -> Response:
        """Return the page."""
        key = visit.member.key
        names = [name for name, (scope, _, _) in _PARTS.items() if key.allows(scope)]
        services, *found = await asyncio.gather(
            self._hub.readiness(), *(self._read(name, visit) for name in names)
        )
        parts = dict(zip(names, found, strict=True))
        return self._frame.page(
            "overview.html",
            visit,
            title="Overview",
            services=services,
            parts=parts,
            failing={
                "accounts": _failing(parts.get("accounts"), _account_fails),
                "endpoints": _failing(parts.get("endpoints"), lambda item: item["status"] == "error"),
                "webhooks": _failing(parts.get("webhooks"), _webhook_fails),
            },
            live=True,
        )

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


def _account_fails(item: Mapping[str, Any]) -> bool:
    return item["status"] in ("reauth_required", "error") or item["health"] == "at_risk"


def _webhook_fails(item: Mapping[str, Any]) -> bool:
    return bool(item["disabled_reason"] or item["health"]["failing_since"])
