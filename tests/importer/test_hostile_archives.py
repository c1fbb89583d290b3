"""Uploads of an attacker, and records that no chat writes, with every reader: refused or counted, in bounds.

A line of a gigabyte is one of 64 MB here, eight times what a line may have. HOSTILE_LINE_BYTES sets its size.
"""

import os
import resource
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from time import process_time
from typing import Final

import pytest

from services.importer.archive.zip_archive import ArchiveLimits, ZipArchive
from services.importer.reading.message_lines import Names, line_of
from services.importer.reading.protocol import encoded
from services.importer.reading.reader_process import ReaderLimits
from services.importer.reading.readers import archive_readers, open_archive, recognized
from shared.manifests.history_types import Broken, HistoryMessage, HistoryRecord, Unreadable
from tests.importer.archives import claims_entries, slack_export, slack_message, zipped
from tests.importer.reader_samples import SAMPLES, START, Message, Sample
from tests.importer.rich_exports import RICH_EXPORTS, written
from tests.importer.test_broken_archives import outcome
from tests.importer.test_reader_process import everything
from tests.importer.test_zip_archive import doubled, encrypted, linked, overlapping

LINE_BYTES: Final = int(os.environ.get("HOSTILE_LINE_BYTES", str(64 * 1024 * 1024)))
LIMITS: Final = ReaderLimits(memory_bytes=256 * 1024 * 1024, cpu_s=20.0 + LINE_BYTES / 1024**3 * 60)
_END: Final = "<4s4H2LH"
_FULL: Final = 2**32 - 1
AT: Final = f"{START:.0f}.000100"
every_reader: Final = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.provider)


def messages(records: list[HistoryRecord]) -> list[HistoryMessage]:
    return [record for record in records if isinstance(record, HistoryMessage)]


def text_of(record: HistoryRecord) -> str:
    return str(line_of(record, Names())["m"]["text"])


@contextmanager
def within(cpu_s: float) -> Iterator[None]:
    """Fail if what is done takes more CPU time than that."""
    start = process_time()
    yield
    assert process_time() - start < cpu_s


# Records


@pytest.mark.parametrize("wrong", ["missing", "negative", "infinite", "in the year 60000"])
@every_reader
def test_a_wrong_time_fails_alone(sample: Sample, wrong: str) -> None:
    if wrong not in sample.wrong_times:
        pytest.skip("a record without a time is none in this form")
    _, records = sample.read(Message(1, 1.0), Message(2, wrong), Message(3, 3.0))
    [broken] = [record for record in records if isinstance(record, Broken)]
    assert broken.place
    assert "time" in broken.reason
    assert [item.message.sent_at for item in messages(records) if item.kind != "system"] == [
        START + 1,
        START + 3,
    ]


@every_reader
def test_two_messages_with_the_same_time_are_two(sample: Sample) -> None:
    _, records = sample.read(Message(1, 5.0, "same"), Message(2, 5.0, "same"), Message(3, 5.0, "other"))
    found = [item for item in messages(records) if item.kind != "system"]
    assert len({item.message.external_id for item in found}) == len(found)
    if sample.provider == "mattermost":  # an export has no ids: a post that is there twice is one
        assert sorted(map(text_of, found)) == ["other", "same"]
    else:
        assert [text_of(item) for item in found] == ["same", "same", "other"]
    # In Slack, a time is an id: two of a channel differ in microseconds.
    assert {round(item.message.sent_at, 3) for item in found} == {START + 5}


@every_reader
def test_a_reply_to_a_missing_parent_is_read_with_its_thread(sample: Sample) -> None:
    if not sample.replies:
        pytest.skip("an export of this form cannot have one")
    _, records = sample.read(Message(1, 1.0), Message(2, 2.0, parent=1), Message(3, 3.0, "lost", parent=99))
    first, reply, lost = messages(records)
    answered = {item.message.place.thread or item.message.place.reply_to for item in (reply, lost)}
    assert first.message.external_id in answered
    assert len(answered) == 2
    assert None not in answered
    assert text_of(lost) == "lost"


