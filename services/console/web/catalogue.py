"""The catalogue: all providers, and a page for each with what it can do and the next steps."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.web.frame import Frame
from services.console.web.visits import Visit

OAUTH: Final = ("oauth2", "oauth1")
APP: Final = "oauth-app"
"""In an address, in place of the kind of a connect option: the registration of the provider's app."""
PATH: Final = "/console/catalogue"
_IMPORTS: Final = {"file": "import of an export", "account": "import of an account"}

Json = Mapping[str, Any]


class CataloguePages:
    """The pages of the catalogue."""

    def __init__(self, hub: HubApi, frame: Frame) -> None:
        self._hub = hub
        self._frame = frame

    async def show(self, request: Request, visit: Visit) -> Response:
        """Return all providers, or those that a search and a category leave."""
        return await catalogue_page(
            self._hub, self._frame, request, visit, title="Catalogue", here="catalogue", base=PATH
        )

    async def provider(self, request: Request, visit: Visit) -> Response:
        """Return what a provider can do, the ways to connect an account of it, and the state of its app."""
        try:
            entry = await entry_of(self._hub, visit, request.path_params["provider"])
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, PATH)
        oauth = next((option for option in entry["connect"] if option["app"]), None)
        apps, accounts = await asyncio.gather(
            apps_of(self._hub, visit, oauth), self._accounts(visit, entry["id"])
        )
        return self._frame.page(
            "provider.html",
            visit,
            title=entry["name"],
            here="catalogue",
            entry=entry,
            base=f"{PATH}/{entry['id']}",
            app_form=f"{PATH}/{oauth['app']['provider']}/{APP}" if oauth else "",
            app=default_app(apps),
            named=[
                (app, f"{PATH}/{app['provider']}/{APP}?{urlencode({'app': app['app']})}")
                for app in apps
                if app["app"]
            ],
            abilities=abilities(entry),
            accounts=accounts,
            at_once={option["kind"] for option in entry["connect"] if starts_at_once(option)},
        )

    async def _accounts(self, visit: Visit, provider: str) -> Sequence[Json]:
        """Return some connected accounts of a provider; none if they cannot be read."""
        try:
            params = {"provider": provider, "limit": "10"}
            found = await self._hub.call(visit.member, "GET", "/api/integrations", params=params)
        except Refusal:
            return []
        items: Sequence[Json] = found["items"]
        return items


async def catalogue_page(
    hub: HubApi,
    frame: Frame,
    request: Request,
    visit: Visit,
    *,
    title: str,
    here: str,
    base: str,
    intro: str = "",
    webhooks_only: bool = False,
) -> Response:
    """Return the providers that search and category of the address leave, with links below `base`."""
    params = {name: request.query_params.get(name, "")[:200] for name in ("q", "category")}
    items: list[Any] = []
    categories: list[str] = []
    refusal = None
    try:
        given = {name: value for name, value in params.items() if value}
        found = await hub.call(visit.member, "GET", "/api/catalog", params=given)
        items, categories = found["items"], found["categories"]
    except Refusal as error:
        refusal = error
    if webhooks_only:
        items = [item for item in items if has_webhooks(item)]
    return frame.page(
        "catalogue.html",
        visit,
        refusal.page_status if refusal else 200,
        title=title,
        here=here,
        base=base,
        intro=intro,
        items=[(item, abilities(item)) for item in items],
        refusal=refusal,
        categories=categories,
        params=params,
    )


async def entry_of(hub: HubApi, visit: Visit, provider: str) -> Json:
    """Return the catalogue's entry of a provider. Raises `Refusal`, with 404 if there is none."""
    found = await hub.call(visit.member, "GET", "/api/catalog", params={"q": provider[:200]})
    entry: Json | None = next((item for item in found["items"] if item["id"] == provider), None)
    if entry is None:
        raise Refusal(404, "Not found", "The catalogue has no such provider.")
    return entry


async def apps_of(hub: HubApi, visit: Visit, option: Json | None) -> Sequence[Json]:
    """Return the apps of a connect option, the default one first; none if they cannot be read."""
    if option is None or option["app"] is None:
        return []
    try:
        found = await hub.call(visit.member, "GET", "/api/platform-credentials")
    except Refusal:
        return []
    return [app for app in found["items"] if app["provider"] == option["app"]["provider"]]


def default_app(apps: Sequence[Json]) -> Json | None:
    """Return the app that accounts are connected with unless another one is chosen; None without one."""
    return next((app for app in apps if not app["app"]), None)


def starts_at_once(option: Json) -> bool:
    """Return whether an authorization needs nothing but a click: an app is there, and nothing is missing."""
    missing = [item for item in option["params"] if item["required"] and not item["default"]]
    return bool(option["app"] and option["app_registered"] and not missing)


def has_webhooks(entry: Json) -> bool:
    """Return whether endpoints can be created for a provider."""
    return bool(entry["webhooks"] and entry["webhooks"]["supported"])


def abilities(entry: Json) -> list[str]:
    """Return what the hub can do with a provider, in words."""
    found = ["webhooks"] if has_webhooks(entry) else []
    if entry["webhooks"] and entry["webhooks"]["through"]:
        found.append(f"webhooks through {', '.join(entry['webhooks']['through'])}")
    found += ["OAuth" if option["app"] else option["name"] for option in entry["connect"]]
    if any(trigger["polling"] for trigger in entry["triggers"]):
        found.append("polling")
    if entry["sync"]:
        found.append("mapped conversations")
    found += [_IMPORTS[source] for source in entry["imports"]]
    if count := len(entry["capabilities"]):
        found.append(f"{count} actions" if count > 1 else "1 action")
    return found


def provider_path(provider: str) -> str:
    """Return the address of a provider's page."""
    return f"{PATH}/{quote(provider, safe='')}"
