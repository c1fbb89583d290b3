"""`/api/mappings` against a strict Slack and Telegram: what is found, refused, changed and tested."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import structlog
from jsonschema_rs import Draft202012Validator
from pydantic import SecretStr
from pymongo import MongoClient

from services.sync.mapping_rings import MAX_PER_CONVERSATION
from services.sync.store.mappings import MappingRepository
from shared.contracts.event_types import EVENT_TYPES
from shared.contracts.topics import CHAT_INBOUND, INTEGRATION_EVENTS
from shared.runtime.configuration import Configuration, announce_changes
from shared.runtime.kafka.producer import Producer
from shared.runtime.mongo import Mongo
from shared.runtime.settings import KafkaSettings, MongoSettings
from tests.support.backends import Bus, Store
from tests.support.hub import Hub
from tests.support.second_process import second_process
from tests.support.tap import Tap
from tests.sync.three_legs import World

Json = dict[str, Any]


def chat(channel: str, direction: str = "both") -> Json:
    return {"provider": "chat", "conversation": channel, "direction": direction}


def channels(count: int) -> list[str]:
    """Names of channels of the chat that nothing else uses."""
    base = token_hex(4)
    return [f"c-{base}-{number}" for number in range(count)]


def create(hub: Hub, *legs: Json, expect: int = 201, **fields: Any) -> Json:
    """A new mapping, or why there is none."""
    return dict(hub.call("POST", "/api/mappings", {"legs": legs, **fields}, expect=expect))


@asynccontextmanager
async def repository(hub: Hub) -> AsyncIterator[MappingRepository]:
    """The repository as the stages of the service use it, in a process of its own."""
    log = structlog.get_logger()
    idempotent = hub.env.get("KAFKA_ENABLE_IDEMPOTENCE", "true") == "true"
    servers = hub.env["KAFKA_BOOTSTRAP_SERVERS"]
    kafka = KafkaSettings(bootstrap_servers=servers, enable_idempotence=idempotent)
    producer = Producer(kafka, log, client_id="test")
    mongo = Mongo(MongoSettings(uri=SecretStr(hub.env["MONGODB_URI"])), app="test")
    configuration = Configuration(mongo, log)
    producer.start()
    try:
        await producer.wait_ready(30)
        yield MappingRepository(mongo, configuration, producer, log, per_workspace=100)
    finally:
        await producer.stop()
        await configuration.stop()
        mongo.close()


@contextmanager
def without_scope(world: World, scope: str) -> Iterator[None]:
    """As if the person had not granted a scope of Slack."""
    with MongoClient[dict[str, Any]](world.hub.env["MONGODB_URI"]) as client:
        integrations = client.get_default_database()["integrations"]
        before = integrations.find_one({"_id": world.slack_integration})
        assert before
        assert scope in before["scopes"]

        def grant(scopes: list[str]) -> None:
            integrations.update_one({"_id": world.slack_integration}, {"$set": {"scopes": scopes}})
            asyncio.run(_announce(world.hub, world.slack_integration))

        grant([one for one in before["scopes"] if one != scope])
        yield
        grant(before["scopes"])


async def _announce(hub: Hub, integration: str) -> None:
    mongo = Mongo(MongoSettings(uri=SecretStr(hub.env["MONGODB_URI"])), app="test")
    await announce_changes(mongo, "integrations", integration)
    mongo.close()


@pytest.fixture
def other_process(world: World, tmp_path: Path, bus: Bus, store: Store) -> Iterator[Hub]:
    with second_process("sync", world.hub, tmp_path, bus, store) as other:
        yield other


def test_three_conversations_are_mapped(world: World) -> None:
    legs = world.legs()
    legs.map(filters={"bots": True}, options={"reactions": False})
    mapping = legs.mapping
    slack, telegram, channel = mapping["legs"]
    assert (slack["account"], slack["conversation"]) == (world.team.id, legs.slack.channel.id)
    assert slack["name"] == legs.slack.channel.name
    assert telegram["name"] == legs.telegram.chat.title
    assert channel["account"] == world.hub.workspace
    assert len({leg["id"] for leg in mapping["legs"]}) == 3
    assert (mapping["status"], mapping["reason"]) == ("active", None)
    assert mapping["filters"]["bots"] is True
    assert (mapping["options"]["reactions"], mapping["options"]["edits"]) == (False, True)


def test_an_account_is_named_by_its_integration_or_by_its_provider_alone(world: World) -> None:
    legs = world.legs()
    slack = {"provider": "slack", "conversation": legs.slack.channel.id}
    first, second = channels(2)
    named = create(world.hub, slack | {"integration_id": world.slack_integration}, chat(first, "in"))
    only = world.legs().slack.channel.id
    alone = create(world.hub, {"provider": "slack", "conversation": only}, chat(second, "in"))
    assert named["legs"][0]["account"] == alone["legs"][0]["account"] == world.team.id
    assert "integration_id" not in named["legs"][0]


def test_unknown_accounts_and_conversations_are_named(world: World) -> None:
    hub, (channel,) = world.hub, channels(1)
    refused = create(
        hub, {"provider": "slack", "account": "T0", "conversation": "C1"}, chat(channel), expect=404
    )
    assert "'T0'" in refused["detail"]
    assert refused["errors"][0]["field"] == "legs.0"
    foreign = hub.other_workspace()
    stranger = {"provider": "slack", "integration_id": world.slack_integration, "conversation": "C1"}
    body = {"legs": [stranger, chat(channel)]}
    refused = hub.call("POST", "/api/mappings", body, key=foreign, expect=404)
    assert world.slack_integration in refused["detail"]
    refused = create(hub, {"provider": "slack", "conversation": "C0NONE"}, chat(channel), expect=404)
    assert refused["errors"][0] == {
        "field": "legs.0.conversation",
        "message": "The app does not see the channel: invite it with /invite, or choose another channel.",
    }
    refused = create(hub, {"provider": "telegram", "conversation": "-100123"}, chat(channel), expect=404)
    assert "add it there" in refused["detail"]
    refused = create(hub, {"provider": "github", "conversation": "1"}, chat(channel), expect=422)
    assert "github" in refused["detail"]


def test_a_conversation_that_the_app_cannot_write_in_is_refused_with_the_fix(world: World) -> None:
    outside = world.team.add_channel(f"outside-{token_hex(3)}", "channel", world.team.person("Ada Example"))
    leg = {"provider": "slack", "conversation": outside.id}
    refused = create(world.hub, leg, chat(channels(1)[0]), expect=422)
    assert refused["errors"] == [
        {
            "field": "legs.0.conversation",
            "message": "The app is not in this channel: invite it with /invite in Slack.",
        }
    ]


def test_legs_that_carry_nothing_or_are_one_conversation_are_refused(world: World) -> None:
    hub, (one, two) = world.hub, channels(2)
    assert create(hub, chat(one, "in"), chat(two, "in"), expect=422)["errors"][0]["field"] == "legs"
    assert create(hub, chat(one, "out"), chat(two, "out"), expect=422)["errors"][0]["field"] == "legs"
    refused = create(hub, chat(one), chat(two), chat(one), expect=422)
    assert refused["errors"][0]["field"] == "legs.2.conversation"
    create(hub, chat(one), expect=422)
    create(hub, *map(chat, channels(11)), expect=422)
    create(hub, chat(one), chat(two), name="x" * 201, expect=422)
    words = {"exclude_words": ["x"] * 201}
    create(hub, chat(one), chat(two), filters=words, expect=422)


def test_a_missing_scope_is_named_with_what_to_press(world: World) -> None:
    legs = world.legs()
    with without_scope(world, "reactions:write"):
        leg = {"provider": "slack", "account": world.team.id, "conversation": legs.slack.channel.id}
        refused = create(world.hub, leg, chat(legs.chat.channel), expect=422)
        [error] = refused["errors"]
        assert error["field"] == "legs.0"
        assert "lacks the scope reactions:write" in error["message"]
        assert "connect the account again with the purpose sync" in error["message"]
        assert "options.reactions to false" in error["message"]
        preview = world.hub.call("POST", "/api/mappings/preview", {"legs": [leg, chat(legs.chat.channel)]})
        assert preview["ok"] is False
        [react] = [item for item in preview["legs"][0]["capabilities"] if item["capability"] == "react"]
        assert react["missing_scopes"] == ["reactions:write"]
        options = {"reactions": False}
        created = create(world.hub, leg, chat(legs.chat.channel), options=options)
    world.hub.call("PATCH", f"/api/mappings/{created['id']}", {"options": {"reactions": True}})


def test_mappings_that_form_a_ring_are_refused(world: World) -> None:
    hub, (one, two, three, four) = world.hub, channels(4)
    first = create(hub, chat(one, "in"), chat(two, "out"), name="first")
    second = create(hub, chat(two, "in"), chat(three, "out"), name="second")
    refused = create(hub, chat(three, "in"), chat(one, "out"), expect=409)
    assert first["id"] in refused["detail"]
    assert second["id"] in refused["detail"]
    refused = create(hub, chat(one), chat(two, "out"), expect=409)
    assert first["id"] in refused["detail"]
    assert second["id"] not in refused["detail"]
    preview = hub.call("POST", "/api/mappings/preview", {"legs": [chat(three, "in"), chat(one, "out")]})
    assert first["id"] in preview["problems"][0]
    # The other direction, and a paused mapping
    third = create(hub, chat(three, "out"), chat(four, "in"))
    hub.call("POST", f"/api/mappings/{second['id']}/pause")
    create(hub, chat(three, "in"), chat(one, "out"), expect=409)
    path = f"/api/mappings/{third['id']}"
    hub.call("PATCH", path, {"legs": [chat(three, "in"), chat(four), chat(one, "out")]}, expect=409)
    assert hub.call("GET", path)["legs"] == third["legs"]
    hub.call("DELETE", f"/api/mappings/{second['id']}", expect=204)
    create(hub, chat(three, "in"), chat(one, "out"))


def test_a_conversation_sends_to_a_limited_number_of_mappings(world: World) -> None:
    hub, (source, *others) = world.hub, channels(MAX_PER_CONVERSATION + 4)
    key = hub.other_workspace()

    def post(path: str, *legs: Json, expect: int) -> Json:
        return dict(hub.call("POST", f"/api/mappings{path}", {"legs": legs}, key=key, expect=expect))

    for _ in range(MAX_PER_CONVERSATION):
        post("", chat(source, "in"), chat(others.pop(), "out"), expect=201)
    problem = (
        f"messages of chat {source} go to {MAX_PER_CONVERSATION} mappings already, which is the maximum: "
        "add the other legs to one of these"
    )
    one_more = chat(source), chat(others[0], "out")
    assert post("", *one_more, expect=409)["detail"] == problem
    assert post("/preview", *one_more, expect=200)["problems"] == [problem]
    # It may still get the messages of others.
    made = post("", chat(source, "out"), chat(others[1], "in"), expect=201)
    legs = [chat(source), chat(others[1], "in")]
    refused = hub.call("PATCH", f"/api/mappings/{made['id']}", {"legs": legs}, key=key, expect=409)
    assert refused["detail"] == problem


def test_a_change_keeps_what_it_does_not_name(world: World) -> None:
    hub, (one, two, three) = world.hub, channels(3)
    filters, options = {"exclude_words": ["x"]}, {"prefix": ">"}
    created = create(hub, chat(one), chat(two), name="before", filters=filters, options=options)
    path = f"/api/mappings/{created['id']}"
    changed = hub.call(
        "PATCH", path, {"name": "after", "options": {"files": False}, "filters": {"bots": True}}
    )
    assert (changed["name"], changed["version"]) == ("after", 2)
    assert (changed["options"]["prefix"], changed["options"]["files"]) == (">", False)
    assert (changed["filters"]["exclude_words"], changed["filters"]["bots"]) == (["x"], True)
    assert changed["legs"] == created["legs"]
    changed = hub.call("PATCH", path, {"legs": [chat(two, "in"), chat(three)]})
    assert changed["legs"][0]["id"] == created["legs"][1]["id"]
    assert changed["legs"][0]["direction"] == "in"
    assert changed["legs"][1]["conversation"] == three


def test_a_change_based_on_other_settings_is_refused_and_a_pause_changes_none(world: World) -> None:
    hub, (one, two) = world.hub, channels(2)
    path = f"/api/mappings/{create(hub, chat(one), chat(two), name='first')['id']}"
    version = hub.call("GET", path)["version"]
    for action in ("pause", "resume"):
        assert hub.call("POST", f"{path}/{action}")["version"] == version
    with hub.client("sync") as client:
        statuses = [
            client.patch(path, json={"name": name}, headers={"If-Match": f'"{version}"'}).status_code
            for name in ("second", "late")
        ]
    assert statuses == [200, 412]
    shown = hub.call("GET", path)
    assert (shown["name"], shown["version"]) == ("second", version + 1)


def test_mappings_are_listed_by_status_provider_and_conversation(world: World) -> None:
    hub = world.hub
    key = hub.other_workspace()
    names = channels(6)
    ids = []
    for number in range(3):
        legs = [chat(names[2 * number]), chat(names[2 * number + 1])]
        ids.append(hub.call("POST", "/api/mappings", {"legs": legs}, key=key, expect=201)["id"])

    def listed(**query: str) -> list[str]:
        page = hub.call("GET", "/api/mappings", key=key, params=query)
        return [item["id"] for item in page["items"]]

    assert listed() == ids[::-1]
    page = hub.call("GET", "/api/mappings", key=key, params={"limit": "2"})
    assert [item["id"] for item in page["items"]] == ids[:0:-1]
    assert listed(limit="2", cursor=page["next_cursor"]) == ids[:1]
    hub.call("POST", f"/api/mappings/{ids[1]}/pause", key=key)
    assert listed(status="paused") == [ids[1]]
    assert listed(conversation=names[4], provider="chat") == [ids[2]]
    assert listed(provider="slack") == []
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/test")):
        hub.call(method, f"/api/mappings/{ids[0]}{path}", {} if method == "PATCH" else None, expect=404)


def test_what_one_process_creates_the_other_has(world: World, other_process: Hub) -> None:
    hub, (one, two, three) = world.hub, channels(3)
    created = create(hub, chat(one, "in"), chat(two, "out"))
    path = f"/api/mappings/{created['id']}"
    assert other_process.call("GET", path) == created
    refused = create(other_process, chat(two, "in"), chat(one, "out"), expect=409)
    assert created["id"] in refused["detail"]
    other_process.call("POST", f"{path}/pause")
    assert hub.call("GET", path)["status"] == "paused"
    other_process.call("DELETE", path, expect=204)
    hub.call("GET", path, expect=404)
    create(hub, chat(two, "in"), chat(three, "out"))


def test_two_processes_never_close_a_ring_together(world: World, other_process: Hub) -> None:
    for _ in range(8):
        one, two = channels(2)
        bodies = [
            {"legs": [chat(one, "in"), chat(two, "out")]},
            {"legs": [chat(two, "in"), chat(one, "out")]},
        ]
        with (
            world.hub.client("sync") as here,
            other_process.client("sync") as there,
            ThreadPoolExecutor(2) as threads,
        ):
            posts = zip((here, there), bodies, strict=True)
            calls = [threads.submit(client.post, "/api/mappings", json=body) for client, body in posts]
            statuses = sorted(call.result().status_code for call in calls)
        stored = world.hub.call("GET", f"/api/mappings?conversation={one}")["items"]
        assert statuses in ([201, 409], [409, 409])
        assert len(stored) == statuses.count(201)


def test_a_test_reaches_each_leg_or_says_why_not(world: World, bus: Bus) -> None:
    legs = world.mapped()
    tap = Tap(bus, CHAT_INBOUND.name)
    path = f"/api/mappings/{legs.id}/test"
    result = world.hub.call("POST", path)
    assert result["ok"] is True, result
    assert result["legs"][0]["permalink"].startswith("https://")
    [shown] = legs.slack.shown()
    assert "test of the mapping" in shown.text
    assert [one.text for one in legs.telegram.shown()] == [shown.text]
    [record] = [one for one in tap.wait_for(1) if one.data["channel_id"] == legs.chat.channel]
    assert record.attributes["ce_type"] == "inbound.message.created"
    assert record.data["origin"]["mapping_id"] == legs.id
    world.telegram.set_status(legs.telegram.chat, world.bot, "kicked", world.people["Ada Example"])
    result = world.hub.call("POST", path)
    failed = [leg for leg in result["legs"] if not leg["ok"]]
    assert [(leg["provider"], leg["reason"], leg["fix"]) for leg in failed] == [
        ("telegram", "The bot was removed from the chat.", "Add it again.")
    ]
    for _ in range(10):
        answer = world.hub.client("sync").post(path)
        if answer.status_code == 429:
            break
    assert answer.status_code == 429


def test_a_preview_shows_what_will_not_follow(world: World) -> None:
    legs = world.legs()
    slack = {"provider": "slack", "conversation": legs.slack.channel.id}
    telegram = {"provider": "telegram", "conversation": str(legs.telegram.chat.id)}
    body = {"legs": [slack, telegram, chat(legs.chat.channel)]}
    preview = world.hub.call("POST", "/api/mappings/preview", body)
    assert preview["ok"] is True
    assert preview["legs"][1]["name"] == legs.telegram.chat.title
    lost = {
        (item["from_leg"], item["to_leg"], item["what"]): item["reason"] for item in preview["not_following"]
    }
    assert lost[1, 0, "deletions"] == "Telegram reports no deletions to bots."
    assert (0, 1, "deletions") not in lost
    assert (0, 1, "names of authors") in lost
    sending = {item["capability"]: item for item in preview["legs"][0]["capabilities"]}["send"]
    assert sending["available"] is True
    assert list(sending["scopes"]) == ["chat:write"]
    quiet = world.hub.call("POST", "/api/mappings/preview", body | {"options": {"deletions": False}})
    assert not [item for item in quiet["not_following"] if item["what"] == "deletions"]
    assert world.hub.call("GET", f"/api/mappings?conversation={legs.chat.channel}")["items"] == []


def test_a_mapping_publishes_when_it_fails_and_recovers(world: World, bus: Bus) -> None:
    hub, (one, two) = world.hub, channels(2)
    created = create(hub, chat(one), chat(two), name="watched")
    tap = Tap(bus, INTEGRATION_EVENTS.name)
    reason, fix = "The channel is archived", "unarchive it in Slack."

    async def fail_twice() -> list[bool]:
        async with repository(hub) as mappings:
            mapping = created["id"], hub.workspace, created["legs"][0]["id"]
            return [await mappings.set_error(*mapping, reason, fix) for _ in range(2)]

    assert asyncio.run(fail_twice()) == [True, False]
    path = f"/api/mappings/{created['id']}"
    failed = hub.call("GET", path)
    assert (failed["status"], failed["reason"]) == ("error", "The channel is archived")
    resumed = hub.call("POST", f"{path}/resume")
    assert (resumed["status"], resumed["reason"], resumed["fix"]) == ("active", None, None)
    hub.call("POST", f"{path}/resume")
    failure, recovery = (event for event in tap.wait_for(2) if event.key == created["id"].encode())
    assert failure.attributes["ce_type"] == "mapping.failed"
    assert recovery.attributes["ce_type"] == "mapping.recovered"
    assert (failure.data["reason"], failure.data["fix"]) == (reason, fix)
    assert recovery.data["mapping_id"] == created["id"]
    for event in (failure, recovery):
        Draft202012Validator(EVENT_TYPES[event.attributes["ce_type"]].schema).validate(event.data)
