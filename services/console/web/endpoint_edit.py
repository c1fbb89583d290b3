"""The settings of an endpoint that a form has, and the form that changes them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.inbound import ENDPOINTS
from services.console.pages.kinds import Field
from services.console.pages.rendering import visible
from services.console.web.action_forms import ActionForms
from services.console.web.catalogue import entry_of
from services.console.web.connect import provider_field
from services.console.web.edits import CHANGED, Edit, based_on, compared, is_outdated
from services.console.web.forms import OWN, Form, first, values_of, wrong_field
from services.console.web.frame import Frame, see_other
from services.console.web.visits import Visit

_LIST: Final = "/console/endpoints"
_NAME: Final = Field("own-name", "Name", required=True)
_SOURCE: Final = Field(
    "own-source",
    "Sender",
    "json",
    "How the sender signs, as JSON; left empty, the hub's own scheme. The guide has examples.",
)
_MESSAGES: Final = (
    Field("own-channel_id", "Channel", hint="Id of the chat's channel that gets messages; else none."),
    Field("own-events", "Events that become messages", "lines", "Names, one a line; * for all.", (), "*"),
)
_RATE_LIMIT: Final = Field(
    "own-rate_limit", "Requests per minute", "number", "More are answered with 429.", is_folded=True
)
_REQUESTS: Final = (
    Field(
        "own-allow_ips",
        "Only from these networks",
        "lines",
        "One a line, such as 192.0.2.0/24 or 2001:db8::/32. Left empty: from everywhere.",
        is_folded=True,
    ),
    Field(
        "own-public_url",
        "Public address of the hub",
        hint="Scheme and host that the provider calls, if a proxy makes them differ from the hub's own, such "
        "as https://hooks.example.com.",
        is_folded=True,
    ),
    Field(
        "own-body_limit",
        "Largest body (bytes)",
        "number",
        "Larger requests are answered with 413. Left empty: the provider's limit.",
        is_folded=True,
    ),
    Field(
        "own-dedupe_window_s",
        "Deduplication window (s)",
        "number",
        "An event that comes again within this time is dropped; 0: none is. Left empty: the hub's default.",
        is_folded=True,
    ),
)
_UNSIGNED: Final = Field(
    "own-unsigned_reason",
    "Accept unsigned requests",
    hint="Only if the sender cannot sign: why requests without a signature are accepted. Left empty: they "
    "are refused.",
    is_folded=True,
)
_DEFAULT: Final = Field(
    "own-installation_default",
    "Default endpoint of the provider",
    "flag",
    "Requests to the provider's common address reach this endpoint too, if they are signed with its secret. "
    "It takes an admin key of the operator's workspace.",
    is_folded=True,
)

Json = Mapping[str, Any]


class EndpointEdit:
    """The form that changes an endpoint. Secrets have forms of their own: rotation and setup."""

    def __init__(self, hub: HubApi, frame: Frame, forms: ActionForms) -> None:
        self._hub = hub
        self._frame = frame
        self._forms = forms

    async def ask(self, request: Request, visit: Visit) -> Response:
        """Return the form with the settings of the endpoint."""
        try:
            item, fields = await self._read(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, _LIST)
        return self._page(request, visit, item, fields, _form_of(item, fields), Edit(item["version"]))

    async def submit(self, request: Request, visit: Visit, form: Form) -> Response:
        """Store what was changed, unless another person has changed the endpoint meanwhile."""
        try:
            item, fields = await self._read(request, visit)
        except Refusal as refusal:
            return self._frame.unsent(visit, refusal, _LIST, form)
        version = based_on(form)
        try:
            await self._hub.call(
                visit.member,
                "PATCH",
                _api(item),
                body=_changes(form, item, fields),
                once=first(form, "once"),
                version=version,
            )
        except Refusal as refusal:
            edit = Edit(item["version"] if version is None else version)
            if is_outdated(refusal):
                edit, refusal = compared(fields, form, _form_of(item, fields), item["version"]), CHANGED
            return self._page(request, visit, item, fields, form, edit, refusal)
        return see_other(f"{_LIST}/{quote(item['id'], safe='')}?done=edit")

    async def _read(self, request: Request, visit: Visit) -> tuple[Json, list[Field]]:
        """Return the endpoint and the fields of its form. Raises `Refusal`."""
        item: Json = await self._hub.call(visit.member, "GET", _api(request.path_params))
        try:
            entry = await entry_of(self._hub, visit, item["provider"])
        except Refusal as refusal:
            if refusal.is_outage:
                raise
            entry = {"webhooks": None}  # a provider that this release does not have
        if item["polled"]:
            return item, [_NAME, *_MESSAGES, _RATE_LIMIT]
        settings = entry["webhooks"]["settings"] if entry["webhooks"] else ()
        fields = [_NAME, *(_setting_field(setting, item) for setting in settings)]
        return item, [*fields, *hub_fields(entry, visit)]

    def _page(
        self,
        request: Request,
        visit: Visit,
        item: Json,
        fields: Sequence[Field],
        form: Form,
        edit: Edit,
        refusal: Refusal | None = None,
    ) -> Response:
        [action] = [action for action in ENDPOINTS.actions if action.name == "edit"]
        return self._forms.page(
            visit,
            request,
            replace(action, title="Change the endpoint", fields=fields, effect=""),
            here="endpoints",
            back=f"{_LIST}/{quote(item['id'], safe='')}",
            about=f"{item['provider']} {item['id']}",
            form=form,
            refusal=refusal,
            edit=edit,
        )


def hub_fields(entry: Json, visit: Visit) -> list[Field]:
    """Return the fields of an endpoint that every provider has, but for name and secret."""
    webhooks = entry["webhooks"]
    fields = [_SOURCE] if webhooks and webhooks["configurable"] else []
    fields += [*_MESSAGES, _RATE_LIMIT, *_REQUESTS]
    if webhooks is None or webhooks["secret"]["source"] != "none":
        fields.append(_UNSIGNED)
    return [*fields, _DEFAULT] if visit.member.key.allows("admin") else fields


def _setting_field(setting: Json, item: Json) -> Field:
    """Return the field of a provider's setting. A setting can be changed, and not removed."""
    name = setting["id"]
    field = provider_field(setting, item["settings"].get(name) or "", is_set=name in item["settings"])
    if field.options and not item["settings"].get(name) and "" not in field.options:
        return replace(field, options=("", *field.options))
    return field


