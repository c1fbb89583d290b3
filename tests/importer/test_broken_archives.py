"""Archives that are broken at random end in an import, a counted loss or a clear refusal, with every reader.

BROKEN_ARCHIVES is the number of archives for each reader; without it, there are few.
"""

import os
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from io import BytesIO
from typing import Any, Final

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.importer.archive.zip_archive import ArchiveLimits
from services.importer.jobs.channels_phase import channel_items
from services.importer.jobs.matching import Place
from services.importer.jobs.people_phase import user_item
from services.importer.jobs.plan import Plan
from services.importer.jobs.read_step import person_record
from services.importer.jobs.selection import Selection
from services.importer.reading.description import describe
from services.importer.reading.message_lines import Names, line_of
from services.importer.reading.protocol import encoded
from services.importer.reading.readers import open_archive
from services.importer.store.unit_record import unpacked
from shared.contracts.history import HistoryChannel, HistoryMessage, HistoryUser
from shared.manifests.history_types import Contents, Unreadable
from tests.importer.rich_exports import RICH_EXPORTS, Documents, Lines, RichExport, places, written

COUNT: Final = int(os.environ.get("BROKEN_ARCHIVES", "120"))
LIMITS: Final = ArchiveLimits(entries=1_000, total_bytes=50 * 1024 * 1024)
DEEP: Final[Any] = [[[[[[[[[["deep"]]]]]]]]]]
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 7.5, 10**30, 1e308, float("inf"), float("nan"), "", " ", "x", "1", "-1"),
    *(
        "Infinity",
        "1e9",
        "99999999999999",
        "\ud800",
        "a\x00b\n\u2028",
        "x" * 300,
        "x" * 70_000,
        "../../x",
        "<@U1>",
    ),
    *(
        "https://example.com/",
        "2024-01-02",
        [],
        {},
        [None],
        [[]],
        {"id": "x"},
        {"a": {"a": {"a": {}}}},
        DEEP,
        [0] * 9,
    ),
)


def change_tree(draw: Any, files: dict[str, Any]) -> None:
    """Delete, replace, double or swap values of a file."""
    found = places(files)
    if not found:
        return
    container, key = found[draw(st.integers(0, len(found) - 1))]
    match draw(st.sampled_from(("delete", "replace", "replace", "double", "swap"))):
        case "delete":
            del container[key]
        case "replace":
            container[key] = deepcopy(draw(st.sampled_from(VALUES)))
        case "double" if isinstance(container, list):
            container.append(deepcopy(container[key]))
        case _:
            other, other_key = found[draw(st.integers(0, len(found) - 1))]
            value = (
                deepcopy(other[other_key]) if not isinstance(other[other_key], Documents | Lines) else None
            )
            container[key] = value


def change_bytes(draw: Any, data: bytes) -> bytes:
    """Flip, insert, cut or repeat bytes."""
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(changed)))
        match draw(st.sampled_from(("set", "set", "insert", "remove", "repeat"))):
            case "set" if at < len(changed):
                changed[at] = draw(st.integers(0, 255))
            case "insert":
                changed[at:at] = draw(st.binary(max_size=8))
            case "remove":
                del changed[at : at + draw(st.integers(1, 40))]
            case _:
                changed[at:at] = changed[at : at + 40]
    if draw(st.booleans()):
        del changed[draw(st.integers(0, len(changed))) :]
    return bytes(changed)


def change_entries(draw: Any, files: dict[str, Any]) -> None:
    """Swap, remove or rename files."""
    if not files:
        return
    names = sorted(files)
    first, second = (names[draw(st.integers(0, len(names) - 1))] for _ in range(2))
    match draw(st.sampled_from(("swap", "remove", "rename"))):
        case "swap":
            files[first], files[second] = files[second], files[first]
        case "remove":
            del files[first]
        case _:
            name = draw(
                st.sampled_from((f"x/{first}", f"{first}.txt", "a/b/c/users.json", "result.json", "é"))
            )
            files[name] = files.pop(first)


