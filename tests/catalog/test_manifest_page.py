"""docs/manifest.md has every field of the models, in the table of its place."""

import re
from pathlib import Path

import pytest

from interlink.provider import words
from shared.catalog import manifest, source, ways
from shared.catalog.ways import Part
from shared.wire import requests

PAGE = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text("utf-8")
SECTIONS: dict[type[Part], str] = {
    manifest.Manifest: "The provider",
    manifest.Webhook: "webhook",
    manifest.Catalogued: "integration",
    manifest.Polled: "polled",
    manifest.Secret: "secret",
    manifest.Setting: "settings",
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
    source.Source: "source",
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


def fields_of(model: type[Part]) -> set[str]:
    inherited = (
        set(ways._Way.model_fields) if issubclass(model, ways._Way) and model is not ways._Way else set()
    )
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
        for module in (manifest, source, ways)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Part) and each is not Part
    }
    assert models == SECTIONS.keys()


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


def test_every_link_leads_to_a_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= headings
