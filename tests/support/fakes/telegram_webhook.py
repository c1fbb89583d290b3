"""A bot's updates: kept until they are taken, and sent to its webhook one at a time, in order."""

import json
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

KINDS: Final = frozenset(
    {
        "message",
        "edited_message",
        "channel_post",
        "edited_channel_post",
        "business_connection",
        "business_message",
        "edited_business_message",
        "deleted_business_messages",
        "message_reaction",
        "message_reaction_count",
        "inline_query",
        "chosen_inline_result",
        "callback_query",
        "shipping_query",
        "pre_checkout_query",
        "purchased_paid_media",
        "poll",
        "poll_answer",
        "my_chat_member",
        "chat_member",
        "chat_join_request",
        "chat_boost",
        "removed_chat_boost",
    }
)
ON_REQUEST: Final = frozenset({"chat_member", "message_reaction", "message_reaction_count"})
"""Kinds that come only when `allowed_updates` names them."""
SECRET_HEADER: Final = "X-Telegram-Bot-Api-Secret-Token"


class Updates:
    """The updates of one bot, and the thread that posts them while a webhook is set.

    `routes` leads origins of webhooks (`https://hub.example.com`) to servers of the test. `duplicate_next`
    sends so many updates twice; `swap_next` holds so many updates back until another one was sent.
    """

    retry_pause_s: float = 0.1

    def __init__(self, first_id: int, routes: Mapping[str, str], complaints: list[str]) -> None:
        self.url = self.secret = self.last_error = ""
        self.allowed: list[str] = []
        self.max_connections = 40
        self.duplicate_next = self.swap_next = 0
        self.attempts: list[int] = []
        """The status of each POST, 0 for none."""
        self._next_id = first_id
        self._routes = routes
        self._complaints = complaints
        self._pending: deque[dict[str, Any]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def pending(self) -> list[dict[str, Any]]:
        """The updates that nobody has accepted."""
        with self._changed:
            return list(self._pending)

    def add(self, kind: str, value: Mapping[str, Any]) -> None:
        """Make an update, if the bot wants its kind."""
        with self._changed:
            if kind not in self.allowed if self.allowed else kind in ON_REQUEST:
                return
            update = {"update_id": self._next_id, kind: json.loads(json.dumps(value))}
            self._next_id += 1
            self._pending.append(update)
            if self.duplicate_next:
                self.duplicate_next -= 1
                self._pending.append(update)
            self._changed.notify_all()

    def set(self, url: str, secret: str, *, drop: bool) -> None:
        """Send them to a URL from now on; '' for nowhere."""
        with self._changed:
            self.url, self.secret, self.last_error = url, secret, ""
            if drop:
                self._pending.clear()
            self._changed.notify_all()

    def take(self, offset: int | None, limit: int) -> list[dict[str, Any]]:
        """The answer of getUpdates: an offset confirms the updates before it."""
        with self._changed:
            while offset is not None and self._pending and self._pending[0]["update_id"] < offset:
                self._pending.popleft()
            return list(self._pending)[:limit]

    def _send_all(self) -> None:
        with httpx.Client(timeout=10, trust_env=False) as client:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or (self.url and self._is_sendable()))
                    if self._closed:
                        return
                    if self.swap_next:
                        self.swap_next -= 1
                        self._pending[0], self._pending[1] = self._pending[1], self._pending[0]
                    update, url, secret = self._pending[0], self.url, self.secret
                error = self._post(client, update, url, secret)
                with self._changed:
                    if url != self.url:
                        continue
                    self.last_error = error
                    if not error and self._pending and self._pending[0] is update:
                        self._pending.popleft()
                    elif error:
                        self._changed.wait(self.retry_pause_s)

    def _is_sendable(self) -> bool:
        return len(self._pending) > (1 if self.swap_next else 0)

    def _post(self, client: httpx.Client, update: Mapping[str, Any], url: str, secret: str) -> str:
        """'' when the update was accepted, else the error that getWebhookInfo shows."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        target = self._routes.get(origin, origin) + url.removeprefix(origin)
        headers = {SECRET_HEADER: secret} if secret else {}
        try:
            answer = client.post(target, json=update, headers=headers)
        except httpx.HTTPError:
            self.attempts.append(0)
            return "Connection refused"
        self.attempts.append(answer.status_code)
        if answer.is_success and b'"method"' in answer.content:
            self._complaints.append(f"the webhook answered a call: {answer.text[:200]}")
        return "" if answer.is_success else f"Wrong response from the webhook: {answer.status_code}"
