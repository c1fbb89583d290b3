"""In a real browser, a chat's page of another origin embeds the portal, and accounts are connected."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.console.keyboard import enter, go
from tests.console.page_checks import FAINT, LIGHT, NARROWEST, OBJECTED, VIOLATIONS, resize
from tests.console.test_connect import BOT_TOKEN, somebody, telegram
from tests.console.test_connect_window import CHAT, connect, window_of
from tests.support.backends import Bus, Store
from tests.support.browser import CHROMIUM, Browser, Tab, browser
from tests.support.fakes.oauth_hub import OAuthHub
from tests.support.npm import Unavailable
from tests.support.provider_hosts import HostRequest, Reply
from tests.support.recorded_secrets import record_secret

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
CONTENT = {"html": ""}
"""The body of the chat's page, and of another site's."""
_NAMES = ("opened", "focused", "connected", "failed", "closed")
_SCRIPT = f"""
window.events = [];
for (const name of {json.dumps(_NAMES)}) addEventListener(`interlink-connect:${{name}}`, (event) => {{
  window.events.push([name, event.detail]);
}});
"""


def chat(request: HostRequest) -> Reply:
    if request.path != "/":
        return Reply.gone()
    head = "<!doctype html><html lang=en><meta charset=utf-8><title>Chat</title>"
    return Reply.html(f"{head}<h1>Chat</h1><script>{_SCRIPT}</script>{CONTENT['html']}")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[OAuthHub]:
    record_secret("a bot's token", BOT_TOKEN)
    hosts = {"api.telegram.org": telegram, "chat.example.com": chat, "other.example.com": chat}
    services = ("gateway", "oauth", "console", "delivery")
    with OAuthHub(tmp_path_factory.mktemp("stage"), bus, store, hosts, services) as stage:
        yield stage


@pytest.fixture
async def started(stage: OAuthHub) -> AsyncIterator[Browser]:
    async with browser(proxy=stage.platforms.proxy) as started:
        yield started


async def events(tab: Tab, count: int) -> list[Any]:
    await tab.until(f"window.events.length >= {count}")
    return list(await tab.evaluate("window.events"))


def element(stage: OAuthHub, **fields: Any) -> dict[str, Any]:
    """Put the element into the chat's page; return its session."""
    made = connect(stage.hub, **fields)
    address = f"{stage.hub.url('gateway')}/console/embed/interlink-connect.js"
    script = f'<script type="module" src="{address}"></script>'
    CONTENT["html"] = f'{script}<interlink-connect session="{made["session"]}"></interlink-connect>'
    return made


async def test_the_portal_works_within_a_page_of_an_allowed_origin_only(
    stage: OAuthHub, started: Browser
) -> None:
    body = {"customer": "acme", "events": ["message.created"], "origins": [CHAT]}
    made = stage.hub.call("POST", "/api/portal-sessions", body, expect=201)
    CONTENT["html"] = f'<iframe src="{made["url"]}" width="1000" height="700" title="Webhooks"></iframe>'
    async with started.user() as tab:
        await tab.goto("https://other.example.com/")
        await tab.until("document.querySelector('iframe') !== null")
        async with asyncio.timeout(60):
            while not any("frame-ancestors" in text for text in tab.complaints):
                await tab.evaluate("1")  # which reads what the browser complains about
        made = stage.hub.call("POST", "/api/portal-sessions", body, expect=201)
        CONTENT["html"] = f'<iframe src="{made["url"]}" width="1000" height="700" title="Webhooks"></iframe>'
        tab.complaints.clear()
        await tab.goto(f"{CHAT}/")
        async with started.target(f"/portal/{made['id']}/webhooks") as frame:
            await frame.press("a[href$='/do/create']")
            await frame.at("/do/create$")
            await frame.evaluate("document.querySelector('#f-name').value = 'from the frame'")
            await frame.evaluate("document.querySelector('#f-url').value = 'https://receiver.example/'")
            await frame.evaluate("document.querySelector('input[value=\"message.created\"]').checked = true")
            await frame.evaluate("document.querySelector('button[value=save]').click()")
            await frame.until("document.body.innerText.includes('whsec_')")
            found = stage.hub.call("GET", "/api/outgoing-webhooks?customer=acme")["items"]
            assert [item["name"] for item in found] == ["from the frame"]
        await tab.reload()  # the address is opened again
        async with started.target(f"/portal/{made['id']}/webhooks") as frame:
            await frame.until("document.body.innerText.includes('from the frame')")
        assert tab.complaints == []


