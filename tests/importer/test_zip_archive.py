"""ZIP archives of strangers: what is refused, before anything is unpacked, and what is repaired."""

import stat
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.importer.archive.zip_archive import ArchiveLimits, ZipArchive
from shared.manifests.history_types import Entry, Unreadable
from tests.importer.archives import claims_entries, claims_entries_64, zipped

LIMITS = ArchiveLimits(entries=1_000, total_bytes=50 * 1024 * 1024)


def read(archive: ZipArchive, name: str) -> bytes:
    with archive.open(name) as file:
        return file.read()


def test_files_are_read_by_their_names() -> None:
    archive = ZipArchive(zipped({"a/b.json": "[1]", "a/": "", "c.txt": "text"}))
    assert archive.entries() == [Entry("a/b.json", 3), Entry("c.txt", 4)]
    assert read(archive, "a/b.json") == b"[1]"


def test_names_in_utf_8_that_are_not_declared_are_repaired() -> None:
    data = zipped({"チャネル/1.json": "[]"}).getvalue()
    undeclared = BytesIO(data.replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00"))
    with zipfile.ZipFile(undeclared) as plain:
        broken = plain.namelist()
    assert broken != ["チャネル/1.json"], "the archive declares its names"
    assert [entry.name for entry in ZipArchive(undeclared).entries()] == ["チャネル/1.json"]


def linked() -> BytesIO:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("users.json")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return out


def encrypted() -> BytesIO:
    data = bytearray(zipped({"a": "x"}).getvalue())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    return BytesIO(bytes(data))


def overlapping() -> BytesIO:
    """Two entries of the directory that lead to one file."""
    data = zipped({"a": "x" * 100, "b": "x" * 100}, stored=True).getvalue()
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    return BytesIO(data[: second + 42] + (0).to_bytes(4, "little") + data[second + 46 :])


def nameless() -> BytesIO:
    """An entry whose name begins with a zero, where `zipfile` ends it."""
    return BytesIO(zipped({"@a": "1"}).getvalue().replace(b"@a", b"\x00a"))


def doubled() -> BytesIO:
    data = zipped({"a1": "1", "a2": "2"}).getvalue()
    return BytesIO(data.replace(b"a2", b"a1"))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: claims_entries(1_001), "1,001 files"),
        (lambda: claims_entries_64(500_001), "500,001 files"),
        (lambda: BytesIO(zipped({"a": "x"}).getvalue()[:-30]), "is truncated"),
        (lambda: BytesIO(b"PK\x03\x04 and nothing"), "is truncated"),
        (lambda: zipped({"/etc/passwd": "x"}), "absolute path"),
        (lambda: zipped({"C:/x": "x"}), "absolute path"),
        (lambda: zipped({"a/../../x": "x"}), "leads out"),
        (lambda: zipped({"a": bytes(20 * 1024 * 1024)}), "more than 200 times"),
        (lambda: zipped({"a": bytes(30 * 1024 * 1024), "b": bytes(30 * 1024 * 1024)}), "0 GB"),
        (linked, "is a symbolic link"),
        (encrypted, "is encrypted"),
        (overlapping, "lie on each other|Overlapped"),
        (doubled, "two files named 'a1'"),
        (nameless, "has no name"),
    ],
)
def test_what_no_export_has_is_refused(build: Callable[[], BytesIO], reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        ZipArchive(build(), LIMITS)


def test_a_damaged_file_is_named_when_it_is_read() -> None:
    data = bytearray(zipped({"day.json": "[1, 2, 3]"}, stored=True).getvalue())
    data[data.index(b"[1, 2")] ^= 1
    with pytest.raises(Unreadable, match=r"day\.json is damaged"):
        read(ZipArchive(BytesIO(bytes(data))), "day.json")


@given(st.data())
def test_whatever_is_changed_in_an_archive_it_is_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(zipped({"a.json": "[1]", "b/c.json": '["text"]'}).getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    # Any other exception fails the test.
    with suppress(Unreadable):
        archive = ZipArchive(BytesIO(bytes(content[:cut] if data.draw(st.booleans()) else content)))
        for entry in archive.entries():
            read(archive, entry.name)


def test_a_name_that_is_damaged_in_the_directory_is_named_as_damage() -> None:
    before, _, directory = zipped({"чат.json": "[1]"}).getvalue().rpartition("чат".encode())
    with pytest.raises(Unreadable, match="is damaged"):
        ZipArchive(BytesIO(before + b"\xed\xed\xed\xed\xed\xed" + directory))


def test_a_name_that_is_damaged_before_the_data_is_named_as_damage() -> None:
    data = zipped({"чат.json": "[1]"}).getvalue()
    damaged = data.replace("чат".encode(), b"\xed\xed\xed\xed\xed\xed", 1)  # in front of the data only
    with pytest.raises(Unreadable, match="Bad file name"):
        read(ZipArchive(BytesIO(damaged)), "чат.json")
