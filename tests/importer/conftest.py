"""The importer on its own, and the chat that stores what it publishes, for one module."""

from collections.abc import Iterator
from secrets import token_hex

import pytest

from tests.importer.history_chat import HistoryChat
from tests.support.backends import Bus, Store
from tests.support.hub import Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("imports")
    env = {"INTERLINK_UPLOAD_FOLDER": str(folder / "uploads")}
    with Hub(folder, bus, store, services=("importer",), env=env, workspace=f"w-{token_hex(4)}") as started:
        yield started


@pytest.fixture(scope="module")
def chat(hub: Hub) -> Iterator[HistoryChat]:
    with HistoryChat(hub.bus.env["KAFKA_BOOTSTRAP_SERVERS"], hub.workspace) as found:
        yield found
        assert not found.errors
