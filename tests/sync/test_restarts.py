"""kill -9 and restart of the broker and of the database, under load: nothing is lost, and nothing doubles.

Telegram cannot be asked whether it has a message: there, each restart may double one message, and the trace
of that message says so. `INTERLINK_TEST_RESTARTS` is how often each is killed, `INTERLINK_TEST_SEED` when.
"""

import os
import random
from collections.abc import Callable
from time import sleep
from typing import Final, Protocol

import pytest

from interlink.embedded import EmbeddedServer
from tests.support.backends import Bus, Store
from tests.sync.load import Load
from tests.sync.three_legs import World

RESTARTS: Final = int(os.environ.get("INTERLINK_TEST_RESTARTS", "1"))
SEED: Final = int(os.environ.get("INTERLINK_TEST_SEED", "0")) or random.SystemRandom().randrange(10**6)
_RETRY_DELAYS_S: Final = (0.0, 5.0, 25.0) * RESTARTS
"""Of Slack, which repeats an event at once, after 1 and after 5 minutes: here a twelfth of that. Each restart
can cost an event three attempts, so there are three for each."""


class Server(Protocol):
    """The broker or the database."""

    def start(self) -> None: ...

    def kill(self) -> None: ...


@pytest.fixture(scope="module")
def bus(durable_bus: Bus) -> Bus:
    return durable_bus


@pytest.fixture(scope="module")
def store(own_database: EmbeddedServer) -> Store:
    return Store("an embedded database of its own", own_database.uri)


def _restarts(world: World, server: Server) -> str:
    """Kill a server and start it again, several times under load: what came of it."""
    rng = random.Random(SEED)  # noqa: S311 -- to be repeated
    world.slack.events.retry_delays_s = _RETRY_DELAYS_S
    pids = {service: world.hub.pid(service) for service in world.hub.services}
    load = Load(world, rng)
    with load.running():
        for _ in range(RESTARTS):
            sleep(rng.uniform(1.0, 3.0))
            server.kill()
            sleep(rng.uniform(0.0, 2.0))
            server.start()
        sleep(1.0)
    found = load.check(RESTARTS)
    assert {service: world.hub.pid(service) for service in world.hub.services} == pids
    return f"seed {SEED}, {found}"


def test_restarts_of_the_broker_lose_and_double_nothing(world: World, note: Callable[[str], None]) -> None:
    assert world.hub.bus.broker
    note(f"broker killed and started again: {_restarts(world, world.hub.bus.broker)}")


def test_restarts_of_the_database_lose_and_double_nothing(
    world: World, own_database: EmbeddedServer, note: Callable[[str], None]
) -> None:
    note(f"database killed and started again: {_restarts(world, own_database)}")
