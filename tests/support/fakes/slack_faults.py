"""What goes wrong at Slack on request: per method, so many times."""

import threading
import time
from dataclasses import dataclass
from typing import Literal

from tests.support.provider_hosts import Reply


@dataclass(frozen=True)
class HistoryLimit:
    """How an app may read messages: per method so many calls in a time, and messages of a page."""

    calls: int
    per_s: float
    page: int


OUTSIDE_MARKETPLACE = HistoryLimit(1, 60, 15)
"""Of an app that is distributed outside of the Marketplace."""
TIER_3 = HistoryLimit(50, 60, 999)
"""Of other apps. https://docs.slack.dev/apis/web-api/rate-limits"""
FaultKind = Literal["status", "delay", "lost", "cut"]


@dataclass
class _Fault:
    kind: FaultKind
    method: str
    count: int
    status: int = 0
    seconds: float = 0
    reply: Reply | None = None


class Faults:
    """Faults of the next calls. A method is its name, `upload`, `download`, or `*` for any.

    `message_rate` is None, or the messages per second and the burst that a channel takes before 429.
    """

    def __init__(self) -> None:
        self.message_rate: tuple[float, int] | None = None
        self._history_limit = TIER_3
        self._history: dict[tuple[str, str], list[float]] = {}
        self._faults: list[_Fault] = []
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def rate_limit(self, method: str, count: int = 1, retry_after_s: int = 1) -> None:
        """Answer 429 with Retry-After, and do nothing."""
        self._faults.append(_Fault("status", method, count, 429, retry_after_s))

    def fail(self, method: str, status: int = 503, count: int = 1) -> None:
        """Answer with a status, and do nothing."""
        self._faults.append(_Fault("status", method, count, status))

    def delay(self, method: str, seconds: float, count: int = 1) -> None:
        """Answer late, after the effect."""
        self._faults.append(_Fault("delay", method, count, seconds=seconds))

    def lose_response(self, method: str, count: int = 1, reply: Reply | None = None) -> None:
        """Do what was asked, and answer with an error, or end the connection instead of an answer."""
        self._faults.append(_Fault("lost", method, count, reply=reply))

    def cut(self, method: str, count: int = 1) -> None:
        """End the connection before anything is done. (`ProviderHosts.take_down` refuses connections.)"""
        self._faults.append(_Fault("cut", method, count))

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._faults.clear()

    @property
    def pending(self) -> int:
        """The number of faults that no call has met yet."""
        return len(self._faults)

    def before(self, method: str) -> Reply | None:
        """Return what is answered instead of the effect."""
        if self._take(method, "cut"):
            return Reply.gone()
        fault = self._take(method, "status")
        if fault is None:
            return None
        if fault.status == 429:
            return limited(int(fault.seconds))
        return Reply(fault.status, b"upstream connect error", {"content-type": "text/plain"})

    def after(self, method: str, reply: Reply) -> Reply:
        """Return what becomes of a reply."""
        if late := self._take(method, "delay"):
            time.sleep(late.seconds)
        lost = self._take(method, "lost")
        return (lost.reply or Reply.gone()) if lost else reply

    def wait_for_message(self, channel: str) -> int:
        """Return the seconds until the channel takes another message, 0 when it took this one."""
        if self.message_rate is None:
            return 0
        per_s, burst = self.message_rate
        with self._lock:
            now = time.monotonic()
            left, at = self._buckets.get(channel, (float(burst), now))
            left = min(float(burst), left + (now - at) * per_s)
            taken = left >= 1
            self._buckets[channel] = (left - 1 if taken else left, now)
            return 0 if taken else max(1, round((1 - left) / per_s))

    @property
    def history_limit(self) -> HistoryLimit:
        """The limit of every app for each method that reads messages. A new one counts from now on."""
        return self._history_limit

    @history_limit.setter
    def history_limit(self, limit: HistoryLimit) -> None:
        with self._lock:
            self._history_limit = limit
            self._history.clear()

    def wait_for_history(self, app: str, method: str) -> int:
        """Return the seconds until an app may read messages again, 0 when it has done it now."""
        limit = self._history_limit
        with self._lock:
            now = time.monotonic()
            calls = [at for at in self._history.get((app, method), []) if at > now - limit.per_s]
            if len(calls) >= limit.calls:
                return max(1, round(calls[0] + limit.per_s - now))
            self._history[app, method] = [*calls, now]
            return 0

    def _take(self, method: str, kind: FaultKind) -> _Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.kind == kind and fault.method in {method, "*"}:
                    fault.count -= 1
                    if fault.count == 0:
                        self._faults.remove(fault)
                    return fault
        return None


def limited(retry_after_s: int) -> Reply:
    """Return Slack's answer to too many requests."""
    return Reply.json({"ok": False, "error": "ratelimited"}, 429, retry_after=str(retry_after_s))
