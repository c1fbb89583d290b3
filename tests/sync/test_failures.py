"""Failures of providers and of the hub: nothing is lost, doubled or out of order, and the API says why."""

from collections.abc import Iterator, Mapping
from time import monotonic, sleep
from typing import Any

import pytest

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.telegram_api import Fault
from tests.support.otlp import CollectedSpan, Collector
from tests.support.provider_hosts import Reply
from tests.sync.three_legs import ThreeLegs, World, connected

POST = "/api/chat.postMessage"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as listening:
        yield listening
        assert not listening.rejected


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store, collector: Collector
) -> Iterator[World]:
    """A world whose traces are recorded."""
    env = {
        "INTERLINK_TRACE_RATIO": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "300",
    }
    with connected(tmp_path_factory.mktemp("world"), bus, store, None, **env) as found:
        yield found


def target(legs: ThreeLegs, text: str, provider: str) -> dict[str, Any]:
    """The target of a message at a provider, with its trace; empty before the hub has the message."""
    targets = [one for message in legs.synced() if message["excerpt"] == text for one in message["targets"]]
    return next((one for one in targets if one["provider"] == provider), {"state": "", "trace": []})


def steps(shown: Mapping[str, Any]) -> list[str]:
    return [entry["step"] for entry in shown["trace"]]


def test_retry_after_is_obeyed_for_its_conversation_only(world: World) -> None:
    limited, other = world.mapped(), world.mapped()
    before = len(world.hosts.requests("slack.com", POST))

    def asked() -> int:
        return len(world.hosts.requests("slack.com", POST)) - before

    world.slack.faults.rate_limit("chat.postMessage", retry_after_s=6)
    began = monotonic()
    limited.chat.write("limited")
    limited.until(asked)
    other.chat.write("not limited")
    other.agree("not limited")
    assert monotonic() - began < 6, "another conversation waits for nothing"
    limited.agree("limited")
    assert monotonic() - began >= 2
    assert asked() == 3, "asked again once, and not before"


def test_a_retry_by_another_process_is_linked_to_the_first_attempt(
    world: World, collector: Collector
) -> None:
    """From the webhook of one provider to the message at another, in one trace."""
    legs = world.mapped()
    world.telegram.fail(Fault(429, retry_after=4, method="sendMessage"))
    legs.slack.write("never-in-a-span")
    eventually(lambda: target(legs, "never-in-a-span", "telegram").get("reason"))

    def carried() -> list[CollectedSpan]:
        """The attempts at Telegram of the trace in which one had to be repeated."""
        sent = [
            span
            for span in collector.spans
            if span.attributes.get("interlink.provider_method") == "sendMessage"
        ]
        repeated = {span.trace_id for span in sent if span.attributes["interlink.outcome"] == "waits"}
        return [span for span in sent if span.trace_id in repeated]

    eventually(carried)
    world.restart_sync()
    legs.agree("never-in-a-span")
    eventually(lambda: len(carried()) == 2)
    first, second = carried()
    assert second.links == ((first.trace_id, first.span_id),)
    assert second.parent_id == first.parent_id
    assert second.attributes["interlink.attempt"] == 2
    assert second.attributes["interlink.provider_method"] == "sendMessage"
    names = {(span.service, span.name) for span in collector.spans if span.trace_id == first.trace_id}
    assert {
        ("gateway", "POST /api/webhooks/{provider}"),
        ("gateway", "send webhooks.received"),
        ("sync", "process webhooks.received"),
        ("sync", "send chat.inbound"),
        ("sync", "send sync.requested"),
        ("sync", "process sync.requested"),
    } <= names
    exported = b"".join(collector.raw)
    assert b"never-in-a-span" not in exported
    assert world.bot.token.encode() not in exported


def test_telegrams_retry_after_is_obeyed(world: World) -> None:
    legs = world.mapped()
    world.telegram.fail(Fault(429, retry_after=1, method="sendMessage"))
    began = monotonic()
    legs.chat.write("limited")
    legs.agree("limited")
    assert monotonic() - began >= 1


