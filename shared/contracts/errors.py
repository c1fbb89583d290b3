"""The error tree: a class says what the caller must do, and carries the data to do it.

`RetryLater`: the same call may succeed later.  `Rejected`: the input is wrong; the same input will
never succeed.  `Misconfigured`: a person has to change a setting before anything can work.
"""

from dataclasses import dataclass


class InterlinkError(Exception):
    """Base of everything that the hub raises on purpose."""


class RetryLater(InterlinkError):
    """Try the same thing again after `retry_after` seconds: nothing was lost, nothing pretended."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BrokerUnavailable(RetryLater):
    """Kafka did not acknowledge in time. The event may still arrive: ids make the repeat harmless."""


class DatabaseUnavailable(RetryLater):
    """MongoDB did not answer in time."""


class DatabaseRefused(DatabaseUnavailable):
    """MongoDB answers, and takes nothing until somebody mends its settings: that may be done while we run."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request body; `field` is a dotted path."""

    field: str
    message: str


class Rejected(InterlinkError):
    """The input can never be accepted. `status` is its HTTP status, `reason` a stable short word."""

    status = 400
    reason = "malformed"

    def __init__(self, detail: str, *, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors


class Malformed(Rejected):
    """A body, header or event that does not have the promised form."""


class TooLarge(Rejected):
    """More bytes than the limit, before or after inflation."""

    status = 413
    reason = "too_large"


class UnsupportedMedia(Rejected):
    """A content type or encoding that this route does not take."""

    status = 415
    reason = "unsupported_media"


class NotFound(Rejected):
    """No such thing here, or one that belongs to another workspace."""

    status = 404
    reason = "not_found"


class Unauthenticated(Rejected):
    """No API key, or one that is unknown, expired or revoked."""

    status = 401
    reason = "unauthenticated"


class Forbidden(Rejected):
    """The key is good, but its scopes or the caller's address do not allow this call."""

    status = 403
    reason = "forbidden"


class Conflict(Rejected):
    """The call clashes with another one or with what is there."""

    status = 409
    reason = "conflict"


class Invalid(Rejected):
    """The body is well formed, and its fields are not acceptable."""

    status = 422
    reason = "invalid"


class OverLimit(Rejected):
    """More than one workspace may have waiting: it is refused for the sake of the others."""

    status = 429
    reason = "over_limit"


class Misconfigured(InterlinkError):
    """A setting is missing or wrong. The message says which and what to do."""
