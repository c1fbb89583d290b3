"""kill -9 of delivery at each step of its pipeline and at random, SIGSTOP, a broker and a store that die.

An external producer and an external receiver keep journals on disk (`tests/support/external_*.py`): what was
acknowledged to the one has to be in the other's, and in order where order is promised. The last test shows
that a delivery service that loses is found out.
"""

import asyncio
import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep

import pytest

from interlink.embedded import database
from interlink.supervise import ProcessGroup
from shared.contracts.topics import CHAT_EVENTS, DELIVERY_REQUESTED
from shared.runtime.failpoints import FAILPOINT_VARIABLE, FAILPOINTS
from tests.faults.durability import (
    DELIVERY,
    RATE,
    REFUSE,
    RETRY,
    TIMEOUT_S,
    WEBHOOKS,
    Rig,
    chat_event,
    rebalance,
)
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.external import ExternalReceiver
from tests.support.hub import Hub
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber
from tests.support.tap import Tap, put

KILLS = 2
IN_HAND = 40
MAX_OPEN_S = 1.8
"""Seconds for which a request may be in memory alone: what a killed process repeats."""
REACHED = {
    "fanout.read": 1,
    "fanout.published": 1,
    "attempt.read": 2,
    "attempt.direct": 40,
    "attempt.before_send": 40,
    "attempt.sent": 40,
    "attempt.before_write": 2,
    "attempt.written": 2,
    "attempt.head_written": 1,
    "schedule.claimed": 5,
    "schedule.sent": 5,
    "schedule.written": 5,
}
"""At which time a crash point kills. A service that starts finds a backlog, so its first batches are large:
it dies with much in its hands."""