def _api(item: Json) -> str:
    return f"/api/inbound-endpoints/{quote(item['id'], safe='')}"


def _form_of(item: Json, fields: Sequence[Field]) -> Form:
    """Return the settings of an endpoint as the values of the form."""
    return {field.name: [_text_of(item, field)] for field in fields}


def _text_of(item: Json, field: Field) -> str:
    if not field.name.startswith(OWN):
        return visible(item["settings"].get(field.name) or "")
    value = item[field.name.removeprefix(OWN)]
    if field.kind == "json":
        return "" if value is None else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    if field.kind == "flag":
        return "yes" if value else ""
    return "\n".join(map(visible, value)) if isinstance(value, list) else visible(value)


def _changes(form: Form, item: Json, fields: Sequence[Field]) -> Json:
    """Return the body of the call: only what the form has changed. Raises `BadForm`."""
    stored = _form_of(item, fields)
    changed = [field for field in fields if _sent(form, field) != _sent(stored, field)]
    values = values_of(form, changed)
    body: dict[str, Any] = {}
    settings: dict[str, str] = {}
    for field in changed:
        name, value = field.name.removeprefix(OWN), values.get(field.name)
        if name == field.name:
            if value is None:
                raise wrong_field(field, "it can be changed, and not removed: enter a value")
            settings[name] = value
        elif name == "unsigned_reason":
            body |= {"require_signature": value is None, name: value or ""}
        elif name == "rate_limit" and value is None:
            raise wrong_field(field, "fill it in")
        else:
            body[name] = [] if value is None and field.kind == "lines" else value
    return {**body, **({"settings": settings} if settings else {})}


def _sent(form: Form, field: Field) -> str:
    text = first(form, field.name).replace("\r\n", "\n").strip()
    return ("yes" if text else "") if field.kind == "flag" else text
