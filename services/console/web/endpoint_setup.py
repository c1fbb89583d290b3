"""Set up an endpoint step by step: the provider, its fields, and what to enter there; then a test."""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.inbound import endpoint_advice, verdict_in_words
from services.console.pages.kinds import Action, Field
from services.console.web.action_forms import ActionForms
from services.console.web.catalogue import catalogue_page, entry_of, has_webhooks
from services.console.web.connect import provider_field
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
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, NEW)
        return self._page(entry, request, visit)

    async def create(self, request: Request, visit: Visit, form: Form) -> Response:
        """Create the endpoint; return its setup with the secret, which is shown only now."""
        try:
            entry = await self._sender(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, NEW)
        try:
            body = _body(entry, values_of(form, _fields(entry)))
            created = await self._hub.call(
                visit.member, "POST", "/api/inbound-endpoints", body=body, once=first(form, "once")
            )
        except Refusal as refusal:
            return self._page(entry, request, visit, form, refusal)
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

    def _page(
        self,
        entry: Json,
        request: Request,
        visit: Visit,
        form: Form | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        effect = "You get the address, and the steps to enter it at the provider."
        title = f"Create an endpoint for {entry['name']}"
        action = Action("create", title, "", "integrations:write", "", fields=_fields(entry), effect=effect)
        return self._forms.page(
            visit, request, action, here="endpoints", back=NEW, form=form, refusal=refusal
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


def _fields(entry: Json) -> list[Field]:
    """Return the fields of an endpoint: its name, the provider's secret and settings, and what is done."""
    webhooks = entry["webhooks"]
    secret = webhooks["secret"]
    fields = [Field("own-name", "Name", default=entry["name"], required=True)]
    if secret["source"] in ("ours", "theirs"):
        later = (
            "Left empty, the hub makes one, which you enter at the provider."
            if secret["source"] == "ours"
            else "If the provider shows it only later, leave it empty now, and enter it in the next step."
        )
        title = secret["name"] or "Secret"
        fields.append(Field("own-secret", title, "secret", f"{secret['about']} {later}".strip()))
    fields += [provider_field(item) for item in webhooks["settings"]]
    if webhooks["configurable"]:
        hint = "How the sender signs, as JSON; left empty, the hub's own scheme. The guide has examples."
        fields.append(Field("own-source", "Sender", "json", hint))
    fields += [
        Field("own-channel_id", "Channel", hint="Id of the chat's channel that gets messages; else none."),
        Field("own-events", "Events that become messages", "lines", "Names, one a line; * for all.", (), "*"),
    ]
    if secret["source"] != "none":
        hint = "Only if the sender cannot sign: why requests without a signature are accepted."
        fields.append(Field("own-unsigned_reason", "Accept unsigned requests", hint=hint))
    return fields


def _body(entry: Json, values: Mapping[str, Any]) -> Json:
    own, settings = split_own(values)
    unsigned = {"require_signature": False} if "unsigned_reason" in own else {}
    return {"provider": entry["id"], "settings": settings, **unsigned, **own}
