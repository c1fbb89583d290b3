"""Reasons for which the webhook path rejects a request, beside those of `shared.contracts.errors`."""

from collections.abc import Sequence

from shared.contracts.errors import Rejected, RetryLater


class Gone(Rejected):
    """The endpoint is disabled."""

    status = 410
    reason = "disabled"


class SourceRefused(RetryLater):
    """The endpoint's stored `source` is over the bounds: its owner has to change it first."""


class MethodNotAllowed(Rejected):
    """The webhook definition does not accept this HTTP method. `methods` are the accepted ones."""

    status = 405
    reason = "method"

    def __init__(self, methods: Sequence[str]) -> None:
        super().__init__(f"send webhooks with {' or '.join(methods)}")
        self.methods = methods


class TooManyRequests(Rejected):
    """A rate limit is used up. `retry_after` is in seconds."""

    status = 429
    reason = "rate_limited"

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many requests for this endpoint")
        self.retry_after = retry_after
