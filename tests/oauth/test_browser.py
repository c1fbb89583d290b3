"""Authorizations in a real browser: a chat's page, the hub's entrance, and npm's oidc-provider."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from aiohttp import web

from tests.support.auth_servers import Client, OidcProvider
from tests.support.backends import Bus, Store
from tests.support.browser import CHROMIUM, Browser, Tab, browser
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.npm import Unavailable
from tests.support.person import Person
from tests.support.recorded_secrets import record_secret
from tests.support.rotating_server import RotatingServer
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber, WebhookRequest
from tests.support.tickets import USER, confirm, start

CALLBACK = "/api/auth/oauth/callback"
ELSEWHERE = "https://hub.example.com"
"""The public address of a hub that has TLS in front of it."""
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@dataclass
class Chat:
    """A chat whose server has the API key. Its page has one button; the hub's cookie is passed on with it.

    It stands on the hub's own host, under another port: cookies know no ports.
    """

    site: Subscriber
    hub: Hub | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """What the next press of the button asks for beside the provider; `integration` reconnects that one."""

    @property
    def origin(self) -> str:
        return "http://" + urlsplit(self.site.url).netloc

    @property
    def foreign_origin(self) -> str:
        """The same chat under another host name than the hub's: it gets no cookies of the hub."""
        return self.origin.replace("127.0.0.1", "localhost")

    def answer(self, got: WebhookRequest) -> web.StreamResponse:
        if got.path == "/favicon.ico":
            return web.Response(status=204)
        if got.path != "/connect":
            page = '<form method="post" action="/connect"><button id="connect">Connect</button></form>'
            return web.Response(text=f"<!doctype html><title>Chat</title>{page}", content_type="text/html")
        options = {"return_to": f"{self.origin}/back?tab=2", **self.options}
        integration = options.pop("integration", None)
        path = f"/api/integrations/{integration}/reconnect" if integration else "/api/auth/oauth/connect"
        assert self.hub
        asked = httpx.post(
            self.hub.url("gateway") + path,
            json=options if integration else {"provider": "oidc", **options},
            headers={"authorization": f"Bearer {self.hub.admin_key}"},
        )
        assert asked.is_success, asked.text
        headers = {"location": asked.json()["authorization_url"], "set-cookie": asked.headers["set-cookie"]}
        return web.Response(status=303, headers=headers)


