"""A second process of a service beside a running hub: on its bus and its database, with other settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.backends import Bus, Store
from tests.support.hub import Hub


@contextmanager
def second_process(service: str, hub: Hub, folder: Path, bus: Bus, store: Store, **env: str) -> Iterator[Hub]:
    """The process, ready, as a hub of one service; `env` are its different settings."""
    other = Hub(folder, bus, store, services=(service,), env=hub.env | env, workspace=hub.workspace)
    other.admin_key = hub.admin_key
    other.start_service(service)
    try:
        other.wait_ready(service)
        yield other
    finally:
        other.stop()
