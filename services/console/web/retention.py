"""The page of retention: how long each service keeps its records."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.sessions.records import Sessions
from services.console.web.frame import Frame
from services.console.web.visits import Visit
from shared.runtime.web.api_keys import Scope
from shared.runtime.web.retention import PREFIX

_SERVICES: Final[Sequence[tuple[str, Scope]]] = (
    ("gateway", "webhooks:read"),
    ("delivery", "webhooks:read"),
    ("sync", "sync:read"),
    ("importer", "imports:read"),
)
_HOUR: Final = timedelta(hours=1)
_HOURS_A_DAY: Final = 24


class RetentionPage:
    """Ask the services, and add what the console itself keeps."""

    def __init__(self, hub: HubApi, frame: Frame, sessions: Sessions) -> None:
        self._hub = hub
        self._frame = frame
        self._sessions = sessions

    async def show(self, _request: Request, visit: Visit) -> Response:
        """Return the page; a service that does not answer is shown as such."""
        asked = [(name, scope) for name, scope in _SERVICES if visit.member.key.allows(scope)]
        found = await asyncio.gather(*(self._read(visit, name) for name, _ in asked))
        return self._frame.page(
            "retention.html",
            visit,
            title="Retention",
            here="retention",
            services=[*zip((name for name, _ in asked), found, strict=True), ("console", self._own())],
        )

    async def _read(self, visit: Visit, service: str) -> Any:
        try:
            found = await self._hub.call(visit.member, "GET", f"{PREFIX}/{service}")
        except Refusal as refusal:
            return refusal
        return [_row(item) for item in found["items"]]

    def _own(self) -> list[Mapping[str, str]]:
        """Return the rows of the console's sessions."""
        spans = (
            (self._sessions.idle, "last used", "INTERLINK_CONSOLE_IDLE_HOURS"),
            (self._sessions.max_age, "started", "INTERLINK_CONSOLE_SESSION_DAYS"),
        )
        return [
            _row({"records": "Sessions", "hours": span // _HOUR, "since": since, "setting": setting})
            for span, since, setting in spans
        ]


def _row(item: Mapping[str, Any]) -> Mapping[str, str]:
    days, hours = divmod(item["hours"], _HOURS_A_DAY)
    amount, unit = (days, "day") if days and not hours else (item["hours"], "hour")
    return {
        "records": item["records"],
        "period": f"{amount:,} {unit}{'' if amount == 1 else 's'}",
        "since": item["since"],
        "setting": item["setting"] or "",
    }