@every_reader
def test_unknown_people_bots_and_mentions_spoil_no_message(sample: Sample) -> None:
    contents, records = sample.read(
        Message(1, 1.0, "left", unknown_author=True),
        Message(2, 2.0, "hi", mentions=True),
        Message(3, 3.0, bot=True),
    )
    found = [item for item in messages(records) if item.kind != "system"]
    assert len(found) == 3
    for item in found:
        assert item.message.author.id
        encoded(line_of(item, Names()))
    assert text_of(found[1]).lower().startswith("hi ")
    assert "mention://" not in text_of(found[1])
    assert (found[2].kind == "bot" or found[2].message.author.bot) == sample.has_bots
    encoded(contents)


@every_reader
def test_half_a_character_spoils_no_other_record(sample: Sample) -> None:
    data = sample.build([Message(1, 1.0, "HALF"), Message(2, 2.0, "whole")])
    if data.startswith(b"PK"):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            files = {name: _halved(archive.read(name)) for name in archive.namelist()}
        data = zipped(files).getvalue()
    else:
        data = _halved(data)
    reader, archive_ = sample.reader(), open_archive(BytesIO(data), "upload", ArchiveLimits())
    contents = reader.contents(archive_)
    assert contents is not None
    records = [item for unit in contents.units for item in reader.read(archive_, contents, unit)]
    lines = [line_of(record, Names()) for record in records]
    for line in lines:
        encoded(line)
    assert sum("m" in line and line["m"]["text"] == "whole" for line in lines) == 1


def _halved(data: bytes) -> bytes:
    """Put half of a character in place of a word: as an escape in JSON, as bytes elsewhere."""
    return data.replace(b'"HALF"', b'"\\ud800"').replace(b"HALF", b"\xed\xa0\x80\xff")


@pytest.mark.parametrize(
    ("provider", "word"),
    [
        ("slack", b'"reply"'),
        ("discord", b'"reply"'),
        ("telegram", b'"reply"'),
        ("mattermost", b'"reply"'),
        ("jsonl", b'"hi"'),
    ],
)
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_hundred_thousand_levels_are_a_loss_or_a_refusal(
    provider: str, word: bytes, opening: bytes
) -> None:
    export = RICH_EXPORTS[provider]
    closing = b"]" if opening == b"[" else b"}"
    deep = opening * 100_000 + b"1" + closing * 100_000
    files = {name: written(content).replace(word, deep, 1) for name, content in export.files().items()}
    with within(5):
        assert outcome(export, export.build(files)) in {
            "counted losses",
            "a refusal",
            "another kind",
            "an import",
        }


@pytest.mark.parametrize("name", ["general", "was-general", "before-that"])
def test_a_channel_that_was_renamed_is_the_same_channel(name: str) -> None:
    channels = [{"id": "C00000001", "name": name}]
    files = slack_export({f"{name}/2024-01-02": [slack_message(AT)]}, channels=channels)
    _, contents = recognized(ZipArchive(zipped(files)), archive_readers())
    assert [(item.id, item.name) for item in contents.conversations] == [("C00000001", name)]
    assert [unit.conversation for unit in contents.units] == ["C00000001"]


def test_folders_of_former_names_are_conversations_with_a_note() -> None:
    days = {f"{name}/2024-01-02": [slack_message(AT)] for name in ("general", "was-general", "before-that")}
    _, contents = recognized(ZipArchive(zipped(slack_export(days))), archive_readers())
    assert [item.name for item in contents.conversations if not item.listed] == ["was-general", "before-that"]
    assert "2 folders are of no listed channel" in contents.notes[0]


# Archives


def nested(levels: int) -> bytes:
    """Return an archive of four archives of four archives, and so on; the innermost have 1 MB of zeros."""
    inner = bytes(1024 * 1024)
    for _ in range(levels):
        inner = zipped({f"{number}.zip": inner for number in range(4)}).getvalue()
    return inner


