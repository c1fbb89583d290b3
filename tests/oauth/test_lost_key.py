"""Accounts while the encryption key of their credentials is missing, and after it is restored."""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from shared.wire.timestamps import parse_timestamp
from tests.support.accounts import Accounts
from tests.support.eventually import eventually
from tests.support.person import Person
from tests.support.provider_hosts import Reply
from tests.support.recorded_secrets import record_secret
from tests.support.rotating_server import RotatingServer

KEY = "INTERLINK_ENCRYPTION_KEY"


@dataclass
class Keys:
    """The service, which may be started with another key than the one that everything is sealed with."""

    accounts: Accounts
    own: str
    other: str = field(default_factory=lambda: base64.b64encode(os.urandom(32)).decode())

    def start(self, key: str) -> None:
        hub = self.accounts.hub
        hub.stop_service("oauth")
        hub.start_service("oauth", **{KEY: key})
        hub.wait_ready("oauth")

    def lose(self) -> None:
        record_secret("another key", self.other)
        self.start(self.other)

    def bring_back(self) -> None:
        self.start(self.own)


@pytest.fixture
def keys(shared_accounts: Accounts, rotating: RotatingServer) -> Iterator[Keys]:
    made = Keys(shared_accounts, shared_accounts.hub.env[KEY])
    yield made
    made.bring_back()


def connect(shared_accounts: Accounts, rotating: RotatingServer, name: str) -> str:
    rotating.login(name)
    return shared_accounts.connect(name)


def test_an_account_recovers_as_soon_as_its_key_is_restored(
    shared_accounts: Accounts, rotating: RotatingServer, keys: Keys
) -> None:
    checked, refreshed, ended = (
        connect(shared_accounts, rotating, f"key-{name}") for name in ("check", "refresh", "ended")
    )
    keys.lose()
    asked = rotating.refreshes
    for integration in (checked, refreshed, ended):
        for what in ("refresh", "refresh", "check"):
            detail = shared_accounts.call(integration, what, expect=409)["detail"]
            assert "credential cannot be decrypted" in detail
        shown = shared_accounts.shown(integration)
        assert (shown["status"], shown["reason"]) == ("error", "unreadable")
        assert shown["retry_at"]
    shared_accounts.move(ended, expires_at=-1, renew_at=-60)
    assert rotating.refreshes == asked
    keys.bring_back()
    shown = shared_accounts.call(checked, "check")
    assert (shown["status"], shown["reason"], shown["health"]) == ("connected", None, "ok")
    assert (shown["last_error"], shown["retry_at"]) == (None, None)
    for integration, what in ((refreshed, "refresh"), (ended, "check")):
        shown = shared_accounts.call(integration, what)
        assert (shown["status"], shown["health"], shown["retry_at"]) == ("connected", "ok", None)
    assert rotating.refreshes == asked + 2
    shared_accounts.move(checked, due_at=-1)
    eventually(lambda: rotating.refreshes == asked + 3)
    shown = shared_accounts.shown(checked)
    assert shown["status"] == "connected", "what it left undone is done by itself"


def test_after_the_key_is_restored_the_providers_pause_still_holds(
    shared_accounts: Accounts, rotating: RotatingServer, keys: Keys
) -> None:
    integration = connect(shared_accounts, rotating, "key-busy")
    keys.lose()
    shared_accounts.call(integration, "refresh", expect=409)
    keys.bring_back()
    rotating.fail_next = [Reply(429, headers={"retry-after": "120"}), Reply(503)]
    shared_accounts.call(integration, "refresh", expect=503)
    shown = shared_accounts.shown(integration)
    assert (shown["status"], shown["reason"], shown["health"]) == ("connected", None, "at_risk")
    shared_accounts.call(integration, "refresh", expect=503)
    assert len(rotating.fail_next) == 1, "it was asked again at once"
    rotating.fail_next = []
    assert shared_accounts.call(integration, "check")["retry_at"] == shown["retry_at"]


def test_an_app_that_cannot_be_decrypted_is_not_reported_as_missing(
    shared_accounts: Accounts, rotating: RotatingServer, keys: Keys
) -> None:
    integration = connect(shared_accounts, rotating, "key-app")
    keys.lose()
    with Person(shared_accounts.hub, "key-late") as person:
        detail = person.connect("oidc", expect=409)["detail"]
    assert detail.startswith(
        "the secrets of the app of oidc cannot be decrypted: restore their encryption key"
    )
    app = shared_accounts.hub.call("GET", "/api/platform-credentials/oidc")
    assert app["reason"].startswith("unreadable")
    keys.start(f"{keys.own},{keys.other}")
    with shared_accounts.hub.client("oauth") as client:
        assert client.post(f"/api/integrations/{integration}/check").is_success


def test_an_account_reports_that_its_app_cannot_be_decrypted(
    shared_accounts: Accounts, rotating: RotatingServer, keys: Keys
) -> None:
    """The app alone was sealed with another key."""
    integration = connect(shared_accounts, rotating, "key-of-the-app")
    stored = shared_accounts.database.platform_credentials.find_one({"provider": "oidc"})
    broken = {name: {**sealed, "k": "00000000"} for name, sealed in stored["secrets"].items()}
    collection = shared_accounts.database.platform_credentials
    collection.update_one({"_id": stored["_id"]}, {"$set": {"secrets": broken}})
    keys.start(keys.own)
    detail = shared_accounts.call(integration, "refresh", expect=503)["detail"]
    assert detail == "the app's credentials cannot be decrypted"
    assert shared_accounts.shown(integration)["last_error"]["code"] == "app_unreadable"
    collection.update_one({"_id": stored["_id"]}, {"$set": {"secrets": stored["secrets"]}})


def test_a_refresh_during_a_pause_names_the_next_time(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    integration = connect(shared_accounts, rotating, "paused")
    rotating.fail_next = [Reply(429, headers={"retry-after": "120"})]
    shared_accounts.call(integration, "refresh", expect=503)
    detail = shared_accounts.call(integration, "refresh", expect=503)["detail"]
    when = shared_accounts.shown(integration)["retry_at"]
    assert detail == f"the last refresh failed (unavailable): no other one starts before {when}"
    at = parse_timestamp(when)
    assert at
    assert at > datetime.now(UTC)
