"""Subscriptions of Google (channels) and Microsoft Graph, strict about addresses and ends.

https://developers.google.com/workspace/calendar/api/guides/push
https://developers.google.com/workspace/drive/api/guides/push and the reference of changes/watch (scopes)
https://learn.microsoft.com/graph/change-notifications-delivery-webhooks
https://learn.microsoft.com/graph/api/subscription-post-subscriptions and resources/subscription (permissions,
longest lifetimes; a drive knows `updated` only)
"""

import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import httpx

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import bearer
from tests.support.provider_hosts import Handler, HostRequest, Reply

_GOOGLE: Final = "https://www.googleapis.com"
_GRAPH: Final[Mapping[str, tuple[set[str], int, set[str]]]] = {
    "/me/mailFolders('inbox')/messages": (
        {"created", "updated", "deleted"},
        10_080,
        {"Mail.Read", "Mail.ReadWrite"},
    ),
    "/me/events": ({"created", "updated", "deleted"}, 10_080, {"Calendars.Read", "Calendars.ReadWrite"}),
    "/me/drive/root": ({"updated"}, 42_300, {"Files.ReadWrite", "Files.ReadWrite.All"}),
}
"""The changes that a resource tells, the longest life of a subscription in minutes, and what permits it."""


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

    def _person(self, request: HostRequest) -> bool:
        return self.fake.access(bearer(request)) is not None

    def _may(self, request: HostRequest, scopes: set[str]) -> bool:
        token = self.fake.access(bearer(request))
        return token is not None and bool(scopes & set(token.grant.scopes))

    def _end_of(self, wanted: float) -> float:
        now = self.fake.now()
        assert wanted > now, "an end in the past"
        return min(wanted, now + self.lifetime_s)


