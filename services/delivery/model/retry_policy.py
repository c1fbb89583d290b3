"""What an attempt's answer means: delivered, tried again at a time, or a dead letter. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal

from shared.runtime.egress.client import EgressResponse
from shared.webhooks.backoff import add_jitter, attempt_delay
from shared.wire.retry_after import RETRY_AFTER_CAP_S, parse_retry_after

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
    answer: EgressResponse

    @property
    def ok(self) -> bool:
        """Whether the receiver took it."""
        return self.answer.status is not None and 200 <= self.answer.status < 300

    @property
    def is_hub_failure(self) -> bool:
        """Whether it says nothing of the endpoint: the egress proxy is away."""
        return self.answer.failure == "proxy"

    @property
    def is_not_sent(self) -> bool:
        """Whether it ended before anything was sent: the endpoint may be well or not."""
        return self.answer.failure in _FINAL_FAILURES

    @property
    def is_endpoint_failure(self) -> bool:
        """Whether the endpoint does not work, as opposed to one that refuses this request."""
        status = self.answer.status
        if status is None:
            return not self.is_not_sent
        return status >= 500 or status == 408

    @property
    def error(self) -> str | None:
        """The class of the failure; None for an answer of 2xx."""
        if self.answer.failure or self.ok:
            return self.answer.failure
        return "redirect" if 300 <= (self.answer.status or 0) < 400 else "status"

    def document(self) -> dict[str, Any]:
        answer = self.answer
        return {
            "number": self.number,
            "started_at": self.started_at,
            "duration_ms": round(answer.seconds * 1000, 1),
            "request_headers": dict(self.request_headers),
            "status_code": answer.status,
            "error": self.error,
            "detail": answer.detail,
            # Pairs, not a document: a stranger's names may be `$ref` or hold dots.
            "response_headers": [
                [_header_text(name), _header_text(value)]
                for name, value in islice(answer.headers.items(), _MAX_LOGGED_HEADERS)
            ],
            "response_body": answer.body[:MAX_LOGGED_BODY_BYTES].decode("utf-8", "replace"),
            "address": answer.address,
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
    answer = attempt.answer
    if answer.status == _GONE:
        return AttemptOutcome("dead_letter", None, gone=True)
    quiet_s = min(_requested_delay_s(answer, now), policy.max_retry_after_s)
    wait = attempt_delay(policy.schedule, number + 1)
    if wait is None or not _is_retryable(answer, policy):
        return AttemptOutcome("dead_letter", None, quiet_s)
    wait = add_jitter(wait, policy.jitter, seed, str(number))
    return AttemptOutcome("retrying", now + timedelta(seconds=wait), quiet_s)


def _requested_delay_s(answer: EgressResponse, now: datetime) -> float:
    if answer.status not in (429, 503):
        return 0.0
    given = next((value for name, value in answer.headers.items() if name.lower() == "retry-after"), None)
    return parse_retry_after(given, now) or 0.0


def _header_text(given: str) -> str:
    """A stranger's header, cut, as the store can take it: the bytes of one need not be UTF-8."""
    return given[:_MAX_HEADER_LENGTH].encode("utf-8", "replace").decode()


def _is_retryable(answer: EgressResponse, policy: RetryPolicy) -> bool:
    if answer.status is None:
        return answer.failure not in _FINAL_FAILURES
    if not 400 <= answer.status < 500 or answer.status in _RETRYABLE_CLIENT_ERRORS:
        return True
    return policy.client_errors == "retry"
