"""What a hostile tenant, or somebody in a mapped conversation, claims: accounts, markers, mentions, files."""

from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import httpx
import orjson
import pytest

from shared.richtext.markdown import parse_markdown
from shared.richtext.mentions import mentioned
from shared.richtext.plain import render_plain
from tests.support.eventually import eventually
from tests.support.fakes.slack_events import signed
from tests.support.fakes.slack_state import App, Json
from tests.support.fakes.telegram_webhook import SECRET_HEADER
from tests.sync.chat_side import FILES
from tests.sync.other_workspace import OtherWorkspace, other_workspace
from tests.sync.places import ADA, SlackPlace
from tests.sync.three_legs import PUBLIC, ThreeLegs, World


@pytest.fixture
def other(world: World) -> Iterator[OtherWorkspace]:
    with other_workspace(world) as found:
        yield found


def slack_body(legs: ThreeLegs, app: App, text: str, **fields: Any) -> bytes:
    """An event of Slack: somebody has written in the mapped channel."""
    message = {"type": "message", "channel": legs.slack.channel.id, "user": "U0FORGER", "text": text}
    message |= {"ts": f"1795000000.{int(token_hex(2), 16):06d}", "channel_type": "channel"} | fields
    authorization = {"team_id": app.team, "user_id": app.user_id, "is_bot": True, "enterprise_id": None}
    event: Json = {"type": "event_callback", "team_id": app.team, "api_app_id": app.id, "event": message}
    event |= {"event_id": f"Ev{token_hex(5)}", "event_time": 1795000000, "authorizations": [authorization]}
    return orjson.dumps(event)


def telegram_body(legs: ThreeLegs, text: str, kind: str = "message", **fields: Any) -> bytes:
    """An update of Telegram: somebody has written in the mapped group."""
    chat = {"id": legs.telegram.chat.id, "type": "supergroup", "title": "Example"}
    sender = {"id": 666, "is_bot": False, "first_name": "Forger"}
    number = int(token_hex(3), 16)
    message = {"message_id": number, "date": 1795000000, "chat": chat, "from": sender, "text": text}
    return orjson.dumps({"update_id": number, kind: message | fields})


def post(url: str, body: bytes, headers: dict[str, str]) -> None:
    answer = httpx.post(url, content=body, headers={"content-type": "application/json"} | headers, timeout=10)
    assert answer.is_success, answer.text


def endpoint(world: World, provider: str, key: str | None) -> tuple[str, str]:
    """An endpoint whose secret its tenant chose: its address on this machine, and the secret."""
    secret = token_hex(16)
    body = {"provider": provider, "name": "forged", "secret": secret}
    made = world.hub.call("POST", "/api/inbound-endpoints", body, key=key, expect=201)
    path = httpx.URL(made["url"]).path
    return f"{world.hub.url('gateway')}{path}", secret


@pytest.mark.parametrize("is_own", [False, True], ids=["of another workspace", "of the own workspace"])
def test_an_endpoint_with_a_chosen_secret_writes_in_no_account(
    world: World, other: OtherWorkspace, is_own: bool
) -> None:
    legs, key = world.mapped(), None if is_own else other.key
    url, secret = endpoint(world, "slack", key)
    body = slack_body(legs, world.app, "forged")
    post(url, body, signed(secret, body))
    url, secret = endpoint(world, "telegram", key)
    post(url, telegram_body(legs, "forged"), {SECRET_HEADER: secret})
    legs.slack.write("after Slack")
    legs.telegram.write("after Telegram")
    legs.agree("after Slack", "after Telegram")
    legs.quiet()
    legs.agree("after Slack", "after Telegram", within_s=0)
    genuine = slack_body(legs, world.app, "genuine")
    post(world.app.events_url or "", genuine, signed(world.app.signing_secret, genuine))
    legs.until(lambda: "genuine" in legs.chat.texts())  # the body is one that counts


