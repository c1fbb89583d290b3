"""A gateway loads a provider when the first request names it, and nothing for a name that nobody has."""

from typing import Any, cast

import pytest

from services.gateway.ingest.app_webhooks import AppWebhooks
from shared.connections.apps import Apps
from shared.connections.configured_apps import configured_apps
from shared.manifests import registry as registry_module
from shared.manifests.registry import Registry


class _NoApps:
    """Apps of an installation that has none."""

    def all_readable(self, _provider: str) -> tuple[()]:
        return ()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The providers whose manifests are read, in order."""
    names: list[str] = []
    read = registry_module.read_manifest

    def reading(folder: Any) -> Any:
        names.append(folder.name)
        return read(folder)

    monkeypatch.setattr(registry_module, "read_manifest", reading)
    return names


def _webhooks() -> AppWebhooks:
    return AppWebhooks(Registry(), cast("Apps", _NoApps()), "https://hub.example")


def test_the_first_request_loads_the_provider_that_it_names(loaded: list[str]) -> None:
    webhooks = _webhooks()
    assert loaded == []
    target = webhooks.get("slack")
    assert target
    assert webhooks.get("slack") is target
    assert loaded == ["slack"]
    # The app of Messenger is that of Facebook.
    assert webhooks.get("messenger")
    assert sorted(loaded) == ["facebook", "messenger", "slack"]


def test_names_that_nobody_has_load_nothing_and_take_no_memory(loaded: list[str]) -> None:
    webhooks = _webhooks()
    for number in range(1000):
        assert webhooks.get(f"stranger-{number}") is None
        assert webhooks.missing_detail(f"stranger-{number}") == ""
    assert webhooks.get("../slack") is None
    assert loaded == []
    assert not webhooks._targets
    assert webhooks.get("telegram") is None
    assert "POST /api/inbound-endpoints" in webhooks.missing_detail("telegram")
    assert loaded == ["telegram"]
    assert not webhooks._targets


def test_the_apps_of_the_environment_load_their_own_providers_only(loaded: list[str]) -> None:
    assert configured_apps(Registry(), {}) == {}
    assert loaded == []
    environment = {
        "INTERLINK_APP_GITHUB_CLIENT_ID": "an-id",
        "INTERLINK_APP_GITHUB_CLIENT_SECRET": "a-secret",
    }
    assert configured_apps(Registry(), environment).keys() == {"github"}
    assert loaded == ["github"]
