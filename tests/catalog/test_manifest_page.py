"""docs/manifest.md has every field of the models, in the table of its place."""

import re
from pathlib import Path

import pytest
import yaml

from interlink.provider import words
from shared.catalog import connect, manifest, source, watches, ways
from shared.catalog.ways import Part
from shared.wire import requests

PAGE = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text("utf-8")
SECTIONS: dict[type[Part], str] = {
    manifest.Manifest: "The provider",
    manifest.Webhook: "webhook",
    manifest.Catalogued: "integration",
    manifest.Polled: "polled",
    manifest.Secret: "secret",
    connect.Setting: "settings",
    manifest.Bodies: "body",
    manifest.Decoded: "decoded",
    manifest.Naming: "event",
    manifest.Handshake: "handshakes",
    manifest.Answer: "answers",
    manifest.Refusal: "refused",
    manifest.Limits: "limits",
    manifest.HandledEvent: "handled",
    manifest.MessageTemplates: "message",
    manifest.Template: "templates",
    manifest.AppWebhook: "app",
    source.Source: "source",
    connect.Connect: "connect",
    connect.OAuth2: "oauth2",
    connect.OAuth1: "oauth1",
    connect.ClientForm: "client",
    connect.TokenAnswer: "answer",
    connect.Grant: "grant",
    connect.Callback: "callback",
    connect.Refresh: "refresh",
    connect.Revoke: "revoke",
    connect.Request: "request",
    connect.Api: "api",
    connect.Account: "account",
    connect.Choices: "choices",
    connect.Entered: "entered",
    connect.Preset: "presets",
    watches.Watch: "watches",
    watches.Before: "before",
    watches.Made: "made",
    ways.HmacWay: "hmac",
    ways.DigestWay: "digest",
    ways.TokenWay: "token",
    ways.BasicWay: "basic",
    ways.KeyPairWay: "ed25519, ecdsa, rsa",
    ways.JwtWay: "jwt",
    ways.Signatures: "signature",
    ways.Key: "key",
    ways.Stamp: "timestamp",
    ways.Digest: "body_hash",
    ways.ClaimHash: "claim",
    ways.RemoteKey: "keys",
    ways._Way: "verification",
}


WRITTEN_OUT = {connect.Kept}
"""Bases whose fields stand in the tables of the models that have them."""


def fields_of(model: type[Part]) -> set[str]:
    """The fields of its own table: those of a base with a table stand there."""
    inherited = {
        name for base in SECTIONS if base in model.__mro__ and base is not model for name in base.model_fields
    }
    return {field.alias or name for name, field in model.model_fields.items() if name not in inherited}


def table_of(heading: str) -> set[str]:
    """The names in the first column of the section's own table."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    cells = re.findall(r"^\| (`[^|]*?`) \|", found[1], re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([a-z_0-9]+)`", cell)}


def test_no_model_is_left_out() -> None:
    models = {
        each
        for module in (connect, manifest, source, watches, ways)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Part) and each is not Part
    }
    assert models == SECTIONS.keys() | WRITTEN_OUT


@pytest.mark.parametrize("model", SECTIONS, ids=lambda model: model.__name__)
def test_every_field_is_there_and_no_other(model: type[Part]) -> None:
    assert table_of(SECTIONS[model]) == fields_of(model)


def test_every_source_is_there_and_has_words() -> None:
    written = set(re.findall(r"`([a-z_0-9]+)(?::[^`]*)?`", PAGE.partition("## The provider")[0]))
    for name in requests._ALONE:
        assert name in written
        assert words.template(f"{{{name}}}")
    for name in requests._WITH_ARGUMENT:
        assert name in written
        argument = "sha256" if name.startswith("hmac") else "x"
        assert argument in words.template(f"{{{name}:{argument}}}").replace("SHA-256", "sha256")


@pytest.mark.parametrize(("heading", "model"), [("connect", connect.Connect), ("watches", watches.Watch)])
def test_its_example_is_right(heading: str, model: type[Part]) -> None:
    found = re.search(rf"^## {heading}\n.*?```yaml\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    said = yaml.safe_load(found[1])[heading]
    for each in said if isinstance(said, list) else [said]:
        model.model_validate(each)


def test_every_link_leads_to_a_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= headings