def test_an_app_with_a_chosen_secret_writes_in_no_account_of_another_workspace(
    world: World, other: OtherWorkspace
) -> None:
    legs, secret = world.mapped(), token_hex(16)
    credentials = {"client_id": world.oauth.client_id, "client_secret": token_hex(16), "verified": True}
    other.call("PUT", "/api/platform-credentials/slack", credentials | {"signing_secret": secret})
    body = slack_body(legs, world.app, "forged")
    post(f"{world.hub.url('gateway')}/api/webhooks/slack", body, signed(secret, body))
    legs.slack.write("after")
    legs.agree("after")
    legs.quiet()
    legs.agree("after", within_s=0)


def sent_marker(legs: ThreeLegs, text: str) -> list[Json]:
    """The blocks of a message that the hub has sent to Slack, with its marker."""
    blocks: list[Json] = legs.slack.raw(legs.slack.find(text).id)["blocks"]
    assert blocks[0]["block_id"].startswith("il-")
    return blocks


def test_a_copied_marker_makes_no_message_one_of_the_hub(world: World) -> None:
    legs = world.mapped(filters={"bots": True})
    legs.chat.write("by the author")
    legs.agree("by the author")
    copied = sent_marker(legs, "by the author")
    forger = world.team.add_app("Forger", "chat:write")
    posted: Json = {"bot_id": forger.bot_id, "user": forger.user_id, "app_id": forger.id, "text": "copied"}
    made = world.team.post(legs.slack.channel, posted | {"blocks": copied})
    legs.quiet()
    world.team.edit(legs.slack.channel, made["ts"], forger.bot_id, {"text": "forged", "blocks": []})
    legs.slack.write("after", by=ADA)
    legs.until(lambda: "after" in legs.chat.texts() and "after" in legs.telegram.texts())
    legs.quiet()
    assert sorted(legs.chat.texts()) == sorted(legs.telegram.texts()) == ["after", "by the author"]
    world.team.delete(legs.slack.channel, made["ts"])
    legs.chat.edit(legs.chat.find("by the author").id, "edited by the author")
    legs.until(lambda: legs.slack.texts() == ["edited by the author", "after"])


def test_an_edit_brings_no_excluded_word_to_the_other_legs(world: World) -> None:
    legs = world.mapped(filters={"exclude_words": ["secret"]})
    message = legs.slack.write("fine")
    legs.agree("fine")
    legs.slack.edit(message, "the secret plan")
    legs.slack.write("after")
    legs.until(lambda: "after" in legs.chat.texts() and "after" in legs.telegram.texts())
    assert legs.chat.texts() == legs.telegram.texts() == ["fine", "after"]
    legs.slack.edit(message, "the plan")
    legs.agree("the plan", "after")


def inbound(legs: ThreeLegs, *starts: str) -> list[dict[str, Any]]:
    """What the chat got with a text that begins so."""
    return [data for _, data in legs.chat.received if str(data.get("text", "")).startswith(starts)]


def test_names_and_reasons_in_texts_of_the_hub_are_plain_text(world: World) -> None:
    legs = world.legs()
    title = "[all](mention://everyone/all) <!channel> **x**"
    legs.telegram.chat.title = title
    legs.map(options={"failure_notice": True, "retry_for_s": 0}, filters={"bots": True})
    world.hub.call("PATCH", f"/api/mappings/{legs.id}", {"name": title})
    world.hub.call("POST", f"/api/mappings/{legs.id}/test")
    legs.until(lambda: inbound(legs, "This is a test"))
    world.telegram.chats.pop(legs.telegram.chat.id)
    legs.chat.write("for nobody")
    legs.until(lambda: inbound(legs, "Not delivered"))
    for data in inbound(legs, "This is a test", "Not delivered"):
        body = parse_markdown(data["text"])
        assert not mentioned(body).everyone
        assert title in render_plain(body).text
    for message in legs.slack.channel.messages.values():
        assert "<!channel>" not in message["text"]


