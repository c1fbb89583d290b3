"""The bus, the store and the hub that test modules share; what each is, is in `tests/support`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from interlink.embedded import Embedded
from tests.support.backends import Bus, Store, best_bus, best_store, embedded, embedded_bus
from tests.support.hub import Hub


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    started = embedded(tmp_path_factory.mktemp("embedded"))
    yield started
    started.stop()


@pytest.fixture(scope="session")
def store(pair: Embedded) -> Iterator[Store]:
    found = best_store(pair)
    yield found
    found.close()


@pytest.fixture(scope="session")
def bus(pair: Embedded) -> Bus:
    """The embedded broker: quick, for tests that do not kill it."""
    return embedded_bus(pair)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory, pair: Embedded) -> Iterator[Bus]:
    """The most real broker that is to be had, for this module alone."""
    found = best_bus(tmp_path_factory.mktemp("kafka"), pair)
    yield found
    found.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    """A whole hub for one module, on the embedded bus."""
    folder: Path = tmp_path_factory.mktemp("hub")
    started = Hub(folder, bus, store)
    try:
        yield started.start()
    finally:
        started.stop()
