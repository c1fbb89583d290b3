"""Show lists: a page of rows, the rows as CSV, and the saved views of a member."""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.csv_file import csv_of
from services.console.pages.kinds import Kind
from services.console.pages.registry import KINDS
from services.console.saved_views import MAX_NAME, SavedView, SavedViews
from services.console.web.forms import BadForm, Form, first
from services.console.web.frame import Frame, see_other
from services.console.web.paths import done_message, filled, list_address
from services.console.web.selection import MAX_CURSOR, Selection, address, kind_of
from services.console.web.visits import Visit
from services.console.web.workspace_addresses import address_in

_ROWS: Final = 50
MAX_CSV_ROWS: Final = 1000
_MAX_LIMIT: Final = 500
"""Items of one call of an API."""
_MAX_CALLS: Final = 4
"""Calls for one file: with some filters, a page of an API has few rows or none."""
_MAX_PATH: Final = 200
Page = Callable[[Request, Visit], Awaitable[Response]]


class ListPages:
    """Lists of all kinds. Only the services select and sort: a page never sorts its rows."""

    def __init__(self, hub: HubApi, frame: Frame, views: SavedViews | None) -> None:
        """Set `views` to None for readers that are no members: they cannot save views."""
        self._hub = hub
        self._frame = frame
        self._views = views

    def pages(self, kind: Kind) -> Iterator[tuple[str, Page]]:
        """Yield the suffix of each page's address, and the page."""
        for suffix, page in (("", self._list), (".csv", self._csv), ("/export", self._export)):
            yield suffix, partial(page, kind)

    async def _list(self, kind: Kind, request: Request, visit: Visit) -> Response:
        selection, cursor = _asked(kind, request)
        items, more, refusal = [], None, None
        try:
            found = await self._read(request, visit, selection, cursor, _ROWS)
            items, more = found["items"], found.get("next_cursor")
        except Refusal as error:
            refusal = error
        here = list_address(kind, request)
        path = here.removeprefix("/console/")
        key = visit.member.key
        views = await self._views.list_all(key.workspace, key.id) if self._views else []
        return self._frame.page(
            "list.html",
            visit,
            refusal.page_status if refusal else 200,
            title=kind.title,
            here=kind.path,
            kind=kind,
            base=here,
            items=items,
            selection=selection,
            further=address(here, selection.query(cursor=more)) if more else "",
            start=address(here, selection.query()) if cursor else "",
            csv=address(f"{here}.csv", selection.query(cursor=cursor)),
            export=address(f"{here}/export", selection.query(cursor=cursor)) if more else "",
            has_views=self._views is not None,
            views=[(view, address(here, view.query)) for view in views if view.path == path],
            path=path,
            refusal=refusal,
            actions=[action for action in kind.list_actions if visit.member.key.allows(action.scope)],
            row_actions=[
                action
                for action in kind.actions
                if not kind.has_details and visit.member.key.allows(action.scope)
            ],
            links=[
                link for link in kind.list_links if link.scope is None or visit.member.key.allows(link.scope)
            ],
            bulk=[action for action in kind.bulk if visit.member.key.allows(action.scope)],
            parent=request.path_params.get("parent"),
            done=done_message(kind, request),
        )

    async def _read(
        self, request: Request, visit: Visit, selection: Selection, cursor: str, limit: int
    ) -> Any:
        """Return a page of a list. Raises `Refusal`."""
        params = selection.api_parameters() | {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        params |= {name: str(request.path_params[part]) for name, part in selection.kind.params.items()}
        path = filled(selection.kind.api, request.path_params)
        return await self._hub.call(visit.member, "GET", path, params=params)

    # CSV

    async def _csv(self, kind: Kind, request: Request, visit: Visit) -> Response:
        """Return the rows from a cursor on as CSV. With more rows, the header `Link` has the next address."""
        selection, cursor = _asked(kind, request)
        here = list_address(kind, request)
        try:
            items, more = await self._read_many(request, visit, selection, cursor)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, here)
        name = kind.path.rpartition("/")[2]
        headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
        if more:
            following = address_in(visit.base, address(f"{here}.csv", selection.query(cursor=more)))
            headers["Link"] = f'<{following}>; rel="next"'
        return Response(csv_of(selection.shown, items), headers=headers, media_type="text/csv")

    async def _export(self, kind: Kind, request: Request, visit: Visit) -> Response:
        """Return the page from which a long list is downloaded in several files."""
        selection, cursor = _asked(kind, request)
        here = list_address(kind, request)
        try:
            items, more = await self._read_many(request, visit, selection, cursor)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, here)
        return self._frame.page(
            "export.html",
            visit,
            title=f"{kind.title} as CSV",
            here=kind.path,
            kind=kind,
            rows=len(items),
            max_rows=MAX_CSV_ROWS,
            csv=address(f"{here}.csv", selection.query(cursor=cursor)),
            further=address(f"{here}/export", selection.query(cursor=more)) if more else "",
            back=address(here, selection.query()),
        )

    async def _read_many(
        self, request: Request, visit: Visit, selection: Selection, cursor: str
    ) -> tuple[list[Any], str]:
        """Return up to `MAX_CSV_ROWS` items, and the cursor behind them. Raises `Refusal`."""
        items: list[Any] = []
        for _ in range(_MAX_CALLS):
            found = await self._read(
                request, visit, selection, cursor, min(_MAX_LIMIT, MAX_CSV_ROWS - len(items))
            )
            items += found["items"]
            cursor = found.get("next_cursor") or ""
            if not cursor or len(items) >= MAX_CSV_ROWS:
                break
        return items, cursor

    # Saved views

    async def save_view(self, _request: Request, visit: Visit, form: Form) -> Response:
        """Save filters, order and columns of a list under a name. Raises `BadForm`, `Conflict`."""
        path, name = first(form, "path")[:_MAX_PATH], first(form, "name").strip()
        kind = kind_of(KINDS, path)
        if kind is None:
            raise BadForm("there is no such list: save a view on the page of a list")
        if not name or len(name) > MAX_NAME:
            raise BadForm(f"Name: enter 1 to {MAX_NAME} characters")
        query = Selection.of(kind, QueryParams(first(form, "query"))).query()
        key = visit.member.key
        if self._views is None:
            return self._frame.missing(visit)
        await self._views.add(key.workspace, key.id, name=name, path=path, query=query)
        return see_other(address("/console/" + quote(path), query))

    async def delete_view(self, request: Request, visit: Visit, _form: Form) -> Response:
        """Delete a view of the member."""
        key = visit.member.key
        if self._views is None:
            return self._frame.missing(visit)
        views = {str(view.slot): view for view in await self._views.list_all(key.workspace, key.id)}
        view: SavedView | None = views.get(request.path_params["slot"])
        if view is None:
            return self._frame.missing(visit)
        await self._views.delete(key.workspace, key.id, view.slot)
        return see_other("/console/" + quote(view.path))


def _asked(kind: Kind, request: Request) -> tuple[Selection, str]:
    """Return the selection and the cursor of an address."""
    parameters = request.query_params
    return Selection.of(kind, parameters), parameters.get("cursor", "")[:MAX_CURSOR]
