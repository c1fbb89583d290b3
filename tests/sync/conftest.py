"""One world for each module."""

from collections.abc import Iterator

import pytest

from tests.support.backends import Bus, Store
from tests.sync.three_legs import World, connected


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    with connected(tmp_path_factory.mktemp("world"), bus, store) as found:
        yield found
