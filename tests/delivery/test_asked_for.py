"""A test event goes past a hold, whatever else happens to its webhook's endpoint state at that moment."""

from concurrent.futures import ThreadPoolExecutor

from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.outgoing import Moody, new_type, numbered, path_of
from tests.support.subscriber import Subscriber

TESTS = 60


hub = hub_with(services=("gateway", "delivery"), workspace="ask")


def test_every_test_goes_past_a_hold(hub: Hub) -> None:
    kind = new_type()
    with Subscriber() as sink:
        sink.answer = Moody(429, Retry_After="86400")
        webhook = hub.outgoing_webhook(sink.url, events=[kind], retry={"schedule": [0, 600], "jitter": 0})
        numbered(hub, kind, 1)
        sink.wait_for(1)
        eventually(lambda: hub.call("GET", path_of(webhook))["health"]["held_until"])
        numbered(hub, kind, 3, first=1)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: hub.call("POST", path_of(webhook) + "/test"), range(TESTS)))
        sink.wait_for(1 + TESTS, within_s=15)
