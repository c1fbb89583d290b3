"""The console in a real browser: every page, both themes, wide and narrow, without a complaint."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.console.example_pages import filled, import_paths
from tests.console.keyboard import enter, go
from tests.console.page_checks import CUT, FAINT, LIGHT, SIZES, VIOLATIONS, WIDE, capture, resize
from tests.console.person import Person
from tests.console.role_controls import Controls, shape
from tests.support.browser import CHROMIUM, Browser, Tab, browser
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.npm import Unavailable
from tests.support.subscriber import Subscriber

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    """One browser for all tests: each person has a profile of their own in it."""
    async with browser(width=1280, height=900, flags=[LIGHT]) as started:
        yield started


@asynccontextmanager
async def signed_in(chromium: Browser, hub: Hub, key: str) -> AsyncIterator[Tab]:
    """A tab of somebody who has signed in by the form."""
    async with chromium.user() as tab:
        await tab.goto(f"{hub.url('gateway')}/console/sign-in")
        await tab.fill("#key", key)
        await tab.press("button.btn-primary")
        await tab.at("/console$")
        yield tab


@pytest.fixture
async def tab(chromium: Browser, hub: Hub) -> AsyncIterator[Tab]:
    async with signed_in(chromium, hub, hub.admin_key) as tab:
        yield tab


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
def pages(hub: Hub) -> list[str]:
    return list(dict.fromkeys(filled(hub)))


@pytest.fixture(scope="module", params=SIZES)
async def visited(
    chromium: Browser, hub: Hub, axe: str | Unavailable, pages: list[str], request: pytest.FixtureRequest
) -> Visited:
    """The pages as an admin sees them, in one theme, in each of its widths."""
    theme, found = str(request.param), Visited()
    async with signed_in(chromium, hub, hub.admin_key) as tab:
        await tab.evaluate(f"localStorage.setItem('theme', '{theme}')")
        for path in pages:
            await tab.goto(f"{hub.url('gateway')}/console{path}")
            await look(tab, path, theme, found, SIZES[theme], axe)
            await capture(tab, f"{path.strip('/').split('?')[0] or 'overview'}-{SIZES[theme][-1][0]}-{theme}")
            found.hosts |= await hosts_of(tab)
        found.complaints = [text for text in tab.complaints if "/console/nothing" not in text]
    return found


async def look(
    tab: Tab,
    path: str,
    theme: str,
    found: Visited,
    sizes: Sequence[tuple[int, int]],
    axe: str | Unavailable,
) -> None:
    """Look at a page in each width and zoom, and with axe in the last one."""
    if await tab.evaluate("document.documentElement.dataset.bsTheme") != theme:
        found.themes.add(f"{path} is not {theme}")
    if await tab.evaluate("document.querySelectorAll('h1').length") != 1:
        found.headings.append(path)
    for width, scale in sizes:
        await resize(tab, width, scale)
        found.wider += [f"{path} at {width}: {text}" for text in await tab.evaluate(CUT)]
        if width == WIDE or theme == "dark":
            found.faint |= {f"{theme} {path}: {text}" for text in await tab.evaluate(FAINT)}
    if isinstance(axe, str):
        await tab.evaluate(axe)
        found.violations += [(path, *violation) for violation in await tab.evaluate(VIOLATIONS)]


async def hosts_of(tab: Tab) -> set[str]:
    """The hosts of all that a page has loaded."""
    names = "performance.getEntriesByType('resource').map((entry) => entry.name)"
    return {urlsplit(name).netloc for name in await tab.evaluate(names)}


def test_every_page_is_right_in_both_themes_wide_and_narrow(hub: Hub, visited: Visited) -> None:
    assert visited.themes == set()
    assert visited.wider == []
    assert visited.headings == []
    assert visited.faint == set()
    assert visited.hosts == {urlsplit(hub.url("gateway")).netloc}
    assert visited.complaints == []


def test_axe_finds_nothing_to_object_to(visited: Visited, axe: str | Unavailable) -> None:
    if not isinstance(axe, str):
        pytest.skip(str(axe))
    assert visited.violations == [], "\n".join(map(str, visited.violations))


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_what_a_role_is_shown_is_right_and_works_for_it(
    chromium: Browser, hub: Hub, axe: str | Unavailable, pages: list[str], admin: Person, role: str
) -> None:
    """Every form that the role is shown is sent; no link and no form of a page is refused.

    The browser opens the pages that differ from those of an admin.
    """
    made = hub.call("POST", "/api/members", {"name": role, "role": role}, expect=201)
    person = Person(hub.url("gateway"))
    person.sign_in(made["key"])
    controls, found = Controls(person), Visited()
    controls.open(path for path in pages if path != "/nothing")
    async with signed_in(chromium, hub, made["key"]) as tab:
        for path, page in controls.opened.items():
            if shape(page) != shape(admin.open(f"/console{path}")):
                await tab.goto(f"{hub.url('gateway')}/console{path}")
                await look(tab, path, "light", found, [(WIDE, 1)], axe)
                found.hosts |= await hosts_of(tab)
        assert tab.complaints == []
    assert (found.headings, found.wider, found.faint, found.violations) == ([], [], set(), [])
    assert found.hosts == {urlsplit(hub.url("gateway")).netloc}
    assert controls.send() > 0
    assert controls.refused == []
    person.close()


async def test_the_overview_is_live_and_says_when_it_is_old(hub: Hub, tab: Tab) -> None:
    await tab.until("document.querySelector('#live .numbers') !== null")
    before = await tab.evaluate("document.querySelector('.numbers dd').closest('dl').innerText")
    hub.kill("delivery")
    try:
        await tab.until("document.body.innerText.includes('The service delivery does not answer')")
    finally:
        hub.start_service("delivery")
        hub.wait_ready("delivery")
    await tab.until("!document.body.innerText.includes('The service delivery does not answer')")
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
        await tab.until("document.querySelector('#live .status-green') !== null")
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
    await tab.until("document.querySelector('.stale').innerText.includes('does not answer')")
    receive()
    hub.start_service("console")
    hub.wait_ready("console")
    await tab.until(f"{row} === 3")
    assert await tab.evaluate("document.querySelector('.stale').hidden")
    assert await tab.evaluate("document.body.dataset.loaded") == "once"
    # Another tab signs in to another workspace: this one stays in its own.
    form = f"new URLSearchParams({{key: '{hub.other_workspace()}', next: '/console/statistics'}})"
    await tab.evaluate(f"fetch('/console/sign-in', {{method: 'POST', body: {form}}}).then(() => true)")
    hub.kill("console")
    hub.start_service("console")
    hub.wait_ready("console")
    receive()
    await tab.until(f"{row} === 4")
    assert f"workspace {hub.workspace}" in await tab.see("#menu .who")
    assert await tab.evaluate("document.body.dataset.loaded") == "once"


async def test_two_tabs_are_in_two_workspaces(chromium: Browser, hub: Hub, tab: Tab) -> None:
    await tab.goto(f"{hub.url('gateway')}/console/webhooks")
    address = "/console/sign-in?another=1&next=/console/webhooks"
    await tab.call("Runtime.evaluate", expression=f"window.open('{address}'), true", userGesture=True)
    async with chromium.target("another=1") as second:
        await second.fill("#key", hub.other_workspace())
        await second.press("button.btn-primary")
        await second.at("/console/in/other-[^/]+/webhooks$")
        assert "workspace other-" in await second.see("#menu .who")
        # Each goes on in its own, by links, by a form, and after a reload.
        await tab.call("Page.bringToFront")
        await tab.press("#menu a[href='/console/deliveries']")
        await tab.at("/console/deliveries$")
        await tab.reload()
        assert f"workspace {hub.workspace}" in await tab.see("#menu .who")
        await second.call("Page.bringToFront")
        await second.press("#menu a[href$='/webhooks']")
        await second.at("/console/in/other-[^/]+/webhooks$")
        await second.press("main a[href$='/webhooks/do/create']")
        await second.fill("#f-name", "of the second")
        await second.fill("#f-url", "https://receiver.example.com/second")
        await second.press("input[name=pick][value='*']")
        await second.press("button[value=save]")
        await second.until("document.body.innerText.includes('The webhook was created')")
        await second.at("/console/in/other-")
        await tab.call("Page.bringToFront")
        await tab.goto(f"{hub.url('gateway')}/console/webhooks")
        assert "of the second" not in await tab.text()
        await second.call("Page.bringToFront")
        await second.press("#menu a[href$='/webhooks']")
        await second.until("document.body.innerText.includes('of the second')")
        assert second.complaints == tab.complaints == []


async def test_a_webhook_is_created_and_sent_again_and_an_import_started_by_keyboard(
    hub: Hub, tab: Tab
) -> None:
    """No mouse from the overview on."""
    answers = [web.Response(status=403)]
    with Subscriber(lambda _: answers[0] if answers else None) as receiver:
        await go(tab, "#menu a[href='/console/webhooks']")
        await tab.at("/console/webhooks$")
        await go(tab, "main a[href='/console/webhooks/do/create']")
        await tab.at("/do/create$")
        await enter(tab, "#f-name", "by keyboard")
        await enter(tab, "#f-url", receiver.url)
        await go(tab, "input[name=pick][value='*']", "Space")
        await go(tab, "button[value=save]")
        await tab.until("document.body.innerText.includes('The webhook was created')")
        [webhook] = [
            item
            for item in hub.call("GET", "/api/outgoing-webhooks")["items"]
            if item["name"] == "by keyboard"
        ]
        await tab.goto(f"{hub.url('gateway')}/console/webhooks/{webhook['id']}")
        await go(tab, f"main form[action='/console/webhooks/{webhook['id']}/do/test'] button")
        eventually(lambda: hub.call("GET", f"/api/dead-letters?webhook_id={webhook['id']}")["items"])
        await tab.goto(f"{hub.url('gateway')}/console/deliveries?webhook_id={webhook['id']}")
        await go(tab, "main table a[href^='/console/deliveries/dlv_']")
        await tab.at("/console/deliveries/dlv_")
        answers.clear()
        await go(tab, "form[action$='/do/retry'] button")
        await tab.until("document.querySelector('#live .status-green') !== null")
    [own, *_] = import_paths(hub)
    await tab.goto(f"{hub.url('gateway')}/console{own}")
    await go(tab, "main a[href$='/do/start']")
    await tab.at("/do/start$")
    await go(tab, "main form.form button")
    eventually(lambda: hub.call("GET", f"/api{own}")["status"] != "ready")
    assert tab.complaints == []
