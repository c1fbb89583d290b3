"""The chat page: what it shows and sends over the documented topics, whatever comes on them."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from interlink.embedded import EmbeddedPair
from shared.contracts.chat import ChatMessage, ChatMessageDeleted, ChatReaction, ChatSignal
from shared.contracts.envelope import Event, parse_event
from shared.contracts.topics import CHAT_EVENTS, CHAT_INBOUND, CHAT_SIGNALS
from shared.runtime.kafka.admin import ensure_topics
from shared.runtime.settings import KafkaSettings
from shared.wire.message_template import MessageTemplate
from tests.cli.commands import environment_of
from tests.support.browser import CHROMIUM, Tab, opened
from tests.support.minichat import minichat

WORKSPACE = f"chat-{token_hex(4)}"
ENVELOPE = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_type", b"inbound.message.created"),
    ("ce_source", b"/test"),
    ("content-type", b"application/json"),
    ("workspace", WORKSPACE.encode()),
]
Headers = list[tuple[str, bytes | None]]


def message(text: str, **more: Any) -> dict[str, Any]:
    return {
        "message_id": f"msg_{token_hex(8)}",
        "channel_id": "general",
        "author": {"name": "GitHub", "icon_url": None, "bot": True},
        "text": text,
        "embeds": [],
        "attachments": [],
        "origin": {"provider": "github", "endpoint_id": "ep_1", "event": "push", "delivery_id": "d"},
        "sent_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **more,
    }


class Chat:
    """A running page, and the chat platform's side of its topic."""

    def __init__(self, url: str, producer: AIOKafkaProducer) -> None:
        self.url = url
        self._producer = producer

    async def send(self, value: Any, headers: Headers | None = None) -> None:
        raw = value if isinstance(value, bytes | None) else json.dumps(value).encode()
        await self._producer.send_and_wait(
            CHAT_INBOUND.name, raw, key=b"general", headers=ENVELOPE if headers is None else headers
        )

    async def shown_until(self, message_id: str) -> list[str]:
        """The ids of what the page shows, up to this one."""
        seen: list[str] = []
        async with (
            httpx.AsyncClient(timeout=20) as client,
            client.stream("GET", f"{self.url}/events") as stream,
        ):
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: "))["message_id"])
                    if seen[-1] == message_id:
                        break
        return seen


