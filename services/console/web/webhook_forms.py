"""The form of an outgoing webhook, with a choice of event types and a preview of filter and projection."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, get_args
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Member, Refusal
from services.console.pages.kinds import Action, Field, Kind
from services.console.pages.outgoing import WEBHOOKS
from services.console.pages.rendering import visible
from services.console.web.edits import CHANGED, Edit, based_on, compared, is_outdated
from services.console.web.forms import BadForm, Form, errors_of, first, once_of, values_of
from services.console.web.frame import Frame, see_other
from services.console.web.visits import Visit
from shared.webhooks.formats import BodyFormat
from shared.webhooks.patterns import includes
from shared.webhooks.signatures import SigningProfile

_API: Final = "/api/outgoing-webhooks"
_PAGES: Final = 10
_FORCE: Final = "repeat with ?force=true"
"""In a refusal that a parameter of the call overrides."""
_MAX_GROUP: Final = 50
"""Event types of a group that the form has at once; those of a larger one on demand."""
_SAMPLES: Final = "10"
_FIELDS: Final = (
    Field("name", "Name", required=True),
    Field("url", "Address", hint="The https address of the receiver.", required=True),
    Field("description", "Description"),
)
_FILTER: Final = (
    Field("channels", "Only these channels", "lines", "One id a line."),
    Field("users", "Only from these people", "lines", "One id or name a line."),
    Field("content", "Only texts that match", hint="An RE2 pattern, searched in the message's text."),
    Field("condition", "Only if this holds", hint="JMESPath, such as data.amount > `100`."),
    Field("exclude_bots", "Leave out what bots do", "flag"),
    Field("exclude_own", "Leave out what came through the webhook's own account", "flag"),
)
_TRANSFORM: Final = Field(
    "transform", "Projection", "lines", "JMESPath that makes the body, such as {text: data.text}. Empty: all."
)
_FORMAT: Final = Field("format", "Body", "select", options=get_args(BodyFormat))
_ORDERING: Final = Field(
    "ordering",
    "Order",
    "select",
    "Strict: one at a time; a failing one holds up the others.",
    ("none", "strict"),
)
_PROFILE: Final = Field("profile", "Signature", "select", options=get_args(SigningProfile))
_PATTERNS: Final = Field(
    "events", "Other patterns", "lines", "One a line: a type, github.*, a trigger's id, *"
)

Json = Mapping[str, Any]


class WebhookForms:
    """Creates and changes outgoing webhooks. A preview shows what would be sent, and stores nothing."""

    def __init__(self, hub: HubApi, frame: Frame, kind: Kind = WEBHOOKS) -> None:
        self._hub = hub
        self._frame = frame
        self._kind = kind

    async def show(self, request: Request, visit: Visit) -> Response:
        """Return the form, empty or with the settings of a webhook."""
        try:
            item = await self._item(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, self._base(request))
        return await self._page(request, visit, item, _form_of(item) if item else {})

    async def submit(self, request: Request, visit: Visit, form: Form) -> Response:
        """Show the preview, or save: a new webhook's secret is shown once."""
        item = None
        try:
            item = await self._item(request, visit)
            if first(form, "show"):
                return await self._page(request, visit, item, form)
            body = _body(form, item)
            if first(form, "do") == "preview":
                preview = await self._preview(visit, form, body)
                return await self._page(request, visit, item, form, preview=preview)
            once, params = first(form, "once"), {"force": "true"} if first(form, "do") == "force" else {}
            if item is None:
                answer = await self._hub.call(visit.member, "POST", _API, body=body, once=once, params=params)
            else:
                path = f"{_API}/{quote(item['id'], safe='')}"
                await self._hub.call(
                    visit.member, "PATCH", path, body=body, once=once, version=based_on(form), params=params
                )
                return see_other(f"{self._base(request)}/{quote(item['id'], safe='')}?done=edit")
        except Refusal as refusal:
            edit = None
            if is_outdated(refusal):
                try:
                    item = await self._item(request, visit)
                except Refusal as error:
                    return self._frame.refused(visit, error, self._base(request))
                if item is not None:
                    edit, refusal = _compared(form, item), CHANGED
            return await self._page(request, visit, item, form, refusal=refusal, edit=edit)
        shown = [(title, answer.get(name)) for name, title in _action(None).shown.items()]
        return self._frame.page(
            "done.html",
            visit,
            title=_action(None).title,
            here=self._kind.path,
            kind=self._kind,
            action=_action(None),
            shown=[(title, value) for title, value in shown if value],
            opens=f"{self._base(request)}/{quote(answer['id'], safe='')}",
        )

    def _base(self, request: Request) -> str:
        """Return the address of the list."""
        parts = {name: quote(str(value), safe="") for name, value in request.path_params.items()}
        return f"/console/{self._kind.path.format_map(parts)}"

    async def _item(self, request: Request, visit: Visit) -> Json | None:
        """Return the webhook that is changed; None for a new one. Raises `Refusal`."""
        webhook = request.path_params.get("id")
        if webhook is None:
            return None
        found: Json = await self._hub.call(visit.member, "GET", f"{_API}/{quote(webhook, safe='')}")
        return found

    async def _page(
        self,
        request: Request,
        visit: Visit,
        item: Json | None,
        form: Form,
        *,
        refusal: Refusal | None = None,
        preview: Json | None = None,
        edit: Edit | None = None,
    ) -> Response:
        if edit is None and item is not None:
            edit = Edit(item["version"] if (version := based_on(form)) is None else version)
        can_force = refusal is not None and _FORCE in refusal.detail
        if refusal and can_force:
            refusal = replace(refusal, detail=refusal.detail.replace(_FORCE, "choose Save anyway"))
        types, samples = await asyncio.gather(self._types(visit), self._samples(visit, item))
        own = f"/{quote(item['id'], safe='')}" if item else ""
        listed = {name for name in ("*", *(f"{group}.*" for group, _ in types)) if _is_offered(name, visit)}
        listed |= {member["name"] for _, members in types for member in members}
        chosen = _patterns(form)
        return self._frame.page(
            "webhook_form.html",
            visit,
            refusal.page_status if refusal else 200,
            title=_action(item).title,
            here=self._kind.path,
            back=f"{self._base(request)}{own}",
            item=item,
            action=_action(item),
            fields=_FIELDS,
            sending=(_FORMAT, _ORDERING, *(() if item else (_PROFILE,))),
            filters=_FILTER,
            transform=_TRANSFORM,
            patterns=_PATTERNS,
            types=[(group, members, _is_open(group, members, chosen, form)) for group, members in types],
            shown=form.get("shown", []) + form.get("show", []),
            listed=listed,
            restricted=visit.member.key.customer is not None,
            picked=listed & set(chosen),
            filled={**form, "events": ["\n".join(name for name in chosen if name not in listed)]},
            samples=samples,
            refusal=refusal,
            can_force=can_force,
            preview=preview,
            errors=errors_of(
                refusal, (*_FIELDS, *_FILTER, _TRANSFORM, _FORMAT, _ORDERING, _PROFILE, _PATTERNS)
            ),
            edit=edit,
            once=once_of(form),
        )

    async def _types(self, visit: Visit) -> Sequence[tuple[str, Sequence[Json]]]:
        """Return the event types, grouped by the first part of their names; none if the gateway is away."""
        found: list[Json] = []
        params = {"limit": "500"}
        reader = _reader(visit)
        try:
            for _ in range(_PAGES):
                page = await self._hub.call(reader, "GET", "/api/event-types", params=params)
                found += [item for item in page["items"] if _is_offered(item["name"], visit)]
                if not page["next_cursor"]:
                    break
                params["cursor"] = page["next_cursor"]
        except Refusal:
            found = []
        found += _unlisted(found, visit)
        groups: dict[str, list[Json]] = {}
        for item in found:
            groups.setdefault(item["name"].partition(".")[0], []).append(item)
        # The hub's own and the workspace's types come before those of providers.
        return sorted(groups.items(), key=lambda group: (group[1][0]["source"] == "provider", group[0]))

    async def _samples(self, visit: Visit, item: Json | None) -> Sequence[Json]:
        """Return the newest delivery of each event type, as sample events for a preview.

        A customer gets deliveries of the webhook only.
        """
        params = {"limit": _SAMPLES}
        if visit.member.key.customer is not None:
            if item is None:
                return []
            params["webhook_id"] = item["id"]
        try:
            found = await self._hub.call(visit.member, "GET", "/api/deliveries", params=params)
        except Refusal:
            return []
        return list({item["event_type"]: item for item in reversed(found["items"])}.values())

    async def _preview(self, visit: Visit, form: Form, body: Json) -> Json:
        """Return what would be sent for an event. Raises `Refusal`, `BadForm`."""
        event = await self._event(visit, first(form, "sample"), body["events"])
        settings = {name: body[name] for name in ("events", "format", "transform", "filter")}
        found: Json = await self._hub.call(
            visit.member, "POST", f"{_API}/preview", body={**settings, **event}
        )
        return {**found, "type": event["type"]}

    async def _event(self, visit: Visit, sample: str, patterns: Sequence[str]) -> Json:
        if sample:
            delivery = await self._hub.call(visit.member, "GET", f"/api/deliveries/{quote(sample, safe='')}")
            try:
                envelope = orjson.loads(delivery["body"] or "")
                return {"type": delivery["event_type"], "data": envelope["data"]}
            except (ValueError, KeyError, TypeError):
                raise BadForm(
                    "Preview with: that event was sent in another form; choose another one"
                ) from None
        name = next((pattern for pattern in patterns if "*" not in pattern), "message.created")
        if not _is_offered(name, visit):
            return {"type": name, "data": {}}
        try:
            found = await self._hub.call(_reader(visit), "GET", f"/api/event-types/{quote(name, safe='')}")
        except Refusal as refusal:
            if refusal.is_outage:
                raise
            return {"type": name, "data": {}}
        return {"type": name, "data": found["example"] or {}}


