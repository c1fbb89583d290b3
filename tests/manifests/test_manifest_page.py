"""The pages about manifests: the generated one has every field, the written one what a table cannot say."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from docs.generator.manifest import manifest_page
from interlink.provider import manifest_text
from interlink.provider.checker import RULES
from interlink.provider.samples import Sample
from interlink.provider.schema import manifest_schema
from shared.manifests import connect_models, schemes, subscriptions
from shared.manifests.sender_description import SenderDescription
from shared.verification import sources

PAGE = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text("utf-8")
FIELDS = manifest_page()


def section(heading: str) -> str:
    """Return the text below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def example(heading: str) -> Any:
    """Return the first block of YAML below a heading."""
    found = re.search(r"```(?:yaml|json)\n(.*?)```", section(heading), re.DOTALL)
    assert found, heading
    return yaml.safe_load(found[1])


def test_every_object_has_a_table_with_all_its_fields() -> None:
    schema = manifest_schema()
    objects = [schema, *(part for part in schema["$defs"].values() if "properties" in part)]
    tables = [
        (set(re.findall(r"^\| `([a-z_0-9]+)`", part, re.MULTILINE)), part)
        for part in re.split(r"^## ", FIELDS, flags=re.MULTILINE)[1:]
    ]
    assert len(tables) == len(objects)
    for each in objects:
        written = [part for names, part in tables if names == set(each["properties"])]
        assert written
        assert any(
            all(
                field["description"].split(".")[0].split("|")[0] in part
                for field in each["properties"].values()
            )
            for part in written
        )


def test_links_of_the_generated_page_lead_to_its_sections() -> None:
    anchors = re.findall(r"^## .* \{ #(\S+) \}$", FIELDS, re.MULTILINE)
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]*)\)", FIELDS)) <= set(anchors)


def test_a_row_of_the_generated_page_is_for_readers() -> None:
    (row,) = re.findall(r"^\| `rotation` .*$", FIELDS, re.MULTILINE)
    assert "| `none`, `replaced`, `single-use` | default `none` |" in row
    assert row.endswith("| `single-use` |")  # a value of a real manifest
    assert "[connect.oauth2.refresh](#connect.oauth2.refresh)" in FIELDS
    assert "or null" not in FIELDS


def test_every_source_is_explained() -> None:
    written = set(re.findall(r"`([a-z_0-9]+)(?::[^`]*)?`", section("Sources of an inbound request")))
    for name in sources._SOURCES:
        assert name in written
        assert manifest_text.template_text(f"{{{name}}}")
    for name in sources._SOURCES_WITH_ARGUMENT:
        assert name in written
        argument = "sha256" if name.startswith(("hmac", "optional")) else "x"
        assert argument in manifest_text.template_text(f"{{{name}:{argument}}}").replace("SHA-256", "sha256")


def test_schemes_rules_and_fields_of_a_description_are_complete() -> None:
    named = {
        name
        for scheme in vars(schemes).values()
        if isinstance(scheme, type) and issubclass(scheme, BaseModel) and "scheme" in scheme.model_fields
        for name in scheme.model_fields["scheme"].annotation.__args__  # type: ignore[union-attr]
    }
    assert named == {
        name
        for cell in re.findall(r"^\| (`[^|]+) \|", section("Verification"), re.MULTILINE)
        for name in re.findall(r"`([a-z0-9]+)`", cell)
    }
    assert set(re.findall(r"^\| `([a-z-]+)`", section("Exemptions"), re.MULTILINE)) == RULES.keys()
    assert set(SenderDescription.model_fields) <= set(re.findall(r"`([a-z_]+)`", section("source")))


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("connect", connect_models.ConnectSpec),
        ("watches", subscriptions.SubscriptionSpec),
        ("source", SenderDescription),
        ("connect.yaml", Sample),
    ],
)
def test_its_example_is_valid(heading: str, model: type[BaseModel]) -> None:
    parsed = example(heading)
    values = parsed.get(heading, parsed)
    for value in values if isinstance(values, list) else [values]:
        model.model_validate(value)


def test_every_link_leads_to_a_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= headings
