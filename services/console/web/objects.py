"""The pages of all kinds of objects: details, downloads, and the forms of actions."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.fields import arranged
from services.console.pages.kinds import Action, Download, Json, Kind, Link, Part, read
from services.console.pages.rendering import visible
from services.console.web.action_forms import ActionForms
from services.console.web.forms import Form, first, values_of
from services.console.web.frame import Frame, see_other
from services.console.web.paths import done_message, filled, list_address
from services.console.web.visits import Visit

_OWN_PLACE: Final = frozenset({"id", "attempts", "targets"})
"""Fields of objects that their pages show in sections of their own."""
_PAUSES_S: Final = (0.1, 0.3, 0.6, 1.0)
"""Between the first reads of an object that a form led to."""
Page = Callable[[Request, Visit], Awaitable[Response]]
FormPage = Callable[[Request, Visit, Form], Awaitable[Response]]


class ObjectPages:
    """The pages of objects, which the data in `pages` describes."""

    def __init__(self, hub: HubApi, frame: Frame, forms: ActionForms) -> None:
        self._hub = hub
        self._frame = frame
        self._forms = forms

    def pages(self, kind: Kind) -> Iterator[tuple[str, Page]]:
        """Yield the suffix of each page's address, and the page."""
        for action in kind.list_actions:
            yield f"/do/{action.name}", partial(self._ask, kind, action)
        for action in kind.actions:
            yield f"/{{id}}/do/{action.name}", partial(self._ask, kind, action)
        for download in kind.downloads:
            yield f"/{{id}}/{download.file}", partial(self._document, kind, download)
        if kind.has_details:
            yield "/{id}/json", partial(self._download, kind)
            yield "/{id}", partial(self._detail, kind)

    def forms(self, kind: Kind) -> Iterator[tuple[str, FormPage]]:
        """Yield the suffix of each form's address, and its handler."""
        for action in kind.list_actions:
            yield f"/do/{action.name}", partial(self._act, kind, action)
        for action in kind.actions:
            yield f"/{{id}}/do/{action.name}", partial(self._act, kind, action)

    # Objects

    async def _detail(self, kind: Kind, request: Request, visit: Visit) -> Response:
        try:
            item = await self._read_item(kind, request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, list_address(kind, request))
        fields, others = arranged(item, kind.first, _OWN_PLACE)
        named = {**item, **request.path_params}
        return self._frame.page(
            kind.template,
            visit,
            title=f"{visible(_name(kind, item), 80)} · {kind.title}",
            here=kind.path,
            kind=kind,
            base=list_address(kind, request),
            item=item,
            id=request.path_params["id"],
            name=_name(kind, item),
            advice=kind.advice(item),
            parts=await self._read_parts(kind, request, visit),
            repairs=_links(kind.repairs, named, visit),
            links=_links(kind.links, named, visit),
            fields=fields,
            others=others,
            actions=[
                action
                for action in kind.actions
                if action.fits(item) and visit.member.key.allows(action.scope)
            ],
            once=secrets.token_urlsafe(16),
            live=item.get("status") in kind.busy,
            done=done_message(kind, request),
        )

    async def _read_item(self, kind: Kind, request: Request, visit: Visit) -> Any:
        path = filled(kind.api, request.path_params) + f"/{quote(request.path_params['id'], safe='')}"
        # What a form has just sent, such as a test delivery, is stored a little later.
        for pause in _PAUSES_S if "done" in request.query_params else ():
            try:
                return await self._hub.call(visit.member, "GET", path)
            except Refusal as refusal:
                if refusal.status != 404:
                    raise
            await asyncio.sleep(pause)
        return await self._hub.call(visit.member, "GET", path)

    async def _read_parts(self, kind: Kind, request: Request, visit: Visit) -> list[tuple[str, Any]]:
        """Read the parts of an object concurrently; return title and content, or a refusal, of each."""

        async def read_part(part: Part) -> tuple[str, Any]:
            try:
                return part.title, await self._hub.call(
                    visit.member, "GET", filled(part.api, request.path_params), params=part.params
                )
            except Refusal as refusal:
                return part.title, refusal

        return list(await asyncio.gather(*map(read_part, kind.parts)))

    async def _document(self, kind: Kind, download: Download, request: Request, visit: Visit) -> Response:
        try:
            path = filled(download.api, request.path_params)
            content = await self._hub.text(visit.member, path, download.params)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, _back(kind, request))
        return _attachment(content, f"{request.path_params['id']}-{download.file}")

    async def _download(self, kind: Kind, request: Request, visit: Visit) -> Response:
        """Return an object as JSON, complete: pages cut long values."""
        try:
            item = await self._read_item(kind, request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, list_address(kind, request))
        return _attachment(orjson.dumps(item), f"{request.path_params['id']}.json")

    # Actions

    async def _ask(self, kind: Kind, action: Action, request: Request, visit: Visit) -> Response:
        return self._form_page(kind, action, request, visit)

    def _form_page(
        self,
        kind: Kind,
        action: Action,
        request: Request,
        visit: Visit,
        form: Form | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        """Return the page that asks before an action, with its fields."""
        object_id = request.path_params.get("id", "")
        return self._forms.page(
            visit,
            request,
            action,
            here=kind.path,
            back=_back(kind, request),
            about=f"{kind.one} {object_id}" if object_id else "",
            form=form,
            refusal=refusal,
        )

    async def _act(self, kind: Kind, action: Action, request: Request, visit: Visit, form: Form) -> Response:
        """Make the call of an action. Redirect to the page that asked, or show fields of the response."""
        fields = action.fields
        item = {name: str(value) for name, value in request.path_params.items()}
        try:
            body = action.body(values_of(form, fields), item) if action.method != "DELETE" else None
            path = filled(action.call, item)
            answer = await self._hub.call(
                visit.member, action.method, path, body=body, once=first(form, "once")
            )
        except Refusal as refusal:
            return self._form_page(kind, action, request, visit, form, refusal)
        known = {**item, **(answer if isinstance(answer, dict) else {})}
        opens = filled(action.opens, known) if action.opens else _back(kind, request, action)
        shown = [(title, read(name)(known)) for name, title in action.shown.items()]
        shown = [(title, value) for title, value in shown if value not in (None, [], "")]
        if not shown:
            separator = "&" if "?" in opens else "?"
            return see_other(f"{opens}{separator}done={action.name}")
        return self._frame.page(
            "done.html",
            visit,
            title=action.title,
            here=kind.path,
            kind=kind,
            action=action,
            shown=shown,
            opens=opens,
        )


def _attachment(content: bytes, name: str) -> Response:
    """Return a document that browsers store and never show: it is from strangers."""
    safe = "".join(letter for letter in name if letter.isascii() and (letter.isalnum() or letter in "_-."))
    headers = {"Content-Disposition": f'attachment; filename="{safe[-100:]}"'}
    return Response(content, headers=headers, media_type="application/octet-stream")


def _links(links: Sequence[Link], item: Json, visit: Visit) -> list[tuple[str, str]]:
    """Return title and address of each link that fits the object and that the member may follow."""
    key = visit.member.key
    return [
        (link.title, filled(link.href, item))
        for link in links
        if link.fits(item) and (link.scope is None or key.allows(link.scope))
    ]


def _back(kind: Kind, request: Request, action: Action | None = None) -> str:
    """Return the address of the object, or of its list if it has no page or was deleted."""
    is_gone = action is not None and action.method == "DELETE"
    object_id = request.path_params.get("id")
    if object_id is None or not kind.has_details or is_gone:
        return list_address(kind, request)
    return f"{list_address(kind, request)}/{quote(object_id, safe='')}"


def _name(kind: Kind, item: Json) -> str:
    return str(item.get(kind.name) or item.get(kind.key) or kind.one)