def self_containing() -> bytes:
    """Return an archive with a file that is the archive itself, from its first byte on."""
    data = bytearray(zipped({"self.zip": "x" * 200}, stored=True).getvalue())
    at = data.index(b"PK\x01\x02")
    whole = len(data)
    for offset in (20, 24):  # the sizes in the directory
        struct.pack_into("<L", data, at + offset, whole)
    return bytes(data)


def zeros(size: int) -> bytes:
    """Return an archive with a file of so many zeros, without compressing them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(16 * 1024 * 1024)
    first = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = first * (size // len(block)) + packer.flush(zlib.Z_FINISH)
    name = b"general/2024-01-02.json"
    extra = struct.pack("<HHQQ", 1, 16, size, len(packed))
    head = struct.pack("<4s5H3L2H", b"PK\x03\x04", 45, 0, 8, 0, 33, 0, _FULL, _FULL, len(name), len(extra))
    entry = struct.pack(
        "<4s6H3L5H2L",
        b"PK\x01\x02",
        45,
        45,
        0,
        8,
        0,
        33,
        0,
        _FULL,
        _FULL,
        len(name),
        len(extra),
        0,
        0,
        0,
        0,
        0,
    )
    local, directory = head + name + extra + packed, entry + name + extra
    return local + directory + struct.pack(_END, b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(local), 0)


def many_entries(count: int, claimed: int) -> bytes:
    """Return an archive whose directory has so many entries, and whose end record claims another number."""
    entry = struct.Struct("<4s6H3L5H2L")
    values = (b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry.pack(*values) + b"%06d" % number for number in range(count))
    start = b"PK\x03\x04" + bytes(26)
    end = struct.pack(_END, b"PK\x05\x06", 0, 0, claimed, claimed, len(directory), len(start), 0)
    return start + directory + end


def many_entries_64(count: int) -> bytes:
    """Return an archive with so many entries, as its end record in ZIP64 says."""
    found = many_entries(count, 0xFFFF)[: -struct.calcsize(_END)]
    start = 30
    end64 = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(found) - start, start
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(found), 1)
    return found + end64 + locator + struct.pack(_END, b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, _FULL, _FULL, 0)


HOSTILE: Final[dict[str, tuple[Callable[[], bytes], str]]] = {
    "archives in archives": (lambda: nested(4), "it is a ZIP archive of 4 ZIP archives"),
    "an archive of itself": (self_containing, "lie on its directory|lie on each other|damaged"),
    "10 GB of zeros": (lambda: zeros(10 * 1024**3), "grows more than 200 times"),
    "500,001 entries": (lambda: many_entries_64(500_001), "has 500,001 files"),
    "more entries than it claims": (
        lambda: many_entries(500_001, 10),
        "has 500,001 files",
    ),
    "encrypted": (lambda: encrypted().getvalue(), "is encrypted"),
    "overlapping": (lambda: overlapping().getvalue(), "lie on each other|Overlapped"),
    "absolute": (lambda: zipped({"/users.json": "[]"}).getvalue(), "absolute path"),
    "leads out": (lambda: zipped({"a/../../users.json": "[]"}).getvalue(), "leads out"),
    "a link": (lambda: linked().getvalue(), "symbolic link"),
    "two of a name": (lambda: doubled().getvalue(), "two files named"),
    "truncated": (lambda: zipped(slack_export({})).getvalue()[:-40], "truncated"),
    "an end only": (lambda: claims_entries(7).getvalue(), "an empty ZIP archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_with_the_reason(name: str) -> None:
    build, reason = HOSTILE[name]
    data = build()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with within(3), pytest.raises(Unreadable, match=reason):
        recognized(open_archive(BytesIO(data), "upload.zip", ArchiveLimits()), archive_readers())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KB


def test_an_archive_with_64_bits_and_names_of_dos_is_read() -> None:
    channels = [{"id": "C1", "name": "général"}]
    files = slack_export({"général/2024-01-02": [slack_message(AT)]}, channels=channels)
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            dos = _DosInfo(name)
            with archive.open(dos, "w", force_zip64=True) as file:
                file.write(written(content))
    assert "général".encode("cp437") in out.getvalue()
    _, contents = recognized(ZipArchive(BytesIO(out.getvalue())), archive_readers())
    assert [unit.conversation for unit in contents.units] == ["C1"]


class _DosInfo(zipfile.ZipInfo):
    """An entry whose name is written without the flag of UTF-8, as programs do that know DOS only."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 -- zipfile's name
        return self.filename.encode("cp437"), self.flag_bits


