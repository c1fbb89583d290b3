"""Names, types and sizes of files, as they may be shown to programs and people. Pure."""

import re
import unicodedata
from typing import Final
from urllib.parse import quote

MAX_NAME: Final = 120
"""Characters of a file name."""
UNKNOWN_TYPE: Final = "application/octet-stream"

_SEPARATORS: Final = re.compile(r'[/\\:*?"<>|]')
_ATTRIBUTE_CHARACTERS: Final = "!#$&+-.^_`|~"
"""Characters that a value of `filename*` may have unencoded, beside letters and digits (RFC 8187)."""
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,80}/[a-z0-9][a-z0-9!#$&^_.+-]{0,80}")
_SAFE_TYPES: Final = frozenset(
    {
        "application/gzip",
        "application/json",
        "application/msword",
        "application/pdf",
        "application/vnd.ms-excel",
        "application/vnd.ms-powerpoint",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "application/zip",
        "audio/aac",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
        "image/avif",
        "image/gif",
        "image/heic",
        "image/jpeg",
        "image/png",
        "image/webp",
        "text/csv",
        "text/plain",
        "video/mp4",
        "video/mpeg",
        "video/ogg",
        "video/quicktime",
        "video/webm",
    }
)
"""Types in which no browser runs a script."""
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_TEXTUAL: Final = frozenset({"text", "application"})
_KILO: Final = 1024


def safe_name(name: str) -> str:
    """Return a file name without separators, control characters and marks that reorder text.

    It has at most MAX_NAME characters; a longer one is cut in front of its extension.
    """
    cleaned = "".join(char for char in name if not unicodedata.category(char).startswith("C"))
    cleaned = _SEPARATORS.sub("_", cleaned).strip().lstrip(".").strip()
    if len(cleaned) > MAX_NAME:
        stem, dot, extension = cleaned.rpartition(".")
        end = f".{extension}" if dot and stem and len(extension) <= 10 else ""
        cleaned = cleaned[: MAX_NAME - len(end)].rstrip() + end
    return cleaned or "file"


def attachment_disposition(name: str) -> str:
    """Return the value of `Content-Disposition` that saves a file under a name (RFC 6266)."""
    safe = safe_name(name)
    plain = safe.encode("ascii", "replace").decode().replace("?", "_").replace("%", "_")
    value = f'attachment; filename="{plain}"'
    if plain != safe:
        value += f"; filename*=UTF-8''{quote(safe, safe=_ATTRIBUTE_CHARACTERS)}"
    return value


def media_type(content_type: str | None) -> str:
    """Return the media type of a `Content-Type` in lower case; UNKNOWN_TYPE if there is none."""
    found = (content_type or "").partition(";")[0].strip().lower()
    return found if _MEDIA_TYPE.fullmatch(found) else UNKNOWN_TYPE


def served_type(content_type: str | None) -> str:
    """Return the type in which a file is served: its own if no browser runs a script in it."""
    found = media_type(content_type)
    return found if found in _SAFE_TYPES else UNKNOWN_TYPE


def is_page(content_type: str | None) -> bool:
    """Return whether a content type is that of a web page."""
    return media_type(content_type) in _PAGES


def changes_type(announced: str | None, received: str | None) -> bool:
    """Return whether a file has another kind of type than was announced: a page instead of a picture.

    Systems differ in the types of one kind (`text/xml`, `application/xml`), so these count as the same.
    """
    before, after = media_type(announced), media_type(received)
    if UNKNOWN_TYPE in (before, after):
        return False
    if is_page(after):
        return not is_page(before)
    kinds = {before.partition("/")[0], after.partition("/")[0]}
    return len(kinds) > 1 and not kinds <= _TEXTUAL


def shown_size(size: int) -> str:
    """Return a size in bytes as people read it: `12 MB`."""
    amount, unit = float(size), "bytes"
    for larger in ("KB", "MB", "GB"):
        if amount < _KILO:
            break
        amount, unit = amount / _KILO, larger
    return f"{amount:.1f} {unit}" if unit != "bytes" and amount < 10 else f"{amount:.0f} {unit}"