class GoogleChannels(Subscriptions):
    """`events/watch` and `channels/stop` of Google Calendar."""

    api: ClassVar[str] = "/calendar/v3"
    watched: ClassVar[str] = "/calendar/v3/calendars/primary/events"
    scopes: ClassVar[set[str]] = {
        f"{_GOOGLE}/auth/calendar{name}" for name in ("", ".readonly", ".events", ".events.readonly")
    }

    def routes(self) -> dict[str, Handler]:
        """What there is at `www.googleapis.com`."""
        return {f"POST {self.watched}/watch": self.watch, f"POST {self.api}/channels/stop": self.stop}

    def watch(self, request: HostRequest) -> Reply:
        """Another channel; it begins with a sync message."""
        if (refused := self._refused(request)) is not None:
            return refused
        self.asked_for(request)
        body = request.json()
        known = {"id", "type", "address", "token", "expiration", "params", "payload", "kind"}
        self.fake.check(body, {"id", "type", "address"}, known, "the channel")
        assert body["type"] == "web_hook"
        assert re.fullmatch(r"[A-Za-z0-9_+/=-]{1,64}", body["id"]), f"the id is {body['id']}"
        assert len(body.get("token", "")) <= 256, "the token is too long"
        if body["id"] in self.live:
            return _google_error(400, "channelIdNotUnique", f"Channel id {body['id']} not unique")
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
                "resourceUri": f"{_GOOGLE}{self.watched}?alt=json",
                "token": channel.token,
                "expiration": str(int(ends * 1000)),
            }
        )

    def asked_for(self, request: HostRequest) -> None:
        """What the query has to be: a fault else."""
        assert not request.query, "there is a query"

    def stop(self, request: HostRequest) -> Reply:
        """No more of a channel, which is named by its resource too."""
        if (refused := self._refused(request)) is not None:
            return refused
        body = request.json()
        self.fake.check(body, {"id", "resourceId"}, (), "the channel")
        channel = self.live.get(body["id"])
        if channel is None or channel.resource != body["resourceId"]:
            return _google_error(404, "notFound", f"Channel '{body['id']}' not found for project")
        del self.live[channel.id]
        self.ended += 1
        return Reply(204, b"", {})

    def notify(self, channel: Channel, state: str, *, token: str = "") -> int:
        """The status that a notification is answered with; with another `token`, where there is one."""
        channel.number += 1
        ends = datetime.fromtimestamp(channel.ends_at, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = {
            "X-Goog-Channel-ID": channel.id,
            "X-Goog-Channel-Token": token or channel.token,
            "X-Goog-Channel-Expiration": ends,
            "X-Goog-Resource-ID": channel.resource,
            "X-Goog-Resource-State": state,
            "X-Goog-Message-Number": str(channel.number),
            "X-Goog-Resource-URI": f"{_GOOGLE}{self.watched}?alt=json",
        }
        return httpx.post(channel.address, headers=headers, timeout=10).status_code

    def _refused(self, request: HostRequest) -> Reply | None:
        if not self._person(request):
            return Reply.json({"error": {"code": 401, "status": "UNAUTHENTICATED"}}, 401)
        if not self._may(request, self.scopes):
            return Reply.json({"error": {"code": 403, "status": "PERMISSION_DENIED"}}, 403)
        return None


class DriveChannels(GoogleChannels):
    """`changes/startPageToken`, `changes/watch` and `channels/stop` of Google Drive.

    A channel for changes begins at a page token that was asked for.
    """

    api: ClassVar[str] = "/drive/v3"
    watched: ClassVar[str] = "/drive/v3/changes"
    scopes: ClassVar[set[str]] = {
        f"{_GOOGLE}/auth/drive{name}"
        for name in ("", ".appdata", ".file", ".metadata", ".metadata.readonly", ".readonly")
    }

    def __init__(self, fake: Fake, lifetime_s: float) -> None:
        super().__init__(fake, lifetime_s)
        self.pages: set[str] = set()

    def routes(self) -> dict[str, Handler]:
        return {**super().routes(), "GET /drive/v3/changes/startPageToken": self.start}

    def start(self, request: HostRequest) -> Reply:
        """Where changes begin from now on."""
        if (refused := self._refused(request)) is not None:
            return refused
        assert not request.query, "there is a query"
        page = str(secrets.randbelow(10**6))
        self.pages.add(page)
        return Reply.json({"kind": "drive#startPageToken", "startPageToken": page})

    def asked_for(self, request: HostRequest) -> None:
        query = request.params()
        self.fake.check(query, {"pageToken"}, (), "the query")
        assert query["pageToken"] in self.pages, "Drive did not give this page token"


class GraphSubscriptions(Subscriptions):
    """`/subscriptions` of Microsoft Graph, which asks the address for a token before it takes it."""

    def __init__(self, fake: Fake, lifetime_s: float) -> None:
        super().__init__(fake, lifetime_s)
        self.me = fake.hosts["graph.microsoft.com"]

    def handle(self, request: HostRequest) -> Reply:
        if not request.path.startswith("/v1.0/subscriptions"):
            return self.me(request)
        if not self._person(request):
            return Reply.json({"error": {"code": "InvalidAuthenticationToken", "message": "expired"}}, 401)
        name = request.path.removeprefix("/v1.0/subscriptions").strip("/")
        assert not request.query, "there is a query"
        if request.method == "POST" and not name:
            return self._make(request)
        channel = self.live.get(name)
        if channel is None:
            return Reply.json({"error": {"code": "ResourceNotFound", "message": "gone"}}, 404)
        if request.method == "DELETE":
            assert not request.body, "there is a body"
            del self.live[name]
            self.ended += 1
            return Reply(204, b"", {})
        assert request.method == "PATCH", f"{request.method} of a subscription"
        body = request.json()
        assert set(body) == {"expirationDateTime"}, f"unknown: {body}"
        channel.ends_at = self._end_at(channel.resource, body["expirationDateTime"])
        self.renewed += 1
        return Reply.json(self._shown(channel))

    def _make(self, request: HostRequest) -> Reply:
        body = request.json()
        known = {"changeType", "resource", "notificationUrl", "lifecycleNotificationUrl", "clientState"}
        assert set(body) == known | {"expirationDateTime"}, f"fields: {sorted(body)}"
        resource = body["resource"]
        assert resource in _GRAPH, f"nobody knows {resource}"
        changes, _, scopes = _GRAPH[resource]
        assert set(body["changeType"].split(",")) <= changes, f"{resource} does not tell {body['changeType']}"
        assert len(body["clientState"]) <= 128
        ends = self._end_at(resource, body["expirationDateTime"])
        if not self._may(request, scopes):
            return Reply.json({"error": {"code": "ExtensionError", "message": "Operation: Create"}}, 403)
        for address in (body["notificationUrl"], body["lifecycleNotificationUrl"]):
            asked_for = secrets.token_urlsafe(20)
            answer = httpx.post(address, params={"validationToken": asked_for}, timeout=10)
            if (answer.status_code, answer.text) != (200, asked_for):
                detail = {"code": "InvalidRequest", "message": "Subscription validation request failed."}
                return Reply.json({"error": detail}, 400)
            assert answer.headers["content-type"].startswith("text/plain")
        channel = Channel(str(uuid.uuid4()), resource, body["notificationUrl"], body["clientState"], ends)
        self.live[channel.id] = channel
        self.made += 1
        return Reply.json(self._shown(channel), 201)

    def _end_at(self, resource: str, wanted: str) -> float:
        ends, limit = _seconds(wanted), _GRAPH[resource][1]
        assert ends <= self.fake.now() + limit * 60, f"{wanted} is more than {limit} minutes ahead"
        return self._end_of(ends)

    def _shown(self, channel: Channel) -> dict[str, Any]:
        ends = datetime.fromtimestamp(channel.ends_at, UTC).isoformat().replace("+00:00", "Z")
        return {"id": channel.id, "resource": channel.resource, "expirationDateTime": ends}

    def notify(self, channel: Channel, change: str, *, state: str = "") -> int:
        """The status that a notification is answered with; with another `state`, where there is one."""
        one = {
            "id": str(uuid.uuid4()),
            "subscriptionId": channel.id,
            "subscriptionExpirationDateTime": self._shown(channel)["expirationDateTime"],
            "clientState": state or channel.token,
            "changeType": change,
            "resource": channel.resource.removeprefix("/"),
            "tenantId": str(uuid.uuid4()),
            "resourceData": {"id": "AAMk"},
        }
        return httpx.post(channel.address, json={"value": [one]}, timeout=10).status_code


def _google_error(status: int, reason: str, message: str) -> Reply:
    error = {"errors": [{"domain": "global", "reason": reason, "message": message}]}
    return Reply.json({"error": {**error, "code": status, "message": message}}, status)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
