"""A hub that polls, and what a person does with polling triggers."""

from dataclasses import dataclass
from typing import Any

from tests.support.eventually import eventually
from tests.support.subscription_hub import SubscriptionHub
from tests.support.tap import Tap, TopicRecord

PATH = "/api/polling-triggers"


@dataclass
class PollingHub(SubscriptionHub):
    """What is done about polling triggers. `tap` has the events from the beginning."""

    tap: Tap

    def polled(
        self, trigger: str, integration: str | None = None, *, key: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """A new polling trigger whose first poll is over; other `fields` are its params."""
        body = {"trigger": trigger, "params": fields}
        body |= {"integration_id": integration} if integration else {}
        made = self.hub.call("POST", PATH, body, key=key, expect=201)
        assert made["status"] == "pending"
        return self.settled(made["id"], key=key)

    def settled(self, trigger: str, *, key: str | None = None) -> dict[str, Any]:
        """A polling trigger once a poll has ended."""

        def look() -> dict[str, Any] | None:
            shown = self.shown(trigger, key=key)
            return shown if shown["last_polled_at"] or shown["status"] in ("stopped", "paused") else None

        return eventually(look) or {}

    def shown(self, trigger: str, *, key: str | None = None) -> dict[str, Any]:
        return dict(self.hub.call("GET", f"{PATH}/{trigger}", key=key))

    def poll(self, trigger: str, *, status: str = "active", key: str | None = None) -> dict[str, Any]:
        """Poll now, instead of in some minutes, and wait for the outcome."""
        before = self.shown(trigger, key=key)["last_polled_at"]
        self.hub.call("POST", f"{PATH}/{trigger}/resume", key=key)

        def look() -> dict[str, Any] | None:
            shown = self.shown(trigger, key=key)
            return shown if shown["last_polled_at"] != before and shown["status"] == status else None

        return eventually(look) or {}

    def events(self, endpoint: str | None) -> list[TopicRecord]:
        """The events of an endpoint so far."""
        return [item for item in self.tap.look() if item.attributes.get("endpoint_id") == endpoint]

    def data(self, endpoint: str | None) -> list[Any]:
        return [item.data for item in self.events(endpoint)]