@pytest.fixture(scope="module")
def rig(
    tmp_path_factory: pytest.TempPathFactory, durable_bus: Bus, note: Callable[[str], None]
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("durability")
    processes = ProcessGroup()
    half = database(folder / "store", processes)
    receiver = ExternalReceiver(folder, REFUSE)
    its_store = Store("an embedded store of its own", half.uri)
    hub = Hub(folder / "hub", durable_bus, its_store, services=(DELIVERY,))
    try:
        half.start()
        receiver.start()
        hub.start()
        webhooks = {
            path: hub.outgoing_webhook(receiver.url(path), retry=RETRY, timeout_s=TIMEOUT_S, **fields)["id"]
            for path, fields in WEBHOOKS.items()
        }
        yield Rig(folder, hub, durable_bus, its_store, half, receiver, webhooks, note)
    finally:
        hub.stop()
        receiver.stop()
        half.stop()
        processes.close()


def crashed(rig: Rig) -> None:
    """Wait until delivery has died by SIGKILL."""

    def over() -> bool:
        """Delivery dies at its crash point."""
        return rig.hub.ended(DELIVERY) is not None

    eventually(over, within_s=90)
    assert rig.hub.ended(DELIVERY) == -signal.SIGKILL, rig.hub.log_tail(DELIVERY)


def direct_requests(hub: Hub) -> float:
    """How many requests this process has attempted without Kafka."""
    return hub.metric(DELIVERY, "interlink_direct_requests_total")


@pytest.mark.parametrize("dies", [False, True], ids=["it goes on", "it dies when they are published"])
def test_losing_a_partition_with_direct_requests_in_hand_loses_nothing(rig: Rig, dies: bool) -> None:
    """The store stands still, so that neither results nor what waits can be logged before it is lost."""
    kind = f"direct{token_hex(4)}.made"
    with Subscriber(delay_s=0.15) as subscriber:
        webhook = rig.hub.outgoing_webhook(subscriber.url, events=[kind], max_in_flight=2)
        if dies:
            assert rig.hub.stop_service(DELIVERY) == 0
            rig.hub.start_service(DELIVERY, **{FAILPOINT_VARIABLE: "direct.published"})
            rig.hub.wait_ready(DELIVERY)

        def publish(*names: str) -> None:
            put(rig.bus, CHAT_EVENTS.name, [chat_event(name, kind) for name in names])

        def goes_directly() -> bool:
            """A request goes without Kafka."""
            publish(token_hex(8))
            return direct_requests(rig.hub) > 0

        eventually(goes_directly, every_s=0.5)
        eventually(rig.nothing_left, every_s=0.3)
        tap = Tap(rig.bus, DELIVERY_REQUESTED.name)
        names = [token_hex(8) for _ in range(IN_HAND)]
        publish(*names)
        store = rig.half.child.pid
        assert store
        os.kill(store, signal.SIGSTOP)
        try:
            assert not tap.look(), "a request went by Kafka"
            asyncio.run(rebalance(rig.bus, f"{DELIVERY}-attempt", DELIVERY_REQUESTED))
        finally:
            os.kill(store, signal.SIGCONT)
        if dies:
            crashed(rig)
            rig.restart()

        def received() -> bool:
            """Everything is received."""
            return set(names) <= {json.loads(got.body)["id"] for got in subscriber.got}

        eventually(received)
        eventually(rig.nothing_left, every_s=0.3)
        assert tap.look(), "its partition was not lost while it was in hand"
        rig.hub.call("DELETE", f"/api/outgoing-webhooks/{webhook['id']}")


def test_killing_one_of_two_with_direct_requests_loses_nothing(rig: Rig, tmp_path: Path) -> None:
    with second_process(DELIVERY, rig.hub, tmp_path, rig.bus, rig.store) as other, rig.load() as load:
        for _ in range(KILLS):
            before = {hub: direct_requests(hub) for hub in (rig.hub, other)}

            def went_directly(before: Mapping[Hub, float] = before) -> Hub | None:
                """Requests go without Kafka in one of the processes."""
                return next((hub for hub in before if direct_requests(hub) - before[hub] >= IN_HAND), None)

            killed = eventually(went_directly, every_s=0.2)
            assert killed
            killed.kill(DELIVERY)
            back = monotonic()
            killed.start_service(DELIVERY)
            killed.wait_ready(DELIVERY)
        load.goes_on()
        found = load.nothing_is_lost(f"one of two killed while its requests were direct, {KILLS} times", back)
    repeats = sum(found.duplicated.values())
    assert repeats <= KILLS * MAX_OPEN_S * RATE * len(WEBHOOKS), "more than a process has in hand"


@pytest.mark.parametrize("point", [name for name in FAILPOINTS if name in REACHED])
def test_dying_at_a_crash_point_loses_nothing(rig: Rig, point: str) -> None:
    with rig.load() as load:
        assert rig.hub.stop_service(DELIVERY) == 0
        rig.hub.start_service(DELIVERY, **{FAILPOINT_VARIABLE: f"{point}:{REACHED[point]}"})
        crashed(rig)
        back = rig.restart()
        load.goes_on()
        load.nothing_is_lost(f"died at {point}", back)


def test_dying_at_random_loses_nothing(rig: Rig) -> None:
    seed = int(monotonic())
    moments = random.Random(seed)  # noqa: S311 -- not a secret
    with rig.load() as load:
        for _ in range(KILLS):
            sleep(moments.uniform(0.2, 1.5))
            rig.hub.kill(DELIVERY)
            back = rig.restart()
        load.goes_on()
        load.nothing_is_lost(f"killed {KILLS} times at random (seed {seed})", back)


def test_standing_still_past_the_session_loses_nothing(rig: Rig, tmp_path: Path) -> None:
    with second_process(DELIVERY, rig.hub, tmp_path, rig.bus, rig.store) as other, rig.load() as load:
        for hub in (rig.hub, other):
            pid = hub.pid(DELIVERY)
            os.kill(pid, signal.SIGSTOP)
            stopped = monotonic()
            try:
                load.caught_up(stopped, stopped + 1)
            finally:
                os.kill(pid, signal.SIGCONT)
            back = monotonic()
            load.goes_on()
        load.nothing_is_lost("each of two stopped until the other had taken over, then continued", back)


def test_killing_the_broker_loses_nothing(rig: Rig) -> None:
    broker = rig.bus.broker
    assert broker
    pid = rig.hub.pid(DELIVERY)
    with rig.load() as load:
        broker.kill()
        broker.start()
        back = monotonic()
        load.goes_on(100)
        load.nothing_is_lost("broker killed and started again", back)
    assert rig.hub.pid(DELIVERY) == pid
    rig.hub.wait_ready(DELIVERY)


def test_killing_the_store_loses_nothing(rig: Rig) -> None:
    with rig.load() as load:
        rig.half.kill()
        load.goes_on(100)
        rig.half.start()
        back = monotonic()
        load.goes_on()
        load.nothing_is_lost("store killed and started again", back)
    assert rig.hub.ended(DELIVERY) is None


def test_a_delivery_service_that_commits_first_is_found_out(rig: Rig) -> None:
    """The proof of all of the above: the same fault, the same report, but for a service that is broken."""
    with rig.load() as load:
        assert rig.hub.stop_service(DELIVERY) == 0
        broken = ("tests.support.commits_first",)
        rig.hub.start_service(
            DELIVERY, module=broken, **{FAILPOINT_VARIABLE: f"attempt.read:{REACHED['attempt.read']}"}
        )
        crashed(rig)
        rig.restart()
        load.goes_on()
        with pytest.raises(AssertionError, match="lost"):
            load.nothing_is_lost("a service that commits first, killed (it has to lose)")
        # Not late but gone: no offset and no log entry leads back to them.
        assert rig.nothing_left()
        assert load.not_in_the_log()
