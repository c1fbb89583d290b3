"""Find conversations at their providers; preview, create and change a mapping of them."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.kinds import Action, Field
from services.console.pages.mapping_words import (
    CHAT,
    FILTERS,
    MAX_LEGS,
    NAME,
    OPTIONS,
    leg_fields,
    preview_sentences,
)
from services.console.pages.rendering import visible
from services.console.web.action_forms import ActionForms
from services.console.web.edits import CHANGED, Edit, based_on, compared, is_outdated
from services.console.web.forms import BadForm, Form, first, values_of
from services.console.web.frame import Frame, see_other
from services.console.web.visits import Visit

_API: Final = "/api/mappings"
_LIST: Final = "/console/mappings"
_NEW: Final = f"{_LIST}/do/create"
_SEPARATOR: Final = "|"
_EMPTY_LEGS: Final = 2
_BUTTONS: Final = (("preview", "Preview"),)
_MAX_TEXT: Final = 200
_OF_LEGS: Final = ("place-", "conversation-")

Json = Mapping[str, Any]


class MappingForms:
    """The search of conversations, and the form of a mapping."""

    def __init__(self, hub: HubApi, frame: Frame, forms: ActionForms) -> None:
        self._hub = hub
        self._frame = frame
        self._forms = forms

    async def find(self, request: Request, visit: Visit) -> Response:
        """Return the conversations of an account with a text in their names, each with a link to the form."""
        params = {name: request.query_params.get(name, "")[:_MAX_TEXT] for name in ("place", "query")}
        cursor = request.query_params.get("cursor", "")[:2000]
        places: Mapping[str, str] = {}
        items, more, refusal = [], "", None
        try:
            places = await self._places(visit)
            if params["place"]:
                provider, _, account = params["place"].partition(_SEPARATOR)
                asked = {"provider": provider, "account": account, "query": params["query"], "cursor": cursor}
                given = {name: value for name, value in asked.items() if value}
                found = await self._hub.call(visit.member, "GET", "/api/sync/conversations", params=given)
                items, more = found["items"], found["next_cursor"] or ""
        except Refusal as error:
            refusal = error
        here = {**params, "cursor": more}
        return self._frame.page(
            "conversations.html",
            visit,
            refusal.page_status if refusal else 200,
            title="Find a conversation",
            here="mappings",
            places={place: title for place, title in places.items() if place != CHAT},
            params=params,
            items=[(item, _form_address(params["place"], item["id"])) for item in items],
            more=f"{_LIST}/find?{urlencode(here)}" if more else "",
            refusal=refusal,
        )

    async def ask(self, request: Request, visit: Visit) -> Response:
        """Return the form, empty or with the settings of a mapping."""
        try:
            item = await self._item(request, visit)
            places = await self._places(visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, _LIST)
        return self._page(request, visit, item, places, _form_of(item) if item else None)

    async def submit(self, request: Request, visit: Visit, form: Form) -> Response:
        """Show the preview, or store the mapping."""
        item, places = None, await self._places_or_none(visit)
        preview: Json | None = None
        try:
            item = await self._item(request, visit)
            if first(form, "do") == "preview":
                body = _body(form, None)
                preview = await self._hub.call(visit.member, "POST", f"{_API}/preview", body=body)
                return self._page(request, visit, item, places, form, preview=preview)
            body = _body(form, item)
            method, path = ("PATCH", f"{_API}/{quote(item['id'], safe='')}") if item else ("POST", _API)
            stored = await self._hub.call(
                visit.member,
                method,
                path,
                body=body,
                once=first(form, "once"),
                version=based_on(form) if item else None,
            )
        except Refusal as refusal:
            edit = None
            if is_outdated(refusal):
                try:
                    item = await self._item(request, visit)
                except Refusal as error:
                    return self._frame.refused(visit, error, _LIST)
                if item is not None:
                    stored_form = _form_of(item)
                    fields = _fields(places, stored_form, form)
                    edit, refusal = compared(fields, form, stored_form, item["version"]), CHANGED
            return self._page(request, visit, item, places, form, refusal=refusal, edit=edit)
        done = "edit" if item else "create"
        return see_other(f"{_LIST}/{quote(stored['id'], safe='')}?done={done}")

    def _page(
        self,
        request: Request,
        visit: Visit,
        item: Json | None,
        places: Mapping[str, str],
        form: Form | None,
        *,
        refusal: Refusal | None = None,
        preview: Json | None = None,
        edit: Edit | None = None,
    ) -> Response:
        own = f"/{quote(item['id'], safe='')}" if item else ""
        effect = (
            "Messages of each conversation appear in the others. Find conversations by their names first."
        )
        if form is None and (place := request.query_params.get("place", "")[:_MAX_TEXT]):
            conversation = request.query_params.get("conversation", "")[:_MAX_TEXT]
            form = {"place-0": [CHAT], "place-1": [place], "conversation-1": [conversation]}
            form |= {field.name: [field.default] for field in OPTIONS}
        action = Action(
            "edit" if item else "create",
            "Change the mapping" if item else "Create a mapping",
            "",
            "sync:write",
            "",
            effect="" if item else effect,
            fields=_fields(places, form or {}),
        )
        return self._forms.page(
            visit,
            request,
            action,
            here="mappings",
            back=_LIST + own,
            about=f"mapping {item['id']}" if item else "",
            form=form,
            refusal=refusal,
            edit=edit or (Edit(based_on(form or {}) or item["version"]) if item else None),
            sentences=preview_sentences(preview) if preview else (),
            buttons=_BUTTONS,
        )

    async def _item(self, request: Request, visit: Visit) -> Json | None:
        """Return the mapping in the address; None for a new one. Raises `Refusal`."""
        mapping = request.path_params.get("id")
        if mapping is None:
            return None
        found: Json = await self._hub.call(visit.member, "GET", f"{_API}/{quote(mapping, safe='')}")
        return found

    async def _places(self, visit: Visit) -> Mapping[str, str]:
        """Return the chat and the accounts that have conversations, with their names. Raises `Refusal`."""
        params = {"status": "connected", "limit": "500"}
        catalogue, accounts = await asyncio.gather(
            self._hub.call(visit.member, "GET", "/api/catalog"),
            self._hub.call(visit.member, "GET", "/api/integrations", params=params),
        )
        providers = {entry["id"]: entry["name"] for entry in catalogue["items"] if entry["sync"]}
        places = {CHAT: "the chat"}
        for item in accounts["items"]:
            if item["provider"] in providers and item["account"]:
                place = f"{item['provider']}{_SEPARATOR}{item['account']['id']}"
                places[place] = f"{providers[item['provider']]} {item['name']}"
        return places

    async def _places_or_none(self, visit: Visit) -> Mapping[str, str]:
        try:
            return await self._places(visit)
        except Refusal:
            return {CHAT: "the chat"}


def _form_address(place: str, conversation: str) -> str:
    return f"{_NEW}?{urlencode({'place': place, 'conversation': conversation})}"


def _fields(places: Mapping[str, str], *forms: Form) -> list[Field]:
    """Return the fields of a mapping, with an empty leg more than the forms fill in."""
    filled = [0]
    for form in forms:
        filled += [number + 1 for number in range(MAX_LEGS) if first(form, f"conversation-{number}")]
        known = {value: value.replace(_SEPARATOR, " ") for number in range(MAX_LEGS)
                 if (value := first(form, f"place-{number}"))}  # fmt: skip
        places = {**known, **places}
    legs = min(MAX_LEGS, max(max(filled) + 1, _EMPTY_LEGS))
    of_legs = [field for number in range(legs) for field in leg_fields(number, places)]
    return [NAME, *of_legs, *FILTERS, *OPTIONS]


def _form_of(item: Json) -> Form:
    """Return a mapping as the values of the form."""
    values: dict[str, list[str]] = {"name": [visible(item["name"])]}
    for number, leg in enumerate(item["legs"]):
        place = CHAT if leg["provider"] == CHAT else f"{leg['provider']}{_SEPARATOR}{leg['account']}"
        values[f"place-{number}"] = [place]
        values[f"conversation-{number}"] = [visible(leg["conversation"])]
        values[f"direction-{number}"] = [leg["direction"]]
    for fields, settings in ((FILTERS, item["filters"]), (OPTIONS, item["options"])):
        for field in fields:
            value = settings[field.name]
            text = "\n".join(value) if isinstance(value, list) else "yes" if value is True else value or ""
            values[field.name] = [visible(str(text))]
    return values


def _body(form: Form, item: Json | None) -> Json:
    """Return the body of the call, with the stored values of unchanged fields. Raises `BadForm`."""
    legs: list[Json] = []
    for number in range(MAX_LEGS):
        place, conversation = first(form, f"place-{number}"), first(form, f"conversation-{number}").strip()
        if not place and not conversation:
            continue
        if not place or not conversation:
            raise BadForm(f"Conversation {number + 1}: choose where it is, and enter its id")
        provider, _, account = place.partition(_SEPARATOR)
        leg = {"provider": provider, "conversation": conversation, "account": account}
        leg["direction"] = first(form, f"direction-{number}") or "both"
        legs.append({name: value for name, value in leg.items() if value})
    filters: dict[str, Any] = {field.name: [] for field in FILTERS if field.kind == "lines"}
    filters |= values_of(form, FILTERS)
    options = {"prefix": "", **values_of(form, OPTIONS)}
    body = {"name": "", **values_of(form, [NAME]), "legs": legs, "filters": filters, "options": options}
    if item is not None:
        shown = _form_of(item)
        for settings, stored in ((body, item), (filters, item["filters"]), (options, item["options"])):
            same = {name for name in settings if name in shown and _text(form, name) == _text(shown, name)}
            settings.update({name: stored[name] for name in same})
        leg_names = {name for name in {**form, **shown} if name.startswith(_OF_LEGS)}
        if all(_text(form, name) == _text(shown, name) for name in leg_names):
            del body["legs"]  # nothing is looked up again
    return body


def _text(form: Form, name: str) -> str:
    return first(form, name).replace("\r\n", "\n").strip()
