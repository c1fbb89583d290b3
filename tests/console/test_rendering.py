"""How values are shown: cut, visible, and as numbers and times for people."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from services.console.pages.charts import hourly_bars
from services.console.pages.csv_file import cell
from services.console.pages.failures import advice_of, is_repaired_by_settings, next_step
from services.console.pages.fields import arranged, href_of, with_unit
from services.console.pages.kinds import Kind
from services.console.pages.registry import KINDS
from services.console.pages.rendering import MAX_SHOWN, address_of, label, pretty, time_element, visible
from services.console.web.connect import provider_field
from services.console.web.forms import BadForm, utc_time
from services.console.web.paths import filled
from services.console.web.visits import local_path
from shared.runtime.egress.errors import EgressFailure

OPENAPI = Path(__file__).parents[1] / "upgrade" / "openapi.json"


def test_what_cannot_be_seen_is_named() -> None:
    assert visible("a\u202eb") == "a[RIGHT-TO-LEFT OVERRIDE]b"
    assert visible("a\x00b\x9bc") == "a[U+0000]b[U+009B]c"
    assert visible("tab\tline\n") == "tab\tline\n"
    assert visible("\U000e0041") == "[TAG LATIN CAPITAL LETTER A]"


def test_long_values_are_cut() -> None:
    text = visible("x" * (MAX_SHOWN + 5))
    assert len(text) < MAX_SHOWN + 100
    assert text.endswith("(5 more characters: see the download)")
    assert visible("x" * 30, 10) == "x" * 10 + "…"


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


def test_labels_are_words() -> None:
    assert label("duration_ms") == "Duration"
    assert label("oldest_due_s") == "Oldest due"


def test_numbers_have_the_unit_of_their_field() -> None:
    assert with_unit("duration_ms", 12.34) == "12.3 ms"
    assert with_unit("timeout_s", 30.0) == "30 s"
    assert with_unit("size", 3 * 1024 * 1024) == "3.0 MiB"
    assert with_unit("attempt_count", 12345) == "12,345"


def test_ids_of_other_objects_are_links_and_other_texts_are_not() -> None:
    assert href_of("webhook_id", "wh_0123456789abcdef") == "/console/webhooks/wh_0123456789abcdef"
    assert href_of("trace_id", "a/b?c") == "/console/paths/a%2Fb%3Fc"
    for value in ("wh_<script>", "javascript:alert(1)", "wh_../../x", "", None, 5):
        assert href_of("name", value) == ""


def test_a_page_shows_what_is_not_empty_and_the_rest_on_demand() -> None:
    item = {
        "id": "1",
        "note": "",
        "count": 0,
        "health": {"since": None},
        "tags": [],
        "error": "dns",
        "on": False,
    }
    shown, others = arranged(item, (), frozenset({"id"}))
    assert [name for name, _ in shown] == ["error", "count", "on"]
    assert [name for name, _ in others] == ["note", "health", "tags"]
    shown, others = arranged(item, ("on", "absent", "note"), frozenset({"id"}))
    assert [name for name, _ in shown] == ["on"]
    assert [name for name, _ in others] == ["note", "count", "health", "tags", "error"]


@pytest.mark.parametrize("error", [*get_args(EgressFailure), "redirect", "circuit_open", "stopped"])
def test_every_error_class_has_a_next_step(error: str) -> None:
    assert next_step(error, None) not in ("", next_step("another", None))


@pytest.mark.parametrize("error", ["circuit_open", "stopped"])
def test_what_waited_too_long_says_nothing_of_attempts(error: str) -> None:
    delivery: dict[str, Any] = {"status": "dead_letter", "error": error, "attempts": []}
    assert advice_of(delivery) == next_step(error, None)
    assert not is_repaired_by_settings(delivery)


def test_a_status_has_the_next_step_of_its_own() -> None:
    steps = {next_step("status", status) for status in (400, 401, 403, 404, 410, 418, 429, 500, 503)}
    assert len(steps) == 9
    assert next_step(None, 200) == ""


@pytest.mark.parametrize("status", ["delivered", "cancelled", "discarded"])
def test_what_does_not_fail_needs_no_step(status: str) -> None:
    delivery: dict[str, Any] = {"status": status, "waiting_reason": None, "error": "dns", "attempts": []}
    assert (advice_of(delivery), is_repaired_by_settings(delivery)) == ("", False)


def test_bars_have_the_heights_of_their_counts() -> None:
    hours = [
        {"hour": "2026-01-01T10:00:00Z", "attempts": 4, "delivered": 4, "failed_attempts": 0},
        {"hour": "2026-01-01T12:00:00Z", "attempts": 8, "delivered": 2, "failed_attempts": 6},
    ]
    first, last = hourly_bars(hours)
    assert (first["x"], first["good"], first["bad"]) == (210, 20, 0)
    assert (last["x"], last["good"], last["bad"]) == (230, 10, 30)
    assert hourly_bars([]) == []


def test_paths_are_filled_with_encoded_ids() -> None:
    values = {"id": "../../x?y#z", "job": {"id": "j/1"}}
    assert filled("/api/a/{id}/b/{job.id}", values) == "/api/a/..%2F..%2Fx%3Fy%23z/b/j%2F1"


def test_cells_are_no_formulas() -> None:
    assert cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert cell("fine") == "fine"
    for begin in ("+1", "-1+1", "@SUM(A1)", "\tx", " =1", "\nx", "\uff1d1"):
        assert cell(begin) == f"'{begin}"
    # A program that splits cells at semicolons begins another one there.
    for split in ("foo;", "foo;bar;", "a\n", "a\t"):
        assert cell(f"{split}=x") == f"{split}'=x"
        assert cell(f"{split} -1") == f"{split}' -1"
    assert cell("a=b;c-d; e") == "a=b;c-d; e"
    assert (cell(-5), cell(None), cell(True)) == ("-5", "", "yes")


def test_times_of_forms_are_utc() -> None:
    assert utc_time("2026-01-31T12:00", "x") == "2026-01-31T12:00:00+00:00"
    assert utc_time("2026-01-31T12:00:00+02:00", "x") == "2026-01-31T12:00:00+02:00"
    with pytest.raises(BadForm):
        utc_time("soon", "x")


@pytest.mark.parametrize("path", ["https://x", "//x", "/\\x", "/console\\x", "/consolex", "", "/console/\n"])
def test_only_paths_of_the_console_are_local(path: str) -> None:
    assert local_path(path) == "/console"


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [("", "secret"), ("[!-~]+", "secret"), (".+", "secret"), (r"-----BEGIN [\s\S]+", "key")],
)
def test_a_secret_whose_form_has_several_lines_gets_an_area(pattern: str, kind: str) -> None:
    item = {"id": "a", "name": "A", "about": "", "secret": True, "pattern": pattern, "options": []}
    item |= {"required": True, "default": "", "example": ""}
    assert provider_field(item).kind == kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.path)
def test_the_api_of_a_list_knows_its_filters_and_orders(kind: Kind) -> None:
    paths = json.loads(OPENAPI.read_text("utf-8"))["paths"]
    operations = {re.sub(r"\{[^}]+\}", "{}", path): operation for path, operation in paths.items()}
    known = {
        item["name"]: item for item in operations[re.sub(r"\{[^}]+\}", "{}", kind.api)]["get"]["parameters"]
    }
    used = {item.name for item in kind.all_filters} | set(kind.params) | {"limit", "cursor"}
    assert used | ({"order"} if kind.orders else set()) <= known.keys()
    if kind.orders:
        schema = known["order"]["schema"]
        assert (set(kind.orders), kind.orders[0]) == (set(schema["enum"]), schema["default"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.path)
def test_what_cannot_be_taken_back_is_asked_first(kind: Kind) -> None:
    for action in (*kind.actions, *kind.list_actions):
        assert action.asks or not action.is_destructive, action.name