async def test_manual_credentials_connect_an_account_and_a_second_click_finds_the_window(
    stage: OAuthHub, started: Browser
) -> None:
    made = element(stage, providers=["telegram"])
    async with started.user() as tab:
        await tab.goto(f"{CHAT}/")
        await tab.press("interlink-connect")
        assert await events(tab, 1) == [["opened", {}]]
        async with started.target(f"/connect/{made['id']}") as window:
            await window.until("!document.querySelector('#asked').hidden")
            await tab.press("interlink-connect")
            assert (await events(tab, 2))[1] == ["focused", {}]
            await window.evaluate("document.querySelector('#asked a').click()")
            await window.until("document.querySelector('#asked input[type=password]') && !asked.hidden")
            await window.evaluate(f"document.querySelector('input[type=password]').value = '{BOT_TOKEN}'")
            with contextlib.suppress(AssertionError, TypeError):  # the window closes by itself
                await window.evaluate("document.querySelector('#asked form').submit()")
        [_, _, (name, detail)] = await events(tab, 3)
        assert (name, detail["status"], detail["provider"]) == ("connected", "connected", "telegram")
        assert stage.shown(detail["integrationId"])["user"] == "ada"
        assert tab.complaints == []


async def test_consent_comes_back_with_a_code_and_only_to_the_page_of_the_session(
    stage: OAuthHub, started: Browser
) -> None:
    somebody(stage, "github")
    made = element(stage, providers=["github"])
    async with started.user() as tab:
        # A page of another origin opens the same window: it gets nothing, and the forms stay hidden.
        await tab.goto("https://other.example.com/")
        await tab.evaluate(
            "window.heard = []; addEventListener('message', (event) => heard.push(event.data))"
        )
        await tab.press("interlink-connect")
        async with started.target(f"/connect/{made['id']}") as window:
            await window.until("document.querySelector('#unasked') !== null")
            assert await window.evaluate("document.querySelector('#asked').hidden")
        assert await tab.evaluate("window.heard") == []
        made = element(stage, providers=["github"])
        await tab.goto(f"{CHAT}/")
        await tab.press("interlink-connect")
        async with started.target(f"/connect/{made['id']}") as window:
            await window.until("!document.querySelector('#asked').hidden")
            await window.evaluate("document.querySelector('#asked form').submit()")
            await window.at("/api/auth/oauth/start")
            with contextlib.suppress(AssertionError, TypeError):
                await window.evaluate("document.querySelector('form').submit()")
        [_, (name, detail)] = await events(tab, 2)
        assert (name, detail["status"]) == ("connected", "confirmation_required")
        body = {"confirmation_code": detail["confirmationCode"], "user": "ada"}
        assert stage.hub.call("POST", "/api/auth/oauth/confirm", body)["status"] == "connected"


async def test_what_goes_wrong_is_an_event(stage: OAuthHub, started: Browser) -> None:
    made = element(stage)
    async with started.user() as tab:
        await tab.goto(f"{CHAT}/")
        await tab.press("interlink-connect")
        async with started.target(f"/connect/{made['id']}") as window:
            with contextlib.suppress(AssertionError, TypeError):
                await window.evaluate("window.close()")
        assert [name for name, _ in await events(tab, 2)] == ["opened", "closed"]
        await tab.evaluate("events.length = 0; window.open = () => null")
        await tab.press("interlink-connect")
        assert await events(tab, 1) == [["failed", {"error": "popup_blocked"}]]
        await tab.evaluate("document.querySelector('interlink-connect').setAttribute('session', '')")
        await tab.evaluate("events.length = 0")
        await tab.press("interlink-connect")
        assert await events(tab, 1) == [["failed", {"error": "no_session"}]]


