"""The catalogue of integrations is whole: `catalogue.json` is what callers rely on, entry by entry."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from shared.manifests.catalogue import credentials, icon, initials, placeholder_url, setup_steps, triggers
from shared.manifests.registry import provider_folders, registry

EXPECTED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("catalogue.json").read_text("utf-8"))


def test_it_has_these_integrations_and_no_other() -> None:
    assert len(EXPECTED) == 37
    listed = {name for name, provider in registry().providers.items() if provider.manifest.integration}
    assert listed == {entry["id"] for entry in EXPECTED}


def check_entry_is_as_callers_know_it(expected: dict[str, Any]) -> None:
    manifest = registry().providers[expected["id"]].manifest
    entry = manifest.integration
    assert entry
    assert {
        "id": manifest.id,
        "name": manifest.name,
        "category": entry.category or manifest.category,
        "auth_type": entry.auth_type,
        "color": manifest.color.upper(),
        "docs": entry.docs,
        "capabilities": list(entry.capabilities),
        "scopes": list(entry.scopes),
        "triggers": list(entry.triggers),
    } == expected | {"color": expected["color"].upper()}


def check_something_brings_each_trigger(expected: dict[str, Any]) -> None:
    found = triggers(registry().providers[expected["id"]], registry().providers)
    assert [trigger.id for trigger in found] == expected["triggers"]
    for trigger in found:
        if trigger.by == "polling":
            assert trigger.polled, f"{trigger.id}: neither an event nor a question brings it"
            assert bool(trigger.every_s) is (expected["auth_type"] != "none")
        else:
            assert set(trigger.events) <= registry().providers[trigger.provider].handled
            assert trigger.events


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda entry: entry["id"])
def test_an_entry_of_the_catalogue(expected: dict[str, Any]) -> None:
    check_entry_is_as_callers_know_it(expected)
    check_something_brings_each_trigger(expected)


def check_setup_steps(name: str) -> None:
    manifest = registry().providers[name].manifest
    url = placeholder_url("https://hub.example.com", manifest)
    message = setup_steps(manifest, url)
    assert message
    assert not [step for step in message if re.search(r"\{(url|secret|setting:)", step)]
    if manifest.webhook:
        assert any(url in step for step in message)


def check_credential_patterns(name: str) -> None:
    found = credentials(registry().providers[name].manifest)
    assert len({each.name for each in found}) == len(found)
    for each in found:
        re.compile(each.pattern)
        assert each.about.strip()


def check_icon_is_a_path_or_two_letters(folder: Path) -> None:
    found = icon(folder)
    if found is not None:
        assert re.fullmatch(r"[Mm][0-9MmLlHhVvCcSsQqTtAaZz ,.eE-]+", found)
    assert re.fullmatch(r"\w{1,2}", initials(registry().providers[folder.name].manifest.name))


@pytest.mark.parametrize("folder", provider_folders(), ids=lambda folder: folder.name)
def test_what_the_catalogue_shows_of_a_provider(folder: Path) -> None:
    check_setup_steps(folder.name)
    check_credential_patterns(folder.name)
    check_icon_is_a_path_or_two_letters(folder)


@pytest.mark.parametrize(
    ("name", "letters"),
    [("GitHub", "GH"), ("Slack", "SL"), ("Microsoft Teams", "MT"), ("X (Twitter)", "XT"), ("beehiiv", "BE")],
)
def test_initials(name: str, letters: str) -> None:
    assert initials(name) == letters
