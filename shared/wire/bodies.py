"""Request bodies from strangers: bounded inflation, and JSON that is really JSON."""

import binascii
import re
import zlib
from typing import Any, Final
from urllib.parse import parse_qs

import orjson

from shared.contracts.errors import Malformed, TooLarge, UnsupportedMedia

FORM_CONTENT_TYPE: Final = "application/x-www-form-urlencoded"
MAX_FORM_FIELDS: Final = 1000
"""Of a form or a query string."""

_MAX_BROKEN_ESCAPES: Final = 1000
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
"""A percent sign that begins no escape: it stands for itself."""
_GZIP: Final = 16 + zlib.MAX_WBITS


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The body with its Content-Encoding undone, at most `limit` bytes.

    Raises `TooLarge` as soon as one byte more would come out, `Malformed` for a broken or unfinished
    stream, `UnsupportedMedia` for any encoding but gzip.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise UnsupportedMedia(f"content encoding {encoding[:40]!r} is not taken: send gzip or none")
    stream = zlib.decompressobj(_GZIP)
    try:
        inflated = stream.decompress(body, limit + 1)
    except zlib.error:
        raise Malformed("the body is not valid gzip") from None
    if len(inflated) > limit:
        raise TooLarge(f"the body inflates to more than {limit} bytes")
    if not stream.eof or stream.unused_data:
        raise Malformed("the gzip stream is not complete")
    return inflated


def media_type(content_type: str) -> str:
    """`application/json; charset=utf-8` -> `application/json`."""
    return content_type.partition(";")[0].strip().lower()


def parse_json(body: bytes) -> Any:
    """The value that a JSON text stands for. Raises `Malformed`: not UTF-8, not JSON, nested too deep."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}") from None


def dump_json(value: Any, option: int | None = None) -> bytes:
    """A parsed value as JSON again. Raises `Malformed`: what can be read may be too deep to be written."""
    try:
        return orjson.dumps(value, option=option)
    except orjson.JSONEncodeError as error:
        raise Malformed(f"the body cannot be written as JSON again: {error}") from None


def parse_object(body: bytes) -> dict[str, Any]:
    """As `parse_json`, for a body that has to be an object."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise Malformed("the body is JSON, but not an object")
    return value


def parse_urlencoded(raw: bytes, what: str) -> list[tuple[str, str]]:
    """The fields of a URL-encoded form or query string, in order, as `urllib.parse.parse_qsl` reads them.

    A megabyte of escapes takes milliseconds here and a tenth of a second there. Raises `Malformed` for other
    bytes than ASCII, escapes that are no UTF-8, and more than `MAX_FORM_FIELDS` fields. `what` names the
    input.
    """
    if not raw.isascii() or raw.count(b"&") >= MAX_FORM_FIELDS:
        raise Malformed(f"the {what} is not URL-encoded, or has more than {MAX_FORM_FIELDS} fields")
    try:
        pairs = [part.partition(b"=") for part in raw.split(b"&") if part]
        return [(_unescape(name), _unescape(value)) for name, _, value in pairs]
    except ValueError:
        raise Malformed(f"the {what} is not URL-encoded") from None


def _unescape(part: bytes) -> str:
    """Undo the escapes of a name or a value. Raises `ValueError`: not UTF-8, or too many broken escapes."""
    part = part.replace(b"+", b" ")
    if b"%" not in part:
        return part.decode("ascii")
    part, broken = _BROKEN_ESCAPE.subn(b"%25", part, count=_MAX_BROKEN_ESCAPES)
    if broken == _MAX_BROKEN_ESCAPES:
        raise ValueError("too many broken escapes")
    # Quoted-printable writes a byte as `=41`: its decoder is C, and the escapes are complete by now.
    return binascii.a2b_qp(part.replace(b"=", b"=3D").replace(b"%", b"=")).decode("utf-8")


def form_field(body: bytes, name: str) -> bytes:
    """One field of a URL-encoded form. Raises `Malformed` when it is missing, doubled or not UTF-8."""
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=100, errors="strict", keep_blank_values=True)
    except ValueError:
        raise Malformed("the body is not a URL-encoded form") from None
    values = fields.get(name, [])
    if len(values) != 1:
        raise Malformed(f"the form must have the field {name!r} once")
    return values[0].encode()
