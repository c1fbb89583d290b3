"""`manifest.schema.json`: the one of the models; it accepts every manifest and finds typical mistakes."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

import shared.providers
from interlink.provider.new import create
from interlink.provider.schema import SCHEMA, schema_text

FOLDERS = Path(next(iter(shared.providers.__path__)))
MODELINE = f"# yaml-language-server: $schema=../{SCHEMA}\n"
MANIFESTS = sorted(FOLDERS.glob("*/manifest.yaml"))
VALIDATOR = jsonschema_rs.Draft202012Validator(json.loads((FOLDERS / SCHEMA).read_text("utf-8")))


def faults(manifest: Any) -> list[str]:
    """Where the schema finds something, and what."""
    return [
        f"{'.'.join(map(str, error.instance_path))}: {error.message}"
        for error in VALIDATOR.iter_errors(manifest)
    ]


def test_the_file_is_made_of_the_models() -> None:
    written = (FOLDERS / SCHEMA).read_text("utf-8")
    assert written == schema_text(), f"run `interlink provider schema > shared/providers/{SCHEMA}`"


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.parent.name)
def test_every_manifest_has_it_and_is_valid(file: Path) -> None:
    text = file.read_text("utf-8")
    assert text.startswith(MODELINE)
    assert faults(yaml.safe_load(text)) == []


def test_every_field_is_described() -> None:
    schema = json.loads(schema_text())
    described = {"Manifest": schema, **schema["$defs"]}
    without = [
        f"{model}.{name}"
        for model, definition in described.items()
        for name, field in definition.get("properties", {}).items()
        if not field.get("description")
    ]
    assert without == []
    assert "shared." not in json.dumps(schema["$defs"])


def test_a_new_folder_names_the_schema(tmp_path: Path) -> None:
    text = (create(tmp_path, "acme", "Acme", "hmac") / "manifest.yaml").read_text("utf-8")
    assert text.startswith(MODELINE)
    assert faults(yaml.safe_load(text)) == []


def changed(provider: str, path: str, value: Any) -> Any:
    """A manifest in which a field has another value; `...` removes it."""
    manifest = deepcopy(yaml.safe_load((FOLDERS / provider / "manifest.yaml").read_text("utf-8")))
    *outer, last = path.split("/")
    place = manifest
    for step in outer:
        place = place[int(step) if isinstance(place, list) else step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return manifest


@pytest.mark.parametrize(
    ("provider", "path", "value"),
    [
        ("github", "id", ...),
        ("github", "nmae", "GitHub"),
        ("github", "id", "Git Hub"),
        ("github", "tier", "certain"),
        ("github", "category", "code"),
        ("github", "color", "black"),
        ("github", "sources", "one document"),
        ("github", "name", 7),
        ("github", "webhook/verification", ...),
        ("github", "webhook/verification/0/scheme", "hmca"),
        ("github", "webhook/verification/0/scheme", ...),
        ("github", "webhook/verification/0/algorithm", "md5"),
        ("github", "webhook/verification/0/signature/header", "X-Hub-Signature-256"),
        ("github", "webhook/verification/0/signature/heading", "x-hub-signature-256"),
        ("github", "webhook/verification/0/signed", ["{body}"] * 4),
        ("slack", "webhook/verification/0/timestamp/tolerance_s", "five minutes"),
        ("github", "webhook/secret/source", "our"),
        ("github", "webhook/methods", ["post"]),
        ("github", "webhook/event", {"form": "{header:x-github-event}"}),
        ("github", "webhook/event", ["{json:type}"] * 13),
        ("github", "webhook/handled/an event", {"about": "A blank is not allowed."}),
        ("github", "webhook/handled/push/about", ...),
        ("github", "webhook/handled/push/triggers", {"Push": {}}),
        ("github", "webhook/settings", {"Site-Id": {"name": "Site", "about": "Its id."}}),
        ("slack", "webhook/handshakes/0/answer", {"status": 99}),
        ("github", "webhook/account", "{json:repository.id"),
        ("github", "webhook/verification/0/signed", "{timestamp}}{body}"),
        ("slack", "connect/oauth2/token_url", "https://{param:shop.example.com"),
        ("slack", "connect/oauth2/token_url", ...),
        ("slack", "connect/oauth2/pkce", "s256"),
        ("slack", "connect/oauth2/refresh", {"ahead_s": -1}),
        ("slack", "connect/account", {"keep": {"Team": "team.id"}}),
    ],
)
def test_it_finds_a_mistake(provider: str, path: str, value: Any) -> None:
    found = faults(changed(provider, path, value))
    # The fault is where the mistake is, or in what surrounds it: a missing field, an alternative.
    assert [fault for fault in found if path.replace("/", ".").startswith(fault.partition(":")[0])], found
