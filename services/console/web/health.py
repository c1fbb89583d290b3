"""The statistics page and the help page."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.live.shared_reads import SharedReads
from services.console.pages.help_checks import (
    CheckResult,
    check_accounts,
    check_apps,
    check_callback,
    check_deliveries,
    check_imports,
    check_services,
    unavailable,
)
from services.console.web.frame import Frame
from services.console.web.visits import Visit
from shared.contracts.envelope import rfc3339
from shared.manifests.catalogue import CALLBACK_PATH
from shared.runtime.mongo import utcnow
from shared.runtime.web.api_keys import Scope

_CHECKS_S: Final = 2.0
_SPANS: Final[Mapping[str, tuple[str, int]]] = {
    "day": ("24 hours", 1),
    "week": ("7 days", 7),
    "month": ("30 days", 30),
}
_MAX_WEBHOOKS: Final = 10
"""Outgoing webhooks on the page of statistics; each costs a call."""


class HealthPages:
    """Build both pages from calls of the services, which run concurrently."""

    def __init__(self, hub: HubApi, frame: Frame, public_base: str) -> None:
        self._hub = hub
        self._frame = frame
        self._public_base = public_base
        self._reads = SharedReads(_CHECKS_S, spares=True)

    async def statistics(self, request: Request, visit: Visit) -> Response:
        """Return the statistics page. The query parameter `span` is day, week or month."""
        span = request.query_params.get("span", "day")
        if span not in _SPANS:
            span = "day"
        params = {"since": rfc3339(utcnow() - timedelta(days=_SPANS[span][1]) + timedelta(hours=1))}
        webhooks = await self._list(visit, "/api/outgoing-webhooks", limit=str(_MAX_WEBHOOKS))
        counts, attempts, *by_webhook = await asyncio.gather(
            self._read(visit, "/api/statistics", params),
            self._read(visit, "/api/queue/stats/hours", params),
            *(
                self._read(visit, f"/api/outgoing-webhooks/{quote(item['id'], safe='')}/stats", params)
                for item in (webhooks if isinstance(webhooks, list) else ())
            ),
        )
        rows = zip(webhooks, by_webhook, strict=True) if isinstance(webhooks, list) else ()
        return self._frame.page(
            "statistics.html",
            visit,
            title="Statistics",
            here="statistics",
            span=span,
            spans=_SPANS,
            hours=_SPANS[span][1] * 24,
            counts=counts,
            attempts=attempts,
            webhooks=[(item, found) for item, found in rows if not isinstance(found, Refusal)],
        )

    async def help(self, request: Request, visit: Visit) -> Response:
        """Run the checks, and return the page with their results."""
        host = request.headers.get("host", "")
        services, callback, apps, ended, broken, queue, webhooks, imports = await asyncio.gather(
            self._reads.get("services", self._hub.readiness_checks),
            self._reads.get("callback", lambda: self._hub.status_of(CALLBACK_PATH)),
            self._list(visit, "/api/platform-credentials", "integrations:read"),
            self._list(visit, "/api/integrations", "integrations:read", status="reauth_required", limit="10"),
            self._list(visit, "/api/integrations", "integrations:read", status="error", limit="10"),
            self._read(visit, "/api/queue/stats", {}, "webhooks:read"),
            self._list(visit, "/api/outgoing-webhooks", "webhooks:read", limit="500"),
            self._list(visit, "/api/imports", "imports:read", limit="20"),
        )
        accounts = _found((ended, broken), lambda: [check_accounts(ended, broken)], "Accounts")
        oauth = [
            *check_callback(self._public_base + CALLBACK_PATH, host, callback),
            *_found((apps,), lambda: check_apps(apps), "Apps"),
            *accounts,
        ]
        deliveries = _found((queue, webhooks), lambda: check_deliveries(queue, webhooks), "Deliveries")
        sections = [
            ("Services", list(check_services(services))),
            ("OAuth callback", oauth),
            ("Deliveries", list(deliveries)),
            ("Imports", list(_found((imports,), lambda: check_imports(imports), "Imports"))),
        ]
        return self._frame.page(
            "help.html",
            visit,
            title="Help",
            here="help",
            sections=[(title, findings) for title, findings in sections if findings],
        )

    async def _list(self, visit: Visit, path: str, scope: Scope = "webhooks:read", **params: str) -> Any:
        """Return the items of a list, the refusal, or None if the member may not see it."""
        found = await self._read(visit, path, params, scope)
        return found if found is None or isinstance(found, Refusal) else found["items"]

    async def _read(
        self, visit: Visit, path: str, params: Mapping[str, str], scope: Scope = "webhooks:read"
    ) -> Any:
        if not visit.member.key.allows(scope):
            return None
        try:
            return await self._hub.call(visit.member, "GET", path, params=params)
        except Refusal as refusal:
            return refusal


def _found(parts: tuple[Any, ...], check: Any, about: str) -> Iterator[CheckResult]:
    """Yield the results of a check, or the reason it could not run; nothing if the member may not see it."""
    if any(part is None for part in parts):
        return
    if refusal := next((part for part in parts if isinstance(part, Refusal)), None):
        yield unavailable(about, refusal.detail)
        return
    findings: Iterable[CheckResult] = check()
    yield from findings
