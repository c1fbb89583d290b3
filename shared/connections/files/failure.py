"""The failure of a file, with a reason for programs and a text for people."""

from collections.abc import Mapping
from typing import Literal

from shared.contracts.errors import InterlinkError
from shared.manifests.history_types import LostReason

FileReason = (
    LostReason
    | Literal[
        "account_not_connected",
        "address_refused",
        "changed_type",
        "damaged",
        "disk_full",
        "not_reached",
        "not_stored_yet",
        "provider_unavailable",
        "quota_exceeded",
        "too_large",
        "too_many_requests",
        "upload_deleted",
    ]
)
"""Why there is no file. Those of `LostReason` are the provider's own."""


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
