"""How values are shown: cut, visible, and as numbers and times for people."""

import json

import pytest

from services.console.pages.rendering import MAX_SHOWN, address_of, label, pretty, time_element, visible
from services.console.web.forms import BadForm, utc_time
from services.console.web.objects import _cell, _filled
from services.console.web.visits import local_path


def test_what_cannot_be_seen_is_named() -> None:
    assert visible("a\u202eb") == "a[RIGHT-TO-LEFT OVERRIDE]b"
    assert visible("a\x00b\x9bc") == "a[U+0000]b[U+009B]c"
    assert visible("tab\tline\n") == "tab\tline\n"
    assert visible("\U000e0041") == "[TAG LATIN CAPITAL LETTER A]"


def test_long_values_are_cut() -> None:
    text = visible("x" * (MAX_SHOWN + 5))
    assert len(text) < MAX_SHOWN + 100
    assert text.endswith("(5 more characters: see the download)")
    assert visible("x" * 30, 10).startswith("x" * 10 + "…")


def test_json_is_indented_and_hostile_json_is_shown_as_it_is() -> None:
    assert pretty('{"a":1}') == '{\n  "a": 1\n}'
    assert pretty("{broken") == "{broken"
    deep = "[" * 100_000
    assert len(pretty(deep)) <= MAX_SHOWN + 100
    assert pretty("[" * 5000 + "]" * 5000)
    nested = json.loads("[" * 500 + "]" * 500)
    assert pretty(nested)
    assert visible(nested)


@pytest.mark.parametrize(
    "value", ["", None, 5, "yesterday", "9999-99-99", "<b>", "0001-01-01T00:00:00+23:59"]
)
def test_a_time_that_is_none_is_text(value: object) -> None:
    assert "<time" not in time_element(value)
    assert "<b>" not in time_element(value)


def test_only_http_addresses_are_links() -> None:
    assert address_of("https://example.com/x")
    for value in ("javascript:alert(1)", "data:text/html,x", "//x", "https://x\u202e", None, "ftp://x"):
        assert address_of(value) == ""


def test_labels_have_units() -> None:
    assert label("duration_ms") == "Duration (ms)"
    assert label("oldest_due_s") == "Oldest due (s)"


def test_paths_are_filled_with_encoded_ids() -> None:
    values = {"id": "../../x?y#z", "job": {"id": "j/1"}}
    assert _filled("/api/a/{id}/b/{job.id}", values) == "/api/a/..%2F..%2Fx%3Fy%23z/b/j%2F1"


def test_cells_are_no_formulas() -> None:
    assert _cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert _cell("fine") == "fine"


def test_times_of_forms_are_utc() -> None:
    assert utc_time("2026-01-31T12:00", "x") == "2026-01-31T12:00:00+00:00"
    assert utc_time("2026-01-31T12:00:00+02:00", "x") == "2026-01-31T12:00:00+02:00"
    with pytest.raises(BadForm):
        utc_time("soon", "x")


@pytest.mark.parametrize("path", ["https://x", "//x", "/\\x", "/console\\x", "/consolex", "", "/console/\n"])
def test_only_paths_of_the_console_are_local(path: str) -> None:
    assert local_path(path) == "/console"
