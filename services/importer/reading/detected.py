"""Say in words what an unknown upload is, by its contents: "a ZIP archive of 3 pictures"."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Final

import orjson

from services.importer.archive.zip_archive import ZipArchive
from shared.manifests.history_types import Archive, Unreadable

_BEGINNING: Final = 4096
_MAX_OPENED: Final = 50
_MAX_KINDS: Final = 4
_MAX_KEYS: Final = 5

_SIGNATURES: Final[Sequence[tuple[int, bytes, str]]] = (
    (0, b"%PDF-", "PDF document"),
    (0, b"\x89PNG\r\n", "picture"),
    (0, b"\xff\xd8\xff", "picture"),
    (0, b"GIF8", "picture"),
    (8, b"WEBP", "picture"),
    (0, b"BM", "picture"),
    (0, b"II*\x00", "picture"),
    (4, b"ftypheic", "picture"),
    (4, b"ftyp", "video"),
    (0, b"\x1aE\xdf\xa3", "video"),
    (8, b"AVI ", "video"),
    (0, b"ID3", "recording"),
    (0, b"\xff\xfb", "recording"),
    (0, b"OggS", "recording"),
    (8, b"WAVE", "recording"),
    (0, b"fLaC", "recording"),
    (0, b"PK\x03\x04", "ZIP archive"),
    (0, b"Rar!", "RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip archive"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"BZh", "bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard archive"),
    (257, b"ustar", "tar archive"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "document of an old Office"),
    (0, b"SQLite format 3\x00", "SQLite database"),
    (0, b"\x7fELF", "program"),
    (0, b"MZ", "program"),
    (0, b"{\\rtf", "RTF document"),
)
"""Offset, bytes and word of a kind of file."""
_OFFICE: Final = (("word/", "a Word document"), ("xl/", "an Excel workbook"), ("ppt/", "a presentation"))
_TEXTS: Final = ("text in HTML", "XML", "JSON", "text")
"""Kinds that have no article and no plural."""


def detected(archive: Archive) -> str:
    """Return what an upload is, in words with their article."""
    entries = archive.entries()
    if not isinstance(archive, ZipArchive):
        return _with_article(_kind_of(archive, entries[0].name), is_only=True)
    names = [entry.name for entry in entries]
    if "[Content_Types].xml" in names:
        folders = {name.partition("/")[0] + "/" for name in names}
        return next((word for folder, word in _OFFICE if folder in folders), "an Office document")
    if not names:
        return "an empty ZIP archive"
    kinds = Counter(_kind_of(archive, name) for name in islice(names, _MAX_OPENED))
    if len(names) > _MAX_OPENED:
        main = kinds.most_common(1)[0][0]
        return f"a ZIP archive of {len(names):,} files, the first of them {_plural(main, 2)}"
    words = [f"{count} {_plural(kind, count)}" for kind, count in kinds.most_common(_MAX_KINDS)]
    others = len(names) - sum(count for _, count in kinds.most_common(_MAX_KINDS))
    words += [f"{others} others"] if others else []
    return f"a ZIP archive of {' and '.join(filter(None, (', '.join(words[:-1]), words[-1])))}"


def _kind_of(archive: Archive, name: str) -> str:
    """Return the word of a file's kind, by its beginning."""
    try:
        with archive.open(name) as file:
            beginning = file.read(_BEGINNING)
    except Unreadable:
        return "damaged file"
    if not beginning:
        return "empty file"
    for offset, signature, word in _SIGNATURES:
        if beginning.startswith(signature, offset):
            return word
    return _text_kind(beginning)


def _text_kind(beginning: bytes) -> str:
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"\x00" in beginning and not beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "file of binary data"
    start = text[:200].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in start:
        return "text in HTML"
    if start.startswith(b"<?xml"):
        return "XML"
    if start.startswith((b"{", b"[")):
        return _json_kind(text)
    return "text"


def _json_kind(text: bytes) -> str:
    """Return JSON, with its first keys if its beginning is a complete object in a line."""
    try:
        value = orjson.loads(text.split(b"\n", 1)[0])
    except orjson.JSONDecodeError:
        return "JSON"
    keys = [key[:40] for key in islice(value, _MAX_KEYS)] if isinstance(value, dict) else []
    return f"JSON with {', '.join(map(repr, keys))}" if keys else "JSON"


def _with_article(kind: str, *, is_only: bool) -> str:
    if kind.startswith(_TEXTS):
        return kind
    return f"{'an' if kind[0] in 'aeiouRx' and is_only else 'a'} {kind}"


def _plural(kind: str, count: int) -> str:
    if kind.startswith(_TEXTS):
        return f"file{'' if count == 1 else 's'} of {kind}"
    if count == 1:
        return kind
    first, _, rest = kind.partition(" of ")
    return f"{first}s of {rest}" if rest else f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
