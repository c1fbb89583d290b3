"""What an attempt's answer means: delivered, tried again at a time, or a dead letter. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal

from shared.runtime.guarded import Answer
from shared.wire.backoff import wait_before

Status = Literal["delivered", "retrying", "dead_letter"]

_KEPT_BODY: Final = 4096
_KEPT_HEADERS: Final = 50
_KEPT_TEXT: Final = 512
_RETRIABLE_4XX: Final = frozenset({408, 425, 429})
_FINAL_FAILURES: Final = frozenset({"address_refused", "bad_url"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, as the log keeps it: never a secret, at most 4 KiB of the answer."""

    number: int
    started_at: datetime
    request_headers: Mapping[str, str]
    answer: Answer

    def document(self) -> dict[str, Any]:
        answer = self.answer
        return {
            "number": self.number,
            "started_at": self.started_at,
            "duration_ms": round(answer.seconds * 1000, 1),
            "request_headers": dict(self.request_headers),
            "status_code": answer.status,
            "error": answer.failure or _refusal(answer.status),
            "detail": answer.detail,
            # Pairs, not a document: a stranger's names may be `$ref` or hold dots.
            "response_headers": [
                [_text(name), _text(value)] for name, value in islice(answer.headers.items(), _KEPT_HEADERS)
            ],
            "response_body": answer.body[:_KEPT_BODY].decode("utf-8", "replace"),
            "address": answer.address,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """Where the delivery goes from here; `due_at` is None when it is finished."""

    status: Status
    due_at: datetime | None


def step_after(answer: Answer, attempt: int, schedule: Sequence[float], now: datetime) -> Step:
    """The step after attempt number `attempt` (from 1).

    2xx is delivered. 408, 425, 429, 3xx, 5xx, timeouts and connection failures are tried again while
    the schedule lasts; any other 4xx, an internal address and a bad URL are dead at once.
    """
    if answer.status is not None and 200 <= answer.status < 300:
        return Step("delivered", None)
    wait = wait_before(schedule, attempt + 1)
    if wait is None or not _may_recover(answer):
        return Step("dead_letter", None)
    return Step("retrying", now + timedelta(seconds=wait))


def _text(given: str) -> str:
    """A stranger's header, cut, as the store can take it: the bytes of one need not be UTF-8."""
    return given[:_KEPT_TEXT].encode("utf-8", "replace").decode()


def _may_recover(answer: Answer) -> bool:
    if answer.status is None:
        return answer.failure not in _FINAL_FAILURES
    return not 400 <= answer.status < 500 or answer.status in _RETRIABLE_4XX


def _refusal(status: int | None) -> str | None:
    if status is None or 200 <= status < 300:
        return None
    return "redirect" if 300 <= status < 400 else "status"
