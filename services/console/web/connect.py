"""Connect accounts: the catalogue, the forms of each provider's connect options, and OAuth apps."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.kinds import Action, Field
from services.console.web.action_forms import ActionForms
from services.console.web.forms import BadForm, Form, first, values_of
from services.console.web.frame import Frame
from services.console.web.visits import Visit

_SEE_OTHER: Final = 303
_OAUTH: Final = ("oauth2", "oauth1")
_APP: Final = "oauth-app"
"""In an address, in place of the kind of a connect option: the registration of the provider's app."""
_RETURN: Final = "/console/connected"
_NAME: Final = Field("name", "Name", hint="Your own name for this account; left empty, that of the provider.")
_FAILURES: Final[Mapping[str, str]] = {
    "access_denied": "The person at the provider refused. Connect it again, and agree there.",
    "other_account": "Another account than before was signed in at the provider. Sign out there first.",
    "account_in_use": "This account is connected by another user. They have to disconnect it first.",
    "app_changed": "The app was changed meanwhile. Connect it again.",
    "platform_error": "The provider does not answer as it should. Try again later.",
}
_OTHER_FAILURE: Final = (
    "The provider answered with this error. Connect it again; its guide explains its errors."
)

Json = Mapping[str, Any]


class ConnectPages:
    """Pages that the catalogue describes: providers, the fields of their connect options, and their apps."""

    def __init__(self, hub: HubApi, frame: Frame, forms: ActionForms) -> None:
        self._hub = hub
        self._frame = frame
        self._forms = forms

    async def catalogue(self, request: Request, visit: Visit) -> Response:
        """Return all providers, or those that a search and a category leave."""
        params = {name: request.query_params.get(name, "")[:200] for name in ("q", "category")}
        items: list[Any] = []
        refusal = None
        try:
            given = {name: value for name, value in params.items() if value}
            items = (await self._hub.call(visit.member, "GET", "/api/catalog", params=given))["items"]
        except Refusal as error:
            refusal = error
        return self._frame.page(
            "catalogue.html",
            visit,
            title="Catalogue",
            here="catalogue",
            items=items,
            refusal=refusal,
            categories=sorted({item["category"] for item in items} | {params["category"]} - {""}),
            params=params,
        )

    async def provider(self, request: Request, visit: Visit) -> Response:
        """Return what a provider can do, and the ways to connect an account of it."""
        try:
            entry = await self._entry(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, "/console/catalogue")
        return self._frame.page(
            "provider.html",
            visit,
            title=entry["name"],
            here="catalogue",
            entry=entry,
            base=f"/console/catalogue/{entry['id']}",
            oauth=_OAUTH,
            app=_APP,
        )

    async def ask(self, request: Request, visit: Visit) -> Response:
        """Return the form of a connect option, or of the provider's app."""
        try:
            entry = await self._entry(request, visit)
            option = _option(entry, request.path_params["kind"])
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, "/console/catalogue")
        return self._page(entry, option, request, visit)

    async def connect(self, request: Request, visit: Visit, form: Form) -> Response:
        """Connect an account, or start its authorization: a link leads to the provider, never a form."""
        back = f"/console/catalogue/{quote(request.path_params['provider'], safe='')}"
        try:
            entry = await self._entry(request, visit)
            option = _option(entry, request.path_params["kind"])
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, back)
        try:
            kind = request.path_params["kind"]
            values = values_of(form, _fields(option, kind))
            body = _body(entry["id"], option, kind, values)
            method, path = ("PUT", option["app"]["path"]) if kind == _APP else ("POST", option["path"])
            answer, cookies = await self._hub.call_with_cookies(
                visit.member, method, path, body=body, once=first(form, "once")
            )
        except BadForm as error:
            return self._page(entry, option, request, visit, form, Refusal(422, "Check the form", str(error)))
        except Refusal as refusal:
            return self._page(entry, option, request, visit, form, refusal)
        if kind == _APP:
            return RedirectResponse(back, _SEE_OTHER)
        if kind not in _OAUTH:
            return RedirectResponse(f"/console/integrations/{answer['id']}?done=connect", _SEE_OTHER)
        return self._leave(visit, entry["name"], answer, cookies)

    async def reconnect(self, request: Request, visit: Visit, form: Form) -> Response:
        """Start the authorization of an account that is there; manual credentials are entered again."""
        integration = request.path_params["id"]
        back = f"/console/integrations/{quote(integration, safe='')}"
        try:
            item = await self._hub.call(
                visit.member, "GET", f"/api/integrations/{quote(integration, safe='')}"
            )
            if item["kind"] not in _OAUTH:
                return RedirectResponse(f"/console/catalogue/{item['provider']}/{item['kind']}", _SEE_OTHER)
            answer, cookies = await self._hub.call_with_cookies(
                visit.member,
                "POST",
                f"/api/integrations/{quote(integration, safe='')}/reconnect",
                body={"return_to": _RETURN},
                once=first(form, "once"),
            )
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, back)
        return self._leave(visit, item["provider"], answer, cookies)

    async def connected(self, request: Request, visit: Visit) -> Response:
        """Go on to the account that was connected, or say why it was not."""
        integration = request.query_params.get("integration_id", "")[:100]
        if error := request.query_params.get("error", "")[:100]:
            text = f"{_FAILURES.get(error, _OTHER_FAILURE)} ({error})"
            return self._frame.problem(visit, 200, "Not connected", text, "/console/integrations")
        if not integration:
            return RedirectResponse("/console/integrations", _SEE_OTHER)
        return RedirectResponse(f"/console/integrations/{quote(integration, safe='')}", _SEE_OTHER)

    def _leave(self, visit: Visit, name: str, answer: Json, cookies: Sequence[str]) -> Response:
        """Return the page with the link to the provider, and the cookies that bind it to this browser."""
        response = self._frame.page(
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

    async def _entry(self, request: Request, visit: Visit) -> Json:
        """Return the catalogue's entry of a provider. Raises `Refusal`, with 404 if there is none."""
        wanted = request.path_params["provider"]
        found = await self._hub.call(visit.member, "GET", "/api/catalog", params={"q": wanted[:200]})
        entry: Json | None = next((item for item in found["items"] if item["id"] == wanted), None)
        if entry is None:
            raise Refusal(404, "Not found", "The catalogue has no such provider.")
        return entry

    def _page(
        self,
        entry: Json,
        option: Json,
        request: Request,
        visit: Visit,
        form: Form | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        kind = request.path_params["kind"]
        if kind == _APP:
            effect = f"Accounts of {entry['name']} are connected with an app that you register there, once."
            steps, title = option["app"]["setup_steps"], f"Register the app of {entry['name']}"
        else:
            effect, steps, title = option["about"], [], f"Connect {entry['name']}"
        action = Action(
            kind, title, "", "integrations:write", "", fields=_fields(option, kind), effect=effect
        )
        return self._forms.page(
            visit,
            request,
            action,
            here="catalogue",
            back=f"/console/catalogue/{entry['id']}",
            form=form,
            refusal=refusal,
            steps=steps,
        )


def _option(entry: Json, kind: str) -> Json:
    """Return a connect option of an entry. Raises `Refusal` if it has none of this kind."""
    wanted = _OAUTH if kind == _APP else (kind,)
    option: Json | None = next((item for item in entry["connect"] if item["kind"] in wanted), None)
    if option is None:
        raise Refusal(404, "Not found", f"{entry['name']} cannot be connected like this.")
    return option


def _fields(option: Json, kind: str) -> list[Field]:
    """Return the fields of a form: of the app, of an authorization, or of manual credentials."""
    if kind == _APP:
        return [_field(item) for item in (*option["app"]["fields"], *option["app"]["settings"])]
    fields = [_field(item) for item in (*option["params"], *option["fields"])]
    if option["purposes"]:
        purpose = Field(
            "purpose", "Use", "select", "What the account may be used for.", tuple(option["purposes"])
        )
        fields.append(purpose)
    return [*fields, _NAME]


def _field(item: Json) -> Field:
    kind: Any = "secret" if item["secret"] else "select" if item["options"] else "text"
    hint = item["about"] + (f" For example {item['example']}." if item["example"] else "")
    needed = item["required"] and not item["default"] and not item["generated"]
    return Field(item["id"], item["name"], kind, hint, tuple(item["options"]), item["default"], needed)


def _body(provider: str, option: Json, kind: str, values: Mapping[str, Any]) -> Json:
    """Return the body of the call."""
    if kind == _APP:
        names = {item["id"] for item in option["app"]["fields"]}
        settings = {name: value for name, value in values.items() if name not in names}
        return {**{name: values[name] for name in names & values.keys()}, "settings": settings}
    own = {name: values[name] for name in ("name", "purpose") if values.get(name)}
    rest = {name: value for name, value in values.items() if name not in ("name", "purpose")}
    if kind in _OAUTH:
        return {"provider": provider, "params": rest, "return_to": _RETURN, **own}
    return {"provider": provider, "kind": kind, "fields": rest, **own}
