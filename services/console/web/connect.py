"""The forms of connect options, the redirect to the provider, and the result."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.authorization_failures import next_step
from services.console.pages.kinds import Action, Field, FieldKind
from services.console.web.action_forms import ActionForms
from services.console.web.catalogue import APP, OAUTH, PATH, apps_of, entry_of, provider_path
from services.console.web.forms import Form, first, split_own, values_of
from services.console.web.frame import Frame, see_other
from services.console.web.visits import Visit
from services.console.web.workspace_addresses import address_in

_PEM: Final = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"
"""Matches the patterns of secrets that have several lines."""
_RETURN: Final = "/console/connected"
_NAME: Final = Field(
    "own-name", "Name", hint="Your own name for this account; left empty, that of the provider."
)
_USER_SCOPES: Final = Field(
    "own-user_scopes",
    "Scopes of the person",
    "lines",
    "One a line: asked for a token of the person, beside the app's own. Left empty: those of before, or of "
    "the app's settings.",
)

Json = Mapping[str, Any]


class ConnectPages:
    """Forms that the catalogue describes: the fields of connect options."""

    def __init__(self, hub: HubApi, frame: Frame, forms: ActionForms) -> None:
        self._hub = hub
        self._frame = frame
        self._forms = forms

    async def ask(self, request: Request, visit: Visit) -> Response:
        """Return the form of a connect option."""
        try:
            entry, option, apps = await self._option(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, PATH)
        return self._page(entry, option, apps, request, visit)

    async def connect(self, request: Request, visit: Visit, form: Form) -> Response:
        """Connect an account, or start its authorization: a link leads to the provider, never a form."""
        kind = request.path_params["kind"]
        back = provider_path(request.path_params["provider"])
        try:
            entry, option, apps = await self._option(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, back)
        try:
            body = _body(visit, entry["id"], option, values_of(form, _fields(option, apps)))
            answer, cookies = await self._hub.call_with_cookies(
                visit.member, "POST", option["path"], body=body, once=first(form, "once")
            )
        except Refusal as refusal:
            return self._page(entry, option, apps, request, visit, form, refusal)
        if kind not in OAUTH:
            return see_other(account_path(answer["id"]) + "?done=connect")
        return leave(self._frame, visit, entry["name"], answer, cookies)

    async def connected(self, request: Request, visit: Visit) -> Response:
        """Go on to the account that was connected, or say why it was not, with the next step."""
        query = request.query_params
        integration, provider = query.get("integration_id", "")[:100], query.get("provider", "")[:40]
        if error := query.get("error", "")[:100]:
            again = query.get("account", "")[:100]
            title, back = "Connect it again", provider_path(provider) if provider else PATH
            if again:
                title, back = "Open the account", account_path(again)
            return self._frame.page(
                "not_connected.html",
                visit,
                title="Not connected",
                here="catalogue",
                text=next_step(error),
                code=error,
                links=[(title, back), ("All accounts", "/console/integrations")],
            )
        if not integration:
            return see_other("/console/integrations")
        done = "?done=connect" if query.get("status") == "connected" else ""
        return see_other(account_path(integration) + done)

    async def _option(self, request: Request, visit: Visit) -> tuple[Json, Json, Sequence[Json]]:
        """Return the entry, the connect option of the address, and its apps. Raises `Refusal`."""
        entry = await entry_of(self._hub, visit, request.path_params["provider"])
        option = option_of(entry, request.path_params["kind"])
        return entry, option, await apps_of(self._hub, visit, option)

    def _page(
        self,
        entry: Json,
        option: Json,
        apps: Sequence[Json],
        request: Request,
        visit: Visit,
        form: Form | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        kind = request.path_params["kind"]
        effect, title = option["about"], f"Connect {entry['name']}"
        if option["choice"]:
            effect += f" Afterwards, you choose {option['choice']}."
        fields = _fields(option, apps)
        action = Action(kind, title, "", "integrations:write", "", fields=fields, effect=effect)
        return self._forms.page(
            visit,
            request,
            action,
            here="catalogue",
            back=provider_path(entry["id"]),
            form=form,
            refusal=refusal,
        )


def leave(frame: Frame, visit: Visit, name: str, answer: Json, cookies: Sequence[str]) -> Response:
    """Return the page with the link to the provider, and the cookies that bind it to this browser."""
    response = frame.page(
        "leave.html",
        visit,
        title=f"Connect {name}",
        here="catalogue",
        name=name,
        address=answer["authorization_url"],
        integration=answer["integration_id"],
    )
    for cookie in cookies:
        response.headers.append("set-cookie", cookie)
    return response


def account_path(integration: str) -> str:
    """Return the address of an account's page."""
    return f"/console/integrations/{quote(integration, safe='')}"


