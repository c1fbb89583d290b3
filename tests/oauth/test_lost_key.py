"""Accounts while the encryption key of their credentials is not there, and once it is back."""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from shared.wire.timestamps import parse_timestamp
from tests.support.accounts import Accounts
from tests.support.eventually import eventually
from tests.support.given import note
from tests.support.person import Person
from tests.support.platforms import Reply
from tests.support.rotating import Rotating

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
        note("another key", self.other)
        self.start(self.other)

    def bring_back(self) -> None:
        self.start(self.own)


@pytest.fixture
def keys(there: Accounts, rotating: Rotating) -> Iterator[Keys]:
    made = Keys(there, there.hub.env[KEY])
    yield made
    made.bring_back()


def connect(there: Accounts, rotating: Rotating, name: str) -> str:
    rotating.login(name)
    return there.connect(name)


def test_an_account_is_well_as_soon_as_its_key_is_back(
    there: Accounts, rotating: Rotating, keys: Keys
) -> None:
    checked, refreshed, ended = (
        connect(there, rotating, f"key-{name}") for name in ("check", "refresh", "ended")
    )
    keys.lose()
    asked = rotating.refreshes
    for integration in (checked, refreshed, ended):
        for what in ("refresh", "refresh", "check"):
            said = there.call(integration, what, expect=409)["detail"]
            assert "credential cannot be opened" in said
        shown = there.shown(integration)
        assert (shown["status"], shown["reason"]) == ("error", "unreadable")
        assert shown["retry_at"]
    there.move(ended, expires_at=-1, renew_at=-60)
    assert rotating.refreshes == asked
    keys.bring_back()
    shown = there.call(checked, "check")
    assert (shown["status"], shown["reason"], shown["health"]) == ("connected", None, "ok")
    assert (shown["last_error"], shown["retry_at"]) == (None, None)
    for integration, what in ((refreshed, "refresh"), (ended, "check")):
        shown = there.call(integration, what)
        assert (shown["status"], shown["health"], shown["retry_at"]) == ("connected", "ok", None)
    assert rotating.refreshes == asked + 2
    there.move(checked, due_at=-1)
    eventually(lambda: rotating.refreshes == asked + 3)
    shown = there.shown(checked)
    assert shown["status"] == "connected", "what it left undone is done by itself"


def test_once_it_opens_again_the_platforms_own_pause_holds(
    there: Accounts, rotating: Rotating, keys: Keys
) -> None:
    integration = connect(there, rotating, "key-busy")
    keys.lose()
    there.call(integration, "refresh", expect=409)
    keys.bring_back()
    rotating.fail_next = [Reply(429, headers={"retry-after": "120"}), Reply(503)]
    there.call(integration, "refresh", expect=503)
    shown = there.shown(integration)
    assert (shown["status"], shown["reason"], shown["health"]) == ("connected", None, "at_risk")
    there.call(integration, "refresh", expect=503)
    assert len(rotating.fail_next) == 1, "it was asked again at once"
    rotating.fail_next = []
    assert there.call(integration, "check")["retry_at"] == shown["retry_at"]


def test_an_app_that_does_not_open_is_not_one_that_is_not_there(
    there: Accounts, rotating: Rotating, keys: Keys
) -> None:
    integration = connect(there, rotating, "key-app")
    keys.lose()
    with Person(there.hub, "key-late") as person:
        said = person.connect("oidc", expect=409)["detail"]
    assert said.startswith("the secrets of the app of oidc cannot be decrypted: restore their encryption key")
    app = there.hub.call("GET", "/api/platform-credentials/oidc")
    assert app["reason"].startswith("unreadable")
    keys.start(f"{keys.own},{keys.other}")
    with there.hub.client("oauth") as client:
        assert client.post(f"/api/integrations/{integration}/check").is_success


def test_an_account_whose_app_does_not_open_says_so(there: Accounts, rotating: Rotating, keys: Keys) -> None:
    """The app alone was sealed with another key."""
    integration = connect(there, rotating, "key-of-the-app")
    kept = there.database.platform_credentials.find_one({"provider": "oidc"})
    broken = {name: {**sealed, "k": "00000000"} for name, sealed in kept["secrets"].items()}
    collection = there.database.platform_credentials
    collection.update_one({"_id": kept["_id"]}, {"$set": {"secrets": broken}})
    keys.start(keys.own)
    said = there.call(integration, "refresh", expect=503)["detail"]
    assert said == "the app's credentials cannot be opened"
    assert there.shown(integration)["last_error"]["code"] == "app_unreadable"
    collection.update_one({"_id": kept["_id"]}, {"$set": {"secrets": kept["secrets"]}})


def test_a_refresh_in_the_pause_says_when_the_next_is(there: Accounts, rotating: Rotating) -> None:
    integration = connect(there, rotating, "paused")
    rotating.fail_next = [Reply(429, headers={"retry-after": "120"})]
    there.call(integration, "refresh", expect=503)
    said = there.call(integration, "refresh", expect=503)["detail"]
    when = there.shown(integration)["retry_at"]
    assert said == f"no new token is asked for before {when}: the last try failed (unavailable)"
    at = parse_timestamp(when)
    assert at
    assert at > datetime.now(UTC)