def _is_offered(pattern: str, visit: Visit) -> bool:
    """Return whether the form offers a pattern. A customer's form offers the session's event types."""
    customer = visit.member.key.customer
    return customer is None or includes(customer.events, pattern)


def _reader(visit: Visit) -> Member:
    """Return the member to read event types for.

    A customer's key cannot read them, so the console reads all, and offers some: see `_is_offered`.
    """
    key = visit.member.key
    if key.customer is None:
        return visit.member
    return replace(visit.member, key=replace(key, customer=None, scopes=frozenset({"webhooks:read"})))


def _unlisted(found: Sequence[Json], visit: Visit) -> list[Json]:
    """Return a customer's event types that the catalogue does not have, as entries of it."""
    names = {item["name"] for item in found}
    events = visit.member.key.customer.events if visit.member.key.customer else ()
    return [
        {"name": name, "about": "", "source": "workspace"}
        for name in events
        if "*" not in name and name not in names
    ]


def _is_open(group: str, members: Sequence[Json], chosen: Sequence[str], form: Form) -> bool:
    """Return whether the form has the event types of a group: there are more than two thousand in all."""
    if group in form.get("show", []) or group in form.get("shown", []):
        return True
    if any(member["name"] in chosen for member in members):
        return True
    return len(members) <= _MAX_GROUP and members[0]["source"] != "provider"


