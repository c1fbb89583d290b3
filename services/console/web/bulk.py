"""Actions on many rows of a list: the rows that are chosen or shown, or all hits of its search."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.kinds import BulkAction, Kind
from services.console.web.forms import BadForm, Form, first, once_of
from services.console.web.frame import Frame, see_other
from services.console.web.selection import Selection, address
from services.console.web.visits import Visit

_MAX_ROWS: Final = 100
_MAX_REASONS: Final = 10
_ALL: Final = "all"
_FILTERS: Final = frozenset({"webhook_id", "event_type", "event_id", "trace_id", "error", "since", "until"})
"""Filters of lists that jobs have, beside the status."""

Json = Mapping[str, Any]
Page = Callable[[Request, Visit], Awaitable[Response]]
FormPage = Callable[[Request, Visit, Form], Awaitable[Response]]


class BulkPages:
    """The page that asks before an action on many rows, with their count, and the action itself."""

    def __init__(self, hub: HubApi, frame: Frame) -> None:
        self._hub = hub
        self._frame = frame

    def pages(self, kind: Kind) -> Iterator[tuple[str, Page]]:
        """Yield the suffix of each page's address, and the page that asks."""
        for action in kind.bulk:
            yield f"/bulk/{action.name}", partial(self._ask, kind, action)

    def forms(self, kind: Kind) -> Iterator[tuple[str, FormPage]]:
        """Yield the suffix of each form's address, and its handler."""
        for action in kind.bulk:
            yield f"/bulk/{action.name}", partial(self._submit, kind, action)

    async def _ask(self, kind: Kind, action: BulkAction, request: Request, visit: Visit) -> Response:
        """Ask before an action on all hits of the search in the address."""
        return await self._submit(kind, action, request, visit, {"query": [request.url.query]})

    async def _submit(
        self, kind: Kind, action: BulkAction, _request: Request, visit: Visit, form: Form
    ) -> Response:
        """Ask what the action is for. A form with an answer does it."""
        if not visit.member.key.allows(action.scope):
            return self._frame.not_allowed(visit, action.scope, f"/console/{kind.path}")
        selection = Selection.of(kind, QueryParams(first(form, "query")))
        until = first(form, "until") or datetime.now(UTC).isoformat()
        filters, count, refusal = None, None, None
        try:
            filters = _filters(action, selection, until)
            if first(form, "rows"):
                return await self._do(kind, action, visit, form, filters)
        except Refusal as error:
            refusal = error
        try:
            count = None if filters is None else await self._count(action, visit, filters)
        except Refusal as error:
            refusal = refusal or error
        return self._page(
            kind, action, visit, form, selection, until, filters=filters, count=count, refusal=refusal
        )

    async def _do(
        self, kind: Kind, action: BulkAction, visit: Visit, form: Form, filters: Json | None
    ) -> Response:
        """Make the call. Raises `Refusal`, `BadForm`."""
        rows = first(form, "rows")
        if rows == _ALL:
            if filters is None:
                raise BadForm("Which rows: all hits of this search cannot be chosen, choose some rows")
            body = filters if action.is_for_statuses else _without(filters, "statuses")
        else:
            body = {"ids": _rows(form, rows) if rows in ("id", "shown") else []}
            if not body["ids"]:
                raise BadForm("Which rows: choose some in the list first")
        answer = await self._hub.call(visit.member, "POST", action.call, body=body, once=first(form, "once"))
        if answer["job"]:
            return see_other(f"/console/jobs/{quote(answer['job']['id'], safe='')}")
        results = answer["results"]
        refused = [f"{item['id']}: {item['reason']}" for item in results if not item["done"]]
        if len(refused) > _MAX_REASONS:
            refused = [*refused[:_MAX_REASONS], f"{len(refused) - _MAX_REASONS:,} more"]
        shown: list[tuple[str, Any]] = [(action.done, sum(item["done"] for item in results))]
        return self._frame.page(
            "done.html",
            visit,
            title=action.title,
            here=kind.path,
            action=action,
            shown=[*shown, ("Left as they are", refused)] if refused else shown,
            opens=address(f"/console/{kind.path}", first(form, "query")),
        )

    async def _count(self, action: BulkAction, visit: Visit, filters: Json) -> int | None:
        """Return how many hits a search has; None if they cannot be counted in time. Raises `Refusal`."""
        params = _without(filters, "statuses") | {"status": filters["statuses"]}
        found = await self._hub.call(visit.member, "GET", action.count, params=params)
        count: int | None = found["count"]
        return count

    def _page(
        self,
        kind: Kind,
        action: BulkAction,
        visit: Visit,
        form: Form,
        selection: Selection,
        until: str,
        *,
        filters: Json | None = None,
        count: int | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        chosen, shown = _rows(form, "id"), _rows(form, "shown")
        return self._frame.page(
            "bulk.html",
            visit,
            refusal.page_status if refusal else 200,
            title=f"{action.title} {kind.title.lower()}",
            here=kind.path,
            kind=kind,
            action=action,
            selection=selection,
            back=address(f"/console/{kind.path}", selection.query()),
            chosen=chosen,
            shown=shown,
            until=until,
            filters=filters,
            count=count,
            refusal=refusal,
            once=once_of(form),
        )


def _rows(form: Form, name: str) -> list[str]:
    return [row for row in form.get(name, []) if row][:_MAX_ROWS]


def _filters(action: BulkAction, selection: Selection, until: str) -> dict[str, Any] | None:
    """Return the filters of a search for a call, with the end of its time; None if no job has them.

    Hits that come after `until` are not among those that were counted. Raises `BadForm`.
    """
    found: dict[str, Any] = {"until": until, **selection.api_parameters()}
    found.pop("order", None)
    status = found.pop("status", "")
    if found.keys() - _FILTERS or (status and status not in action.allowed):
        return None
    return {**found, "statuses": [status] if status else list(action.statuses)}


def _without(filters: Json, name: str) -> dict[str, Any]:
    return {key: value for key, value in filters.items() if key != name}
