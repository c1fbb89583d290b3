"""The same event, published again: it is delivered once, however long ago and whichever process owns it."""

from pathlib import Path

from tests.delivery.test_attempts import new_type
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber

hub = hub_with(services=("gateway", "delivery"), workspace="repeats")


def test_an_event_that_is_published_again_is_sent_once(
    hub: Hub, tmp_path: Path, bus: Bus, store: Store
) -> None:
    kind, sent = new_type(), 0

    def publish_again() -> None:
        """Publish the first event again, and another one behind it."""
        nonlocal sent
        sent += 1
        for name in ("first", f"after-{sent}"):
            event = {
                "specversion": "1.0",
                "id": name,
                "type": kind,
                "source": "/t",
                "subject": kind,
                "data": 1,
            }
            hub.call("POST", "/api/events", event, expect=202)
        subscriber.wait_for(sent + 1, within_s=40)

    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        publish_again()
        publish_again()
        eventually(lambda: len(hub.deliveries(webhook_id=webhook["id"], status="delivered")) == sent + 1)
        assert hub.stop_service("delivery") == 0
        hub.start_service("delivery")
        hub.wait_ready("delivery")
        publish_again()
        with second_process("delivery", hub, tmp_path, bus, store):
            publish_again()
        publish_again()
        ids = [got.headers["webhook-id"] for got in subscriber.got]
    assert len(ids) == len(set(ids)) == sent + 1