@st.composite
def broken(draw: Any, export: RichExport) -> bytes:
    """Return an upload that was valid before it was changed in some ways."""
    files = deepcopy(export.files())
    for _ in range(draw(st.integers(0, 3))):
        change_tree(draw, files)
    if draw(st.integers(0, 4)) == 0:
        change_entries(draw, files)
    if files and draw(st.integers(0, 2)) == 0:
        name = draw(st.sampled_from(sorted(files)))
        files[name] = change_bytes(draw, written(files[name]))
    data = export.build(files)
    return change_bytes(draw, data) if draw(st.integers(0, 3)) == 0 else data


def outcome(export: RichExport, data: bytes) -> str:
    """Import an upload as far as the chat. Any exception but `Unreadable` fails the test."""
    reader = export.reader()
    try:
        archive = open_archive(BytesIO(data), "upload", LIMITS)
        contents = reader.contents(archive)
    except Unreadable as refusal:
        return refused(refusal)
    if contents is None:
        return "another kind"
    selection = Selection(Plan(), contents.provider, contents.account, {}, {}, ())
    check_contents(contents)
    found: Counter[str] = Counter()
    for unit in contents.units:
        try:
            for record in reader.read(archive, contents, unit):
                line = line_of(record, Names())
                encoded(line)
                found[next(iter(line))] += 1
                check_line(line, unit.conversation, selection)
        except Unreadable as refusal:
            refused(refusal)
            found["units"] += 1
    return "counted losses" if found["b"] or found["units"] else "an import"


def refused(refusal: Unreadable) -> str:
    text = str(refusal)
    assert 20 < len(text) < 2_000, text
    text.encode()
    return "a refusal"


def check_contents(contents: Contents) -> None:
    """Check that the service can store and publish what an export has."""
    encoded(contents)
    describe(contents).encode()
    conversations = {item.id for item in contents.conversations}
    assert {unit.conversation for unit in contents.units} <= conversations
    assert len(conversations) == len(contents.conversations)
    assert len({unit.id for unit in contents.units}) == len(contents.units)
    for position, person in enumerate(contents.people):
        HistoryUser.model_validate(user_item(person_record("imp_1", "default", position, person), None))
    for conversation in contents.conversations:
        place = Place("chn_1", name=conversation.name)
        for item in channel_items(conversation, place, contents.provider, contents.account):
            HistoryChannel.model_validate(item)


def check_line(line: Mapping[str, Any], conversation: str, selection: Selection) -> None:
    """Check that the chat can store a record, and that the report can show it."""
    if "b" in line:
        assert line["b"]["reason"]
        assert line["b"]["place"]
    if "m" not in line:
        return
    message = line["m"]
    assert selection.day_of(message["at"])
    id_of = selection.ids_of(conversation)
    parents = {message["thread"]: id_of(message["thread"])} if "thread" in message else {}
    item = selection.message(message, unpacked(id_of(message["id"])), conversation, parents)
    HistoryMessage.model_validate_json(orjson.dumps(item))


@pytest.mark.parametrize("provider", RICH_EXPORTS)
def test_whatever_is_broken_the_outcome_is_an_import_a_loss_or_a_refusal(
    provider: str, record_property: Any
) -> None:
    export = RICH_EXPORTS[provider]
    outcomes: Counter[str] = Counter()

    @settings(max_examples=COUNT, suppress_health_check=list(HealthCheck), database=None)
    @given(broken(export))
    def run(data: bytes) -> None:
        outcomes[outcome(export, data)] += 1

    run()
    record_property("outcomes", dict(outcomes))
    assert outcomes["an import"], outcomes
    assert outcomes["counted losses"] or outcomes["a refusal"], outcomes


@pytest.mark.parametrize("provider", RICH_EXPORTS)
def test_what_is_not_broken_is_imported_without_a_loss(provider: str) -> None:
    export = RICH_EXPORTS[provider]
    assert outcome(export, export.build(export.files())) == "an import"