@pytest.mark.parametrize("provider", [name for name, export in RICH_EXPORTS.items() if export.is_archive])
def test_a_wrong_checksum_costs_one_file(provider: str) -> None:
    export = RICH_EXPORTS[provider]
    files = {name: written(content) for name, content in export.files().items()}
    data = bytearray(zipped(files, stored=True).getvalue())
    at = data.rindex(b"ok" if provider == "whatsapp" else b"reply")
    data[at] ^= 1
    result = outcome(export, bytes(data))
    if provider not in ("mattermost", "whatsapp"):
        assert result == ("counted losses" if provider in ("slack", "discord") else "a refusal")
        return
    # Their exports have one file of messages, by which they are recognized: people learn that it is damaged.
    assert result == "another kind"
    archive = open_archive(BytesIO(bytes(data)), "upload", ArchiveLimits())
    with pytest.raises(Unreadable, match="is damaged"):
        recognized(archive, archive_readers())


@every_reader
def test_an_upload_that_is_cut_off_is_a_refusal_or_a_loss(sample: Sample) -> None:
    content = sample.content
    for cut in (1, 30, len(content) // 2, len(content) - 1):
        try:
            reader, contents = recognized(
                open_archive(BytesIO(content[:cut]), "upload", ArchiveLimits()), archive_readers()
            )
        except Unreadable:
            continue
        assert contents.kind
        assert reader.KIND


# Sizes, in the confined process


BEGINNINGS: Final[dict[str, bytes]] = {
    "mattermost": b'{"type": "version", "version": 1}\n',
    "whatsapp": b"[31/12/2023, 10:00:00] Ada: before\n",
    "csv": b"time,text\n" + b"1704153600,before\n" * 4_000,
    "jsonl": b'{"time": 1704153600, "text": "before"}\n' * 50,
}
ENDS: Final[dict[str, bytes]] = {
    "mattermost": b'\n{"type": "post", "post": {"team": "t", "channel": "c", "user": "ada", '
    b'"message": "after", "create_at": 1704153600000}}\n',
    "whatsapp": b"\n[31/12/2023, 10:00:01] Ada: after\n",
    "csv": b"\n1704153601,after\n",
    "jsonl": b'\n{"time": 1704153601, "text": "after"}\n',
}


@pytest.mark.parametrize("provider", BEGINNINGS)
def test_a_line_without_an_end_is_one_loss_in_bounded_memory_and_time(tmp_path: Path, provider: str) -> None:
    path = tmp_path / "upload"
    with path.open("wb") as file:
        file.write(BEGINNINGS[provider])
        file.seek(LINE_BYTES, 1)  # what is not written is zeros
        file.write(ENDS[provider])
    _, lines = everything(path, LIMITS)
    texts = [line["m"]["text"] for line in lines if "m" in line]
    assert texts[-1] == "after"
    assert sum("b" in line for line in lines) == 1


@pytest.mark.parametrize(
    "beginning", [b"", b'{"name": "x", "type": "personal_chat", "id": 1, "messages": [', b'["']
)
def test_a_sparse_file_of_ten_gigabytes_is_refused_at_once(tmp_path: Path, beginning: bytes) -> None:
    path = tmp_path / "upload"
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(10 * 1024**3)
    before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    with pytest.raises(Unreadable, match=r"binary data|not valid JSON|text|JSON|too long to read"):
        everything(path, LIMITS)
    cpu_s = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
    assert cpu_s < 8, "reading all of it takes about 20 s"
