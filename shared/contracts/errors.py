"""The errors of the hub. A class says what the caller must do, and carries the data to do it.

`RetryLater`: the same call may succeed later. `Rejected`: the input is wrong, and the same input will
never succeed. `Misconfigured`: a person has to change a setting first.
"""

from dataclasses import dataclass


class InterlinkError(Exception):
    """Base of all errors that the hub raises on purpose."""


class RetryLater(InterlinkError):
    """Try the same call again after `retry_after` seconds. Nothing was lost, and no success was reported.

    HTTP responses and due work wait for `retry_after`. The Kafka consumer has growing pauses of its own.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BrokerUnavailable(RetryLater):
    """Kafka cannot take events now."""


class Unacknowledged(BrokerUnavailable):
    """Kafka did not acknowledge in time. The event may still be stored: its id makes the repeat harmless."""


class DatabaseUnavailable(RetryLater):
    """MongoDB did not answer in time."""


class DatabaseRefused(DatabaseUnavailable):
    """MongoDB refuses every operation until its settings are corrected, for example its credentials.

    That can be done while the hub runs, so the call may be retried.
    """


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field of a request body. `field` is its dotted path, empty for the whole body."""

    field: str
    message: str


class Rejected(InterlinkError):
    """The input can never be accepted. `status` is its HTTP status, `reason` a stable code for programs.

    If a limit is used up, `retry_after` says in how many seconds the same input can be accepted.
    """

    status = 400
    reason = "malformed"
    retry_after: float | None = None

    def __init__(self, detail: str, *, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors


class Malformed(Rejected):
    """A body, header or event does not have the documented format."""


class TooLarge(Rejected):
    """The input has more bytes or items than the limit, before or after decompression."""

    status = 413
    reason = "too_large"


class UnsupportedMedia(Rejected):
    """The route does not support this content type or encoding."""

    status = 415
    reason = "unsupported_media"


class NotFound(Rejected):
    """The resource does not exist, or belongs to another workspace."""

    status = 404
    reason = "not_found"


class Unauthenticated(Rejected):
    """The API key is missing, unknown, expired or revoked."""

    status = 401
    reason = "unauthenticated"


class Forbidden(Rejected):
    """The key is valid, but its scopes or the caller's address do not allow this call."""

    status = 403
    reason = "forbidden"


class Conflict(Rejected):
    """The call conflicts with another call or with what is stored."""

    status = 409
    reason = "conflict"


class Outdated(Rejected):
    """The call is based on an earlier version of the object than the one that is stored."""

    status = 412
    reason = "outdated"


class Invalid(Rejected):
    """The body is well formed, but some of its fields are not acceptable."""

    status = 422
    reason = "invalid"


class OverLimit(Rejected):
    """The workspace has reached its limit of waiting work, which protects the other workspaces."""

    status = 429
    reason = "over_limit"


class OverQuota(Rejected):
    """The workspace has used up a quota. `retry_after` is in seconds."""

    status = 429
    reason = "over_quota"

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Misconfigured(InterlinkError):
    """A setting is missing or wrong. The message says which one, and what to do."""
