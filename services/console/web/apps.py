"""OAuth apps of providers: the list, and the forms that register, change and delete an app."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.kinds import Action, Field
from services.console.web.action_forms import ActionForms
from services.console.web.catalogue import APP, OAUTH, PATH, apps_of, default_app, entry_of, provider_path
from services.console.web.connect import option_of, provider_field
from services.console.web.forms import Form, first, split_own, values_of, wrong_field
from services.console.web.frame import Frame, see_other
from services.console.web.visits import Visit

_LIST: Final = "/console/apps"
_API: Final = "/api/platform-credentials"
_DONE: Final = {
    "delete": "The app is deleted.",
    "verify": "The provider was asked: the verdict is up to date.",
}
_MAX_NAMED: Final = 5
"""Accounts that a page names as examples."""
_NAME: Final = Field(
    "own-app",
    "Name",
    hint="To tell several apps of this provider apart: lower-case letters, digits, - and _.",
    required=True,
)
_VERIFIED: Final = Field(
    "own-verified",
    "The provider cannot be asked: these values are right",
    "flag",
    "Left empty, the provider is asked whether it accepts them.",
)

Json = Mapping[str, Any]


class AppPages:
    """The apps that accounts of the workspace can be connected with."""

    def __init__(self, hub: HubApi, frame: Frame, forms: ActionForms) -> None:
        self._hub = hub
        self._frame = frame
        self._forms = forms

    async def show(self, request: Request, visit: Visit) -> Response:
        """Return the list of apps, with what the provider says about each."""
        apps: Sequence[Json] = []
        refusal = None
        try:
            apps = (await self._hub.call(visit.member, "GET", _API))["items"]
        except Refusal as error:
            refusal = error
        return self._frame.page(
            "apps.html",
            visit,
            refusal.page_status if refusal else 200,
            title="Provider apps",
            here="apps",
            refusal=refusal,
            apps=[(app, verdict_of(app), form_address(app), _own_address(app)) for app in apps],
            may_change=visit.member.key.allows("admin"),
            done=_DONE.get(request.query_params.get("done", ""), ""),
        )

    # One app

    async def ask(self, request: Request, visit: Visit) -> Response:
        """Return the form of an app: the default one, that of a name, or a new one with a name."""
        try:
            entry, option, app = await self._app(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, PATH)
        return self._page(entry, option, app, request, visit)

    async def save(self, request: Request, visit: Visit, form: Form) -> Response:
        """Register or change the app."""
        back = provider_path(request.path_params["provider"])
        try:
            entry, option, app = await self._app(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, back)
        try:
            body = _body(option, app, values_of(form, _fields(option, app, request)))
            others = await apps_of(self._hub, visit, option) if _is_new(request) else ()
            _check_name(body, others)
            path = option["app"]["path"]
            await self._hub.call(visit.member, "PUT", path, body=body, once=first(form, "once"))
        except Refusal as refusal:
            return self._page(entry, option, app, request, visit, form, refusal)
        return see_other(back)

    async def verify(self, request: Request, visit: Visit, form: Form) -> Response:
        """Ask the provider again whether it accepts the app."""
        provider = request.path_params["provider"]
        is_listed = first(form, "to") == "apps"
        back = _LIST if is_listed else provider_path(provider)
        try:
            path = f"{_API}/{quote(provider, safe='')}/verify"
            params = _params(first(form, "scope"), first(form, "app"))
            await self._hub.call(visit.member, "POST", path, params=params)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, back)
        return see_other(f"{back}?done=verify" if is_listed else back)

    async def ask_delete(self, request: Request, visit: Visit) -> Response:
        """Return the form that asks before an app is deleted, with the accounts that it concerns."""
        return await self._delete_page(request, visit)

    async def delete(self, request: Request, visit: Visit, form: Form) -> Response:
        """Delete the app."""
        query = request.query_params
        try:
            path = f"{_API}/{quote(request.path_params['provider'], safe='')}"
            params = _params(query.get("scope", ""), query.get("app", ""))
            await self._hub.call(visit.member, "DELETE", path, params=params, once=first(form, "once"))
        except Refusal as refusal:
            return await self._delete_page(request, visit, refusal)
        return see_other(f"{_LIST}?done=delete")

    async def _delete_page(self, request: Request, visit: Visit, refusal: Refusal | None = None) -> Response:
        provider = request.path_params["provider"]
        params = _params(request.query_params.get("scope", ""), request.query_params.get("app", ""))
        try:
            found = await self._hub.call(visit.member, "GET", _API)
            apps = [app for app in found["items"] if app["provider"] == provider]
            app = next((app for app in apps if _params(app["scope"], app["app"]) == params), None)
            accounts, is_complete = await self._accounts(visit, app) if app else ([], True)
        except Refusal as error:
            return self._frame.refused(visit, error, _LIST)
        if app is None:
            text = "There is no such app: it may be deleted already."
            return self._frame.problem(visit, 404, "Not found", text, _LIST)
        effect = _effect(app, accounts, is_complete=is_complete)
        return self._forms.page(
            visit,
            request,
            Action("delete", "Delete the app", "", "admin", "", effect=effect, is_destructive=True),
            here="apps",
            back=_LIST,
            about=f"{provider} {app['app'] or 'default app'}, client id {app['client_id']}",
            refusal=refusal,
        )

    async def _accounts(self, visit: Visit, app: Json) -> tuple[list[Json], bool]:
        """Return accounts of the workspace that are connected with an app, and whether these are all.

        Raises `Refusal`.
        """
        catalogue = await self._hub.call(visit.member, "GET", "/api/catalog")
        of_app = {
            entry["id"]
            for entry in catalogue["items"]
            if any(
                option["app"] and option["app"]["provider"] == app["provider"] for option in entry["connect"]
            )
        }
        params = {"status": "connected", "limit": "500"}
        found = await self._hub.call(visit.member, "GET", "/api/integrations", params=params)
        accounts = [
            item
            for item in found["items"]
            if item["provider"] in of_app and item["kind"] in OAUTH and item["app"] == app["app"]
        ]
        return accounts, not found["next_cursor"]

    async def _app(self, request: Request, visit: Visit) -> tuple[Json, Json, Json | None]:
        """Return the entry, the connect option, and the app of the address; None for a new one.

        Raises `Refusal`.
        """
        entry = await entry_of(self._hub, visit, request.path_params["provider"])
        option = option_of(entry, APP)
        if _is_new(request):
            return entry, option, None
        apps = await apps_of(self._hub, visit, option)
        name = request.query_params.get("app", "")
        if not name:
            return entry, option, default_app(apps)
        app = next((app for app in apps if app["app"] == name), None)
        if app is None:
            raise Refusal(404, "Not found", f"{entry['name']} has no app of this name.")
        return entry, option, app

    def _page(
        self,
        entry: Json,
        option: Json,
        app: Json | None,
        request: Request,
        visit: Visit,
        form: Form | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        title = f"{'Change' if app else 'Register'} the app of {entry['name']}"
        if _is_new(request):
            title = f"Register another app of {entry['name']}"
        effect = f"Accounts of {entry['name']} are connected with an app that you register there, once."
        action = Action(APP, title, "", "admin", "", fields=_fields(option, app, request), effect=effect)
        return self._forms.page(
            visit,
            request,
            action,
            here="catalogue",
            back=provider_path(entry["id"]),
            about=f"app {app['app']}" if app and app["app"] else "",
            form=form,
            refusal=refusal,
            steps=option["app"]["setup_steps"],
            copied=("Redirect address", option["app"]["redirect_uri"]),
        )


def _is_new(request: Request) -> bool:
    """Return whether the address is that of a further app, which needs a name."""
    return "new" in request.query_params


def _check_name(body: Json, others: Sequence[Json]) -> None:
    """Raise `BadForm` if one of the other apps has the name: the call would change that one."""
    if any(app["app"] == body["app"] for app in others):
        raise wrong_field(_NAME, "an app of this name is registered: choose another name, or edit it")


def verdict_of(app: Json) -> tuple[str, str]:
    """Return what the provider says about an app as a status, and why."""
    reason = str(app["reason"] or "")
    if reason.startswith("not_asked"):
        return ("verified" if app["verified"] else "not_verified"), reason.partition(":")[2].strip()
    return ("verified" if app["verified"] else "rejected" if reason else "not_verified"), reason


def form_address(app: Json) -> str:
    """Return the address of the form that changes an app."""
    query = f"?{urlencode({'app': app['app']})}" if app["app"] else ""
    return f"{provider_path(app['provider'])}/{APP}{query}"


def _own_address(app: Json) -> str:
    """Return the address of the form that deletes an app; empty for one that is not of the API."""
    if app["source"] != "api":
        return ""
    query = urlencode(_params(app["scope"], app["app"]))
    return f"{_LIST}/{quote(app['provider'], safe='')}/delete?{query}"


def _params(scope: str, name: str | None) -> dict[str, str]:
    """Return the parameters with which the API finds an app."""
    found = {"scope": "installation" if scope == "installation" else "workspace"}
    return found | ({"app": name} if name else {})


def _effect(app: Json, accounts: Sequence[Json], *, is_complete: bool) -> str:
    """Return what the deletion of an app does; with `is_complete`, these are all accounts that use it."""
    names = ", ".join(str(item["name"]) for item in accounts[:_MAX_NAMED])
    names += f" and {len(accounts) - _MAX_NAMED} more" if len(accounts) > _MAX_NAMED else ""
    used = f"Connected accounts of this workspace that use it: {len(accounts)}"
    used += "" if is_complete else " or more"
    used += f" ({names})." if accounts else "."
    others = " Accounts of other workspaces may use it too." if app["scope"] == "installation" else ""
    return (
        f"Its secrets are deleted. {used}{others} They stop working when their tokens expire, and have to be "
        "connected again with another app. This cannot be undone."
    )


def _fields(option: Json, app: Json | None, request: Request) -> list[Field]:
    """Return the fields of an app; what is stored already may be left empty."""
    known = {"client_id": app["client_id"], **app["settings"]} if app else {}
    stored = {*known, *app["secrets"]} if app else set()
    items = (*option["app"]["fields"], *option["app"]["settings"])
    fields = [_NAME] if _is_new(request) else []
    fields += [
        provider_field(item, known.get(item["id"]) or "", is_set=item["id"] in stored) for item in items
    ]
    scope = Field(
        "own-scope",
        "For",
        "select",
        "Accounts of this workspace, or of all workspaces: that takes a key of the operator's workspace.",
        ("workspace", "installation"),
        app["scope"] if app else "workspace",
    )
    return [*fields, scope, _VERIFIED]


def _body(option: Json, app: Json | None, values: Mapping[str, Any]) -> Json:
    """Return the body of the call."""
    own, rest = split_own(values)
    names = {item["id"] for item in option["app"]["fields"]}
    settings = {name: value for name, value in rest.items() if name not in names}
    own = {name: value for name, value in own.items() if value}
    own |= {"app": app["app"]} if app and app["app"] else {}
    return {**{name: rest[name] for name in names & rest.keys()}, "settings": settings, **own}
