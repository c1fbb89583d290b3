"""Define the errors of polls, beside those of the account and of its tokens."""

from shared.contracts.errors import InterlinkError, RetryLater


class RateLimited(RetryLater):
    """The provider asks for a pause, which counts for the workspace's accounts of the app."""


class PollRefused(InterlinkError):
    """The provider refused the request. `code` is its error code or `http_<status>`."""

    def __init__(self, status: int, code: str, detail: str = "") -> None:
        super().__init__(detail or code)
        self.status = status
        self.code = code
        self.detail = detail
