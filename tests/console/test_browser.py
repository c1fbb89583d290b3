"""The console in a real browser: every page, both themes, wide and narrow, without a complaint."""

import base64
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

import interlink.examples
from services.console.pages.registry import KINDS
from tests.importer.archives import zipped
from tests.importer.test_imports import reached, uploaded
from tests.support.browser import CHROMIUM, Tab, browser
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.npm import Unavailable, installed
from tests.support.subscriber import Subscriber

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

LIGHT = "--disable-features=BackForwardCache,ProactivelySwapBrowsingInstance,AutofillServerCommunication"
"""Pages that were left are not kept, and the next one is shown by the same process: a fifth less CPU time."""
NARROWEST = 320
"""A page of 1280 at 400 % (WCAG 2.2, 1.4.10): nothing is wider than this."""
WIDTHS = (1280, 390)
THEMES = ("light", "dark")
OBJECTED = ((1280, "light"), (390, "dark"))
"""The widths and themes that axe looks at."""

FAINT = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const known = new Map();
  const rgba = (colour) => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      known.set(colour, [r, g, b, a / 255]);
    }
    return known.get(colour);
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const ground = (element) => {
    const own = rgba(getComputedStyle(element).backgroundColor);
    if (own[3] === 1) return own;
    return over(own, element.parentElement ? ground(element.parentElement) : rgba("Canvas"));
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Set(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    const below = ground(element), text = over(rgba(getComputedStyle(element).color), below);
    const [dark, bright] = [light(below), light(text)].sort((a, b) => a - b);
    const contrast = (bright + 0.05) / (dark + 0.05);
    if (contrast < 4.5) found.add(`${element.tagName}.${element.className} ${contrast.toFixed(2)}`);
  }
  return [...found];
})()"""
"""Texts that are too faint on their ground: below a contrast of 4.5:1 (WCAG 2.2, 1.4.3)."""


@asynccontextmanager
async def signed_in(hub: Hub) -> AsyncIterator[Tab]:
    """A tab of somebody who has signed in by the form."""
    async with browser(width=1280, height=900, flags=[LIGHT]) as started, started.user() as tab:
        await tab.goto(f"{hub.url('gateway')}/console/sign-in")
        await tab.fill("#key", hub.admin_key)
        await tab.press("button.btn-primary")
        await tab.at("/console$")
        yield tab


@pytest.fixture
async def tab(hub: Hub) -> AsyncIterator[Tab]:
    async with signed_in(hub) as tab:
        yield tab


def filled(hub: Hub) -> list[str]:
    """Create one object of each kind; return the pages of all lists, forms and objects."""
    long = "a name without any space in it " + "x" * 60
    endpoint = hub.github_endpoint(name=long[:90])
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/hook", name=long[:90])["id"]
    delivery = hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test")["delivery_id"]
    hub.call("POST", f"/api/inbound-endpoints/{endpoint['id']}/test", {})
    events = f"/api/inbound-endpoints/{endpoint['id']}/events"
    eventually(lambda: hub.call("GET", events)["items"])
    execution = hub.call("GET", events)["items"][0]["id"]
    eventually(
        lambda: [item for item in hub.deliveries() if item["id"] == delivery and item["attempt_count"]]
    )
    paths = ["", "/statistics", "/help", "/sessions", "/find?id=C0123456789", "/nothing"]
    for kind in KINDS:
        if "{" not in kind.path:
            paths.append(f"/{kind.path}")
            paths += [f"/{kind.path}/do/{action.name}" for action in kind.list_actions]
    paths += [f"/endpoints/{endpoint['id']}", f"/endpoints/{endpoint['id']}/events"]
    paths += [f"/endpoints/{endpoint['id']}/events/{execution}", f"/webhooks/{webhook}"]
    paths += [
        f"/webhooks/{webhook}/do/edit",
        f"/deliveries/{delivery}",
        f"/webhooks/{webhook}/do/recover",
        f"/webhooks/{webhook}/do/delete",
    ]
    paths += [
        "/imports/new",
        "/event-types/message.created",
        "/catalogue",
        "/catalogue/github",
        "/catalogue/github/oauth2",
    ]
    paths += ["/catalogue/github/oauth2", "/catalogue/github/oauth-app", "/catalogue/telegram"]
    member = hub.call("POST", "/api/members", {"name": long[:90], "role": "viewer"}, expect=201)["id"]
    paths += [f"/members/{member}", f"/members/{member}/do/remove"]
    paths += ["/connected?error=access_denied&provider=github", "/endpoints/new"]
    paths += [
        "/endpoints/new/slack",
        f"/endpoints/{endpoint['id']}/setup",
        f"/endpoints/{endpoint['id']}/do/edit",
    ]
    return [*paths, *import_paths(hub)]


def import_paths(hub: Hub) -> list[str]:
    """Try an import of the sample export, and map channels; return the pages of both."""
    folder = Path(interlink.examples.__file__).parent / "slack-export"
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.json")}
    made = hub.call(
        "POST", "/api/imports", {"upload_id": uploaded(hub, zipped(files).getvalue())}, expect=201
    )
    reached(hub, made["id"], "ready")
    hub.call("POST", f"/api/imports/{made['id']}/start", {"dry_run": True})
    eventually(lambda: reached(hub, made["id"], "ready")["dry_run"])
    legs = [{"provider": "chat", "conversation": f"{name}-{made['id']}"} for name in ("one", "two")]
    mapping = hub.call("POST", "/api/mappings", {"name": "two channels", "legs": legs}, expect=201)["id"]
    own = f"/imports/{made['id']}"
    found = [f"{own}/{part}" for part in ("people", "channels", "options", "report", "do/undo")]
    found += ["/imports/account", "/mappings/find", f"/mappings/{mapping}", f"/mappings/{mapping}/do/edit"]
    return [own, *found]


@dataclass
class Visited:
    """What was found on the pages: each is opened once in each theme, and looked at wide and narrow."""

    themes: set[str] = field(default_factory=set)
    wider: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    faint: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    violations: list[tuple[Any, ...]] = field(default_factory=list)


@pytest.fixture(scope="module")
async def visited(hub: Hub, axe: str | Unavailable) -> Visited:
    base, paths, found = hub.url("gateway"), dict.fromkeys(filled(hub)), Visited()
    async with signed_in(hub) as tab:
        for theme in THEMES:
            await tab.evaluate(f"localStorage.setItem('theme', '{theme}')")
            for path in paths:
                await tab.goto(f"{base}/console{path}")
                if await tab.evaluate("document.documentElement.dataset.bsTheme") != theme:
                    found.themes.add(f"{path} is not {theme}")
                if await tab.evaluate("document.querySelectorAll('h1').length") != 1:
                    found.headings.append(path)
                for width in (NARROWEST, *WIDTHS):
                    await resize(tab, width)
                    overflow = await tab.evaluate("document.documentElement.scrollWidth - innerWidth")
                    if overflow > 0:
                        found.wider.append(f"{path} is {overflow} px wider than {width}")
                    if width == NARROWEST:
                        continue
                    found.faint |= {f"{theme} {path}: {text}" for text in await tab.evaluate(FAINT)}
                    if (width, theme) in OBJECTED:
                        await capture(tab, f"{path.strip('/').split('?')[0] or 'overview'}-{width}-{theme}")
                    if isinstance(axe, str) and (width, theme) in OBJECTED:
                        await tab.evaluate(axe)
                        violations = await tab.evaluate(VIOLATIONS)
                        found.violations += [(path, theme, width, *violation) for violation in violations]
                hosts = "performance.getEntriesByType('resource').map((entry) => entry.name)"
                found.hosts |= {urlsplit(host).netloc for host in await tab.evaluate(hosts)}
        found.complaints = [text for text in tab.complaints if "/console/nothing" not in text]
    return found


def test_every_page_is_right_in_both_themes_wide_and_narrow(hub: Hub, visited: Visited) -> None:
    assert visited.themes == set()
    assert visited.wider == []
    assert visited.headings == []
    assert visited.faint == set()
    assert visited.hosts == {urlsplit(hub.url("gateway")).netloc}
    assert visited.complaints == []


async def resize(tab: Tab, width: int) -> None:
    await tab.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
    )


async def capture(tab: Tab, name: str) -> None:
    """Store a picture of the page in the folder that a variable names; ids are left out of its name."""
    if folder := os.environ.get("INTERLINK_SCREENSHOTS"):
        shot = await tab.call("Page.captureScreenshot", format="webp", quality=45)
        name = re.sub(r"[a-z]{2,4}_[0-9a-f]{32}", "one", name).replace("/", "-")
        (Path(folder) / f"{name}.webp").write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture(scope="module")
def axe() -> str | Unavailable:
    """The script of axe-core, or why it is not there."""
    try:
        folder = installed(Path(__file__).parents[1] / "support" / "axe")
    except Unavailable as reason:
        return reason
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


def test_axe_finds_nothing_to_object_to(visited: Visited, axe: str | Unavailable) -> None:
    if not isinstance(axe, str):
        pytest.skip(str(axe))
    assert visited.violations == [], "\n".join(map(str, visited.violations))


VIOLATIONS = """axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']}).then(
    ({violations}) => violations.map(({id, nodes}) => [id, nodes.slice(0, 3).map((node) => node.html)]))"""


async def test_the_overview_is_live_and_says_when_it_is_old(hub: Hub, tab: Tab) -> None:
    await tab.until("document.querySelector('#live .numbers') !== null")
    before = await tab.evaluate("document.querySelector('.numbers dd').closest('dl').innerText")
    hub.kill("delivery")
    try:
        await tab.until("document.body.innerText.includes('The service delivery does not answer')", 15)
    finally:
        hub.start_service("delivery")
        hub.wait_ready("delivery")
    await tab.until("!document.body.innerText.includes('The service delivery does not answer')", 15)
    assert before
    assert tab.complaints == []


async def test_the_menu_opens_on_a_narrow_page_and_the_theme_is_changed(hub: Hub, tab: Tab) -> None:
    await resize(tab, 390)
    await tab.reload()
    assert not await tab.evaluate("document.querySelector('#menu').checkVisibility()")
    await tab.press(".menu-button")
    await tab.until("document.querySelector('#menu').checkVisibility()")
    await tab.press("#menu a[href='/console/webhooks']")
    await tab.at("/console/webhooks$")
    before = await tab.evaluate("document.documentElement.dataset.bsTheme")
    await tab.press("button.theme")
    assert await tab.evaluate("document.documentElement.dataset.bsTheme") != before
    assert await tab.evaluate("Object.keys(localStorage).join()") == "theme"
    assert tab.complaints == []


async def test_a_failed_delivery_is_retried_and_its_page_follows(hub: Hub, tab: Tab) -> None:
    answers = [web.Response(status=403, text="who are you?")]
    with Subscriber(lambda _: answers[0] if answers else None) as receiver:
        webhook = hub.outgoing_webhook(receiver.url, name="followed")["id"]
        delivery = hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test")["delivery_id"]
        eventually(
            lambda: hub.call("GET", f"/api/dead-letters?webhook_id={webhook}")["items"],
        )
        await tab.goto(f"{hub.url('gateway')}/console/deliveries/{delivery}")
        assert "The receiver forbids the request" in await tab.text()
        assert "who are you?" in await tab.text()
        assert await tab.evaluate("document.querySelector('time').title.endsWith(' UTC)')")
        answers.clear()
        await tab.press("form[action$='/do/retry'] button")
        await tab.until("document.querySelector('#live .status-green') !== null", 15)
        assert await tab.evaluate("document.querySelectorAll('.timeline > li').length") == 2
        assert tab.complaints == []


async def test_what_happens_is_seen_without_a_reload_unless_it_is_paused(hub: Hub, tab: Tab) -> None:
    endpoint = hub.github_endpoint(name="watched")
    row = f"document.querySelectorAll('#rows a[href*=\"{endpoint['id']}\"]').length"

    def receive() -> None:
        hub.call("POST", f"/api/inbound-endpoints/{endpoint['id']}/test", {})

    await tab.evaluate("document.body.dataset.loaded = 'once'")
    receive()
    await tab.until(f"{row} === 1")
    await tab.evaluate("document.querySelector('#rows a').focus()")
    await tab.press("button.pause")
    receive()
    await tab.until("document.querySelector('.held').innerText === 'Paused: 1 new events.'")
    assert await tab.evaluate(row) == 1
    await tab.press("button.pause")
    await tab.until(f"{row} === 2")
    # A dead letter is made: the figures change while a link of them has the focus.
    await tab.evaluate("document.querySelector('#rows a').focus()")
    dead = "[...document.querySelectorAll('#figures [id^=dead-]')].map((item) => item.id).join()"
    before = await tab.evaluate(dead)
    with Subscriber(lambda _: web.Response(status=403)) as receiver:
        webhook = hub.outgoing_webhook(receiver.url, name="dead")["id"]
        hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test")
        await tab.until(f"{dead} !== {before!r}")
    assert await tab.evaluate("document.activeElement.closest('#rows') !== null")
    assert await tab.evaluate("document.body.dataset.loaded") == "once"
    hub.kill("console")
    await tab.until("document.querySelector('.stale').innerText.includes('does not answer')", 20)
    receive()
    hub.start_service("console")
    hub.wait_ready("console")
    await tab.until(f"{row} === 3", 20)
    assert await tab.evaluate("document.querySelector('.stale').hidden")
    assert await tab.evaluate("document.body.dataset.loaded") == "once"


async def test_a_webhook_is_created_and_sent_again_and_an_import_started_by_keyboard(
    hub: Hub, tab: Tab
) -> None:
    """No mouse from the overview on; what has the focus can be seen."""

    async def go(selector: str, key: str = "Enter") -> None:
        await tab.tab_to(selector)
        assert await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", selector
        await tab.key(key)

    async def enter(selector: str, text: str) -> None:
        await tab.tab_to(selector)
        await tab.call("Input.insertText", text=text)

    answers = [web.Response(status=403)]
    with Subscriber(lambda _: answers[0] if answers else None) as receiver:
        await go("#menu a[href='/console/webhooks']")
        await tab.at("/console/webhooks$")
        await go("main a[href='/console/webhooks/do/create']")
        await tab.at("/do/create$")
        await enter("#f-name", "by keyboard")
        await enter("#f-url", receiver.url)
        await go("input[name=pick][value='*']", "Space")
        await go("button[value=save]")
        await tab.until("document.body.innerText.includes('The webhook is there')")
        [webhook] = [
            item
            for item in hub.call("GET", "/api/outgoing-webhooks")["items"]
            if item["name"] == "by keyboard"
        ]
        await tab.goto(f"{hub.url('gateway')}/console/webhooks/{webhook['id']}")
        await go(f"main form[action='/console/webhooks/{webhook['id']}/do/test'] button")
        eventually(lambda: hub.call("GET", f"/api/dead-letters?webhook_id={webhook['id']}")["items"])
        await tab.goto(f"{hub.url('gateway')}/console/deliveries?webhook_id={webhook['id']}")
        await go("main table a[href^='/console/deliveries/dlv_']")
        await tab.at("/console/deliveries/dlv_")
        answers.clear()
        await go("form[action$='/do/retry'] button")
        await tab.until("document.querySelector('#live .status-green') !== null", 15)
    [own, *_] = import_paths(hub)
    await tab.goto(f"{hub.url('gateway')}/console{own}")
    await go("main a[href$='/do/start']")
    await tab.at("/do/start$")
    await go("main form.form button")
    eventually(lambda: hub.call("GET", f"/api{own}")["status"] != "ready")
    assert tab.complaints == []
