"""Subscriptions of Google (channels) and Microsoft Graph, strict about addresses and ends.

https://developers.google.com/workspace/calendar/api/guides/push
https://learn.microsoft.com/graph/change-notifications-delivery-webhooks
"""

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import bearer
from tests.support.platforms import Asked, Reply


@dataclass
class Channel:
    """A channel of Google, or a subscription of Graph."""

    id: str
    resource: str
    address: str
    token: str
    ends_at: float
    number: int = 0


class Subscriptions:
    """What both have: live ones, and those that were ended. `lifetime_s` is the most that is given."""

    def __init__(self, fake: Fake, lifetime_s: float) -> None:
        self.fake = fake
        self.lifetime_s = lifetime_s
        self.live: dict[str, Channel] = {}
        self.made = self.renewed = self.ended = 0

    def _person(self, asked: Asked) -> bool:
        return self.fake.access(bearer(asked)) is not None

    def _end_of(self, wanted: float) -> float:
        now = self.fake.now()
        assert wanted > now, "an end in the past"
        return min(wanted, now + self.lifetime_s)


class GoogleChannels(Subscriptions):
    """`events/watch` and `channels/stop` of Google Calendar."""

    def handler(self) -> Callable[[Asked], Reply]:
        return self.fake.on(
            {
                "POST /calendar/v3/calendars/primary/events/watch": self.watch,
                "POST /calendar/v3/channels/stop": self.stop,
            }
        )

    def watch(self, asked: Asked) -> Reply:
        if not self._person(asked):
            return Reply.json({"error": {"code": 401, "status": "UNAUTHENTICATED"}}, 401)
        body = asked.json()
        assert set(body) <= {"id", "type", "address", "token", "expiration", "params"}, f"unknown: {body}"
        assert body["type"] == "web_hook"
        uuid.UUID(body["id"])
        if body["id"] in self.live:
            said = {
                "error": {"code": 400, "status": "channelIdNotUnique", "message": "Channel id not unique"}
            }
            return Reply.json(said, 400)
        ends = self._end_of(int(body["expiration"]) / 1000)
        channel = Channel(body["id"], secrets.token_urlsafe(12), body["address"], body["token"], ends)
        self.live[channel.id] = channel
        self.made += 1
        assert self.notify(channel, "sync") == 200, "the address refuses the sync message"
        return Reply.json(
            {
                "kind": "api#channel",
                "id": channel.id,
                "resourceId": channel.resource,
                "resourceUri": "https://www.googleapis.com/calendar/v3/calendars/primary/events",
                "token": channel.token,
                "expiration": str(int(ends * 1000)),
            }
        )

    def stop(self, asked: Asked) -> Reply:
        if not self._person(asked):
            return Reply.json({"error": {"code": 401, "status": "UNAUTHENTICATED"}}, 401)
        body = asked.json()
        channel = self.live.get(body["id"])
        if channel is None or channel.resource != body["resourceId"]:
            return Reply.json({"error": {"code": 404, "status": "NOT_FOUND"}}, 404)
        del self.live[channel.id]
        self.ended += 1
        return Reply(204, b"", {})

    def notify(self, channel: Channel, state: str) -> int:
        """The status that a notification is answered with."""
        channel.number += 1
        headers = {
            "X-Goog-Channel-ID": channel.id,
            "X-Goog-Channel-Token": channel.token,
            "X-Goog-Resource-ID": channel.resource,
            "X-Goog-Resource-State": state,
            "X-Goog-Message-Number": str(channel.number),
            "X-Goog-Resource-URI": "https://www.googleapis.com/calendar/v3/calendars/primary/events",
        }
        return httpx.post(channel.address, headers=headers, timeout=10).status_code


class GraphSubscriptions(Subscriptions):
    """`/subscriptions` of Microsoft Graph, which asks the address for a token before it takes it."""

    def __init__(self, fake: Fake, lifetime_s: float) -> None:
        super().__init__(fake, lifetime_s)
        self.me = fake.hosts["graph.microsoft.com"]

    def handle(self, asked: Asked) -> Reply:
        if not asked.path.startswith("/v1.0/subscriptions"):
            return self.me(asked)
        if not self._person(asked):
            return Reply.json({"error": {"code": "InvalidAuthenticationToken", "message": "expired"}}, 401)
        name = asked.path.removeprefix("/v1.0/subscriptions").strip("/")
        if asked.method == "POST" and not name:
            return self._make(asked.json())
        channel = self.live.get(name)
        if channel is None:
            return Reply.json({"error": {"code": "ResourceNotFound", "message": "gone"}}, 404)
        if asked.method == "DELETE":
            del self.live[name]
            self.ended += 1
            return Reply(204, b"", {})
        assert asked.method == "PATCH", f"{asked.method} of a subscription"
        body = asked.json()
        assert set(body) == {"expirationDateTime"}, f"unknown: {body}"
        channel.ends_at = self._end_of(_seconds(body["expirationDateTime"]))
        self.renewed += 1
        return Reply.json(self._shown(channel))

    def _make(self, body: dict[str, Any]) -> Reply:
        known = {"changeType", "resource", "notificationUrl", "lifecycleNotificationUrl", "clientState"}
        assert set(body) == known | {"expirationDateTime"}, f"fields: {sorted(body)}"
        assert set(body["changeType"].split(",")) <= {"created", "updated", "deleted"}
        assert len(body["clientState"]) <= 128
        for address in (body["notificationUrl"], body["lifecycleNotificationUrl"]):
            asked_for = secrets.token_urlsafe(20)
            answer = httpx.post(address, params={"validationToken": asked_for}, timeout=10)
            if (answer.status_code, answer.text) != (200, asked_for):
                said = {"code": "InvalidRequest", "message": "Subscription validation request failed."}
                return Reply.json({"error": said}, 400)
            assert answer.headers["content-type"].startswith("text/plain")
        ends = self._end_of(_seconds(body["expirationDateTime"]))
        channel = Channel(
            str(uuid.uuid4()), body["resource"], body["notificationUrl"], body["clientState"], ends
        )
        self.live[channel.id] = channel
        self.made += 1
        return Reply.json(self._shown(channel), 201)

    def _shown(self, channel: Channel) -> dict[str, Any]:
        ends = datetime.fromtimestamp(channel.ends_at, UTC).isoformat().replace("+00:00", "Z")
        return {"id": channel.id, "resource": channel.resource, "expirationDateTime": ends}

    def notify(self, channel: Channel, change: str) -> int:
        """The status that a notification is answered with."""
        one = {
            "id": str(uuid.uuid4()),
            "subscriptionId": channel.id,
            "clientState": channel.token,
            "changeType": change,
            "resource": channel.resource,
            "tenantId": str(uuid.uuid4()),
            "resourceData": {"id": "AAMk"},
        }
        return httpx.post(channel.address, json={"value": [one]}, timeout=10).status_code


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
