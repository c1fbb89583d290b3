"""An event whose requests cannot be made delays its own workspace only."""

from secrets import token_hex

import pytest

from tests.support.backends import Bus, Store
from tests.support.hub import Hub
from tests.support.outgoing import new_type, publish
from tests.support.subscriber import Subscriber

WEBHOOKS = 20


def test_a_request_that_is_too_large_holds_up_no_other_workspace(
    tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store
) -> None:
    """The event fits on Kafka, its request does not: the envelope has what changed twice."""
    hub = Hub(
        tmp_path_factory.mktemp("hub"),
        bus,
        store,
        services=("gateway", "delivery"),
        workspace=f"a-{token_hex(4)}",
    )
    kind = new_type()
    try:
        hub.start()
        neighbour = hub.other_workspace()
        with Subscriber() as own, Subscriber() as beside:
            hub.outgoing_webhook(own.url, events=[kind])
            for number in range(WEBHOOKS):
                hub.call(
                    "POST",
                    "/api/outgoing-webhooks?force=true",
                    {"name": "neighbour", "url": f"{beside.url}/{number}", "events": [kind]},
                    key=neighbour,
                )
            publish(hub, kind, {"changed": {"text": "x" * 4_500_000}})
            publish(hub, kind, {"n": 1}, key=neighbour)
            beside.wait_for(WEBHOOKS, within_s=15)
            publish(hub, kind, {"n": 2})
            own.wait_for(1)
    finally:
        hub.stop()
