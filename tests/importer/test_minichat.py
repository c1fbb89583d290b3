"""The example chat stores imported history, confirms it, and shows it in the order of time."""

import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex

import httpx
import pytest

from interlink.examples.minichat.history import MAX_MESSAGES, History
from interlink.examples.minichat.imported import Imports
from shared.contracts.ids import provider_message_id_for
from tests.importer.archives import slack_message
from tests.importer.test_imports import export, imported, reached
from tests.support.browser import CHROMIUM, Tab, browser
from tests.support.hub import Hub
from tests.support.minichat import minichat


@pytest.fixture(scope="module")
def address(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with minichat(tmp_path_factory.mktemp("minichat"), hub.bus.env, hub.workspace) as found:
        yield found


@pytest.fixture
async def tab(address: str) -> AsyncIterator[Tab]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    async with browser(width=1100, height=760) as started, started.user() as found:
        await found.goto(f"{address}/")
        await found.until("document.getElementById('live').className === 'on'")
        yield found


async def opened(tab: Tab, channel_id: str) -> None:
    await tab.evaluate(f"location.hash = {json.dumps(channel_id)}")


async def texts(tab: Tab) -> list[str]:
    script = "[...document.querySelectorAll('article')].map((one) => one.querySelector('.body').innerText)"
    return list(await tab.evaluate(script))


async def test_an_import_is_shown_answered_repeated_and_undone(hub: Hub, tab: Tab, address: str) -> None:
    team = "T00000021"
    done = imported(hub, export(team=team))
    assert done["confirmed"] is True
    assert done["added"] == 5
    channels = hub.call("GET", f"/api/imports/{done['id']}/channels")["items"]
    general = channels[0]["channel_id"]
    await tab.until("document.querySelector('aside').innerText.includes('# old')")
    names = await tab.evaluate("document.querySelector('aside').innerText")
    assert names.count("# general") == 2  # the chat's own, and the imported one
    assert "Slack" in names
    await opened(tab, general)
    await tab.until("document.querySelectorAll('article').length === 4")
    shown = await texts(tab)
    assert [text.splitlines()[0] for text in shown] == ["Ada", "Ada", "Grace", "Ada"]
    assert ["first" in text for text in shown] == [True, True, False, False]  # the answer begins with it
    assert "↪ Ada: first" in shown[1]
    assert "🎉 1" in shown[2]
    assert "2024" in shown[0] or "/24" in shown[0]
    await picture(tab, "imported-history")

    again = imported(hub, export(team=team))
    assert again["added"] == 0

    # Somebody answers: the undo keeps what was answered, if it is asked to.
    first = provider_message_id_for("slack", team, "C00000001", "1704067200.000100")
    body = {"channel": general, "author": "Ann", "text": "still true", "reply_to": first}
    write(address, body)
    undo = {"messages": 5, "keep_answered": True}
    hub.call("POST", f"/api/imports/{done['id']}/undo", undo)
    undone = reached(hub, done["id"], "undone")
    assert undone["added"] == 1
    await tab.until("document.querySelectorAll('article').length === 2")
    assert [("first" in text, "still true" in text) for text in await texts(tab)] == [
        (True, False),
        (True, True),
    ]
    await tab.until("!document.querySelector('aside').innerText.includes('# old')")


async def test_history_goes_between_the_messages_of_a_channel(hub: Hub, tab: Tab, address: str) -> None:
    channel = f"ch-{token_hex(4)}"
    body = {"channel": channel, "author": "Ann", "text": "written today"}
    write(address, body)
    plan = {"channels": {"C00000001": {"into": "existing", "channel_id": channel}}}
    done = imported(hub, export(team="T00000022"), **plan)
    await opened(tab, channel)
    await tab.until("document.querySelectorAll('article').length === 5")
    assert "written today" in (await texts(tab))[-1]
    hub.call("POST", f"/api/imports/{done['id']}/undo", {"messages": done["added"]})
    reached(hub, done["id"], "undone")
    await tab.until("document.querySelectorAll('article').length === 1")


async def test_a_long_channel_shows_its_last_messages(hub: Hub, tab: Tab) -> None:
    days = {
        f"general/2024-03-0{day}": [
            slack_message(f"{1709251200 + 86400 * day + number}.000100", f"{day} {number}")
            for number in range(150)
        ]
        for day in range(1, 5)
    }
    done = imported(hub, export(days, team="T00000023"))
    assert done["added"] == 600
    channel = hub.call("GET", f"/api/imports/{done['id']}/channels")["items"][0]["channel_id"]
    await opened(tab, channel)
    await tab.until("document.querySelectorAll('article').length === 200")
    assert "4 149" in (await texts(tab))[-1]


def test_the_chat_forgets_the_messages_that_it_stored_first() -> None:
    history = History()
    imports = Imports(history)
    for start in range(0, MAX_MESSAGES + 400, 200):
        messages = [
            {"message_id": f"msg_{number}", "text": "", "author": {"id": "U1"}, "created_at": ""}
            for number in range(start, start + 200)
        ]
        imports.apply("history.messages", {"import_id": "imp_1", "channel_id": "c", "messages": messages})
    assert len(history.messages) == MAX_MESSAGES
    assert "msg_0" not in history.messages


def test_a_changed_message_and_an_undo_of_another_import() -> None:
    """What was edited since is updated, unless it was changed here; `added_by` decides an undo."""
    history = History()
    imports = Imports(history)

    def batch(import_id: str, text: str, **more: bool) -> dict[str, object]:
        ids = ("msg_1", "msg_2")
        message = {"text": text, "author": {"id": "U1"}, "created_at": "2024-01-01T00:00:00.000Z", **more}
        messages = [{"message_id": message_id, **message} for message_id in ids]
        return {"import_id": import_id, "channel_id": "c", "messages": messages}

    imports.apply("history.messages", batch("imp_1", "earlier"))
    history.apply("message.updated", {"message_id": "msg_2", "text": "changed here"})
    stored = imports.apply("history.messages", batch("imp_2", "later", changed=True))
    assert [message["text"] for message in history.shown("c")] == ["later", "changed here"]
    assert stored.duplicates == ["msg_2"]
    withdrawn = {"channel_id": "c", "message_ids": ["msg_1", "msg_2"], "keep_answered": False}
    imports.apply("history.withdrawn", {**withdrawn, "import_id": "imp_2", "added_by": ["imp_2"]})
    assert len(history.messages) == 2
    imports.apply("history.withdrawn", {**withdrawn, "import_id": "imp_3", "added_by": ["imp_1"]})
    assert len(history.messages) == 0


def test_an_undo_leaves_no_trace_but_what_is_in_use() -> None:
    imports = Imports(History())

    def bring(import_id: str, message_id: str) -> None:
        people = [{"id": "U1", "name": "Ada"}, {"id": "U2", "name": "Grace", "user_id": "usr_2"}]
        channels = [{"channel_id": name, "name": name, "existing": name == "own"} for name in ("new", "own")]
        message = {"message_id": message_id, "text": "", "author": {"id": "U1"}, "created_at": ""}
        imports.apply("history.users", {"import_id": import_id, "users": people})
        imports.apply("history.channels", {"import_id": import_id, "channels": channels})
        batch = {"import_id": import_id, "channel_id": "new", "messages": [message]}
        imports.apply("history.messages", batch)

    def withdraw(added_by: list[str], **ids: object) -> dict[str, str]:
        batch = {"import_id": added_by[0], "keep_answered": False, "added_by": added_by, **ids}
        return imports.apply("history.withdrawn", batch).rejected

    contents = {"channel_ids": ["new", "own"], "person_ids": ["U1"]}
    bring("imp_1", "msg_1")
    bring("imp_2", "msg_2")
    withdraw(["imp_2"], channel_id="new", message_ids=["msg_2"])
    other = "it is from another import"
    assert withdraw(["imp_2"], **contents) == {"new": other, "U1": other}
    used = {"new": "it has messages", "U1": "they have written messages"}
    assert withdraw(["imp_1"], **contents) == used
    assert imports.shown("new")["name"] == "new"
    withdraw(["imp_1"], channel_id="new", message_ids=["msg_1"])
    for _ in range(2):
        assert withdraw(["imp_3", "imp_1"], **contents) == {}
    bring("imp_4", "msg_4")
    assert withdraw(["imp_1"], **contents) == {"new": other, "U1": other}


def write(address: str, message: dict[str, str]) -> None:
    """Write a message on the page."""
    httpx.post(f"{address}/messages", json=message, timeout=30).raise_for_status()


async def picture(tab: Tab, name: str) -> None:
    """Store a picture of the page in the folder that a variable names."""
    if folder := os.environ.get("INTERLINK_SCREENSHOTS"):
        shot = await tab.call("Page.captureScreenshot")
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
