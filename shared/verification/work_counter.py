"""What reading and verifying one request costs, counted in bytes: the same on every machine. Pure."""

from typing import Final

from shared.contracts.errors import InterlinkError

MAX_HASHED_BYTES: Final = 8 * 1024 * 1024
"""Bytes that are hashed to verify one request, over all schemes, texts and secrets."""

MAX_HASH_PASSES: Final = 4
"""How often as many bytes as a large body has are hashed: secrets times signed texts."""

MAX_PUBLIC_KEY_CHECKS: Final = 10
"""Signatures of public keys that are checked for one request: each costs as much as hashing 100 KiB."""

_MIN_HASH_LIMIT: Final = 256 * 1024
"""Bytes that may be hashed for any request: a small body is tried with every secret and text."""


class TooCostly(InterlinkError):
    """Verifying this request would take more than a request may cost."""


class WorkCounter:
    """Counts what one request costs. Without `limit` it only counts.

    `hashed` are bytes that went into a digest, `parsed` bytes that were read as JSON, as a form or as a query
    string (or written as JSON again), `public_key_checks` signatures of public keys.
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
        """Only count from now on: what follows is done for a request that is verified."""
        self._max_hashed_bytes: float = float("inf")
        self._max_public_key_checks: float = float("inf")

    def limit(self, most_hashed: int = MAX_HASHED_BYTES) -> None:
        """Refuse to hash more than this many bytes from now on, those already counted included."""
        self._max_hashed_bytes = most_hashed
        self._max_public_key_checks = MAX_PUBLIC_KEY_CHECKS

    def count_hash(self, size: int) -> None:
        """Count `size` bytes before they are hashed. Raise `TooCostly` instead if they are too many."""
        self.hashed_bytes += size
        if self.hashed_bytes > self._max_hashed_bytes:
            self.hashed_bytes -= size
            raise TooCostly("verifying this body would hash more bytes than one request may cost")

    def count_public_key_check(self, size: int) -> None:
        """Count the check of one signature over `size` bytes. Raise `TooCostly` instead of one too many."""
        if self.public_key_checks >= self._max_public_key_checks:
            raise TooCostly("verifying this request would check more signatures than one request may cost")
        self.count_hash(size)
        self.public_key_checks += 1


def hash_limit(size: int) -> int:
    """Return how many bytes may be hashed to verify a body of `size` bytes with an endpoint's secrets."""
    return min(MAX_HASHED_BYTES, MAX_HASH_PASSES * size + _MIN_HASH_LIMIT)