async def test_accounts_are_connected_in_the_console_by_keyboard_alone(
    stage: OAuthHub, started: Browser
) -> None:
    fake = somebody(stage, "github")
    async with started.user() as tab:
        await tab.goto(f"{stage.hub.url('gateway')}/console/sign-in")
        await enter(tab, "#key", stage.hub.admin_key)
        await tab.key("Enter")
        await tab.at("/console$")
        await go(tab, "#menu a[href='/console/catalogue']")
        await tab.at("/console/catalogue$")
        await enter(tab, "main input[name=q]", "github")
        await tab.key("Enter")
        await tab.at("q=github")
        await go(tab, "main a[href='/console/catalogue/github']")
        await tab.at("/catalogue/github$")
        await go(tab, "main form[action$='/github/oauth2'] button")
        await go(tab, "main a.btn-primary[href^='https://github.com/']")
        connected = await tab.at("/console/integrations/int_")
        assert "The account is connected." in await tab.text()
        shown = stage.shown(urlsplit(connected).path.rpartition("/")[2])
        assert (shown["status"], shown["account"]["id"]) == ("connected", fake.accounts[0].id)
        await tab.goto(f"{stage.hub.url('gateway')}/console/catalogue/telegram")
        await go(tab, "main a[href$='/telegram/bot_token']")
        await enter(tab, "main input[type=password]", BOT_TOKEN)
        await tab.key("Enter")
        await tab.at("/console/integrations/int_")
        assert "The account is connected." in await tab.text()
        assert tab.complaints == []


async def test_every_page_is_legible_in_both_themes_wide_and_narrow(
    stage: OAuthHub, axe: str | Unavailable
) -> None:
    somebody(stage, "github")
    body: dict[str, Any] = {"customer": "looks", "events": ["message.created"], "origins": [CHAT]}
    webhook = {"name": "n" * 60, "url": "https://receiver.example/", "events": ["message.created"]}
    made = stage.hub.call("POST", "/api/outgoing-webhooks", {**webhook, "customer": "looks"}, expect=201)
    own = {"background": "#101820", "text": "#f0f0f0", "accent": "#1a7f37", "radius": "6px"}
    found: list[Any] = []
    async with browser(width=1280, height=900, flags=[LIGHT]) as started:
        for theme in ({}, own):
            portal = stage.hub.call("POST", "/api/portal-sessions", {**body, "theme": theme}, expect=201)
            window = connect(stage.hub, theme=theme, user="u" * 60)
            base, chat_page = stage.hub.url("gateway"), f"/console/connect/{window['id']}"
            home = f"/console/portal/{portal['id']}/webhooks"
            item = f"{home}/{made['id']}"
            paths = [home, f"{home}/do/create", item, f"{item}/do/edit"]
            paths += [f"{item}/deliveries", chat_page]
            paths += [f"{chat_page}/telegram/bot_token", f"{chat_page}/done?integration_id=unknown"]
            async with started.user() as tab:
                await tab.goto(portal["url"])
                await tab.goto(base + window_of(window))
                for width, scheme in OBJECTED[:1] if theme else OBJECTED:
                    await tab.evaluate(f"localStorage.setItem('theme', '{scheme}')")
                    for path in paths:
                        await tab.goto(base + path)
                        # The forms of a window are hidden until the chat's page has answered.
                        await tab.evaluate(
                            "document.querySelectorAll('#asked').forEach((it) => it.hidden = 0)"
                        )
                        shown = await tab.evaluate("document.documentElement.dataset.bsTheme")
                        if shown != ("dark" if theme else scheme):
                            found.append((path, scheme, shown))
                        if await tab.evaluate("document.querySelectorAll('h1').length") != 1:
                            found.append((path, "headings"))
                        await resize(tab, NARROWEST)
                        if await tab.evaluate("document.documentElement.scrollWidth > innerWidth"):
                            found.append((path, f"is wider than {NARROWEST} px"))
                        await resize(tab, width)
                        looked = [(path, scheme, text) for text in await tab.evaluate(FAINT)]
                        if isinstance(axe, str):
                            await tab.evaluate(axe)
                            looked += [(path, scheme, item) for item in await tab.evaluate(VIOLATIONS)]
                        found += looked
    assert found == []
