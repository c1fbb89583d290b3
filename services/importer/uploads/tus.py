"""The headers of tus 1.0, the protocol of resumable uploads."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Final

from shared.contracts.errors import Malformed

VERSION: Final = "1.0.0"
EXTENSIONS: Final = "creation,checksum,expiration,termination"
ALGORITHMS: Final = ("sha1", "sha256", "md5")
CHUNK_TYPE: Final = "application/offset+octet-stream"
CHECKSUM_MISMATCH: Final = 460
_MAX_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class Checksum:
    """The checksum that a client announces for the bytes of one request."""

    algorithm: str
    digest: bytes

    def matches(self, hashed: "hashlib._Hash") -> bool:
        """Return whether the received bytes have this checksum."""
        return hashed.digest() == self.digest


def parse_checksum(header: str | None) -> Checksum | None:
    """Return the checksum of an `Upload-Checksum` header; None without one. Raises `Malformed`."""
    if header is None:
        return None
    algorithm, _, encoded = header.partition(" ")
    if algorithm not in ALGORITHMS:
        raise Malformed(f"Upload-Checksum: the algorithms are {', '.join(ALGORITHMS)}")
    try:
        return Checksum(algorithm, base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        raise Malformed("Upload-Checksum: send the algorithm, a blank and the digest in Base64") from None


def parse_length(header: str | None, name: str) -> int:
    """Return the number of bytes in a header. Raises `Malformed`."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 18:
        raise Malformed(f"{name}: send a number of bytes")
    return int(header)


def parse_metadata(header: str | None) -> Mapping[str, str]:
    """Return the pairs of an `Upload-Metadata` header. Raises `Malformed`."""
    found: dict[str, str] = {}
    for pair in (header or "").split(","):
        key, _, encoded = pair.strip().partition(" ")
        if not key:
            continue
        try:
            found[key] = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError):
            raise Malformed("Upload-Metadata: send pairs of a key and a value in Base64") from None
    return found


def written_metadata(name: str) -> str:
    """Return the `Upload-Metadata` header of an upload with this file name."""
    return f"filename {base64.b64encode(name.encode()).decode()}"


def written_time(moment: datetime) -> str:
    """Return a time in UTC as `Upload-Expires` has it (RFC 9110)."""
    return format_datetime(moment, usegmt=True)


def file_name(metadata: Mapping[str, str]) -> str:
    """Return the name of the uploaded file, without folders and unprintable characters."""
    name = metadata.get("filename") or metadata.get("name") or "export"
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(char for char in last if char.isprintable())[:_MAX_NAME] or "export"