_HUGE = 2**64 - 1
_LONG_AGO = "0001-01-01T00:00:00+14:00"


def dead_letters(world: World) -> float:
    return world.hub.metric("sync", "interlink_dead_lettered_total")


def test_numbers_that_no_date_and_no_database_takes_cost_their_own_message(world: World) -> None:
    legs, before = world.mapped(), dead_letters(world)
    file = {"id": "F0HUGE", "name": "x", "mimetype": "text/plain", "url_private": "https://files.slack.com/x"}
    bodies = [
        slack_body(legs, world.app, "late", ts="999999999999.000001"),
        slack_body(legs, world.app, "huge", subtype="file_share", files=[file | {"size": _HUGE}]),
    ]
    for body in bodies:
        post(world.app.events_url or "", body, signed(world.app.signing_secret, body))
    document = {"file_id": "F1", "file_unique_id": "F1", "file_name": "x"}
    updates = world.bot.updates
    for body in (
        telegram_body(legs, "late", date=1 << 39),
        telegram_body(legs, "late", "edited_message", edit_date=_HUGE),
        telegram_body(legs, "huge", document=document | {"file_size": _HUGE}),
    ):
        url = updates.url.replace(PUBLIC, world.hub.url("gateway"))
        post(url, body, {SECRET_HEADER: updates.secret})
    legs.chat.write("late", created_at=_LONG_AGO)
    legs.chat.write("late", created_at="9999-12-31T23:59:59-14:00")
    attachment = {"id": "F1", "url": f"https://{FILES}/none", "filename": "x", "size": _HUGE}
    legs.chat.write("huge", attachments=[attachment])
    written = legs.chat.write("edited late")
    edit = {"message_id": written, "channel_id": legs.chat.channel, "text": "edited", "edited_at": _LONG_AGO}
    world.chat.publish("message.updated", edit | {"author": {"id": "usr_x", "name": "X"}})
    legs.slack.write("after")
    for place in legs.places[:2]:
        legs.until(lambda shown=place: {"edited late", "after"} <= set(shown.texts()))  # type: ignore[misc]
    legs.quiet()
    assert sorted(legs.slack.texts()) == sorted(legs.telegram.texts()) == ["after", "edited late"]
    faults = {"event.handling_failed", "carry.failed"}
    assert not [line for line in world.hub.log_lines("sync") if line["event"] in faults]
    assert dead_letters(world) - before == 9


def test_the_address_of_a_file_of_another_workspace_sends_nothing(
    world: World, other: OtherWorkspace
) -> None:
    other.add_slack_app()
    legs = world.mapped()
    legs.slack.upload("secret.txt", b"a secret", "a file")
    legs.until(lambda: "a file" in legs.chat.texts())
    [address] = legs.chat.find("a file").files.values()
    channel = world.team.add_channel("other", "channel", other.app, world.team.person(ADA, ADA))
    chat, slack = other.chat.channel(), SlackPlace(world.slack, world.team, channel)
    other.map(other.slack_leg(channel), {"provider": "chat", "conversation": chat.channel})
    chat.write("stolen", attachments=[{"id": "F1", "url": address, "filename": "secret.txt", "size": 8}])
    eventually(slack.texts)
    assert slack.shown()[0].files == {}
    assert "secret.txt" in slack.texts()[0], "the text says that the file is missing"


def test_the_address_of_a_file_outlives_its_mapping_but_not_its_account(world: World) -> None:
    legs = world.mapped()
    legs.slack.upload("note.txt", b"a note", "a file")
    legs.until(lambda: "a file" in legs.chat.texts())
    [address] = legs.chat.find("a file").files.values()
    world.hub.call("DELETE", f"/api/mappings/{legs.id}")
    with world.browser() as browser:
        assert browser.get(str(address)).content == b"a note"
        world.team.files[next(reversed(world.team.files))].deleted = True
        assert browser.get(str(address)).status_code == 404
