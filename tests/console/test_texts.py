"""The catalogue of embedded pages' texts: complete, chosen by language, and shown in place of the English."""

import json
import re
from pathlib import Path

import pytest

import services.console
from services.console.embedding.kinds import KINDS
from services.console.embedding.texts import Catalogues

ROOT = Path(services.console.__file__).parent
ENGLISH = json.loads((ROOT / "embedding" / "texts" / "en.json").read_text("utf-8"))


def test_the_catalogue_has_every_text_and_is_english() -> None:
    used = {
        text
        for path in (ROOT / "templates").rglob("*.html")
        for text in re.findall(r'"([^"]+)"\|t\b', path.read_text("utf-8"))
    }
    for kind in KINDS:
        used |= {kind.title, kind.empty, *(column.title for column in kind.columns)}
        used |= {
            text for action in (*kind.actions, *kind.list_actions) for text in (action.title, action.done)
        }
    assert used - ENGLISH.keys() == set()
    assert all(name == text for name, text in ENGLISH.items())


@pytest.mark.parametrize(
    ("wanted", "accepted", "chosen"),
    [
        (None, "", "en"),
        (None, "de-AT,de;q=0.9,en;q=0.8", "de"),
        (None, "fr, en;q=0.5, de;q=0.7", "de"),
        (None, "de;q=0, en", "en"),
        ("de", "en", "de"),
        ("fr", "de", "de"),
        (None, "de;q=x,;;q=,en", "en"),
    ],
)
def test_a_language_is_chosen(tmp_path: Path, wanted: str | None, accepted: str, chosen: str) -> None:
    (tmp_path / "en.json").write_text("{}")
    (tmp_path / "de.json").write_text('{"Webhooks": "Webhooks von Ihnen"}')
    catalogues = Catalogues(tmp_path)
    assert catalogues.languages == ["de", "en"]
    assert catalogues.choose(wanted, accepted) == chosen
    assert catalogues.texts("de")["Webhooks"] == "Webhooks von Ihnen"
