"""Bodies of the type `multipart/form-data` (RFC 7578), under limits. Pure."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from shared.contracts.errors import Malformed

MULTIPART_CONTENT_TYPE: Final = "multipart/form-data"
MAX_PARTS: Final = 50

_BOUNDARY: Final = re.compile(r";\s*boundary=(?:\"([^\"\\\r\n]{1,70})\"|([^\s\";,]{1,70}))", re.IGNORECASE)
_MAX_HEADER_BYTES: Final = 4096
_NAME: Final = re.compile(r";\s*name=(?:\"([^\"\r\n]*)\"|([^\s\";]+))", re.IGNORECASE)
_FILENAME: Final = re.compile(r";\s*filename=(?:\"([^\"\r\n]*)\"|([^\s\";]+))", re.IGNORECASE)


class FormPart(NamedTuple):
    """One field or file of a form. `filename` is None for a field."""

    name: str
    filename: str | None
    content_type: str
    data: bytes


def parse_multipart(content_type: str, body: bytes) -> list[FormPart]:
    """Return the parts of a form in their order. `content_type` is the request's, with the boundary.

    Raises `Malformed` if the body is not such a form, is not complete, or has more than `MAX_PARTS` parts.
    """
    delimiter = delimiter_of(content_type)
    _, *sections = (b"\r\n" + body).split(delimiter, MAX_PARTS + 2)
    if len(sections) > MAX_PARTS + 1:
        raise Malformed(f"the form has more than {MAX_PARTS} parts")
    if not sections or not sections[-1].startswith(b"--"):
        raise Malformed("the form is not complete: its last boundary is missing")
    return [parse_part(section) for section in sections[:-1]]


def delimiter_of(content_type: str) -> bytes:
    """Return what stands before each part of a form, and before the `--` at its end. Raises `Malformed`."""
    boundary = _BOUNDARY.search(content_type)
    if not boundary:
        raise Malformed("the content type multipart/form-data must have a boundary")
    return b"\r\n--" + (boundary[1] or boundary[2]).encode("latin-1", "replace")


def parse_part(section: bytes) -> FormPart:
    """Return a part of what stands between two delimiters: headers, an empty line and the data.

    Raises `Malformed`.
    """
    head, separator, data = section.partition(b"\r\n\r\n")
    if not separator or len(head) > _MAX_HEADER_BYTES:
        raise Malformed("a part of the form has no headers, or too long ones")
    headers = dict(_headers(head.decode("utf-8", "replace")))
    disposition = headers.get("content-disposition", "")
    name, filename = _NAME.search(disposition), _FILENAME.search(disposition)
    if not name:
        raise Malformed("a part of the form has no name")
    return FormPart(
        _value(name),
        _value(filename) if filename else None,
        headers.get("content-type", "text/plain"),
        data,
    )


def _headers(head: str) -> Iterator[tuple[str, str]]:
    for line in head.split("\r\n"):
        name, separator, value = line.partition(":")
        if separator:
            yield name.strip().lower(), value.strip()


def _value(match: re.Match[str]) -> str:
    """Return a parameter. Browsers and clients write a quote in it as `%22` (HTML standard)."""
    quoted: str | None = match[1]
    return (quoted if quoted is not None else match[2]).replace("%22", '"')
