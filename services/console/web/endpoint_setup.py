"""Set up an endpoint step by step: the provider, its fields, and what to enter there; then a test."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.inbound import endpoint_advice, verdict_in_words
from services.console.pages.kinds import Action, Field, FieldKind
from services.console.web.action_forms import ActionForms
from services.console.web.catalogue import catalogue_page, entry_of, has_webhooks
from services.console.web.connect import provider_field
from services.console.web.endpoint_edit import hub_fields
from services.console.web.forms import Form, first, split_own, values_of
from services.console.web.frame import Frame, see_other
from services.console.web.visits import Visit

NEW: Final = "/console/endpoints/new"
_EXECUTIONS: Final = "10"

Json = Mapping[str, Any]


class EndpointSetup:
    """The pages from the choice of a provider to the first webhook."""

    def __init__(self, hub: HubApi, frame: Frame, forms: ActionForms) -> None:
        self._hub = hub
        self._frame = frame
        self._forms = forms

    async def choose(self, request: Request, visit: Visit) -> Response:
        """Return the providers that send webhooks."""
        if not visit.member.key.allows("integrations:write"):
            return self._frame.not_allowed(visit, "integrations:write", "/console/endpoints")
        return await catalogue_page(
            self._hub,
            self._frame,
            request,
            visit,
            title="Create an endpoint",
            here="endpoints",
            base=NEW,
            intro="An endpoint is an address that a provider sends its webhooks to. Choose the provider.",
            webhooks_only=True,
        )

    async def ask(self, request: Request, visit: Visit) -> Response:
        """Return the form with the provider's own fields."""
        try:
            entry = await self._sender(request, visit)
            templates = await self._templates(visit, entry)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, NEW)
        return self._page(entry, templates, request, visit)

    async def create(self, request: Request, visit: Visit, form: Form) -> Response:
        """Create the endpoint; return its setup with the secret, which is shown only now."""
        try:
            entry = await self._sender(request, visit)
            templates = await self._templates(visit, entry)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, NEW)
        try:
            fields = _fields(entry, _chosen(templates, request), visit)
            body = _body(entry, values_of(form, fields))
            created = await self._hub.call(
                visit.member, "POST", "/api/inbound-endpoints", body=body, once=first(form, "once")
            )
        except Refusal as refusal:
            return self._page(entry, templates, request, visit, form, refusal)
        return self._setup_page(visit, created, [], is_new=True)

    async def show(self, request: Request, visit: Visit) -> Response:
        """Return what to do at the provider, and what came from there so far."""
        try:
            item, found = await self._read(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, "/console/endpoints")
        return self._setup_page(visit, item, found, tested=request.query_params.get("tested", "")[:3])

    async def enter_secret(self, request: Request, visit: Visit, form: Form) -> Response:
        """Store the secret that the provider shows; it replaces the one before at once."""
        body = {"secret": first(form, "secret").strip(), "overlap_hours": 0}
        return await self._do(request, visit, "rotate-secret", body, first(form, "once"))

    async def test(self, request: Request, visit: Visit, form: Form) -> Response:
        """Send a webhook as the provider sends it through the endpoint."""
        return await self._do(request, visit, "test", {}, first(form, "once"))

    async def _do(self, request: Request, visit: Visit, what: str, body: Json, once: str) -> Response:
        endpoint = quote(request.path_params["id"], safe="")
        try:
            path = f"/api/inbound-endpoints/{endpoint}/{what}"
            answer = await self._hub.call(visit.member, "POST", path, body=body, once=once)
        except Refusal as refusal:
            try:
                item, found = await self._read(request, visit)
            except Refusal:
                return self._frame.refused(visit, refusal, "/console/endpoints")
            return self._setup_page(visit, item, found, refusal=refusal)
        tested = f"?tested={answer['status']}" if what == "test" else ""
        return see_other(f"/console/endpoints/{endpoint}/setup{tested}")

    async def _read(self, request: Request, visit: Visit) -> tuple[Json, list[Json]]:
        """Return the endpoint and its newest executions. Raises `Refusal`."""
        path = f"/api/inbound-endpoints/{quote(request.path_params['id'], safe='')}"
        item, found = await asyncio.gather(
            self._hub.call(visit.member, "GET", path),
            self._hub.call(visit.member, "GET", f"{path}/events", params={"limit": _EXECUTIONS}),
        )
        return item, found["items"]

    async def _sender(self, request: Request, visit: Visit) -> Json:
        """Return the entry of a provider that sends webhooks. Raises `Refusal`."""
        entry = await entry_of(self._hub, visit, request.path_params["provider"])
        if not has_webhooks(entry):
            raise Refusal(404, "Not found", f"{entry['name']} sends no webhooks of its own.")
        return entry

    async def _templates(self, visit: Visit, entry: Json) -> Sequence[Json]:
        """Return the templates of a provider's endpoints. Raises `Refusal`."""
        found = await self._hub.call(visit.member, "GET", "/api/endpoint-templates")
        return [template for template in found if template["provider"] == entry["id"]]

    def _page(
        self,
        entry: Json,
        templates: Sequence[Json],
        request: Request,
        visit: Visit,
        form: Form | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        chosen = _chosen(templates, request)
        effect = "You get the address, and the steps to enter it at the provider."
        if chosen is not None:
            effect += f" From the template {chosen['name']}: {chosen['about']}"
        elif templates:
            effect += " A template chooses which events become messages of a channel:"
        title = f"Create an endpoint for {entry['name']}"
        fields = _fields(entry, chosen, visit)
        action = Action("create", title, "", "integrations:write", "", fields=fields, effect=effect)
        base = f"{NEW}/{quote(entry['id'], safe='')}"
        links = [
            (template["name"], f"{base}?{urlencode({'template': template['id']})}", template["about"])
            for template in templates
        ]
        return self._forms.page(
            visit,
            request,
            action,
            here="endpoints",
            back=base if chosen else NEW,
            form=form,
            refusal=refusal,
            links=() if chosen else links,
        )

    def _setup_page(
        self,
        visit: Visit,
        item: Json,
        executions: list[Json],
        *,
        is_new: bool = False,
        tested: str = "",
        refusal: Refusal | None = None,
    ) -> Response:
        return self._frame.page(
            "endpoint_setup.html",
            visit,
            refusal.page_status if refusal else 200,
            title=f"Set up {item['name']}",
            here="endpoints",
            item=item,
            base=f"/console/endpoints/{quote(item['id'], safe='')}",
            advice=endpoint_advice(item),
            executions=[(execution, verdict_in_words(execution)) for execution in executions],
            is_new=is_new,
            tested=tested if tested.isdigit() else "",
            refusal=refusal,
            may_write=visit.member.key.allows("integrations:write"),
            once=secrets.token_urlsafe(16),
            live=True,
        )


def _fields(entry: Json, template: Json | None, visit: Visit) -> list[Field]:
    """Return the fields of a new endpoint; a template fills in its name and the events of its messages."""
    webhooks = entry["webhooks"]
    secret = webhooks["secret"]
    name = Field("own-name", "Name", default=template["name"] if template else entry["name"], required=True)
    fields = [name]
    if secret["source"] in ("ours", "theirs"):
        later = (
            "Left empty, the hub generates one, which you enter at the provider."
            if secret["source"] == "ours"
            else "If the provider shows it only later, leave it empty now, and enter it in the next step."
        )
        title = secret["name"] or "Secret"
        # A sender that describes itself may sign with a private key: then its public key is the secret.
        kind: FieldKind = "key" if webhooks["configurable"] else "secret"
        fields.append(Field("own-secret", title, kind, f"{secret['about']} {later}".strip()))
    fields += [provider_field(item) for item in webhooks["settings"]]
    own = hub_fields(entry, visit)
    if template is not None:
        needed = {"own-channel_id": True}
        events = "\n".join(template["events"])
        own = [
            replace(field, default=events)
            if field.name == "own-events"
            else replace(field, required=needed.get(field.name, field.required))
            for field in own
        ]
    return [*fields, *own]


def _chosen(templates: Sequence[Json], request: Request) -> Json | None:
    """Return the template that the address names; None without one."""
    name = request.query_params.get("template")
    return next((template for template in templates if template["id"] == name), None)


def _body(entry: Json, values: Mapping[str, Any]) -> Json:
    own, settings = split_own(values)
    unsigned = {"require_signature": False} if "unsigned_reason" in own else {}
    return {"provider": entry["id"], "settings": settings, **unsigned, **own}
