"""The reader process: whatever an export does, only its reader ends, with one sentence as the reason."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from services.importer.reading.confined_process import ProcessKilled
from services.importer.reading.protocol import FILE_BLOCK_BYTES, Overview, SourcePart
from services.importer.reading.reader_process import ReaderLimits, ReaderProcess
from shared.manifests.history_types import Unreadable
from tests.importer.archives import slack_export, slack_message, written
from tests.importer.reader_pids import readers_of
from tests.support.egress import on_each_loop

LIMITS: Final = ReaderLimits()
HASTY: Final = ReaderLimits(cpu_s=1.0)
SMALL: Final = ReaderLimits(memory_bytes=128 * 1024 * 1024)


def everything(
    path: Path, limits: ReaderLimits = LIMITS, users: Mapping[str, str] | None = None
) -> tuple[Overview, list[dict[str, Any]]]:
    """Return what an export has, and all lines of all units. Raises `Unreadable`."""

    async def read_all() -> tuple[Overview, list[dict[str, Any]]]:
        async with ReaderProcess(path, path.name, limits) as reader:
            overview = await reader.contents()
            channels = {item.id: f"chn_{item.id}" async for item in reader.conversations()}
            await reader.use_names(users or {}, channels)
            lines = []
            async for part in reader.read():
                lines += part.lines
            return overview, lines

    return asyncio.run(read_all())


def test_an_export_is_described_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the hub was started beside modules with the names of its own."""
    for name in ("services/__init__.py", "orjson.py"):
        (tmp_path / "started" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "started" / name).write_text("raise SystemExit", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "started")
    days = {"general/2024-01-02": [slack_message("1704153600.000100", "hello <@U00000002>")]}
    contents, lines = everything(written(tmp_path, slack_export(days)), users={"U00000002": "user_7"})
    assert (contents.kind, contents.provider, contents.account) == ("a Slack export", "slack", "T00000001")
    [line] = lines
    assert (line["m"]["text"], line["m"]["name"]) == ("hello [@Grace](mention://user/user_7)", "Ada")


def test_a_broken_record_is_one_line_and_the_others_follow(tmp_path: Path) -> None:
    days = {"general/2024-01-02": [7, slack_message("Infinity"), slack_message("1704153600.000100", "after")]}
    _, lines = everything(written(tmp_path, slack_export(days)))
    assert [next(iter(line)) for line in lines] == ["b", "b", "m"]
    assert lines[0]["b"]["place"] == "general/2024-01-02.json, record 1"


def test_a_file_of_another_kind_is_refused_with_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no export", encoding="utf-8")
    with pytest.raises(Unreadable, match=r"no known export: it is text\. Upload one of these: .*Slack"):
        everything(path)


def test_a_unit_that_is_cut_off_ends_alone(tmp_path: Path) -> None:
    days = {"general/2024-01-02": b'[{"type": "mess', "general/2024-01-03": [slack_message("1704240000.1")]}

    _, [damage, line] = everything(written(tmp_path, slack_export(days)))
    assert damage["b"]["place"] == "general/2024-01-02.json"
    assert "general/2024-01-02.json is not valid JSON" in damage["b"]["reason"]
    assert (damage["day"], line["m"]["at"]) == ("2024-01-02", 1704240000.1)


def test_a_large_unit_comes_in_parts_and_goes_on_behind_any_record(tmp_path: Path) -> None:
    messages = [slack_message(f"{1704153600 + number}.000100", str(number)) for number in range(12_000)]
    path = written(tmp_path, slack_export({"general/2024-01-02": messages}))

    async def read(skip: int) -> list[list[str]]:
        async with ReaderProcess(path, "x.zip") as reader:
            await reader.use_names({}, {"C00000001": "chn_1"})
            return [[line["m"]["text"] for line in part.lines] async for part in reader.read(0, skip)]

    parts = asyncio.run(read(0))
    assert [len(part) for part in parts] == [5_000, 5_000, 2_000]
    assert asyncio.run(read(7_500)) == [(parts[1] + parts[2])[2_500:]]