@pytest.fixture(scope="module")
def page(pair: EmbeddedPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A minichat process of this workspace; its address."""
    asyncio.run(ensure_topics(KafkaSettings(bootstrap_servers=pair.kafka_bootstrap)))
    folder = tmp_path_factory.mktemp("minichat")
    with minichat(folder, environment_of(pair), WORKSPACE) as address:
        yield address


@pytest.fixture
async def chat(page: str, pair: EmbeddedPair) -> AsyncIterator[Chat]:
    producer = AIOKafkaProducer(bootstrap_servers=pair.kafka_bootstrap, acks="all")
    await producer.start()
    yield Chat(page, producer)
    await producer.stop()


async def test_a_message_is_shown_once(chat: Chat) -> None:
    first, last = message("hello"), message("the last")
    for message_sent in (first, first, last):
        await chat.send(message_sent)
    shown = await chat.shown_until(last["message_id"])
    assert shown.count(first["message_id"]) == 1


async def test_what_cannot_be_read_costs_only_itself(chat: Chat) -> None:
    odd, last = message("with odd headers"), message("the last")
    await chat.send(odd, [*ENVELOPE, ("x-null", None), ("x-bytes", b"\xff\xfe")])
    await chat.send(b"{not json")
    await chat.send(None)
    await chat.send({"message_id": 7})
    edit = message("an edit of what nobody has seen")
    await chat.send(edit, [(name, raw.replace(b"created", b"updated")) for name, raw in ENVELOPE])
    await chat.send(message("of nobody"), [])
    other = message("of others")
    await chat.send(other, [*ENVELOPE[:-1], ("workspace", b"others")])
    await chat.send(last)
    shown = await chat.shown_until(last["message_id"])
    assert odd["message_id"] in shown
    assert other["message_id"] not in shown
    assert edit["message_id"] not in shown


def of_type(event_type: str) -> Headers:
    return [*((name, raw) for name, raw in ENVELOPE if name != "ce_type"), ("ce_type", event_type.encode())]


class Events:
    """What the page publishes on `chat.events` in its workspace, in order."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def next(self, message_id: str) -> Event:
        """The next event about a message."""
        async with asyncio.timeout(60):
            async for record in self._consumer:
                # Others use this topic, for poison too.
                if (
                    "workspace",
                    WORKSPACE.encode(),
                ) in record.headers and message_id.encode() in record.value:
                    assert record.key == b"general"
                    return parse_event(record.headers, record.value)
        raise AssertionError


@pytest.fixture
async def events(pair: EmbeddedPair) -> AsyncIterator[Events]:
    consumer = AIOKafkaConsumer(
        CHAT_EVENTS.name, bootstrap_servers=pair.kafka_bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    yield Events(consumer)
    await consumer.stop()


@pytest.fixture
async def client(chat: Chat) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=chat.url, timeout=20) as client:
        yield client


async def written(client: httpx.AsyncClient, **more: Any) -> str:
    """The id of a new message of Ann."""
    answer = await client.post(
        "/messages", json={"channel": " general ", "author": "Ann", "text": "hi", **more}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["message_id"])


async def test_what_people_do_are_events_of_the_contract(
    chat: Chat, client: httpx.AsyncClient, events: Events
) -> None:
    message_id = await written(client)
    created = await events.next(message_id)
    data = ChatMessage.model_validate_json(created.data)
    assert (created.type, created.subject) == ("message.created", "general")
    assert (data.message_id, data.channel_id, data.text) == (message_id, "general", "hi")
    assert (data.author.id, data.author.name) == ("usr_ann", "Ann")
    assert message_id in await chat.shown_until(message_id)

    at = f"/messages/{message_id}"
    assert (await client.patch(at, json={"author": "Ann", "text": "hello"})).status_code == 200
    updated = await events.next(message_id)
    assert updated.type == "message.updated"
    assert ChatMessage.model_validate_json(updated.data).text == "hello"

    for change in ("added", "removed"):
        reaction = {"author": "Bo", "emoji": "👍", "change": change}
        assert (await client.post(f"{at}/reactions", json=reaction)).status_code == 200
        event = await events.next(message_id)
        assert event.type == f"message.reaction.{change}"
        reacted = ChatReaction.model_validate_json(event.data)
        assert (reacted.emoji, reacted.author.id) == ("👍", "usr_bo")

    assert (await client.delete(at, params={"author": "Ann"})).status_code == 200
    deleted = await events.next(message_id)
    assert deleted.type == "message.deleted"
    assert ChatMessageDeleted.model_validate_json(deleted.data).channel_id == "general"
    assert (await client.patch(at, json={"author": "Ann", "text": "again"})).status_code == 404


async def test_a_reply_names_what_it_answers_and_its_thread(
    client: httpx.AsyncClient, events: Events
) -> None:
    first = await written(client)
    second = await written(client, reply_to=first)
    third = await written(client, reply_to=second)
    await events.next(first)
    replies = [ChatMessage.model_validate_json((await events.next(each)).data) for each in (second, third)]
    assert [(reply.reply_to_id, reply.thread_id) for reply in replies] == [(first, first), (second, first)]


async def test_only_the_author_changes_a_message(client: httpx.AsyncClient) -> None:
    at = f"/messages/{await written(client)}"
    assert (await client.patch(at, json={"author": "Bo", "text": "mine"})).status_code == 403
    assert (await client.delete(at, params={"author": "Bo"})).status_code == 403


async def test_files_are_attached_and_served_as_files(client: httpx.AsyncClient, events: Events) -> None:
    headers = {"Content-Type": "text/html", "X-Minichat": "1"}
    page = b"<script>hit()</script>"
    stored = await client.post("/files", params={"filename": "a b.html"}, content=page, headers=headers)
    message_id = await written(client, text="", files=[stored.json()["id"]])
    [attachment] = ChatMessage.model_validate_json((await events.next(message_id)).data).attachments
    assert (attachment.filename, attachment.content_type) == ("a b.html", "text/html")
    assert attachment.size == len(page)
    served = await client.get(attachment.url)
    assert served.content == page
    assert served.headers["content-disposition"] == "attachment; filename*=UTF-8''a%20b.html"
    assert served.headers["x-content-type-options"] == "nosniff"
    too_large = await client.post(
        "/files", params={"filename": "x"}, content=b"x" * (5 * 1024 * 1024 + 1), headers=headers
    )
    assert too_large.status_code == 413
    del headers["X-Minichat"]  # what another site cannot set
    refused = await client.post("/files", params={"filename": "x"}, content=b"x", headers=headers)
    assert refused.status_code == 422


async def test_typing_is_a_signal(client: httpx.AsyncClient, pair: EmbeddedPair) -> None:
    consumer = AIOKafkaConsumer(CHAT_SIGNALS.name, bootstrap_servers=pair.kafka_bootstrap)
    await consumer.start()
    try:
        await consumer.seek_to_end()
        await client.post("/typing", json={"channel": "general", "author": "Ann"})
        async with asyncio.timeout(60):
            record = await consumer.getone()
    finally:
        await consumer.stop()
    signal = ChatSignal.model_validate_json(record.value)
    assert (signal.kind, signal.state, signal.author.id) == ("typing", "started", "usr_ann")


@pytest.mark.parametrize("body", [{}, {"channel": "", "author": "A", "text": "t"}, {"text": "x" * 5000}])
async def test_what_is_no_message_is_refused(chat: Chat, body: dict[str, str]) -> None:
    async with httpx.AsyncClient() as client:
        assert (await client.post(f"{chat.url}/messages", json=body)).status_code == 422


async def test_another_site_cannot_post(chat: Chat) -> None:
    """A form of another site can only send types that need no permission (CORS "simple" requests)."""
    async with httpx.AsyncClient() as client:
        body = b'{"channel": "general", "author": "A", "text": "t"}'
        answer = await client.post(
            f"{chat.url}/messages", content=body, headers={"content-type": "text/plain"}
        )
    assert answer.status_code == 422


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
class TestInABrowser:
    async def test_a_message_is_drawn(self, chat: Chat) -> None:
        async with opened(chat.url) as tab:
            await tab.until("document.getElementById('live').className === 'on'")
            card = {
                "title": "It works",
                "url": "https://example.com/1",
                "color": "#2da44e",
                "description": "- one\n- two **b\\*ld**\n\n> quoted\n\n```\n1 < 2\n```",
                "fields": [{"name": "State", "value": "open", "inline": True}],
            }
            await chat.send(
                message("**Ann** opened [\\#1 A \\& B](https://example.com/1) `x`&#32;\\&#32;", embeds=[card])
            )
            body = "[...document.querySelectorAll('article .body')].pop()"
            await tab.until(f"!!{body}?.querySelector('.embed')")
            drawn = await tab.evaluate(f"{body}.innerHTML")
            assert "<strong>Ann</strong> opened " in drawn
            assert '<a href="https://example.com/1"' in drawn
            assert "#1 A &amp; B</a> <code>x</code> &amp;#32;" in drawn
            assert "<li>one</li><li>two <strong>b*ld</strong></li>" in drawn
            assert "<blockquote><p>quoted</p></blockquote><pre><code>1 &lt; 2</code></pre>" in drawn
            color = await tab.evaluate("getComputedStyle(document.querySelector('.embed')).borderLeftColor")
            assert color == "rgb(45, 164, 78)"
            assert tab.complaints == []

    async def test_a_hostile_message_stays_text(self, chat: Chat) -> None:
        attack = (
            "<img src=x onerror=hit()> <script>hit()</script> [a](javascript:hit()) [b](data:text/html,x)"
        )
        author = {"name": "<b>Mallory</b>", "icon_url": "javascript:hit()", "bot": True}
        embeds = [
            {"title": "t", "url": "javascript:hit()", "color": "red;background:url(https://x)", "fields": []}
        ]
        files = [{"url": "javascript:hit()", "filename": "f"}]
        await chat.send(message(attack, author=author, embeds=embeds, attachments=files))
        await chat.send(message("x", author={"name": {"no": "text"}}, embeds=[{"fields": 5}]))
        await chat.send(message(">" * 3000 + "*" * 900))
        last = message("the page goes on")
        await chat.send(last)
        async with opened(chat.url) as tab:
            await tab.until("[...document.querySelectorAll('article')].pop()?.innerText.includes('goes on')")
            counts = await tab.evaluate(
                "['main img', 'main script', '.who b', '[onerror]', 'a:not([href^=http])']"
                ".map((what) => document.querySelectorAll(what).length)"
            )
            assert counts == [0, 0, 0, 0, 0]
            assert "<script>hit()</script>" in await tab.evaluate("document.querySelector('main').innerText")
            assert tab.complaints == []

    async def test_links_lead_where_they_say(self, chat: Chat) -> None:
        url = "https://links.example/a_(b)/**/c~d#issuecomment-1_2"
        written = MessageTemplate("{{ v | md }} **{{ v | md }}** {{ 'label' | link: v }}").render({"v": url})
        await chat.send(message(f"{written} bare https://links.example/x_(y). <mailto:ann_b@links.example>"))
        async with opened(chat.url) as tab:
            script = "[...document.querySelectorAll('main a')].map((a) => [a.textContent, a.href])"
            await tab.until(f"{script}.some((link) => link[1].startsWith('https://links.example'))")
            links = [link for link in await tab.evaluate(script) if "links.example" in link[1]]
        assert links == [
            [url, url],
            [url, url],
            ["label", url],
            ["https://links.example/x_(y)", "https://links.example/x_(y)"],
            ["mailto:ann_b@links.example", "mailto:ann_b@links.example"],
        ]

    async def test_writing_and_channels(self, chat: Chat) -> None:
        async with opened(f"{chat.url}/#plans") as tab:
            await tab.until("document.getElementById('live').className === 'on'")
            await _write(tab, "Ann", "see **you** there")
            drawn = await tab.until("document.querySelector('article')?.innerHTML")
            assert "<strong>Ann</strong>" in drawn
            assert "see <strong>you</strong> there" in drawn
            await chat.send(message("elsewhere", channel_id="alarms"))
            await tab.until("document.querySelector('aside').innerText.includes('# alarms')")
            assert await tab.evaluate("document.querySelectorAll('article').length") == 1
            await tab.evaluate("location.hash = 'alarms'")
            await tab.until("document.querySelector('main').innerText.includes('elsewhere')")

    async def test_what_happens_elsewhere_is_drawn(self, chat: Chat) -> None:
        sent = message("first form", channel_id="news", author={"id": "U1", "name": "Bo", "bot": False})
        about = {"message_id": sent["message_id"], "channel_id": "news"}
        bo = {"id": "U1", "name": "Bo"}
        status = {
            "mapping_id": "map_1",
            "target": "leg_1",
            "provider": "slack",
            "conversation_name": "news",
            "state": "failed",
            "reason": "It is archived.",
            "fix": "Open it.",
        }
        async with opened(f"{chat.url}/#news") as tab:
            await chat.send(sent)
            await chat.send({**sent, "text": "second **form**"}, of_type("inbound.message.updated"))
            await chat.send({**about, "emoji": "🎉", "author": bo}, of_type("inbound.message.reaction.added"))
            await chat.send({**about, **status}, of_type("inbound.message.status.changed"))
            article = "document.querySelector('article')"
            await tab.until(f"{article}?.innerText.includes('Slack: failed (It is archived. Open it.)')")
            text = await tab.evaluate(f"{article}.innerText")
            assert "second form" in text
            assert "(edited)" in text
            assert "🎉 1" in text
            await chat.send(
                {**about, "emoji": "🎉", "author": bo}, of_type("inbound.message.reaction.removed")
            )
            await chat.send(about, of_type("inbound.message.deleted"))
            await tab.until(f"{article}.innerText.includes('(deleted)')")
            assert "🎉" not in await tab.evaluate(f"{article}.innerText")
            assert tab.complaints == []

    async def test_the_buttons_of_a_message(self, chat: Chat) -> None:
        async with opened(f"{chat.url}/#general") as tab:
            await tab.until("document.getElementById('live').className === 'on'")
            await _write(tab, "Cy", "to be changed ++now++ ||later||")
            last = "[...document.querySelectorAll('article')].pop()"
            await tab.until(f"{last}?.innerText.includes('to be changed now later')")
            assert await tab.evaluate(f"!!{last}.querySelector('u') && !!{last}.querySelector('.spoiler')")
            press = "[...{}.querySelectorAll('button')].find((each) => each.textContent === '{}').click()"
            await tab.evaluate(press.format(last, "Edit"))
            await _write(tab, "Cy", "changed")
            await tab.until(f"{last}.innerText.includes('(edited)')")
            await tab.evaluate("prompt = () => '🎈'")
            await tab.evaluate(press.format(last, "React"))
            await tab.until(f"{last}.innerText.includes('🎈 1')")
            await tab.evaluate(press.format(last, "Reply"))
            await _write(tab, "Cy", "an answer")
            await tab.until(f"{last}.innerText.includes('↪ Cy: changed')")
            await tab.evaluate(press.format(last, "Delete"))
            await tab.until(f"{last}.innerText.includes('(deleted)')")
            assert tab.complaints == []

    async def test_it_fits_a_phone(self, chat: Chat) -> None:
        await chat.send(message("`" + "long" * 100 + "` " + "https://example.com/" + "path/" * 60))
        async with opened(chat.url) as tab:
            await tab.call(
                "Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=True
            )
            await tab.until("!!document.querySelector('article')")
            assert await tab.evaluate("document.documentElement.scrollWidth <= 360")
            assert await tab.evaluate("document.getElementById('text').getBoundingClientRect().width > 150")
            shot = await tab.call("Page.captureScreenshot")
            if folder := os.environ.get("INTERLINK_SCREENSHOTS"):
                (Path(folder) / "minichat-phone.png").write_bytes(base64.b64decode(shot["data"]))


async def _write(tab: Tab, author: str, text: str) -> None:
    await tab.evaluate(
        f"document.getElementById('name').value = {json.dumps(author)};"
        f"document.getElementById('text').value = {json.dumps(text)};"
        "document.getElementById('form').requestSubmit()"
    )
