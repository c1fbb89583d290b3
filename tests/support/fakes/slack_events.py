"""Slack's Events API as a sender: signed, retried, and on request twice, late or out of order.

https://docs.slack.dev/apis/events-api and https://docs.slack.dev/authentication/verifying-requests-from-slack
"""

import hashlib
import hmac
import http.client
import json
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from tests.support.eventually import eventually
from tests.support.fakes.slack_state import App, Json

_RETRY_DELAYS_S: Final = (0.0, 60.0, 300.0)


@dataclass
class Delivery:
    """One event for one app. `answers` has the status of each attempt, or why there was none."""

    app: App
    payload: Json
    answers: list[int | str] = field(default_factory=list)

    @property
    def event(self) -> Json:
        """The inner event."""
        event: Json = self.payload["event"]
        return event


class Events:
    """Sends the events of all workspaces, in order; `deliveries` are all that there were.

    `retry_delays_s` are the waits before each retry, `timeout_s` is how long the receiver may take.
    """

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.retry_delays_s: tuple[float, ...] = _RETRY_DELAYS_S
        self.timeout_s = 3.0
        self.before_response = 0
        """For so many next calls of the API, the events are delivered before the call is answered."""
        self.duplicate_next = 0
        """So many next events are sent twice, with the same id."""
        self._held: list[Delivery] | None = None
        self._queue: deque[tuple[Delivery, int, str]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._over = False
        self._timers: list[threading.Timer] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def hold(self) -> None:
        """Keep back all further events, until `release`."""
        self._held = []

    def release(self, *, backwards: bool = False) -> None:
        """Send what was held, on request the last one first."""
        held, self._held = self._held or [], None
        for delivery in reversed(held) if backwards else held:
            self._enqueue(delivery)

    def of(self, kind: str, subtype: str | None = None) -> list[Json]:
        """Return the inner events of a type (and subtype) so far."""
        return [
            one.event
            for one in list(self.deliveries)
            if one.event["type"] == kind and (subtype is None or one.event.get("subtype") == subtype)
        ]

    def emit(self, app: App, event: Json, *, shared: bool = False) -> None:
        """Send an event to an app, if it has an address; whether or not, it is in `deliveries`."""
        delivery = Delivery(app, _envelope(app, event, shared=shared))
        self.deliveries.append(delivery)
        if app.events_url is None:
            return
        if self._held is not None:
            self._held.append(delivery)
            return
        self._enqueue(delivery)

    def settle(self, within_s: float = 30) -> None:
        """Wait until every event that is due now was sent; retries that wait are not due."""
        eventually(lambda: not self._queue and not self._busy, within_s, every_s=0.01)

    def close(self) -> None:
        """Send nothing any more."""
        with self._changed:
            self._over = True
            self._queue.clear()
            self._changed.notify()
        for timer in self._timers:
            timer.cancel()
        self._thread.join(timeout=self.timeout_s + 1)

    def _enqueue(self, delivery: Delivery) -> None:
        times = 1
        if self.duplicate_next:
            self.duplicate_next -= 1
            times = 2
        for _ in range(times):
            self._put(delivery, 0, "")

    def _put(self, delivery: Delivery, retry: int, reason: str) -> None:
        with self._changed:
            if not self._over:
                self._queue.append((delivery, retry, reason))
                self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._over)
                if self._over:
                    return
                self._busy = True
                delivery, retry, reason = self._queue.popleft()
            try:
                self._attempt(delivery, retry, reason)
            finally:
                self._busy = False

    def _attempt(self, delivery: Delivery, retry: int, reason: str) -> None:
        answer, final = self._post(delivery, retry, reason)
        delivery.answers.append(answer)
        answered = isinstance(answer, int)
        if (isinstance(answer, int) and 200 <= answer < 300) or final or retry >= len(self.retry_delays_s):
            return
        why = "http_error" if answered else str(answer)
        delay = self.retry_delays_s[retry]
        if delay <= 0:
            self._put(delivery, retry + 1, why)
            return
        timer = threading.Timer(delay, self._put, (delivery, retry + 1, why))
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _post(self, delivery: Delivery, retry: int, reason: str) -> tuple[int | str, bool]:
        """Return the status or the reason of Slack for a retry, and whether the receiver wants none."""
        body = json.dumps(delivery.payload, separators=(",", ":")).replace("/", "\\/").encode()
        headers = signed(delivery.app.signing_secret, body)
        if retry:
            headers |= {"X-Slack-Retry-Num": str(retry), "X-Slack-Retry-Reason": reason}
        url = urlsplit(delivery.app.events_url or "")
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=self.timeout_s)
        try:
            target = url.path + (f"?{url.query}" if url.query else "")
            connection.request("POST", target, body=body, headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("X-Slack-No-Retry") == "1"
        except TimeoutError:
            return "http_timeout", False
        except (OSError, http.client.HTTPException):
            return "connection_failed", False
        finally:
            connection.close()


def signed(secret: str, body: bytes, at: int | None = None) -> dict[str, str]:
    """Return the headers of a request of Slack with this body."""
    timestamp = str(int(time.time()) if at is None else at)
    digest = hmac.new(secret.encode(), b"v0:%b:%b" % (timestamp.encode(), body), hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "User-Agent": "Slackbot 1.0 (+https://api.slack.com/robots)",
        "Accept": "*/*",
        "X-Slack-Request-Timestamp": timestamp,
        "X-Slack-Signature": f"v0={digest}",
    }


def _envelope(app: App, event: Json, *, shared: bool) -> Json:
    authorization = {
        "enterprise_id": None,
        "team_id": app.team,
        "user_id": app.user_id,
        "is_bot": True,
        "is_enterprise_install": False,
    }
    return {
        "token": "a legacy token",
        "team_id": app.team,
        "context_team_id": app.team,
        "context_enterprise_id": None,
        "api_app_id": app.id,
        "event": event,
        "type": "event_callback",
        "event_id": f"Ev{secrets.token_hex(5).upper()}",
        "event_time": int(time.time()),
        "authorizations": [authorization],
        "is_ext_shared_channel": shared,
        "event_context": f"4-{secrets.token_urlsafe(40)}",
    }
