"""Handle the steps of an import that set the plan of single channels and people, page by page."""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.import_choices import CHANNELS, PEOPLE, Choice, Choices
from services.console.web.forms import Form, first
from services.console.web.frame import Frame, see_other
from services.console.web.visits import Visit

_ROWS: Final = 30
"""Rows of a page: an export has up to 100,000 channels, and each row has four fields."""
_ATTEMPTS: Final = 3
_CONFLICT: Final = (409, 412)
_MAX_ADDRESS_PART: Final = 200

Json = Mapping[str, Any]


class ImportPlanPages:
    """The forms of channels and people. A form sends only changed rows."""

    def __init__(self, hub: HubApi, frame: Frame) -> None:
        self._hub = hub
        self._frame = frame

    async def channels(self, request: Request, visit: Visit) -> Response:
        """Return a page of the channels."""
        return await self._show(CHANNELS, request, visit)

    async def change_channels(self, request: Request, visit: Visit, form: Form) -> Response:
        """Store the choices for the channels of a page."""
        return await self._change(CHANNELS, request, visit, form)

    async def people(self, request: Request, visit: Visit) -> Response:
        """Return a page of the people."""
        return await self._show(PEOPLE, request, visit)

    async def change_people(self, request: Request, visit: Visit, form: Form) -> Response:
        """Store the choices for the people of a page."""
        return await self._change(PEOPLE, request, visit, form)

    async def _show(
        self,
        choices: Choices,
        request: Request,
        visit: Visit,
        *,
        mine: Mapping[str, Choice] | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        """Return a page of rows. `mine` are choices of the form that were not stored, by item id."""
        path = import_path(request)
        params = _params(choices, request)
        try:
            job, plan, found = await self._read(choices, request, visit, params)
        except Refusal as error:
            return self._frame.refused(visit, error, path)
        filters = {name: value for name, value in params.items() if name not in ("limit", "cursor")}
        more = found["next_cursor"]
        return self._frame.page(
            "import_plan.html",
            visit,
            refusal.status if refusal else 200,
            title=choices.title,
            here="imports",
            choices=choices,
            import_path=path,
            step=f"/{choices.path}",
            job=job,
            rows=[_row(choices, item, plan, mine or {}) for item in found["items"]],
            filters=filters,
            older=f"{path}/{choices.path}?{urlencode({**filters, 'cursor': more})}" if more else "",
            newest=f"{path}/{choices.path}?{urlencode(filters)}" if "cursor" in params else "",
            csv=f"{path}/{choices.path}.csv",
            may_choose=job["status"] == "ready" and visit.member.key.allows("imports:write"),
            done="Your choices are stored." if "done" in request.query_params else "",
            refusal=refusal,
            once=secrets.token_urlsafe(16),
        )

    async def _change(self, choices: Choices, request: Request, visit: Visit, form: Form) -> Response:
        do = first(form, "do")
        try:
            if do in choices.bulk:
                await self._store(request, visit, form, choices.bulk[do][1], None)
            elif mine := await self._store_rows(choices, request, visit, form):
                detail = (
                    "Another person has changed some of these rows meanwhile. Nothing was stored: compare "
                    "them, and store yours again."
                )
                conflict = Refusal(409, "Changed meanwhile", detail)
                return await self._show(choices, request, visit, mine=mine, refusal=conflict)
        except Refusal as refusal:
            if refusal.is_outage:
                return self._frame.unsent(visit, refusal, import_path(request), form)
            return await self._show(choices, request, visit, mine=_sent(form), refusal=refusal)
        query = dict(_params(choices, request)) | {"done": "1"}
        query.pop("limit")
        if do == "next":
            return await self._next(choices, request, visit)
        return see_other(f"{import_path(request)}/{choices.path}?{urlencode(query)}")

    async def _next(self, choices: Choices, request: Request, visit: Visit) -> Response:
        """Go on to the next page of rows, or to the next step."""
        path, params = import_path(request), _params(choices, request)
        found = await self._hub.call(visit.member, "GET", import_api(request, choices.path), params=params)
        if not found["next_cursor"]:
            return see_other(f"{path}/{'channels' if choices is PEOPLE else 'options'}")
        query = {**params, "cursor": found["next_cursor"]}
        query.pop("limit")
        return see_other(f"{path}/{choices.path}?{urlencode(query)}")

    async def _store_rows(
        self, choices: Choices, request: Request, visit: Visit, form: Form
    ) -> Mapping[str, Choice]:
        """Store the changed rows; if another person changed one of them, return all choices instead."""
        sent = _sent(form)
        for _ in range(_ATTEMPTS):
            job, plan, found = await self._read(choices, request, visit, _params(choices, request))
            items = {item[choices.key]: item for item in found["items"]}
            changes: dict[str, Json | None] = {}
            for index, (object_id, choice) in enumerate(sent.items()):
                stored = choices.of(plan[choices.field].get(object_id), items.get(object_id, _NO_ITEM))
                if choice.text in (was := first(form, f"was-{index}"), stored.text):
                    continue
                if stored.text != was:
                    return sent
                changes[object_id] = choices.entry(choice, items.get(object_id, _NO_ITEM))
            if not changes:
                return {}
            try:
                await self._store(request, visit, form, {choices.field: changes}, job["plan_version"])
            except Refusal as refusal:
                if refusal.status not in _CONFLICT:
                    raise
                continue
            return {}
        raise Refusal(409, "Changed meanwhile", "the plan changed while it was updated: try again")

    async def _store(
        self, request: Request, visit: Visit, form: Form, change: Json, version: int | None
    ) -> None:
        await self._hub.call(
            visit.member,
            "PATCH",
            import_api(request, "plan"),
            body=change,
            once=first(form, "once"),
            version=version,
        )

    async def _read(
        self, choices: Choices, request: Request, visit: Visit, params: Mapping[str, str]
    ) -> tuple[Json, Json, Json]:
        """Return the import, its plan, and a page of channels or people. Raises `Refusal`."""
        job, plan, found = await asyncio.gather(
            *(
                self._hub.call(
                    visit.member,
                    "GET",
                    import_api(request, part),
                    params=params if part == choices.path else {},
                )
                for part in ("", "plan", choices.path)
            )
        )
        return job, plan, found


_NO_ITEM: Final[Json] = {"proposed_user_id": None}
"""Stands for an item that is no longer on the page."""


def import_path(request: Request) -> str:
    """Return the address of the import's page."""
    return f"/console/imports/{quote(request.path_params['id'], safe='')}"


def import_api(request: Request, part: str = "") -> str:
    """Return the path of the import in the API, or of a part of it."""
    path = f"/api/imports/{quote(request.path_params['id'], safe='')}"
    return f"{path}/{part}" if part else path


def _params(choices: Choices, request: Request) -> dict[str, str]:
    """Return the parameters of the list's API that the address has."""
    names = ("query", choices.filter, "cursor")
    given = {name: request.query_params.get(name, "")[:_MAX_ADDRESS_PART] for name in names}
    return {"limit": str(_ROWS)} | {name: value for name, value in given.items() if value}


def _sent(form: Form) -> dict[str, Choice]:
    """Return the choices of a form by the ids of their items; with `do=page`, the same one for all."""
    page = Choice(first(form, "for_all")) if first(form, "do") == "page" else None
    found: dict[str, Choice] = {}
    for index in range(_ROWS):
        if object_id := first(form, f"id-{index}"):
            detail = first(form, f"detail-{index}").strip()
            option = first(form, f"choice-{index}")
            needs = option in ("new", "existing", "user")
            found[object_id] = page or Choice(option, detail if needs else "")
    return found


def _row(choices: Choices, item: Json, plan: Json, mine: Mapping[str, Choice]) -> Json:
    stored = choices.of(plan[choices.field].get(item[choices.key]), item)
    chosen = mine.get(item[choices.key], stored)
    return {
        "id": item[choices.key],
        "name": item["name"] or item[choices.key],
        "about": choices.about(item),
        "outcome": choices.outcome(item),
        "problem": item.get("problem"),
        "samples": item.get("samples", ()),
        "options": choices.options(item),
        "chosen": chosen,
        "stored": stored,
        "is_other": chosen.text != stored.text,
    }
