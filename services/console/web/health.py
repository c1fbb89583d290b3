"""The statistics page and the help page."""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
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
from shared.runtime.cached_reads import CachedReads
from shared.runtime.clock import utcnow
from shared.runtime.web.api_keys import Scope

_CHECKS_S: Final = 2.0
_SPANS: Final[Mapping[str, tuple[str, int]]] = {
    "day": ("24 hours", 1),
    "week": ("7 days", 7),
    "month": ("30 days", 30),
}
_SHOWN: Final = 10
"""Rows of a table on the page of statistics; each outgoing webhook costs a call."""
_MAX_ID: Final = 200


class HealthPages:
    """Build both pages from calls of the services, which run concurrently."""

    def __init__(self, hub: HubApi, frame: Frame, public_base: str) -> None:
        self._hub = hub
        self._frame = frame
        self._public_base = public_base
        self._reads: CachedReads[Any] = CachedReads(min_s=_CHECKS_S, factor=20, at_once=None)

    async def statistics(self, request: Request, visit: Visit) -> Response:
        """Return the statistics page. The query parameter `span` is day, week or month.

        `endpoint` or `webhook` shows the hours of one of them. `endpoints` and `webhooks` are the cursors of
        their tables.
        """
        query = request.query_params
        span = query.get("span", "day")
        if span not in _SPANS:
            span = "day"
        params = {"since": rfc3339(utcnow() - timedelta(days=_SPANS[span][1]) + timedelta(hours=1))}
        chosen = {name: query.get(name, "")[:_MAX_ID] for name in ("endpoint", "webhook")}
        pages = {name: query.get(name, "")[:_MAX_ID] for name in ("endpoints", "webhooks")}
        calls: dict[str, Awaitable[Any]] = {}
        if chosen["webhook"]:
            calls["webhook_hours"] = self._webhook_hours(visit, chosen["webhook"], params)
        else:
            calls["requests"] = self._requests(visit, params, chosen["endpoint"], pages["endpoints"])
        if not any(chosen.values()):
            calls["counts"] = self._read(visit, "/api/statistics", params)
            calls["attempts"] = self._read(visit, "/api/queue/stats/hours", params)
            calls["by_webhook"] = self._by_webhook(visit, params, pages["webhooks"])
            calls["usage"] = self._read(visit, "/api/usage", {})
        found = dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))
        return self._frame.page(
            "statistics.html",
            visit,
            title="Statistics",
            here="statistics",
            span=span,
            spans=_SPANS,
            hours=_SPANS[span][1] * 24,
            chosen=chosen,
            webhook_hours=found.get("webhook_hours"),
            requests=found.get("requests"),
            counts=found.get("counts"),
            attempts=found.get("attempts"),
            by_webhook=found.get("by_webhook"),
            usage=found.get("usage"),
        )

    async def _requests(self, visit: Visit, params: Mapping[str, str], endpoint: str, cursor: str) -> Any:
        """Return the requests to endpoints, or to one of them."""
        limited = {**params, "limit": str(_SHOWN)}
        limited |= {"endpoint_id": endpoint} if endpoint else {"cursor": cursor} if cursor else {}
        return await self._read(visit, "/api/statistics/endpoints", limited, "integrations:read")

    async def _webhook_hours(self, visit: Visit, webhook: str, params: Mapping[str, str]) -> Any:
        return await self._read(visit, f"/api/outgoing-webhooks/{quote(webhook, safe='')}/stats", params)

    async def _by_webhook(self, visit: Visit, params: Mapping[str, str], cursor: str) -> Any:
        """Return a page of webhooks, each with its statistics, and the cursor of the next one."""
        paging = {"limit": str(_SHOWN)} | ({"cursor": cursor} if cursor else {})
        page = await self._read(visit, "/api/outgoing-webhooks", paging)
        if page is None or isinstance(page, Refusal):
            return page
        found = await asyncio.gather(
            *(self._webhook_hours(visit, item["id"], params) for item in page["items"])
        )
        rows = [
            (item, hours)
            for item, hours in zip(page["items"], found, strict=True)
            if not isinstance(hours, Refusal)
        ]
        return {"rows": rows, "next_cursor": page["next_cursor"]}

    async def help(self, request: Request, visit: Visit) -> Response:
        """Run the checks, and return the page with their results."""
        host = request.headers.get("host", "")
        services, callback, apps, ended, broken, queue, webhooks, imports = await asyncio.gather(
            self._reads.get("", "services", self._hub.readiness_checks),
            self._reads.get("", "callback", lambda: self._hub.status_of(CALLBACK_PATH)),
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