def test_a_part_has_several_short_units_of_one_channel(tmp_path: Path) -> None:
    """Parts are the same from wherever they are read, or a repeated step would publish other batches."""
    days = {
        f"{channel}/2024-01-{day:02}": [
            slack_message(f"{1704067200 + day * 86_400 + number}.1", f"{channel} {day} {number}")
            for number in range(count)
        ]
        for channel, counts in (("general", (400, 0, 700, 10, 5_100)), ("old", (3,)))
        for day, count in enumerate(counts, 1)
    }
    path = written(tmp_path, slack_export(days))

    async def read(position: int, offset: int, *, is_restarted: bool = False) -> list[SourcePart]:
        async with ReaderProcess(path, "x.zip") as reader:
            if is_restarted:
                await reader.restart()
            await reader.use_names({}, {"C00000001": "chn_1", "C00000002": "chn_2"})
            return [part async for part in reader.read(position, offset)]

    parts = asyncio.run(read(0, 0))
    assert [(part.position, part.offset, part.end_position, part.end_offset) for part in parts] == [
        (0, 0, 3, 0),
        (3, 0, 4, 4_990),
        (4, 4_990, 5, 0),
        (5, 0, 6, 0),
    ]
    assert [len(part.lines) for part in parts] == [1_100, 5_000, 110, 3]
    assert parts[0].name == "general/2024-01-01.json to general/2024-01-03.json"
    assert [part.name for part in parts[2:]] == ["general/2024-01-05.json", "old/2024-01-01.json"]
    with zipfile.ZipFile(path) as archive:
        sizes = [item.file_size for item in archive.infolist() if "/" in item.filename]
    assert [part.size for part in parts] == [sum(sizes[:3]), sizes[3], sizes[4], sizes[5]]
    for number, part in enumerate(parts):
        assert asyncio.run(read(part.position, part.offset)) == parts[number:]
    alone = asyncio.run(read(0, 0, is_restarted=True))
    assert [(part.position, part.offset) for part in alone] == [
        *((0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (4, 5_000), (5, 0)),
    ]
    assert [line for part in alone for line in part.lines] == [line for part in parts for line in part.lines]


def test_a_part_is_in_order_of_time_with_replies_behind_their_parents(tmp_path: Path) -> None:
    days = {
        "general/2024-01-02": [
            slack_message("1704153900.1", "later"),
            slack_message("1704153600.1", "early reply", thread_ts="1704153700.1"),
            slack_message("1704153700.1", "parent"),
        ]
    }
    _, lines = everything(written(tmp_path, slack_export(days)))
    assert [line["m"]["text"] for line in lines] == ["parent", "early reply", "later"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"[" * 100_000, "not valid JSON"),
        (lambda: b'[{"a": ' * 100_000, "not valid JSON"),
        (lambda: b'["' + b"x" * 150_000_000 + b'"]', "a text of more than"),
        (lambda: b"[[" + b",".join([b'"' + b"x" * 4_000_000 + b'"'] * 40) + b"]]", "too much memory"),
        (lambda: b"[" * 20_000_001, "not valid JSON|too much memory|too long"),
    ],
    ids=["levels", "objects in objects", "one long text", "many texts", "a file of brackets"],
)
def test_hostile_json_ends_one_unit_or_one_reader(
    tmp_path: Path, content: Callable[[], bytes], reason: str
) -> None:
    path = written(tmp_path, slack_export({"general/2024-01-02": content()}), stored=True)
    try:
        _, [damage] = everything(path, SMALL)
    except Unreadable as refusal:
        found = str(refusal)
    else:
        found = damage["b"]["reason"]
    assert re.search(reason, found)


def test_a_reader_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    days = {
        "general/2024-01-02": [
            slack_message(f"{1704153600 + number}.1", "*a* " * 900) for number in range(4_000)
        ]
    }
    with pytest.raises(Unreadable, match="takes too long"):
        everything(written(tmp_path, slack_export(days), stored=True), HASTY)


@on_each_loop
async def test_a_reader_that_is_killed_differs_from_a_damaged_export(tmp_path: Path) -> None:
    """Whether it is noticed at once or by the next command; and it can be started again."""
    days = {"general/2024-01-02": [slack_message("1704153600.000100", "hello")]}
    path = written(tmp_path, slack_export(days))
    async with ReaderProcess(path, path.name, LIMITS) as reader:
        await reader.contents()
        [own] = readers_of(os.getpid())
        os.kill(own, signal.SIGKILL)
        for pause_s in (0.0, 0.2):
            await asyncio.sleep(pause_s)
            with pytest.raises(ProcessKilled):
                await reader.contents()
        await reader.restart()
        assert (await reader.contents()).units == 1
        await reader.use_names({}, {"C00000001": "chn_1"})
        assert [len(part.lines) async for part in reader.read()] == [1]


def test_a_reader_has_no_network_and_starts_nothing() -> None:
    code = (
        "import socket, subprocess\n"
        "from services.importer.reading.confinement import confine\n"
        "confine(memory_bytes=256 * 1024 * 1024)\n"
        "attempts = socket.socket, lambda: subprocess.run(['true']), lambda: bytearray(300 * 1024 * 1024)\n"
        "for attempt in attempts:\n"
        "    try: attempt()\n"
        "    except (OSError, MemoryError) as error: print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PermissionError", "PermissionError", "MemoryError"]


def test_an_answer_to_an_unknown_choice_is_refused(tmp_path: Path) -> None:
    async def ask() -> None:
        async with ReaderProcess(written(tmp_path, slack_export({})), "x.zip") as reader:
            await reader.contents({"date_order": "dmy"})

    with pytest.raises(Unreadable, match="no choice 'date_order'"):
        asyncio.run(ask())


def test_a_file_of_the_archive_is_sent_in_blocks_and_a_damaged_one_costs_only_itself(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4_000
    path = written(tmp_path, slack_export({}) | {"a.bin": content, "b.bin": b"damaged" * 99}, stored=True)
    data = path.read_bytes()
    at = data.index(b"damaged" * 99)
    path.write_bytes(data[:at] + b"D" + data[at + 1 :])

    async def ask() -> None:
        async with ReaderProcess(path, "x.zip") as reader:
            blocks = [block async for block in reader.file("a.bin", len(content))]
            assert b"".join(blocks) == content
            assert max(map(len, blocks)) <= FILE_BLOCK_BYTES
            for name, problem in (("b.bin", "damaged"), ("c.bin", "no file 'c.bin'")):
                with pytest.raises(Unreadable, match=problem):
                    [block async for block in reader.file(name, len(content))]
            assert reader.is_alive
            sent = [block async for block in reader.file("a.bin", 1_000)]
            assert sum(map(len, sent)) == 1_001, "one byte more says that it is too large"
            assert (await reader.contents()).provider == "slack"

    asyncio.run(ask())


def test_a_reader_that_sends_a_file_can_be_killed_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, slack_export({}) | {"a.bin": bytes(40_000_000)}, stored=True)

    async def ask() -> None:
        async with ReaderProcess(path, "x.zip") as reader:
            async for _ in reader.file("a.bin", 40_000_000):
                await reader.kill()
                break
            assert not reader.is_alive
            await reader.restart()
            assert (await reader.contents()).provider == "slack"

    asyncio.run(ask())


def test_it_starts_without_what_only_services_need() -> None:
    script = (
        "import sys; from services.importer.reading import child; child.archive_readers(); "
        "print({'pydantic', 'yaml', 'asyncio'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
