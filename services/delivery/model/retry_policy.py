"""Decide the outcome of an attempt by its response: delivered, retried later, or a dead letter. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from shared.runtime.egress.client import EgressResponse
from shared.webhooks.backoff import add_jitter, attempt_delay
from shared.wire.retry_after import RETRY_AFTER_CAP_S, parse_retry_after

AttemptStatus = Literal["delivered", "retrying", "dead_letter"]
ClientErrorPolicy = Literal["final", "retry"]

MAX_LOGGED_BODY_BYTES: Final = 4096
"""Bytes of a response body that are read, for the log."""
_RETRYABLE_CLIENT_ERRORS: Final = frozenset({408, 425, 429})
"""4xx statuses that ask for a later request."""
_GONE: Final = 410
CONDITION_TOO_EXPENSIVE: Final = "condition_too_expensive"
_FINAL_FAILURES: Final = frozenset(
    {"address_refused", "bad_url", "transform_failed", CONDITION_TOO_EXPENSIVE}
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Rules for the retries of an outgoing webhook.

    `schedule` has the seconds before each attempt, so its length is the number of attempts. `jitter`
    lengthens each wait by up to this share.
    """

    schedule: tuple[float, ...]
    jitter: float = 0.0
    client_errors: ClientErrorPolicy = "final"
    max_retry_after_s: float = RETRY_AFTER_CAP_S
    """The longest `Retry-After` that is honoured, in seconds."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as the log stores it: without secrets, with at most 4 KiB of the response."""

    number: int
    started_at: datetime
    request_headers: Mapping[str, str]
    response: EgressResponse

    @property
    def ok(self) -> bool:
        """True if the subscriber accepted the request with 2xx."""
        return self.response.status is not None and 200 <= self.response.status < 300

    @property
    def traceparent(self) -> str:
        """The context that the request had; '' if nothing was sent."""
        return self.request_headers.get("traceparent", "")

    @property
    def is_hub_failure(self) -> bool:
        """True if the hub failed and not the endpoint: the egress proxy is unavailable."""
        return self.response.failure == "proxy"

    @property
    def is_not_sent(self) -> bool:
        """True if it ended before anything was sent. Then it says nothing about the endpoint."""
        return self.response.failure in _FINAL_FAILURES

    @property
    def is_endpoint_failure(self) -> bool:
        """True if the endpoint does not work, as opposed to rejecting this one request."""
        status = self.response.status
        if status is None:
            return not self.is_not_sent
        return status >= 500 or status == 408

    @property
    def error(self) -> str | None:
        """The error class; None for 2xx."""
        if self.response.failure or self.ok:
            return self.response.failure
        return "redirect" if 300 <= (self.response.status or 0) < 400 else "status"


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """The next state of the delivery; `due_at` is None when it is finished.

    `retry_after_s` is how long the endpoint asked for no requests. `gone` says that it wants none ever again.
    """

    status: AttemptStatus
    due_at: datetime | None
    retry_after_s: float = 0.0
    gone: bool = False


def evaluate_attempt(
    attempt: Attempt, number: int, policy: RetryPolicy, seed: str, now: datetime
) -> AttemptOutcome:
    """Return the outcome of attempt `number` (from 1) of a retry cycle; `seed` determines the jitter.

    2xx is delivered. 408, 425, 429, 3xx, 5xx, timeouts and connection failures are retried while the schedule
    lasts. Any other 4xx is retried only if the policy says so. 410, an internal address, a bad URL and a body
    that could not be rendered are dead letters at once.

    `Retry-After` does not change the due time. Its seconds, limited by the policy, are in `retry_after_s`:
    they hold back every delivery of the endpoint until they pass or a person ends the hold.
    """
    if attempt.ok:
        return AttemptOutcome("delivered", None)
    response = attempt.response
    if response.status == _GONE:
        return AttemptOutcome("dead_letter", None, gone=True)
    retry_after_s = min(_requested_delay_s(response, now), policy.max_retry_after_s)
    wait_s = attempt_delay(policy.schedule, number + 1)
    # The schedule is used up, or the response is final.
    if wait_s is None or not _is_retryable(response, policy):
        return AttemptOutcome("dead_letter", None, retry_after_s)
    wait_s = add_jitter(wait_s, policy.jitter, seed, str(number))
    return AttemptOutcome("retrying", now + timedelta(seconds=wait_s), retry_after_s)


def _requested_delay_s(response: EgressResponse, now: datetime) -> float:
    if response.status not in (429, 503):
        return 0.0
    value_text = next(
        (value for name, value in response.headers.items() if name.lower() == "retry-after"), None
    )
    return parse_retry_after(value_text, now) or 0.0


def _is_retryable(response: EgressResponse, policy: RetryPolicy) -> bool:
    if response.status is None:
        return response.failure not in _FINAL_FAILURES
    # Anything but a final 4xx may be temporary.
    if not 400 <= response.status < 500 or response.status in _RETRYABLE_CLIENT_ERRORS:
        return True
    return policy.client_errors == "retry"
