"""The cost of reading and verifying one request, counted in bytes and public-key checks. Pure.

Bytes are the same on every machine, unlike time: the same request is accepted or refused everywhere.
"""

from typing import Final

from shared.contracts.errors import InterlinkError

MAX_HASHED_BYTES: Final = 8 * 1024 * 1024
"""Bytes hashed to verify one request, over all schemes, signed contents and secrets."""

MAX_HASH_PASSES: Final = 4
"""Number of times that a large body may be hashed: secrets times signed contents."""

MAX_PUBLIC_KEY_CHECKS: Final = 10
"""Public-key signatures checked for one request. Each costs as much as hashing 100 KiB."""

_MIN_HASH_LIMIT: Final = 256 * 1024
"""Bytes that may be hashed for any request: a small body is checked with every secret and content."""


class TooCostly(InterlinkError):
    """Verifying the request would exceed the limits of one request's work."""


class WorkCounter:
    """Counts the work of one request. It has no limits until `limit` is called.

    `hashed_bytes` went into a digest. `parsed_bytes` were read as JSON, form or query string, or written as
    JSON. `public_key_checks` is the number of checked public-key signatures.
    """

    __slots__ = (
        "_max_hashed_bytes",
        "_max_public_key_checks",
        "hashed_bytes",
        "parsed_bytes",
        "public_key_checks",
    )

    def __init__(self) -> None:
        self.hashed_bytes = 0
        self.parsed_bytes = 0
        self.public_key_checks = 0
        self.remove_limits()

    def remove_limits(self) -> None:
        """Count without limits from now on, because the request is verified."""
        self._max_hashed_bytes: float = float("inf")
        self._max_public_key_checks: float = float("inf")

    def limit(self, max_bytes: int = MAX_HASHED_BYTES) -> None:
        """Limit the work: at most `max_bytes` hashed in all, those already counted included."""
        self._max_hashed_bytes = max_bytes
        self._max_public_key_checks = MAX_PUBLIC_KEY_CHECKS

    def count_hash(self, size: int) -> None:
        """Count `size` bytes that are about to be hashed. Raises `TooCostly` if that exceeds the limit."""
        self.hashed_bytes += size
        if self.hashed_bytes > self._max_hashed_bytes:
            self.hashed_bytes -= size
            raise TooCostly("verifying this body would hash too many bytes for one request")

    def count_public_key_check(self, size: int) -> None:
        """Count one check of a signature over `size` bytes. Raises `TooCostly` if that exceeds a limit."""
        if self.public_key_checks >= self._max_public_key_checks:
            raise TooCostly("verifying this request would check too many signatures")
        self.count_hash(size)
        self.public_key_checks += 1


def hash_limit(size: int) -> int:
    """Return how many bytes may be hashed to verify a body of `size` bytes with an endpoint's secrets."""
    return min(MAX_HASHED_BYTES, MAX_HASH_PASSES * size + _MIN_HASH_LIMIT)
