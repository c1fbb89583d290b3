"""Google's hub for feeds (WebSub, formerly PubSubHubbub), and what YouTube publishes over it.

pubsubhubbub/PubSubHubbub hub/main.py (parameters, verification, signature) and
https://developers.google.com/youtube/v3/guides/push_notifications (topics, the feed)

- Nobody logs in: a subscription is asked of its address before anything changes (`hub.challenge`).
- `hub.verify` is `sync` (asked at once: 204, or 409) or `async` (202, asked afterwards).
- Asking again renews; a subscription ends with its lease.
"""

import hashlib
import hmac
import re
import secrets
import threading
from dataclasses import dataclass
from typing import Final

import httpx

from tests.support.provider_hosts import FORM, HostRequest, Reply

_TOPIC: Final = re.compile(r"https://www\.youtube\.com/xml/feeds/videos\.xml\?channel_id=UC[\w-]{22}")
_NEEDS: Final = frozenset({"hub.callback", "hub.topic", "hub.mode", "hub.verify"})
_MAY: Final = frozenset({"hub.verify_token", "hub.secret", "hub.lease_seconds"})
_FEED: Final = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns="http://www.w3.org/2005/Atom">
  <link rel="hub" href="https://pubsubhubbub.appspot.com"/>
  <link rel="self" href="{topic}"/>
  <title>YouTube video feed</title>
  <updated>2026-01-01T12:00:01+00:00</updated>
  <entry>
    <id>yt:video:{video}</id>
    <yt:videoId>{video}</yt:videoId>
    <yt:channelId>{channel}</yt:channelId>
    <title>An example</title>
    <link rel="alternate" href="https://www.youtube.com/watch?v={video}"/>
    <author><name>Example</name><uri>https://www.youtube.com/channel/{channel}</uri></author>
    <published>2026-01-01T12:00:00+00:00</published>
    <updated>2026-01-01T12:00:01+00:00</updated>
  </entry>
</feed>
"""


@dataclass(eq=False)
class Subscription:
    """Of an address to a topic; `leased_s` is what the hub told the address."""

    address: str
    topic: str
    secret: str
    leased_s: int
    verified: int = 1
    """How often the address confirmed it."""


class Hub:
    """The hub. `max_s` is the longest lease that it gives."""

    def __init__(self, *, max_s: int = 90 * 86400) -> None:
        self.max_s = max_s
        self.live: dict[tuple[str, str], Subscription] = {}
        self.ended = 0

    def handle(self, request: HostRequest) -> Reply:
        """`POST /subscribe`, which has to be a form without credentials."""
        assert (request.method, request.path) == ("POST", "/subscribe"), f"{request.method} {request.path}"
        assert request.media_type == FORM, "not a form"
        assert "authorization" not in request.headers, "the hub needs no token, and gets one"
        fields = request.form()
        missing, unknown = _NEEDS - fields.keys(), fields.keys() - _NEEDS - _MAY
        assert not missing, f"lacks {missing}"
        assert not unknown, f"unknown: {unknown}"
        assert fields["hub.mode"] in ("subscribe", "unsubscribe"), f"the mode is {fields['hub.mode']}"
        assert fields["hub.verify"] in ("sync", "async"), f"verify is {fields['hub.verify']}"
        assert _TOPIC.fullmatch(fields["hub.topic"]), f"the topic is {fields['hub.topic']}"
        lease = fields.get("hub.lease_seconds", "0")
        assert lease == str(int(lease)), f"the lease is {lease}"
        if fields["hub.mode"] == "subscribe":
            assert 0 < len(fields.get("hub.secret", "")) < 200, "unsigned, or a secret of 200 bytes and more"
        elif (fields["hub.callback"], fields["hub.topic"]) not in self.live:
            return Reply(204)
        if fields["hub.verify"] == "async":
            threading.Thread(target=self._confirm, args=(fields,), daemon=True).start()
            return Reply(202)
        if self._confirm(fields):
            return Reply(204)
        return Reply(409, b"Error trying to confirm subscription", {"content-type": "text/plain"})

    def publish(self, subscription: Subscription, video: str, *, secret: str = "") -> tuple[int, str]:
        """The status and the body that a new video is answered with; 200 and 204 count as received."""
        channel = subscription.topic.rpartition("=")[2]
        body = _FEED.format(topic=subscription.topic, video=video, channel=channel).encode()
        proof = hmac.new((secret or subscription.secret).encode(), body, hashlib.sha1).hexdigest()
        headers = {"Content-Type": "application/atom+xml", "X-Hub-Signature": f"sha1={proof}"}
        answer = httpx.post(subscription.address, content=body, headers=headers, timeout=10)
        return answer.status_code, answer.text

    def asks(self, address: str, topic: str, *, token: str, mode: str = "unsubscribe") -> httpx.Response:
        """What an address answers when the hub asks for somebody who has sent this token."""
        params = {"hub.mode": mode, "hub.topic": topic, "hub.challenge": secrets.token_urlsafe(30)}
        return httpx.get(address, params={**params, "hub.verify_token": token}, timeout=10)

    def _confirm(self, fields: dict[str, str]) -> bool:
        address, topic, mode = fields["hub.callback"], fields["hub.topic"], fields["hub.mode"]
        lease = min(int(fields.get("hub.lease_seconds", self.max_s)), self.max_s)
        challenge = secrets.token_urlsafe(60)
        params = {"hub.mode": mode, "hub.topic": topic, "hub.challenge": challenge}
        params["hub.lease_seconds"] = str(lease)
        if fields.get("hub.verify_token"):
            params["hub.verify_token"] = fields["hub.verify_token"]
        answer = httpx.get(address, params=params, timeout=10)
        if not (answer.is_success and answer.text == challenge):
            return False
        if mode == "unsubscribe":
            del self.live[address, topic]
            self.ended += 1
            return True
        before = self.live.get((address, topic))
        made = Subscription(address, topic, fields["hub.secret"], lease)
        made.verified += before.verified if before else 0
        self.live[address, topic] = made
        return True
