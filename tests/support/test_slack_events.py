"""The strict Slack server's events, verified by Slack's own SDK, and what people do there."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from slack_sdk.signature import SignatureVerifier

from tests.support.eventually import eventually
from tests.support.fakes.slack_state import Json
from tests.support.provider_hosts import HostRequest, Reply
from tests.support.slack_setting import Setting, rich, served, setting


class Receiver:
    """Takes events, and answers with `answers` first, then with 200; one of status 0 waits for `go_on`."""

    def __init__(self) -> None:
        self.asked: list[HostRequest] = []
        self.answers: list[Reply] = []
        self.go_on = threading.Event()

    def __call__(self, request: HostRequest) -> Reply:
        self.asked.append(request)
        answer = self.answers.pop(0) if self.answers else Reply(200)
        if answer.status == 0:
            self.go_on.wait(30)
        return answer

    @property
    def events(self) -> list[Json]:
        """The inner events, in their order."""
        return [json.loads(one.body)["event"] for one in self.asked]


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Setting]:
    with setting(tmp_path) as made:
        yield made


@pytest.fixture
def receiver(at: Setting) -> Iterator[Receiver]:
    made = Receiver()
    with served(made) as url:
        at.app.events_url = f"{url}/in/slack?x=1"
        yield made
        made.go_on.set()


def test_events_are_signed_and_have_slacks_envelope(at: Setting, receiver: Receiver) -> None:
    ada = at.team.person("Ada Example")
    ts = ada.write(at.channel, "a < b")
    at.slack.events.settle()
    (asked,) = receiver.asked
    verifier = SignatureVerifier(at.app.signing_secret)
    assert verifier.is_valid_request(asked.body, dict(asked.headers))
    assert not verifier.is_valid_request(asked.body + b" ", dict(asked.headers))
    assert (asked.path, asked.params()) == ("/in/slack", {"x": "1"})
    envelope = json.loads(asked.body)
    assert envelope["type"] == "event_callback"
    assert (envelope["team_id"], envelope["api_app_id"]) == (at.team.id, at.app.id)
    assert envelope["authorizations"][0]["user_id"] == at.app.user_id
    assert envelope["event_id"].startswith("Ev")
    assert envelope["event_context"]
    event = envelope["event"]
    assert (event["ts"], event["user"], event["text"]) == (ts, ada.user_id, "a &lt; b")
    assert (event["channel"], event["channel_type"]) == (at.channel.id, "channel")
    assert (event["team"], len(event["client_msg_id"])) == (at.team.id, 36)
    assert event["blocks"][0]["elements"][0]["elements"] == [{"type": "text", "text": "a < b"}]
    assert at.slack.visible(at.channel)[0].text == "a < b"


def test_the_apps_own_messages_are_events_too(at: Setting, receiver: Receiver) -> None:
    at.say("hi", blocks=[rich({"type": "text", "text": "hi"}, block_id="mine")])
    at.say("hi", username="Bo", icon_url="https://example.com/bo.png")
    at.slack.events.settle()
    plain, named = receiver.events
    assert (plain["bot_id"], plain["app_id"], plain["user"]) == (at.app.bot_id, at.app.id, at.app.user_id)
    assert (plain["blocks"][0]["block_id"], "subtype" in plain) == ("mine", False)
    assert (named["subtype"], named["username"]) == ("bot_message", "Bo")
    assert named["icons"] == {"image_48": "https://example.com/bo.png"}


def test_what_people_do(at: Setting, receiver: Receiver) -> None:
    ada, bo = at.team.person("Ada Example"), at.team.person("Bo Example")
    bo.join(at.channel)
    root = ada.write(at.channel, blocks=[rich({"type": "user", "user_id": bo.user_id})])
    file = bo.upload("a.txt", b"abc", "text/plain")
    hidden = bo.upload("b.txt", b"def", check_info=True)
    reply = bo.write(at.channel, "see", thread=root, files=[file, hidden])
    bo.write(at.channel, "loud", thread=root, broadcast=True)
    ada.me(at.channel, "waves")
    bo.edit(at.channel, reply, "see it")
    ada.react(at.channel, reply, "tada")
    ada.react(at.channel, reply, "eyes")
    ada.unreact(at.channel, reply, "eyes")
    seen = {one.ts: one for one in at.slack.visible(at.channel)}
    assert seen[root].text == "@bo"
    assert (seen[reply].author, seen[reply].text, seen[reply].thread) == ("Bo Example", "see it", root)
    assert seen[reply].files == (("a.txt", b"abc"), ("b.txt", b"def"))
    assert (seen[reply].reactions, seen[reply].edited) == ({"tada": ("Ada Example",)}, True)
    bo.delete(at.channel, reply)
    ada.change(real_name="Ada Other", picture="https://example.com/ada.png")
    at.slack.events.settle()
    kinds = [(one["type"], one.get("subtype")) for one in receiver.events]
    assert kinds == [
        ("member_joined_channel", None),
        ("message", None),
        ("message", "file_share"),
        ("message", "thread_broadcast"),
        ("message", "me_message"),
        ("message", "message_changed"),
        ("reaction_added", None),
        ("reaction_added", None),
        ("reaction_removed", None),
        ("message", "message_deleted"),
        ("user_change", None),
    ]
    shared, changed, deleted = (receiver.events[one] for one in (2, 5, 9))
    assert shared["files"][1] == {"id": hidden.id, "mode": "file_access", "file_access": "check_file_info"}
    assert changed["message"]["edited"]["user"] == bo.user_id
    assert (changed["message"]["text"], changed["previous_message"]["text"]) == ("see it", "see")
    assert (deleted["deleted_ts"], deleted["previous_message"]["ts"]) == (reply, reply)
    assert receiver.events[6]["item"] == {"type": "message", "channel": at.channel.id, "ts": reply}
    assert receiver.events[-1]["user"]["real_name"] == "Ada Other"
    assert len({one["event_ts"] for one in receiver.events}) == len(kinds)


def test_what_happens_to_channels(at: Setting, receiver: Receiver) -> None:
    ada = at.team.person("Ada Example")
    outside = at.team.add_channel("outside", "channel", ada)
    ada.write(outside, "nobody hears it")
    ada.invite(outside, at.app.user_id)
    ts = ada.write(at.channel, "https://example.com")
    at.team.preview(at.channel, ts, "https://example.com", "Example")
    at.team.rename(at.channel, "plans")
    at.team.archive(at.channel, ada.user_id)
    at.team.remove(outside, at.app.user_id)
    at.slack.events.settle()
    joined, _, preview, renamed, archived, left = receiver.events
    assert (joined["user"], joined["inviter"]) == (at.app.user_id, ada.user_id)
    assert (preview["subtype"], "edited" in preview["message"]) == ("message_changed", False)
    assert preview["message"]["attachments"][0]["from_url"] == "https://example.com"
    assert renamed["channel"]["name"] == "plans"
    assert (archived["type"], archived["channel"]) == ("channel_archive", at.channel.id)
    assert left["type"] == "member_left_channel"
    at.app.revoke()
    ada.change(real_name="Ada Other")
    assert at.slack.events.of("user_change") == []


def test_an_event_is_sent_again_until_it_is_taken(at: Setting, receiver: Receiver) -> None:
    at.slack.events.retry_delays_s = (0.0, 0.05, 0.05)
    at.slack.events.timeout_s = 1
    receiver.answers = [Reply(500), Reply.gone(), Reply(302)]
    at.say()
    (delivery,) = at.slack.events.deliveries
    eventually(lambda: len(delivery.answers) == 4)
    assert delivery.answers == [500, "http_timeout", 302, 200]
    numbers = [one.headers.get("x-slack-retry-num") for one in receiver.asked]
    reasons = [one.headers.get("x-slack-retry-reason") for one in receiver.asked]
    assert numbers == [None, "1", "2", "3"]
    assert reasons == [None, "http_error", "http_timeout", "http_error"]
    assert len({json.loads(one.body)["event_id"] for one in receiver.asked}) == 1
    receiver.answers = [Reply(500, headers={"x-slack-no-retry": "1"})]
    at.say()
    at.slack.events.settle()
    assert at.slack.events.deliveries[-1].answers == [500]


def test_nobody_takes_an_event(at: Setting) -> None:
    with served(lambda _: Reply(200)) as url:
        at.app.events_url = url
    at.slack.events.retry_delays_s = (0.0,)
    at.say()
    eventually(lambda: at.slack.events.deliveries[0].answers == ["connection_failed", "connection_failed"])


def test_events_come_twice_and_out_of_order(at: Setting, receiver: Receiver) -> None:
    events = at.slack.events
    events.duplicate_next = 1
    at.say("twice")
    events.settle()
    assert [one["text"] for one in receiver.events] == ["twice", "twice"]
    assert receiver.asked[0].body == receiver.asked[1].body
    events.hold()
    at.say("first")
    at.say("second")
    events.settle()
    assert len(receiver.asked) == 2
    events.release(backwards=True)
    events.settle()
    assert [one["text"] for one in receiver.events[2:]] == ["second", "first"]


def test_an_event_comes_before_the_answer_of_its_call(at: Setting, receiver: Receiver) -> None:
    def late(request: HostRequest) -> Reply:
        threading.Event().wait(0.2)  # an answer that did not wait for the event would be there by then
        return receiver(request)

    with served(late) as url:
        at.app.events_url = url
        at.slack.events.before_response = 2
        at.say("answered")
        assert [one["text"] for one in receiver.events] == ["answered"]
        at.slack.faults.lose_response("chat.postMessage")
        with pytest.raises(ConnectionError):
            at.say("lost")
        assert [one["text"] for one in receiver.events] == ["answered", "lost"]
