"""An OAuth app and a provider subscription of an earlier release are read, renewed, changed and removed.

The file is from `write_subscriptions.py`, run by release 0.4.0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from pymongo import MongoClient

from services.oauth.subscriptions.records import ProviderSubscription
from shared.connections.app_records import AppRecord
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.x import Webhook, X
from tests.support.hub import Hub
from tests.support.recorded_secrets import record_secret
from tests.support.subscription_hub import CALLBACK, SubscriptionHub, among
from tests.upgrade.test_records import _load
from tests.upgrade.write_subscriptions import CLIENT_ID, CLIENT_SECRET

FILE = Path(__file__).parent / "subscriptions-0.4.0.json"
OPTIONS = json_util.JSONOptions(tz_aware=True)
LATER = {"any": ["value"]}
"""The field of a later release that each document has."""


@dataclass
class Upgraded(SubscriptionHub):
    """A hub of this release on the database of an earlier one."""

    known: dict[str, Any]
    database: Any
    x: X

    def stored(self) -> dict[str, Any]:
        """The subscription."""
        return dict(self.database["watches"].find_one({"_id": self.known["watch"]}))

    def abandon(self) -> None:
        """A process of the earlier release claimed the subscription, and died; its lease has ended."""
        lease = {"working": True, "due_at": datetime.now(UTC) - timedelta(seconds=1)}
        change = {"$set": lease, "$inc": {"fence": 1}}
        assert self.database["watches"].update_one({"_id": self.known["watch"]}, change).matched_count


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Upgraded]:
    text = FILE.read_text(encoding="utf-8")
    known = json_util.loads(text, json_options=OPTIONS)["known"]
    for name in ("encryption_key", "admin_key", "bearer_token"):
        record_secret("a secret of stored records", known[name])
    hub = Hub(
        tmp_path_factory.mktemp("hub"),
        bus,
        store,
        services=("gateway", "oauth"),
        env={
            "INTERLINK_ENCRYPTION_KEY": known["encryption_key"],
            "INTERLINK_BOOTSTRAP_ADMIN_KEY": known["admin_key"],
            "INTERLINK_UPKEEP_EVERY_S": "0.3",
        },
        entrance=True,
    )
    hub.admin_key = known["admin_key"]
    _load(hub, json_util.loads(text.replace("{hub}", hub.url("gateway")), json_options=OPTIONS))
    x = X(CLIENT_ID, CLIENT_SECRET, hub.url("gateway") + CALLBACK)
    x.bearer_token = known["bearer_token"]
    client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
    with client, among(hub, x.hosts) as platforms:
        found = Upgraded(hub, platforms, known, client.get_default_database(), x)
        x.webhooks[known["webhook"]] = Webhook(known["webhook"], found.stored()["endpoint_url"])
        yield found


def test_documents_are_stored_as_they_were_read() -> None:
    records = json_util.loads(FILE.read_text(encoding="utf-8"), json_options=OPTIONS)["records"]
    [subscription], [app] = records["watches"], records["platform_credentials"]
    assert ProviderSubscription.from_document(subscription | {"later": LATER}).document() == subscription
    assert AppRecord.from_document(app | {"later": LATER}).document() == app


def test_an_abandoned_subscription_is_renewed_with_the_stored_app(upgraded: Upgraded) -> None:
    one, two = upgraded.known["integrations"]
    [webhook] = upgraded.x.webhooks.values()
    webhook.valid = False  # renewing is how it becomes valid
    upgraded.abandon()
    before = upgraded.stored()
    after = eventually(lambda: (found := upgraded.stored())["renewed_at"] > before["renewed_at"] and found)
    assert webhook.valid
    assert list(upgraded.x.webhooks) == [upgraded.known["webhook"]], "renewed, not created again"
    assert (after["working"], after["fence"], after["failures"]) == (False, before["fence"] + 1, 0)
    assert after["field_of_a_later_release"] == LATER
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"due_at", "expires_at", "renewed_at", "working", "fence"}
    assert upgraded.active(one) == upgraded.active(two)


def test_an_app_is_changed_field_by_field(upgraded: Upgraded) -> None:
    hub, apps = upgraded.hub, upgraded.database["platform_credentials"]
    shown = hub.call("GET", "/api/platform-credentials/twitter")
    assert (shown["client_id"], shown["secrets"]) == (CLIENT_ID, ["client_secret"])
    assert shown["settings"] == {"bearer_token": None}
    before = apps.find_one({"provider": "twitter"})
    hub.call("PUT", "/api/platform-credentials/twitter", {"signing_secret": "signs-it", "verified": True})
    after = apps.find_one({"provider": "twitter"})
    assert after["field_of_a_later_release"] == LATER
    assert after.keys() == before.keys()
    assert set(after["secrets"]) == {"client_secret", "signing_secret", "setting_bearer_token"}
    assert after["revision"] != before["revision"]
    # The subscription was made due by the change, and its next renewal works.
    renewed = upgraded.stored()["renewed_at"]
    eventually(lambda: upgraded.stored()["renewed_at"] > renewed)
    assert upgraded.active(upgraded.known["integrations"][0])["last_error"] is None


def test_the_subscription_ends_with_its_last_account(upgraded: Upgraded) -> None:
    hub = upgraded.hub
    one, two = upgraded.known["integrations"]
    endpoint = upgraded.active(one)["endpoint_id"]
    hub.call("POST", f"/api/integrations/{one}/disconnect")
    assert list(upgraded.x.webhooks) == [upgraded.known["webhook"]]
    hub.call("POST", f"/api/integrations/{two}/disconnect")
    assert upgraded.x.webhooks == {}
    assert upgraded.database["watches"].count_documents({}) == 0
    hub.call("GET", f"/api/inbound-endpoints/{endpoint}", expect=404)


def test_a_removed_app_is_set_again_as_a_new_document(upgraded: Upgraded) -> None:
    hub, apps = upgraded.hub, upgraded.database["platform_credentials"]
    hub.call("DELETE", "/api/platform-credentials/twitter", expect=204)
    removed = apps.find_one({"provider": "twitter"})
    assert (removed["secrets"], removed["field_of_a_later_release"]) == ({}, LATER)
    hub.call("GET", "/api/platform-credentials/twitter", expect=404)
    upgraded.app("twitter", upgraded.x, bearer_token=upgraded.x.bearer_token)
    again = apps.find_one({"provider": "twitter"})
    assert (again["_id"], again["deleted_at"]) == (removed["_id"], None)
    assert again.keys() == removed.keys() - {"field_of_a_later_release"}, "nothing of the removed app is left"
