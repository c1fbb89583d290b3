"""What `interlink provider check` finds wrong about a manifest's `history` section and its code."""

from pathlib import Path

import pytest

from interlink.provider.history_rules import history_faults
from shared.manifests.models import Manifest
from shared.manifests.registry import registry

FOLDERS = Path("shared/providers")


def faults(name: str, manifest: Manifest) -> list[str]:
    return list(history_faults(FOLDERS / name, manifest))


def manifest_of(name: str) -> Manifest:
    return registry().providers[name].manifest


@pytest.mark.parametrize("name", ["slack", "discord", "github"])
def test_the_manifests_of_the_project_have_no_fault(name: str) -> None:
    assert faults(name, manifest_of(name)) == []


def test_a_page_reader_needs_a_section_and_a_section_a_page_reader() -> None:
    slack = manifest_of("slack")
    without = slack.model_copy(update={"history": None})
    assert faults("slack", without) == [
        "manifest.yaml: history: missing: PageReader needs its rates and errors"
    ]
    renamed = slack.model_copy(update={"id": "telegram"})
    assert faults("telegram", renamed) == ["telegram/history.py: has no class PageReader: add it"]
    assert faults("github", slack.model_copy(update={"id": "github"})) == [
        "github/history.py: missing: the manifest has a history section"
    ]


def test_calls_need_one_base_address_and_the_scopes_of_the_purpose() -> None:
    slack = manifest_of("slack")
    assert slack.history is not None
    history = slack.history.model_copy(
        update={"base": "https://elsewhere.example", "scopes": {"new:read": "x"}}
    )
    found = faults("slack", slack.model_copy(update={"history": history}))
    assert [text.partition(": ")[2].partition(":")[0] for text in found] == ["history.base", "history.scopes"]
    assert "connect.purposes.import does not request new:read: add it" in found[1]
    discord = manifest_of("discord")
    assert discord.history is not None
    nowhere = discord.model_copy(
        update={"history": discord.history.model_copy(update={"base": ""}), "connect": None}
    )
    assert "history.base: missing" in faults("discord", nowhere)[0]
