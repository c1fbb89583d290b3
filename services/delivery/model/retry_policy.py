"""What an attempt's answer means: delivered, tried again at a time, or a dead letter. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal

from shared.runtime.egress.client import EgressResponse
from shared.webhooks.backoff import RETRY_AFTER_CAP_S, add_jitter, attempt_delay, parse_retry_after

AttemptStatus = Literal["delivered", "retrying", "dead_letter"]
ClientErrorPolicy = Literal["final", "retry"]

MAX_LOGGED_BODY_BYTES: Final = 4096
"""Bytes of an answer's body that are read, for the log."""
_MAX_LOGGED_HEADERS: Final = 50
_MAX_HEADER_LENGTH: Final = 512
_RETRYABLE_CLIENT_ERRORS: Final = frozenset({408, 425, 429})
"""4xx that say 'later', not 'never'."""
_GONE: Final = 410
CONDITION_TOO_EXPENSIVE: Final = "condition_too_expensive"
_FINAL_FAILURES: Final = frozenset(
    {"address_refused", "bad_url", "transform_failed", CONDITION_TOO_EXPENSIVE}
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When an outgoing webhook is tried again: seconds before each attempt, lengthened by up to `jitter`."""

    schedule: tuple[float, ...]
    jitter: float = 0.0
    client_errors: ClientErrorPolicy = "final"
    max_retry_after_s: float = RETRY_AFTER_CAP_S
    """The longest `Retry-After` that is heeded, in seconds."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, as the log keeps it: never a secret, at most 4 KiB of the answer."""

    number: int
    started_at: datetime
    request_headers: Mapping[str, str]
    response: EgressResponse

    @property
    def ok(self) -> bool:
        """Whether the receiver took it."""
        return self.response.status is not None and 200 <= self.response.status < 300

    @property
    def is_hub_failure(self) -> bool:
        """Whether it says nothing of the endpoint: the egress proxy is away."""
        return self.response.failure == "proxy"

    @property
    def is_not_sent(self) -> bool:
        """Whether it ended before anything was sent: the endpoint may be well or not."""
        return self.response.failure in _FINAL_FAILURES

    @property
    def is_endpoint_failure(self) -> bool:
        """Whether the endpoint does not work, as opposed to one that refuses this request."""
        status = self.response.status
        if status is None:
            return not self.is_not_sent
        return status >= 500 or status == 408

    @property
    def error(self) -> str | None:
        """The class of the failure; None for an answer of 2xx."""
        if self.response.failure or self.ok:
            return self.response.failure
        return "redirect" if 300 <= (self.response.status or 0) < 400 else "status"

    def document(self) -> dict[str, Any]:
        response = self.response
        return {
            "number": self.number,
            "started_at": self.started_at,
            "duration_ms": round(response.seconds * 1000, 1),
            "request_headers": dict(self.request_headers),
            "status_code": response.status,
            "error": self.error,
            "detail": response.detail,
            # Pairs, not a document: a stranger's names may be `$ref` or hold dots.
            "response_headers": [
                [_header_text(name), _header_text(value)]
                for name, value in islice(response.headers.items(), _MAX_LOGGED_HEADERS)
            ],
            "response_body": response.body[:MAX_LOGGED_BODY_BYTES].decode("utf-8", "replace"),
            "address": response.address,
        }


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """Where the delivery goes from here; `due_at` is None when it is finished.

    `quiet_s` is how long the endpoint asked to be left alone; `gone` says that it wants nothing ever again.
    """

    status: AttemptStatus
    due_at: datetime | None
    retry_after_s: float = 0.0
    gone: bool = False


def evaluate_attempt(
    attempt: Attempt, number: int, policy: RetryPolicy, seed: str, now: datetime
) -> AttemptOutcome:
    """The step after attempt `number` (from 1) of a round; `seed` is what the jitter depends on.

    2xx is delivered. 408, 425, 429, 3xx, 5xx, timeouts and connection failures are tried again while
    the schedule lasts; any other 4xx too when the policy says so. 410, an internal address, a bad URL and
    a body that could not be made are dead at once. `Retry-After` leaves the due time as the schedule has it:
    `quiet_s`, at most what the policy allows, holds back all of the endpoint's deliveries, and may be ended.
    """
    if attempt.ok:
        return AttemptOutcome("delivered", None)
    response = attempt.response
    if response.status == _GONE:
        return AttemptOutcome("dead_letter", None, gone=True)
    retry_after_s = min(_requested_delay_s(response, now), policy.max_retry_after_s)
    wait_s = attempt_delay(policy.schedule, number + 1)
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


def _header_text(text: str) -> str:
    """A stranger's header, cut, as the store can take it: the bytes of one need not be UTF-8."""
    return text[:_MAX_HEADER_LENGTH].encode("utf-8", "replace").decode()


def _is_retryable(response: EgressResponse, policy: RetryPolicy) -> bool:
    if response.status is None:
        return response.failure not in _FINAL_FAILURES
    if not 400 <= response.status < 500 or response.status in _RETRYABLE_CLIENT_ERRORS:
        return True
    return policy.client_errors == "retry"