def test_messages_stay_in_order_while_a_provider_fails(world: World) -> None:
    legs = world.mapped()
    texts = [f"message {number}" for number in range(4)]
    world.hosts.take_down("slack.com")
    for text in texts:
        legs.chat.write(text)
    legs.until(lambda: legs.telegram.texts() == texts)
    assert legs.slack.texts() == []
    world.hosts.bring_up()
    legs.until(lambda: legs.slack.texts() == texts)


@pytest.mark.parametrize(
    "reply",
    [None, Reply(502), Reply.json({"ok": False, "error": "fatal_error"}), Reply(200)],
    ids=["lost", "502", "fatal_error", "unreadable"],
)
def test_slack_is_asked_for_a_message_whose_response_was_lost(world: World, reply: Reply | None) -> None:
    legs = world.mapped()
    world.slack.faults.lose_response("chat.postMessage", reply=reply)
    written = legs.chat.write("once")
    legs.until(lambda: target(legs, "once", "slack")["state"] == "sent")
    legs.agree("once")
    assert "duplicate_possible" not in steps(target(legs, "once", "slack"))
    legs.chat.edit(written, "once, edited")
    legs.agree("once, edited")


def test_an_answer_whose_response_was_lost_stays_in_its_thread(world: World) -> None:
    legs = world.mapped()
    question = legs.chat.write("question")
    legs.agree("question")
    world.slack.faults.lose_response("chat.postMessage")
    answer = legs.chat.reply(question, "answer")
    legs.until(lambda: target(legs, "answer", "slack")["state"] == "sent")
    assert target(legs, "answer", "slack")["permalink"]
    legs.chat.reply(answer, "answer to the answer")
    legs.agree("question", "answer", "answer to the answer")
    root = legs.slack.find("question").id
    assert [legs.slack.find(text).thread for text in ("answer", "answer to the answer")] == [root, root]
    assert world.slack.complaints == [], "a thread is named by its first message"


def test_a_message_with_a_file_is_sent_once_when_its_id_cannot_be_asked_for(world: World) -> None:
    legs = world.mapped()
    world.slack.faults.cut("files.info", 2)  # the client repeats a read on a new connection
    written = legs.chat.upload("file.txt", b"a file", "with a file")
    legs.until(lambda: target(legs, "with a file", "slack")["state"] == "sent")
    legs.chat.edit(written, "with a file, edited")
    legs.until(lambda: legs.telegram.texts() == ["with a file, edited"])
    legs.until(lambda: len(legs.slack.texts()) == 1 and legs.slack.texts()[0].endswith("edited"))


@pytest.mark.parametrize("code", [0, 502, 200])
def test_telegram_gets_a_message_again_whose_response_was_lost_and_the_trace_says_so(
    world: World, code: int
) -> None:
    legs = world.mapped()
    world.telegram.fail(Fault(code, loses_response=True, method="sendMessage"))
    legs.chat.write("maybe twice")
    legs.until(lambda: target(legs, "maybe twice", "telegram")["state"] == "sent")
    assert legs.telegram.texts() == ["maybe twice"] * 2
    assert "duplicate_possible" in steps(target(legs, "maybe twice", "telegram"))
    assert legs.slack.texts() == ["maybe twice"]


def test_a_killed_hub_loses_nothing(world: World) -> None:
    legs = world.mapped()
    world.kill_sync()
    legs.slack.write("from Slack")
    legs.telegram.write("from Telegram")
    legs.chat.write("from the chat")
    world.restart_sync()
    legs.agree("from Slack", "from Telegram", "from the chat", within_s=60)
    legs.quiet()
    legs.agree("from Slack", "from Telegram", "from the chat", within_s=0)


def test_an_archived_channel_puts_its_mapping_in_error(world: World) -> None:
    legs = world.mapped()
    legs.chat.write("before")
    legs.agree("before")
    world.team.archive(legs.slack.channel, legs.slack.team.person("Ada Example").user_id)
    legs.until(lambda: legs.mapping["status"] == "error")
    assert "archived" in legs.mapping["reason"]
    assert "unarchive" in legs.mapping["fix"].lower()


