"""The failure of a file, with a reason for programs and a text for people."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from shared.contracts.errors import InterlinkError
from shared.manifests.history_types import LostReason

FileReason = (
    LostReason
    | Literal[
        "account_not_connected",
        "address_refused",
        "changed_type",
        "damaged",
        "no_room",
        "not_reached",
        "not_stored_yet",
        "provider_unavailable",
        "too_large",
        "too_many_requests",
    ]
)
"""Why there is no file. Those of `LostReason` are the provider's own."""
FILE_REASONS: Final[frozenset[str]] = frozenset(
    name for part in get_args(FileReason) for name in get_args(part)
)


class FileFailed(InterlinkError):
    """The hub does not get, or have, the file. `text` is for people, `status` and `reason` for programs.

    `retryable` says whether it may be there later, after `retry_after_s` seconds if the provider said so.
    `headers` are for the response.
    """

    def __init__(
        self,
        status: int,
        text: str,
        reason: FileReason,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.reason: FileReason = reason
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.headers: Mapping[str, str] = headers or {}