def return_address(visit: Visit, provider: str, account: str = "") -> str:
    """Return where the provider sends the person back to; `account` is the one to connect again."""
    query = urlencode({"provider": provider} | ({"account": account} if account else {}))
    return address_in(visit.base, f"{_RETURN}?{query}")


def option_of(entry: Json, kind: str) -> Json:
    """Return a connect option of an entry. Raises `Refusal` if it has none of this kind."""
    wanted = OAUTH if kind == APP else (kind,)
    option: Json | None = next((item for item in entry["connect"] if item["kind"] in wanted), None)
    if option is None:
        raise Refusal(404, "Not found", f"{entry['name']} cannot be connected like this.")
    return option


def purpose_field(option: Json) -> list[Field]:
    """Return the field with the purposes of an option; none if it has none."""
    if not option["purposes"]:
        return []
    scopes = "; ".join(f"{name}: {', '.join(names)}" for name, names in option["purposes"].items())
    hint = f"What the account is for: it asks for these scopes. {scopes}"
    return [Field("own-purpose", "Use", "checks", hint, tuple(option["purposes"]), "basic")]


def provider_field(item: Json, value: str = "", *, is_set: bool = False) -> Field:
    """Return a field that the catalogue describes; with a `value` of before, or one that is set already."""
    kind: FieldKind = "secret" if item["secret"] else "select" if item["options"] else "text"
    if item["secret"] and item["pattern"] and re.fullmatch(item["pattern"], _PEM):
        kind = "key"
    hint = item["about"] + (f" For example {item['example']}." if item["example"] else "")
    if is_set:
        hint += " Left empty, it stays as it is."
    needed = item["required"] and not (item["default"] or item.get("generated") or is_set)
    options = tuple(item["options"])
    if options and not needed and not (value or item["default"]):
        options = ("", *options)
    return Field(item["id"], item["name"], kind, hint, options, value or item["default"], needed)


def authorization_fields(option: Json, apps: Sequence[Json], name: str | None = "") -> list[Field]:
    """Return what an authorization can have beside its parameters: the app, and the scopes of the person.

    `name` is that of the app that the account was connected with before; None for the default app.
    """
    fields = []
    labels = {app["app"] or "": app["app"] or "the default app" for app in apps if app["verified"]}
    if name:  # without an app in the call, it stays that of before
        labels.pop("", None)
    if any(labels):
        hint = "The account belongs to the app that it is connected with."
        fields.append(
            Field("own-app", "App", "select", hint, options=tuple(labels), default=name or "", labels=labels)
        )
    return [*fields, _USER_SCOPES] if option["user_scopes"] else fields


def _fields(option: Json, apps: Sequence[Json]) -> list[Field]:
    """Return the fields of a form: of an authorization, or of manual credentials."""
    return [
        *account_fields(option),
        *purpose_field(option),
        *authorization_fields(option, apps),
        _NAME,
    ]


def account_fields(option: Json) -> list[Field]:
    """Return the fields that an account of a connect option needs."""
    of_presets = {name for preset in option["presets"] for name in preset["values"]}
    fields = [provider_field(item) for item in option["params"]]
    fields += [  # a preset may bring its value
        provider_field({**item, "required": item["required"] and item["id"] not in of_presets})
        for item in option["fields"]
    ]
    if option["presets"]:
        names = ", ".join(f"{preset['id']} ({preset['name']})" for preset in option["presets"])
        hint = f"Of a well-known service, host and port are known: {names}. Else fill them in below."
        choices = ("", *(preset["id"] for preset in option["presets"]))
        fields.insert(0, Field("own-preset", "Service", "select", hint, choices))
    return fields


def _body(visit: Visit, provider: str, option: Json, values: Mapping[str, Any]) -> Json:
    """Return the body of the call."""
    own, rest = split_own(values)
    if option["kind"] in OAUTH:
        return {"provider": provider, "params": rest, "return_to": return_address(visit, provider), **own}
    return {"provider": provider, "kind": option["kind"], "fields": rest, **own}
