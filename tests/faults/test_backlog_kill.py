"""kill -9 of delivery loses no deferred event, in memory or stored."""

import signal
from pathlib import Path

import pytest

from shared.runtime.failpoints import FAILPOINT_VARIABLE
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.outgoing import n_of, new_type, numbered, path_of, publish
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber

EVENTS, WEBHOOKS = 40, 20
CONVERSATIONS, EACH = 10, 10
BURST = 300
"""Events of one webhook: three times what a workspace may spend at once."""
DELIVERY = "delivery"


hub = hub_with(services=("gateway", DELIVERY), workspace="backlog")


LARGE = 100_000
"""Bytes of an event of which a partition has no room for many in memory, so that they are stored at once."""


def test_dying_with_direct_requests_of_deferred_events_loses_nothing(hub: Hub) -> None:
    """The first of these tests: the embedded database does not count the log with large events in time."""
    kind = new_type()
    hub.wait_ready(DELIVERY)
    with Subscriber() as sink:
        webhook = hub.outgoing_webhook(sink.url, events=[kind])
        hub.stop_service(DELIVERY)
        hub.start_service(DELIVERY, **{FAILPOINT_VARIABLE: f"attempt.direct:{BURST // 2}"})
        hub.wait_ready(DELIVERY)

        def goes_directly() -> bool:
            """A request goes without Kafka."""
            publish(hub, kind, {"n": -1})
            return hub.metric(DELIVERY, "interlink_direct_requests_total") > 0

        eventually(goes_directly, every_s=0.5)
        numbered(hub, kind, BURST)
        eventually(lambda: hub.ended(DELIVERY) is not None, 60)
        assert hub.ended(DELIVERY) == -signal.SIGKILL, hub.log_tail(DELIVERY)
        hub.start_service(DELIVERY)
        eventually(lambda: set(range(BURST)) <= {n_of(got) for got in sink.got})
        hub.wait_ready(DELIVERY)
        hub.call("DELETE", path_of(webhook))


@pytest.mark.parametrize(
    ("point", "size"),
    [
        ("fanout.deferring", 0),
        ("fanout.deferred", LARGE),
        ("drain.published:2", 0),
        ("drain.published:9", LARGE),
    ],
    ids=["in memory", "stored", "worked off from memory", "worked off while others are stored"],
)
def test_dying_with_a_backlog_loses_nothing_and_keeps_order(hub: Hub, point: str, size: int) -> None:
    kind = new_type()
    with Subscriber() as sink:
        webhooks = [
            hub.outgoing_webhook(
                f"{sink.url}/{number}", events=[kind], ordering="strict" if number == 0 else "none"
            )
            for number in range(WEBHOOKS)
        ]
        hub.stop_service(DELIVERY)
        hub.start_service(DELIVERY, **{FAILPOINT_VARIABLE: point})
        publish(hub, kind, *({"n": n, "text": "x" * size} for n in range(EVENTS)))
        eventually(lambda: hub.ended(DELIVERY) is not None, 60)
        assert hub.ended(DELIVERY) == -signal.SIGKILL, hub.log_tail(DELIVERY)
        hub.start_service(DELIVERY)
        hub.wait_ready(DELIVERY)

        def received() -> bool:
            """Every webhook got every event."""
            return len({(got.path, n_of(got)) for got in sink.got}) == EVENTS * WEBHOOKS

        eventually(received, 90)
        strict = list(dict.fromkeys(n_of(got) for got in sink.got if got.path.endswith("/hook/0")))
        assert strict == list(range(EVENTS))
        for webhook in webhooks:
            hub.call("DELETE", path_of(webhook))


def test_a_burst_beyond_the_share_is_delivered_without_storing_it(hub: Hub) -> None:
    """The failpoint would end the process once events are stored."""
    kind = new_type()
    with Subscriber() as sink:
        webhook = hub.outgoing_webhook(sink.url, events=[kind])
        hub.stop_service(DELIVERY)
        hub.start_service(DELIVERY, **{FAILPOINT_VARIABLE: "fanout.deferred"})
        hub.wait_ready(DELIVERY)
        numbered(hub, kind, BURST)
        sink.wait_for(BURST, within_s=30)
        assert _deferred(hub) > 0
        assert hub.ended(DELIVERY) is None, hub.log_tail(DELIVERY)
        hub.call("DELETE", path_of(webhook))
        hub.stop_service(DELIVERY)
        hub.start_service(DELIVERY)


def test_killing_one_of_two_with_a_backlog_loses_nothing_and_keeps_order(
    hub: Hub, bus: Bus, store: Store, tmp_path: Path
) -> None:
    """One of two dies with deferred events, and comes back while the other one works off what both had."""
    kind = new_type()
    numbers = range(CONVERSATIONS * EACH)
    with Subscriber() as sink, second_process(DELIVERY, hub, tmp_path, bus, store) as other:
        webhooks = [
            hub.outgoing_webhook(
                f"{sink.url}/{number}", events=[kind], ordering="strict" if number == 0 else "none"
            )
            for number in range(WEBHOOKS)
        ]
        before = [_deferred(each) for each in (hub, other)]
        for conversation in range(CONVERSATIONS):
            mine = numbers[conversation::CONVERSATIONS]
            publish(hub, kind, *({"n": n} for n in mine), subject=f"{kind}-{conversation}")

        def both_deferred() -> bool:
            """Both processes have deferred something."""
            return all(_deferred(each) > was for each, was in zip((hub, other), before, strict=True))

        eventually(both_deferred, every_s=0.02)
        hub.kill(DELIVERY)
        assert len({(got.path, n_of(got)) for got in sink.got}) < len(numbers) * WEBHOOKS, "nothing waits"
        hub.start_service(DELIVERY)

        def received() -> bool:
            """Every webhook got every event."""
            return len({(got.path, n_of(got)) for got in sink.got}) == len(numbers) * WEBHOOKS

        eventually(received, 120)
        hub.wait_ready(DELIVERY)
        strict = list(dict.fromkeys(n_of(each) for each in sink.got if each.path.endswith("/hook/0")))
        for conversation in range(CONVERSATIONS):
            got = [n for n in strict if n % CONVERSATIONS == conversation]
            assert got == list(numbers[conversation::CONVERSATIONS])
        for webhook in webhooks:
            hub.call("DELETE", path_of(webhook))


def _deferred(hub: Hub) -> float:
    return hub.metric(DELIVERY, "interlink_deferred_events_total")
