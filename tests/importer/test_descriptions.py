"""Exports in words, and what an unknown upload is, by its contents."""

import gzip
from io import BytesIO
from typing import Any, Final

import pytest

from services.importer.archive.zip_archive import ArchiveLimits
from services.importer.reading.description import describe
from services.importer.reading.detected import detected
from services.importer.reading.readers import archive_readers, open_archive, recognized
from shared.manifests.history_types import Unreadable
from tests.importer.archives import slack_export, slack_message, zipped
from tests.importer.reader_samples import SAMPLES, Sample

PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(30)
PDF: Final = b"%PDF-1.7\n"


def opened(content: bytes) -> Any:
    return open_archive(BytesIO(content), "upload", ArchiveLimits())


def described(content: bytes) -> str:
    return describe(recognized(opened(content), archive_readers())[1])


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.provider)
def test_an_export_of_each_reader_is_described(sample: Sample) -> None:
    assert described(sample.content) == sample.description


def test_channels_groups_and_direct_chats_are_counted_apart() -> None:
    days = {
        f"{name}/2024-01-02": [slack_message("1704153600.1")] for name in ("general", "secret", "G2", "D1")
    }
    lists = {"groups": [{"id": "G1", "name": "secret"}], "mpims": [{"id": "G2"}], "dms": [{"id": "D1"}]}
    text = described(zipped(slack_export(days, **lists)).getvalue())
    assert text == "a Slack export of 3 channels, 1 group chat and 1 direct chat, 2024-01"


def test_an_open_question_is_in_the_description() -> None:
    assert described(b"3/4/24, 10:00 - Ada: a\n") == (
        "a WhatsApp export of 1 direct chat; files are not in it; 1 question must be answered before it can "
        "be read"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (PDF, "a PDF document"),
        (PNG, "a picture"),
        (gzip.compress(b"x", mtime=0), "a gzip archive"),
        (b"Rar!\x1a\x07", "an RAR archive"),
        (b"<!DOCTYPE html><title>x</title>", "text in HTML"),
        (b"<?xml version='1.0'?><a/>", "XML"),
        (b'{"a": 1, "b": [', "JSON"),
        (b'[{"a": 1}]', "JSON"),
        (b'{"name": 1, "list": []}', "JSON with 'name', 'list'"),
        (b"just words", "text"),
        (bytes(range(256)), "a file of binary data"),
        (zipped({"a.png": PNG, "b.png": PNG, "c": PNG}).getvalue(), "a ZIP archive of 3 pictures"),
        (
            zipped({"a.png": PNG, "b.txt": "x", "c.txt": "y"}).getvalue(),
            "a ZIP archive of 2 files of text and 1 picture",
        ),
        (zipped({"[Content_Types].xml": "x", "word/document.xml": "x"}).getvalue(), "a Word document"),
        (
            zipped({f"{number}.pdf": PDF for number in range(60)}).getvalue(),
            "a ZIP archive of 60 files, the first of them PDF documents",
        ),
    ],
)
def test_an_unknown_upload_is_refused_with_what_it_is(content: bytes, words: str) -> None:
    archive = opened(content)
    assert detected(archive) == words
    with pytest.raises(Unreadable) as refusal:
        recognized(archive, archive_readers())
    assert str(refusal.value).startswith(f"no known export: it is {words}. Upload one of these: ")
    for reader in archive_readers():
        assert reader.KIND in str(refusal.value)