def test_a_channel_that_was_archived_without_an_event_does_so_too(world: World) -> None:
    legs, other = world.mapped(), world.mapped()
    legs.slack.channel.archived = True
    waiting = legs.chat.write("nobody sees it in Slack")
    legs.until(lambda: legs.mapping["status"] == "error")
    assert "unarchive" in legs.mapping["fix"].lower()
    legs.until(lambda: "unarchive" in str(legs.chat.states(waiting)).lower())
    [state] = [one for one in legs.chat.states(waiting).values() if one["provider"] == "slack"]
    channel = legs.slack.channel
    assert (state["conversation_id"], state["conversation_name"]) == (channel.id, channel.name)
    other.chat.write("elsewhere")
    other.agree("elsewhere")
    # The process that takes over does not know what a person has fixed meanwhile, so it retries at once.
    legs.slack.channel.archived = False
    world.restart_sync()
    legs.agree("nobody sees it in Slack")
    legs.until(lambda: legs.mapping["status"] == "active")


def test_the_queues_of_an_account_wait_until_it_is_connected_again(world: World) -> None:
    legs = world.mapped()
    world.app.revoke()
    texts = ["one", "two"]
    for text in texts:
        legs.chat.write(text)
    legs.until(lambda: legs.telegram.texts() == texts)

    def status() -> str:
        return str(world.hub.call("GET", f"/api/integrations/{world.slack_integration}")["status"])

    eventually(lambda: status() == "reauth_required")
    legs.until(lambda: target(legs, "one", "slack")["state"] == "waiting")
    assert "connect the account again" in target(legs, "one", "slack")["fix"].lower()
    result = world.hub.call("POST", f"/api/mappings/{legs.id}/test")["legs"][0]
    assert result["reason"] == "The account Example of slack is not connected any more."
    assert result["fix"] == "Connect the account again."
    world.connect_slack()
    legs.until(lambda: legs.slack.texts() == texts)


def test_a_file_waits_for_the_account_that_has_it(world: World) -> None:
    legs = world.mapped()
    refuse_telegram(world, legs)
    legs.telegram.upload("file.txt", b"a file", "with a file")
    reason = "of telegram is not connected any more"
    legs.until(lambda: reason in str(world.hub.call("GET", "/api/sync/queue/stats")))
    began = monotonic()
    while monotonic() - began < 6:  # each account that can be used again ends all pauses
        for action in ("disable", "enable"):
            world.hub.call("POST", f"/api/integrations/{world.slack_integration}/{action}")
        sleep(1.1)  # a service looks for changes each second
    assert legs.slack.shown() == [], "attempts in quick succession are not enough to give a file up"
    world.connect_telegram()
    legs.until(lambda: [one.files for one in legs.slack.shown()] == [{"file.txt": b"a file"}])


def test_failures_of_the_target_cost_no_file(world: World) -> None:
    legs = world.mapped()
    world.slack.faults.fail("files.getUploadURLExternal", count=4)
    method = "/api/files.getUploadURLExternal"
    before = len(world.hosts.requests("slack.com", method))
    legs.telegram.upload("file.txt", b"a file", "with a file")
    legs.until(lambda: len(world.hosts.requests("slack.com", method)) - before >= 4)
    world.telegram.fail(Fault(502, method="getFile"))
    legs.until(legs.slack.shown)
    assert legs.slack.shown()[0].files == {"file.txt": b"a file"}


def test_what_is_written_while_a_token_is_refused_is_not_lost(world: World) -> None:
    legs = world.mapped()
    refuse_telegram(world, legs)
    legs.telegram.write("in Telegram")
    legs.until(lambda: legs.slack.texts() == legs.chat.texts() == ["in Telegram"])
    world.connect_telegram()
    legs.chat.write("in the chat")
    legs.agree("in Telegram", "in the chat")


def refuse_telegram(world: World, legs: ThreeLegs) -> None:
    """Give the bot another token, and wait until the hub knows that its own is refused."""
    other = world.mapped()
    world.bot.new_token()
    other.chat.write("waits for the token")
    path = f"/api/integrations/{world.telegram_integration}"
    legs.until(lambda: world.hub.call("GET", path)["status"] == "reauth_required")


