"""Connect an account again, and choose its resource."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.kinds import Action, Field
from services.console.web.action_forms import ActionForms
from services.console.web.catalogue import OAUTH, apps_of, entry_of
from services.console.web.connect import (
    account_path,
    authorization_fields,
    leave,
    option_of,
    provider_field,
    purpose_field,
    return_address,
)
from services.console.web.forms import Form, first, split_own, values_of
from services.console.web.frame import Frame, see_other
from services.console.web.visits import Visit

_ANY_ACCOUNT: Final = Field(
    "own-any_account", "It may be another account than before", "flag", "Left empty, another one is refused."
)
_MORE_SCOPES: Final = Field(
    "own-add_scopes", "More scopes", "lines", "One a line: they are asked for beside those of before."
)

Json = Mapping[str, Any]


class AccountPages:
    """Forms of an account."""

    def __init__(self, hub: HubApi, frame: Frame, forms: ActionForms) -> None:
        self._hub = hub
        self._frame = frame
        self._forms = forms

    async def ask(self, request: Request, visit: Visit) -> Response:
        """Return the form to connect an account again: for other uses, or with new credentials."""
        try:
            item, entry, option, apps = await self._account(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, account_path(request.path_params["id"]))
        return self._page(item, entry, option, apps, request, visit)

    async def reconnect(self, request: Request, visit: Visit, form: Form) -> Response:
        """Start the authorization of an account that is there, or replace its manual credentials.

        A form without fields asks for what was asked for before.
        """
        integration = request.path_params["id"]
        path = f"/api/integrations/{quote(integration, safe='')}"
        try:
            item, entry, option, apps = await self._account(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, account_path(integration))
        try:
            values = values_of(form, _fields(item, option, apps))
            own, rest = split_own(values)
            own = {name: value for name, value in own.items() if value}
            if item["kind"] not in OAUTH:
                body = {"fields": rest, **own}
                await self._hub.call(
                    visit.member, "POST", f"{path}/fields", body=body, once=first(form, "once")
                )
                return see_other(account_path(integration) + "?done=connect")
            body = {"return_to": return_address(visit, item["provider"], integration), **own}
            body |= {"params": rest} if rest else {}
            answer, cookies = await self._hub.call_with_cookies(
                visit.member, "POST", f"{path}/reconnect", body=body, once=first(form, "once")
            )
        except Refusal as refusal:
            return self._page(item, entry, option, apps, request, visit, form, refusal)
        return leave(self._frame, visit, entry["name"], answer, cookies)

    async def choose(self, request: Request, visit: Visit, form: Form) -> Response:
        """Choose the resource that the account is for. One that was connected before keeps its account."""
        integration = request.path_params["id"]
        path = f"/api/integrations/{quote(integration, safe='')}/choose"
        try:
            body = {"choice": first(form, "choice")}
            item = await self._hub.call(visit.member, "POST", path, body=body, once=first(form, "once"))
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, account_path(integration))
        return see_other(account_path(item["id"]) + "?done=connect")

    async def _account(self, request: Request, visit: Visit) -> tuple[Json, Json, Json, Sequence[Json]]:
        """Return the account, its provider's entry, the connect option and its apps. Raises `Refusal`."""
        path = f"/api/integrations/{quote(request.path_params['id'], safe='')}"
        item: Json = await self._hub.call(visit.member, "GET", path)
        entry = await entry_of(self._hub, visit, item["provider"])
        option = option_of(entry, item["kind"])
        return item, entry, option, await apps_of(self._hub, visit, option)

    def _page(
        self,
        item: Json,
        entry: Json,
        option: Json,
        apps: Sequence[Json],
        request: Request,
        visit: Visit,
        form: Form | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        by_oauth = item["kind"] in OAUTH
        title = "Connect it again" if by_oauth else "Enter new credentials"
        effect = option["about"]
        if by_oauth:
            effect += " The account stays the same: mappings, endpoints and imports go on with it."
        action = Action(
            "reconnect",
            title,
            "",
            "integrations:write",
            "",
            fields=_fields(item, option, apps),
            effect=effect,
        )
        return self._forms.page(
            visit,
            request,
            action,
            here="integrations",
            back=account_path(item["id"]),
            about=f"{entry['name']} {item['name']}",
            form=form,
            refusal=refusal,
        )


def _fields(item: Json, option: Json, apps: Sequence[Json]) -> list[Field]:
    """Return the fields with which an account is connected again. What is left empty stays as it is."""
    if item["kind"] not in OAUTH:
        return [*(provider_field(field, is_set=True) for field in option["fields"]), _ANY_ACCOUNT]
    params = [
        provider_field(field, item["params"].get(field["id"], ""), is_set=True) for field in option["params"]
    ]
    purposes = [Field(one.name, one.title, one.kind, one.hint, one.options) for one in purpose_field(option)]
    more = authorization_fields(option, apps, item["app"])
    return [*params, *purposes, _MORE_SCOPES, *more, _ANY_ACCOUNT]
