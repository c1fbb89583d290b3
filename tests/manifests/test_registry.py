"""Providers are loaded when they are first asked for."""

from pathlib import Path

import pytest

from shared.contracts.errors import Misconfigured
from shared.manifests.registry import Registry, provider_folders


def test_only_what_is_asked_for_is_loaded(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.yaml").write_text("id: [")
    slack = next(folder for folder in provider_folders() if folder.name == "slack")
    registry = Registry([slack, broken])
    assert (list(registry.providers), len(registry.providers)) == (["slack", "broken"], 2)
    assert registry.providers["slack"] is registry.providers["slack"]
    assert registry.connectors["slack"].app == "slack"
    with pytest.raises(Misconfigured, match=r"broken/manifest\.yaml"):
        registry.providers["broken"]
    with pytest.raises(Misconfigured, match=r"broken/manifest\.yaml"):
        list(registry.connectors)


def test_what_there_is_not_is_not_there() -> None:
    registry = Registry()
    for name in ("no-such-provider", "../slack", ""):
        assert (registry.providers.get(name), registry.connectors.get(name)) == (None, None)
    connecting = [name for name, provider in registry.providers.items() if provider.manifest.connect]
    assert list(registry.connectors) == connecting
