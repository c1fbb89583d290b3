"""kill -9 of delivery while it stores or works off what is beyond a workspace's share: nothing is lost."""

import signal
from collections.abc import Iterator
from secrets import token_hex

import pytest

from shared.runtime.crash import VARIABLE
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import n_of, new_type, numbered, path_of
from tests.support.subscriber import Subscriber

EVENTS, WEBHOOKS = 40, 20
DELIVERY = "delivery"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    """Gateway and delivery, in a workspace of their own."""
    folder = tmp_path_factory.mktemp("hub")
    workspace = f"backlog-{token_hex(4)}"
    started = Hub(folder, bus, store, services=("gateway", DELIVERY), workspace=workspace)
    try:
        yield started.start()
    finally:
        started.stop()


@pytest.mark.parametrize("point", ["fanout.deferring", "fanout.deferred", "drain.published:2"])
def test_dying_with_a_backlog_loses_nothing_and_keeps_order(hub: Hub, point: str) -> None:
    kind = new_type()
    with Subscriber() as sink:
        webhooks = [
            hub.outgoing_webhook(
                f"{sink.url}/{number}", events=[kind], ordering="strict" if number == 0 else "none"
            )
            for number in range(WEBHOOKS)
        ]
        hub.stop_service(DELIVERY)
        hub.start_service(DELIVERY, **{VARIABLE: point})
        numbered(hub, kind, EVENTS)
        eventually(lambda: hub.ended(DELIVERY) is not None, 60)
        assert hub.ended(DELIVERY) == -signal.SIGKILL, hub.log_tail(DELIVERY)
        hub.start_service(DELIVERY)
        hub.wait_ready(DELIVERY)

        def arrived() -> bool:
            """Every webhook got every event."""
            return len({(got.path, n_of(got)) for got in sink.got}) == EVENTS * WEBHOOKS

        eventually(arrived, 90)
        strict = list(dict.fromkeys(n_of(got) for got in sink.got if got.path.endswith("/hook/0")))
        assert strict == list(range(EVENTS))
        for webhook in webhooks:
            hub.call("DELETE", path_of(webhook))
