"""The example chat in a browser, in a mapping with Slack and Telegram: what people do appears everywhere."""

import base64
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import pytest

from tests.support.backends import Bus, Store
from tests.support.browser import CHROMIUM, Tab, browser
from tests.support.minichat import minichat
from tests.support.ports import free_port
from tests.sync.places import ADA, GRACE, Shown, SlackPlace, TelegramPlace
from tests.sync.three_legs import ThreeLegs, World, connected

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ANN = "Ann"


@pytest.fixture(scope="module")
def port() -> int:
    """The port of the page, whose files the hub may fetch."""
    return free_port()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store, port: int) -> Iterator[World]:
    files = f"http://127.0.0.1:{port}/files"
    with connected(tmp_path_factory.mktemp("world"), bus, store, INTERLINK_CHAT_FILES_URL=files) as found:
        yield found


@pytest.fixture(scope="module")
def address(world: World, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("minichat")
    with minichat(folder, world.hub.bus.env, world.hub.workspace, port) as found:
        yield found


@dataclass
class Page:
    """A channel of the page, and where it is mapped to."""

    tab: Tab
    legs: ThreeLegs

    @property
    def slack(self) -> SlackPlace:
        return self.legs.slack

    @property
    def telegram(self) -> TelegramPlace:
        return self.legs.telegram

    async def write(self, text: str, author: str = ANN) -> None:
        """Write in the form, and send it."""
        await self.tab.fill("#name", author)
        await self.tab.fill("#text", text)
        await self.tab.press("form > button:last-of-type")

    async def press(self, text: str, label: str) -> None:
        """Press a button of the message that has this text."""
        await self.tab.evaluate(
            f"[...{_message(text)}.querySelectorAll('button')]"
            f".find((one) => one.textContent.startsWith({json.dumps(label)})).click()"
        )

    async def shows(self, text: str, *parts: str) -> None:
        """Wait until the message that has this text has all of these parts too."""
        for part in parts or (text,):
            await self.tab.until(f"{_message(text)}?.innerText.includes({json.dumps(part)})")

    async def sent(self, text: str) -> None:
        """Wait until the message is in both other places, as the page says."""
        await self.shows(text, "✓ Slack: sent", "✓ Telegram: sent")

    def outside(self, text: str, look: Callable[[Shown], object]) -> None:
        """Wait until the message with this text is in both other places, and this holds for it there."""

        def everywhere() -> bool:
            return all(
                any(one.text.endswith(text) and look(one) for one in place.shown())
                for place in (self.slack, self.telegram)
            )

        self.legs.until(everywhere)

    async def capture(self, name: str) -> None:
        """Store a picture of the page in the folder that a variable names."""
        if folder := os.environ.get("INTERLINK_SCREENSHOTS"):
            shot = await self.tab.call("Page.captureScreenshot")
            (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def _message(text: str) -> str:
    """The script for the last message of the page that has this text in it, not in what it answers."""
    own = "[...one.querySelectorAll('.body > :not(.answers)')]"
    has = f"{own}.some((part) => part.innerText.includes({json.dumps(text)}))"
    return f"[...document.querySelectorAll('article')].filter((one) => {has}).pop()"


@pytest.fixture
async def page(world: World, address: str) -> AsyncIterator[Page]:
    """A new channel of the page, mapped to a channel of Slack and a group of Telegram."""
    legs, channel = world.legs(), f"ch-{token_hex(4)}"
    group = {"provider": "telegram", "conversation": str(legs.telegram.chat.id)}
    chat = {"provider": "chat", "conversation": channel}
    legs.id = world.create_mapping(world.slack_leg(legs.slack.channel), group, chat)
    async with browser(width=1200, height=800, proxy=world.hosts.proxy) as started, started.user() as tab:
        await tab.goto(f"{address}/#{channel}")
        await tab.until("document.getElementById('live').className === 'on'")
        yield Page(tab, legs)


async def test_what_people_do_on_the_page_is_seen_outside(page: Page, tmp_path: Path) -> None:
    await page.write("the first form")
    await page.sent("the first form")
    await page.press("the first form", "Edit")
    await page.write("the **second** form")
    page.outside("the second form", lambda one: one.edited and one.author == ANN)
    await page.press("second", "Reply")
    await page.write("an answer", "Bo")
    page.outside("an answer", lambda one: one.thread and one.author == "Bo")
    await page.shows("an answer", "↪ Ann: the second form")
    await page.tab.evaluate("prompt = () => '🎉'")
    await page.press("an answer", "React")
    page.outside("an answer", lambda one: one.reactions)
    await page.press("an answer", "🎉")
    page.outside("an answer", lambda one: not one.reactions)
    plan = tmp_path / "plan.txt"
    plan.write_bytes(b"the plan")
    await page.tab.choose("#files", plan)
    await page.write("with a file")
    page.outside("with a file", lambda one: one.files == {"plan.txt": b"the plan"})
    await page.sent("with a file")
    await page.capture("minichat-mapped-out")
    await page.press("with a file", "Delete")
    page.legs.until(lambda: not any("with a file" in text for text in page.slack.texts()))
    page.legs.until(lambda: not any("with a file" in text for text in page.telegram.texts()))
    await page.shows("Slack: deleted", "(deleted)", "Telegram: deleted")
    asked = page.legs.world.hosts.requests
    await page.tab.fill("#text", "h")
    page.legs.until(lambda: any("sendChatAction" in one.path for one in asked("api.telegram.org")))
    assert page.tab.complaints == []


async def test_what_people_do_outside_is_seen_on_the_page(page: Page) -> None:
    slack, telegram = page.slack, page.telegram
    ada, grace = slack.team.person(ADA), slack.team.person(GRACE)
    elements = [
        {"type": "text", "text": "bold", "style": {"bold": True}},
        {"type": "text", "text": " and "},
        {"type": "link", "url": "https://example.com/notes", "text": "a link"},
        {"type": "text", "text": " for "},
        {"type": "user", "user_id": grace.user_id},
    ]
    section = {"type": "rich_text_section", "elements": elements}
    first = slack.write("", blocks=[{"type": "rich_text", "elements": [section]}])
    await page.shows("bold and a link for @Grace Example", ADA, "on Slack")
    drawn = await page.tab.evaluate(f"{_message('bold')}.querySelector('.body').innerHTML")
    assert "<strong>bold</strong>" in drawn
    assert 'href="https://example.com/notes"' in drawn
    await page.tab.until(f"{_message('bold')}.querySelector('.face img')?.naturalWidth > 0")
    slack.reply(first, "in the thread", by=GRACE)
    await page.shows("in the thread", GRACE, f"↪ {ADA}: bold and a link for @Grace Example")
    slack.react(first, "tada", by=GRACE)
    await page.shows("bold and a link", "🎉 1")
    slack.edit(first, "edited in Slack")
    await page.shows("edited in Slack", "(edited)")
    await page.shows("in the thread", f"↪ {ADA}: edited in Slack")
    slack.write("a picture", files=[ada.upload("picture.png", PICTURE, "image/png")])
    await page.shows("a picture", "picture.png")
    await page.tab.until(f"{_message('a picture')}.querySelector('.file img')?.naturalWidth === 1")
    written = telegram.write("from Telegram", [{"type": "italic", "offset": 5, "length": 8}], by=GRACE)
    await page.shows("from Telegram", GRACE, "on Telegram")
    telegram.react(written, "👍")
    await page.shows("from Telegram", "👍 1")
    telegram.edit(written, "edited in Telegram")
    await page.shows("edited in Telegram", "(edited)")
    await page.capture("minichat-mapped-in")
    slack.delete(first)
    await page.tab.until("document.querySelector('article').innerText.includes('(deleted)')")
    await page.shows("in the thread", f"↪ {ADA}: (deleted)")
    assert page.tab.complaints == []


async def test_a_failure_is_seen_on_the_page_until_it_is_mended(page: Page) -> None:
    page.slack.team.archive(page.slack.channel, page.slack.team.person(ADA).user_id)
    page.legs.until(lambda: page.legs.mapping["status"] == "error")
    await page.write("into the archive")
    await page.shows("into the archive", "Slack: waiting (The channel is archived. Unarchive it in Slack.)")
    await page.capture("minichat-mapped-failure")
    page.slack.channel.archived = False
    page.legs.world.hub.call("POST", f"/api/mappings/{page.legs.id}/resume")
    await page.sent("into the archive")
    assert page.slack.texts() == ["into the archive"]