def _action(item: Json | None) -> Action:
    """Return the action of the form, with its title and its message when it is done."""
    actions = WEBHOOKS.list_actions if item is None else WEBHOOKS.actions
    return next(action for action in actions if action.name == ("create" if item is None else "edit"))


def _form_of(item: Json) -> dict[str, list[str]]:
    """Return the settings of a webhook as the values of the form's fields, with what hides made visible."""
    names = ("name", "url", "description", "format", "ordering", "transform")
    values = {name: [visible(item[name])] for name in names}
    values["events"] = ["\n".join(map(visible, item["events"]))]
    for field in _FILTER:
        value = (item["filter"] or {}).get(field.name)
        text = "\n".join(value) if isinstance(value, list) else "yes" if value is True else value or ""
        values[field.name] = [visible(text)]
    return values


def _body(form: Form, item: Json | None) -> dict[str, Any]:
    """Return the body of the call. What was not changed stays exactly as it is. Raises `BadForm`."""
    body = values_of(form, (*_FIELDS, _FORMAT, _ORDERING, *(() if item else (_PROFILE,))))
    body = {"description": "", "format": "envelope", **body, "events": _patterns(form)}
    body["transform"] = _text(form, "transform") or None
    if not body["events"]:
        raise BadForm("Events: pick one at least")
    old = (item or {}).get("filter") or {}
    criteria = {field.name: None for field in _FILTER} | values_of(form, _FILTER)
    if item is not None:
        shown = _form_of(item)
        same = {name for name in shown if _text(form, name) == _text(shown, name)}
        body |= {name: item[name] for name in same & {"name", "url", "description", "transform"}}
        criteria |= {name: old.get(name) for name in same & criteria.keys()}
    event_filter = {
        name: value for name, value in {**old, **criteria}.items() if value not in (None, [], False)
    }
    return {**body, "filter": event_filter or None}


def _compared(form: Form, item: Json) -> Edit:
    """Return the differences between the form and the webhook that somebody else has changed."""
    stored = _form_of(item)
    mine = {**form, "events": ["\n".join(sorted(_patterns(form)))]}
    stored["events"] = ["\n".join(sorted(_patterns(stored)))]
    events = replace(_PATTERNS, title="Events")
    fields = (*_FIELDS, events, *_FILTER, _TRANSFORM, _FORMAT, _ORDERING)
    return compared(fields, mine, stored, item["version"])


def _text(form: Form, name: str) -> str:
    return first(form, name).replace("\r\n", "\n").strip()


def _patterns(form: Form) -> list[str]:
    """Return the patterns that are picked, and those that are typed."""
    typed = [line.strip() for line in first(form, "events").splitlines() if line.strip()]
    return list(dict.fromkeys([*form.get("pick", []), *typed]))
