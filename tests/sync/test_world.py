"""The world itself: what people do at the providers becomes events, and the chat stores what it gets."""

import httpx

from shared.contracts.topics import CHAT_EVENTS, WEBHOOKS_RECEIVED
from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.tap import Tap
from tests.sync.three_legs import World


def test_events_of_both_providers_reach_the_hub(world: World, bus: Bus) -> None:
    legs = world.legs()
    tap = Tap(bus, WEBHOOKS_RECEIVED.name)
    legs.slack.react(legs.slack.write("from Slack"), "wave")
    legs.telegram.react(legs.telegram.write("from Telegram"), "👍")

    def received() -> set[tuple[str, str]]:
        return {(one.attributes["provider"], one.attributes["event"]) for one in tap.look()}

    wanted = {
        ("slack", "message"),
        ("slack", "reaction_added"),
        ("telegram", "message"),
        ("telegram", "message_reaction"),
    }
    eventually(lambda: wanted <= received())
    scopes = world.app.scopes
    assert {"chat:write.customize", "reactions:write", "files:write"} <= scopes, "the purpose asks for them"
    integration = world.hub.call("GET", f"/api/integrations/{world.slack_integration}")
    assert integration["account"]["id"] == world.team.id
    assert integration["missing_scopes"] == []


def test_a_chat_with_own_ids_reports_the_hubs_id(world: World, bus: Bus) -> None:
    tap = Tap(bus, CHAT_EVENTS.name)
    for own_ids in (False, True):
        place = world.chat.channel(own_ids=own_ids)
        body = {"name": "Builds", "target_channel_id": place.channel}
        incoming = world.hub.call("POST", "/api/incoming-webhooks", body, expect=201)
        path = incoming["url"].removeprefix("https://hub.example.com")
        posted = httpx.post(world.hub.url("gateway") + path, json={"text": "built"}).raise_for_status().json()
        eventually(lambda place=place: place.texts() == ["built"])  # type: ignore[misc]  # no such lambda
        stored = place.shown()[0].id
        assert (stored == posted["message_id"]) is not own_ids
    [record] = tap.wait_for(1)
    assert record.attributes["ce_type"] == "message.created"
    assert record.data["origin"] == {"message_id": posted["message_id"]}
    assert record.data["message_id"] == stored
