"""The world itself: what people do at the providers becomes events of the connected accounts."""

from shared.contracts.topics import WEBHOOKS_RECEIVED
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
    eventually(lambda: wanted <= received(), 20)
    scopes = world.app.scopes
    assert {"chat:write.customize", "reactions:write", "files:write"} <= scopes, "the purpose asks for them"
    integration = world.hub.call("GET", f"/api/integrations/{world.slack_integration}")
    assert integration["account"]["id"] == world.team.id
    assert integration["missing_scopes"] == []