def test_a_message_that_is_deleted_before_its_outcome_is_known_goes_away(world: World) -> None:
    legs = world.mapped()
    world.slack.faults.lose_response("chat.postMessage")
    world.telegram.fail(Fault(loses_response=True, method="sendMessage"))
    written = legs.chat.write("gone soon")
    legs.until(lambda: legs.slack.texts() == legs.telegram.texts() == ["gone soon"])
    legs.chat.delete(written)
    legs.until(lambda: target(legs, "gone soon", "slack")["state"] == "deleted")
    assert legs.slack.texts() == []
    legs.until(lambda: target(legs, "gone soon", "telegram")["state"] == "deleted")
    in_telegram = steps(target(legs, "gone soon", "telegram"))
    assert legs.telegram.texts() == [] or "duplicate_possible" in in_telegram


def test_a_reaction_that_is_removed_before_its_outcome_is_known_goes_away(world: World) -> None:
    legs = world.mapped()
    news = legs.chat.write("news")
    legs.agree("news")
    world.slack.faults.lose_response("reactions.add")
    world.telegram.fail(Fault(loses_response=True, method="setMessageReaction"))
    legs.chat.react(news, "🔥")
    legs.until(lambda: all(place.find("news").reactions for place in legs.places))
    world.slack.faults.rate_limit("reactions.add", retry_after_s=3)
    world.telegram.fail(Fault(429, retry_after=3, method="setMessageReaction"))
    legs.chat.unreact(news, "🔥")
    legs.until(lambda: not any(place.find("news").reactions for place in legs.places))
    # And one that is set again before it is known that it is gone is there.
    legs.chat.react(news, "🔥")
    legs.until(lambda: all(place.find("news").reactions for place in legs.places))
    world.slack.faults.clear()
    world.slack.faults.lose_response("reactions.remove")
    legs.chat.unreact(news, "🔥")
    legs.until(lambda: not legs.slack.find("news").reactions)
    world.slack.faults.rate_limit("reactions.remove", retry_after_s=3)
    legs.chat.react(news, "🔥")
    legs.until(lambda: all(place.find("news").reactions for place in legs.places))
    world.slack.faults.clear()
    legs.quiet(0.3)


def test_a_reaction_to_a_message_that_is_gone_where_it_was_written_stops_nothing(world: World) -> None:
    legs = world.mapped()
    legs.telegram.delete(legs.telegram.write("gone"))
    legs.until(lambda: legs.chat.texts() == legs.slack.texts() == ["gone"])
    asked = len(world.hosts.requests("api.telegram.org"))
    legs.chat.react(legs.chat.find("gone").id, "🔥")
    legs.until(lambda: legs.slack.find("gone").reactions)
    legs.until(lambda: len(world.hosts.requests("api.telegram.org")) > asked)
    legs.chat.reply(legs.chat.find("gone").id, "after")
    legs.until(lambda: legs.slack.texts() == ["gone", "after"])
    assert {step for one in legs.synced() for step in steps(one["targets"][0])} >= {"sent"}


def test_a_paused_mapping_keeps_its_order_and_holds_up_no_other(world: World) -> None:
    legs = world.mapped()
    other = world.chat.channel()
    slack = {"provider": "slack", "conversation": legs.slack.channel.id}
    chat = {"provider": "chat", "conversation": other.channel}
    world.hub.call("POST", "/api/mappings", {"legs": [slack, chat]}, expect=201)
    world.hosts.take_down("slack.com")
    for number in range(3):
        legs.chat.write(f"before {number}")
    legs.until(lambda: len(legs.telegram.texts()) == 3)
    world.hub.call("POST", f"/api/mappings/{legs.mapping['id']}/pause")
    world.hosts.bring_up()
    other.write("of the other mapping")
    legs.until(lambda: legs.slack.texts() == ["of the other mapping"])
    world.hub.call("POST", f"/api/mappings/{legs.mapping['id']}/resume")
    legs.chat.write("after")
    shown = ["of the other mapping", "before 0", "before 1", "before 2", "after"]
    legs.until(lambda: legs.slack.texts() == shown)