@dataclass
class World:
    """What the tests share."""

    hub: Hub
    server: OidcProvider
    chat: Chat
    app: dict[str, Any]
    """What the hub's app was registered with."""

    def status(self, integration: str, expect: int = 200) -> dict[str, Any]:
        return dict(self.hub.call("GET", f"/api/integrations/{integration}", expect=expect))

    def account(self, name: str) -> list[str]:
        """The integrations of an account."""
        items = self.hub.call("GET", "/api/integrations?limit=500")["items"]
        return [item["id"] for item in items if (item["account"] or {}).get("id") == name]

    def use(self, integration: str) -> None:
        """Call the platform with the account's token, whatever comes of it."""
        headers = {"authorization": f"Bearer {self.hub.admin_key}"}
        url = f"{self.hub.url('gateway')}/api/integrations/{integration}/check"
        httpx.post(url, headers=headers, timeout=30)

    async def press(self, tab: Tab, **options: Any) -> None:
        """The first click, on the chat's page."""
        self.chat.options = options
        await tab.goto(self.chat.origin)
        await tab.press("#connect")

    async def sign_in(self, tab: Tab, name: str) -> None:
        """What a person does once at the platform."""
        await tab.fill("#login", name)
        await tab.press("#sign-in")
        assert await tab.see("#account") == name

    async def back(self, tab: Tab) -> dict[str, str]:
        """The parameters that the chat's page gets when the person is back."""
        url = await tab.at(f"^{self.chat.origin}/back")
        found = dict(parse_qsl(urlsplit(url).query))
        assert found.pop("tab") == "2"
        return found

    async def cookies(self, tab: Tab) -> list[dict[str, Any]]:
        """The cookies that the browser would send with the answer."""
        found = await tab.call("Network.getCookies", urls=[self.hub.url("gateway") + CALLBACK])
        return [item for item in found["cookies"] if "interlink" in item["name"]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    with ExitStack() as stack:
        chat = Chat(stack.enter_context(Subscriber()))
        chat.site.answer = chat.answer
        env = {
            "INTERLINK_RETURN_ORIGINS": f"{chat.origin},{chat.foreign_origin}",
            "INTERLINK_CHAT_NAME": "<Chat>",
            "INTERLINK_CHAT_URL": f"{chat.origin}/?from=hub&a=1",
        }
        folder = tmp_path_factory.mktemp("hub")
        hub = chat.hub = Hub(folder, bus, store, services=("gateway", "oauth"), env=env, entrance=True)
        stack.callback(hub.stop)
        hub.start()
        places = [hub.url("gateway") + CALLBACK, ELSEWHERE + CALLBACK]
        client = Client("hub", f"the-secret-of-the-hub-{token_hex(8)}", places)
        try:
            server = stack.enter_context(OidcProvider([client], access_token_s=600))
        except Unavailable as error:
            pytest.skip(str(error))
        settings = {
            "authorize_url": server.authorize_url,
            "token_url": server.token_url,
            "userinfo_url": server.userinfo_url,
            "revoke_url": server.revoke_url,
            "issuer": server.url,
        }
        body = {"client_id": client.id, "client_secret": client.secret, "settings": settings}
        assert hub.call("PUT", "/api/platform-credentials/oidc", body)["verified"]
        yield World(hub, server, chat, body)
        assert server.stats().faults == []


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as started:
        yield started


async def test_an_account_is_connected_with_two_clicks(world: World, chromium: Browser) -> None:
    """Connect here, allow there; the platform knows who it is from before."""
    async with chromium.user() as tab:
        await world.press(tab)
        await world.sign_in(tab, "ada")
        [cookie] = await world.cookies(tab)
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/api/auth/oauth")
        assert 500 < cookie["expires"] - (await tab.evaluate("Date.now()")) / 1000 < 605
        assert cookie["value"] not in await tab.evaluate("document.cookie")
        await tab.press("#allow")
        first = await world.back(tab)
        assert first == {"integration_id": first["integration_id"], "status": "connected"}
        assert [item["value"] for item in await world.cookies(tab)] == [cookie["value"]], "it may look again"
        shown = world.status(first["integration_id"])
        assert (shown["status"], shown["account"]["label"]) == ("connected", "ada@example.com")

        await world.press(tab)
        await tab.press("#allow")
        assert await world.back(tab) == first, "the account is connected already, and is not twice"
        assert world.account("ada") == [first["integration_id"]]
        world.hub.call("POST", f"/api/integrations/{first['integration_id']}/refresh")


async def test_an_account_is_connected_without_a_common_host_name(world: World, chromium: Browser) -> None:
    """By the hub's page and back: also where the provider asks nobody and sends everybody on at once."""
    foreign = world.chat.foreign_origin
    secret = f"the-secret-of-another-app-{token_hex(8)}"
    with RotatingServer("prompt", secret, world.hub.url("gateway") + CALLBACK) as prompt:
        body = {"client_id": "prompt", "client_secret": secret, "settings": prompt.settings, "verified": True}
        world.hub.call("PUT", "/api/platform-credentials/oidc", body | {"app": "prompt"})
        prompt.login("tina-at-once")
        for app, account in ((None, "tina"), ("prompt", "tina-at-once")):
            async with chromium.user() as tab:
                started = await asyncio.to_thread(
                    start, world.hub, service="gateway", return_to=f"{foreign}/back?tab=2", app=app
                )
                await tab.goto(started.connect_url)
                names = [await tab.see(f"#{name}") for name in ("provider", "workspace", "user", "return")]
                assert names == ["OpenID Connect", "default", USER, urlsplit(foreign).netloc]
                assert await tab.see("#chat") == "<Chat>"
                await tab.press("#continue")
                if app is None:
                    await world.sign_in(tab, account)
                    await tab.press("#allow")
                url = await tab.at(f"^{foreign}/back")
                came = dict(parse_qsl(urlsplit(url).query))
                record_secret("a confirmation code", came["confirmation_code"])
                assert came["status"] == "confirmation_required"
                assert tab.complaints == []
                assert world.account(account) == []
                answer = await asyncio.to_thread(
                    confirm, world.hub, came["confirmation_code"], service="gateway"
                )
                assert answer.status_code == 200, answer.text
                assert world.account(account) == [came["integration_id"]]


async def test_a_response_that_another_site_posts_is_accepted(world: World, chromium: Browser) -> None:
    """The provider is another site (`localhost`): the browser posts its response without the hub's cookie."""
    path, settings = "/api/platform-credentials/oidc", world.app["settings"]
    there = world.server.authorize_url.replace("127.0.0.1", "localhost")
    changed = {**settings, "authorize_url": there, "response_mode": "form_post"}
    world.hub.call("PUT", path, {**world.app, "settings": changed})
    try:
        async with chromium.user() as tab:
            await world.press(tab)
            await world.sign_in(tab, "posting")
            await tab.press("#allow")
            found = await world.back(tab)
        assert found["status"] == "connected"
        assert world.status(found["integration_id"])["account"]["id"] == "posting"
    finally:
        world.hub.call("PUT", path, {**world.app, "settings": {**settings, "response_mode": ""}})


async def test_a_denied_authorization_returns_with_the_error(world: World, chromium: Browser) -> None:
    async with chromium.user() as tab:
        await world.press(tab)
        await tab.press("#deny")
        detail = await world.back(tab)
        assert detail == {"error": "access_denied", "integration_id": detail["integration_id"]}
        world.status(detail["integration_id"], expect=404)
        assert await world.cookies(tab) == []

        await world.press(tab, return_to=None)
        await tab.press("#deny")
        assert await tab.see("#title") == "Not connected"
        assert await tab.see("#text") == "Access was denied at the provider."
        assert await tab.see(".code") == "access_denied"


async def test_the_page_runs_no_script_and_escapes_names(world: World, chromium: Browser) -> None:
    """Its policy keeps out scripts, styles, requests and frames; what an account is called is text."""
    name = "<img src=x onerror=document.title='hit'>"
    async with chromium.user() as tab:
        await world.press(tab, return_to=None)
        await world.sign_in(tab, name)
        await tab.press("#allow")
        assert await tab.see("#title") == "Connected"
        assert await tab.see("#text") == f"{name}@example.com is connected. You can close this window."
        url = await tab.url()
        assert re.fullmatch(world.hub.url("gateway") + "/api/auth/oauth/result/[0-9a-f]{64}", url)
        assert tab.complaints == []
        assert await tab.evaluate("document.querySelectorAll('img, script, link, form').length") == 0
        done = await tab.evaluate("""(async () => {
            const add = (name, text) => {
                const one = document.createElement(name);
                one.textContent = text;
                document.head.append(one);
            };
            add('script', 'window.hit = 1');
            add('style', 'h1 { color: rgb(1, 2, 3) }');
            const fetched = await fetch(location.origin + '/healthz').then(() => 'fetched', () => 'refused');
            const color = getComputedStyle(document.getElementById('title')).color;
            return [window.hit ?? 'not run', fetched, color === 'rgb(1, 2, 3)', document.title];
        })()""")
        assert done == ["not run", "refused", False, "Connected · <Chat>"]
        font = await tab.evaluate("getComputedStyle(document.body).fontFamily")
        assert "system-ui" in font, "its own style is let in"
        await tab.goto(world.chat.origin)
        await tab.evaluate(f"""
            const frame = document.createElement('iframe');
            frame.src = {json.dumps(url)};
            document.body.append(frame);
        """)
        async with asyncio.timeout(60):
            while not any("frame-ancestors" in item for item in tab.complaints):
                await tab.evaluate("new Promise((done) => setTimeout(done, 50))")


async def test_reload_and_back_button_show_the_same_result(world: World, chromium: Browser) -> None:
    async with chromium.user() as tab:
        await world.press(tab, return_to=None)
        await world.sign_in(tab, "rita")
        await tab.press("#allow")
        text = await tab.see("#text")
        assert text.startswith("rita@example.com is connected.")
        url = await tab.url()
        await tab.goto(url)
        assert (await tab.see("#title"), await tab.see("#text")) == ("Connected", text)
        assert (await tab.evaluate("document.title"), await tab.see("#chat")) == (
            "Connected · <Chat>",
            "<Chat>",
        )
        await tab.press("#back")
        assert await tab.at(f"^{world.chat.origin}/") == f"{world.chat.origin}/?from=hub&a=1"
        await tab.goto(url)
        assert await tab.see("#title") == "Connected"
        async with chromium.user() as other:
            await other.goto(url)
            assert await other.see("#title") == "Finished"
            assert "rita" not in await other.evaluate("document.body.textContent")


def test_another_process_shows_the_same_result(world: World, bus: Bus, store: Store, tmp_path: Path) -> None:
    with (
        second_process("oauth", world.hub, tmp_path, bus, store) as other,
        Person(world.hub, "pia", entrance="gateway") as pia,
    ):
        came = pia.consent(pia.connect("oidc")["authorization_url"])
        first = pia.client.get(came)
        here, elsewhere = world.hub.url("gateway"), other.url("oauth")
        second = pia.client.get(came.replace(here, elsewhere, 1))
        assert (first.status_code, second.status_code) == (303, 303)
        assert urlsplit(first.headers["location"]).path == urlsplit(second.headers["location"]).path
        page = pia.client.get(elsewhere + urlsplit(first.headers["location"]).path)
        assert "pia@example.com is connected" in page.text


async def test_another_browser_cannot_complete_the_authorization(world: World, chromium: Browser) -> None:
    """Somebody is sent a link of another's dance: his account is not connected."""
    async with chromium.user() as mallory, chromium.user() as victim:
        await world.press(mallory)
        await mallory.see("#login")
        with Person(world.hub, "mallory", entrance="gateway") as page:
            authorization = page.connect("oidc", return_to=f"{world.chat.origin}/back?tab=2")
        await victim.goto(authorization["authorization_url"])
        await world.sign_in(victim, "victim")
        await victim.press("#allow")
        assert await victim.see("#text") == "Continue in the browser in which you started, or start again."
        assert world.account("victim") == []
        assert world.status(authorization["integration_id"])["status"] == "pending"


async def test_connecting_again_keeps_the_integration(world: World, chromium: Browser) -> None:
    """After the person took the access away, and with two accounts of one provider."""
    async with chromium.user() as tab, chromium.user() as other:
        ids = []
        for item, name in ((tab, "cleo"), (other, "bob")):
            await world.press(item)
            await world.sign_in(item, name)
            await item.press("#allow")
            ids.append((await world.back(item))["integration_id"])
        cleo, bob = ids
        assert cleo != bob
        assert [world.account(name) for name in ("cleo", "bob")] == [[cleo], [bob]]

        assert await asyncio.to_thread(world.server.forget, "cleo") == 1
        world.use(cleo)
        eventually(lambda: world.status(cleo)["status"] == "reauth_required")
        assert world.status(bob)["status"] == "connected"

        await world.press(tab, integration=cleo)
        await tab.press("#allow")
        assert await world.back(tab) == {"integration_id": cleo, "status": "connected"}
        assert world.hub.call("POST", f"/api/integrations/{cleo}/check")["health"] == "ok"


async def test_another_account_is_accepted_only_with_any_account(world: World, chromium: Browser) -> None:
    """The new one is given back, or the old one is."""
    async with chromium.user() as tab, chromium.user() as other:
        await world.press(tab)
        await world.sign_in(tab, "dora")
        await tab.press("#allow")
        dora = (await world.back(tab))["integration_id"]

        before = world.server.stats()
        await world.press(other, integration=dora, return_to=None)
        await world.sign_in(other, "emil")
        await other.press("#allow")
        detail = "You signed in as emil@example.com, but this integration is for dora@example.com."
        assert (await other.see("#text")).startswith(detail)
        assert await other.see(".code") == "other_account"
        assert world.server.stats().since(before).revoked == 1
        assert (world.status(dora)["account"]["id"], world.account("emil")) == ("dora", [])
        assert world.hub.call("POST", f"/api/integrations/{dora}/refresh")["health"] == "ok"

        before = world.server.stats()
        await world.press(other, integration=dora, any_account=True)
        await other.press("#allow")
        assert await world.back(other) == {"integration_id": dora, "status": "connected"}
        assert (world.account("emil"), world.account("dora")) == ([dora], [])
        assert world.server.stats().since(before).revoked == 1
        assert world.hub.call("POST", f"/api/integrations/{dora}/refresh")["health"] == "ok"


def test_with_tls_the_cookie_is_the_hosts_own(world: World, bus: Bus, store: Store, tmp_path: Path) -> None:
    """`__Host-`: a sibling host can neither plant nor read it, and it never goes without TLS."""
    with (
        second_process("oauth", world.hub, tmp_path, bus, store, INTERLINK_PUBLIC_URL=ELSEWHERE) as other,
        Person(other, "tess") as tess,
    ):
        authorization = tess.connect("oidc")
        [cookie] = tess.client.cookies.jar
        assert cookie.name.startswith("__Host-interlink_oauth_")
        assert (cookie.path, cookie.secure, cookie.domain_specified) == ("/", True, False)
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "lax"
        came = tess.consent(authorization["authorization_url"])
        assert came.startswith(ELSEWHERE + CALLBACK + "?")
        there = other.url("oauth") + came.removeprefix(ELSEWHERE)
        plain = cookie.name.removeprefix("__Host-")
        answer = httpx.get(there, headers={"cookie": f"{plain}={cookie.value}"}, timeout=30)
        assert answer.status_code == 403
        answer = httpx.get(there, headers={"cookie": f"{cookie.name}={cookie.value}"}, timeout=30)
        assert answer.status_code == 303, answer.text
        result = other.url("oauth") + answer.headers["location"].removeprefix(ELSEWHERE)
        for name, label in ((cookie.name, True), (plain, False)):
            page = httpx.get(result, headers={"cookie": f"{name}={cookie.value}"}, timeout=30)
            assert (page.status_code, "tess@example.com" in page.text) == (200, label)
