"""Limits of a workspace hold when several processes are asked at the same moment."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.backends import Bus, Store
from tests.support.hub import Hub
from tests.support.second_process import second_process

LIMIT = 6
LIMITS = ("ENDPOINTS", "INCOMING_WEBHOOKS", "API_KEYS")
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("/api/inbound-endpoints", {"provider": "github", "name": "x"}),
    ("/api/incoming-webhooks", {"name": "x", "target_channel_id": "c"}),
    ("/api/api-keys", {"name": "x", "scopes": ["events:write"]}),
]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[tuple[Hub, Hub]]:
    """Two processes of the gateway on one store."""
    env = {f"INTERLINK_{kind}_PER_WORKSPACE": str(LIMIT) for kind in LIMITS}
    folder: Path = tmp_path_factory.mktemp("hub")
    hub = Hub(folder, bus, store, services=("gateway",), workspace="limits", env=env)
    try:
        hub.start()
        with second_process("gateway", hub, folder / "other", bus, store) as other:
            yield hub, other
    finally:
        hub.stop()


@pytest.mark.parametrize(("path", "body"), KINDS)
def test_two_processes_never_pass_a_limit(gateways: tuple[Hub, Hub], path: str, body: dict[str, Any]) -> None:
    headers = {"authorization": f"Bearer {gateways[0].admin_key}"}

    def make(number: int) -> int:
        url = gateways[number % 2].url("gateway") + path
        return httpx.post(url, json=body, headers=headers, timeout=30).status_code

    before = len(gateways[0].call("GET", path)["items"])
    with ThreadPoolExecutor(12) as people:
        statuses = list(people.map(make, range(36)))
    assert set(statuses) <= {201, 409}
    items = gateways[1].call("GET", path)["items"]
    assert before + statuses.count(201) == len(items) <= LIMIT
    while make(0) == 201:
        pass
    assert len(gateways[1].call("GET", path)["items"]) == LIMIT
