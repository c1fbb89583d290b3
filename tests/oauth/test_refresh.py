"""Tokens that expire: one refresh for all users, no lost tokens, and a status that shows the state."""

import hashlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import pytest

from interlink.embedded import EmbeddedServer
from shared.connections.credentials import refresh_schedule
from shared.manifests.registry import registry
from shared.manifests.token_response import TokenResponse, Tokens
from shared.wire.timestamps import parse_timestamp
from tests.support.accounts import SECRET, Accounts, app_at, oidc_settings
from tests.support.auth_servers import OidcProvider
from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.npm import Unavailable
from tests.support.person import Person
from tests.support.provider_hosts import Reply
from tests.support.rotating_server import RotatingServer
from tests.support.token_users import PLAIN, TokenUsers

ACCESS_TOKEN_S = 6
"""Half of it is what a refresh has on a busy machine."""
PROCESSES = 4
USERS = 50
"""In each process."""
ROUNDS = 3
STEADY_S = 9


@pytest.fixture(scope="module")
def oidc(shared_accounts: Accounts) -> Iterator[OidcProvider]:
    """Strict; its tokens live for an hour."""
    with at_npm(shared_accounts, 3600) as made:
        shared_accounts.register(oidc_settings(made), "hub")
        yield made


@pytest.fixture(scope="module")
def hasty(shared_accounts: Accounts) -> Iterator[tuple[Accounts, OidcProvider]]:
    """The same with tokens of a few seconds, and the accounts there."""
    with at_npm(shared_accounts, ACCESS_TOKEN_S) as made:
        yield shared_accounts.at(oidc_settings(made), "hub"), made


@contextmanager
def at_npm(shared_accounts: Accounts, access_token_s: int) -> Iterator[OidcProvider]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(OidcProvider([app_at(shared_accounts)], access_token_s=access_token_s))
        except Unavailable as error:
            pytest.skip(str(error))
        yield made


@pytest.fixture(scope="module")
def server(shared_accounts: Accounts) -> Iterator[RotatingServer]:
    with RotatingServer("app", SECRET, shared_accounts.redirect_uri) as made:
        yield made
        assert made.faults == []


@pytest.fixture(scope="module")
def own(shared_accounts: Accounts, server: RotatingServer) -> Accounts:
    """The accounts at the rotating server."""
    return shared_accounts.at(server.settings, "app")


@pytest.fixture(scope="module")
def users(
    own: Accounts, oidc: OidcProvider, hasty: tuple[Accounts, OidcProvider]
) -> Iterator[list[TokenUsers]]:
    """Processes that use tokens, as other services do; they know the apps from their start on."""
    with ExitStack() as stack:
        made = [stack.enter_context(TokenUsers(own.hub.env)) for _ in range(PROCESSES)]
        yield [item.ready() for item in made]


@pytest.fixture
def ada(own: Accounts, server: RotatingServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """An account of this test alone, at a server that has no habits yet."""
    name = re.sub(r"\W", "-", request.node.name.removeprefix("test_"))
    server.login(name)
    integration = own.connect(name)
    yield integration
    # Upkeep has nothing to do with it any more: what the server is asked from now on is the next test's.
    over = {"open": False, "refused_app": None}
    own.database.integrations.update_one({"_id": integration}, {"$set": over})
    server.says, server.fail_next, server.slow_s = {}, [], 0
    server.lose_next, server.grace_s, server.replace_next = 0, 0, []
    server.latest_only = server.refuse_all = False
    server.let_go()
    own.register(server.settings, "app")


@dataclass(frozen=True)
class Counts:
    """What the rotating server did."""

    refreshes: int
    refused: int

    @classmethod
    def of(cls, server: RotatingServer) -> "Counts":
        return cls(server.refreshes, len(server.refused))

    def since(self, before: "Counts") -> tuple[int, int]:
        return self.refreshes - before.refreshes, self.refused - before.refused


def later(do: Callable[[], Any]) -> Future[Any]:
    """Do it beside the test."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(do())
        except BaseException as error:  # noqa: BLE001 -- it is the waiting test's
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def test_two_hundred_users_of_an_expired_token_cause_one_refresh(
    shared_accounts: Accounts, oidc: OidcProvider, users: list[TokenUsers], note: Callable[[str], None]
) -> None:
    integration = shared_accounts.connect("many")
    for version in range(1, ROUNDS + 1):
        shared_accounts.move(integration, expires_at=-1, renew_at=-60)
        before = oidc.stats()
        for item in users:
            item.begin(integration, USERS, beyond=version, pause_s=0.5)
        runs = [item.used() for item in users]
        assert all(run.errors == {} and run.statuses.keys() == {"200"} for run in runs), runs
        done = oidc.stats().since(before)
        assert (done.granted, done.refused) == ({"refresh_token": 1}, {})
        assert {run.versions[-1] for run in runs} == {version + 1}
        if version == 1:
            note(f"200 users of an expired token: one refresh, {max(run.seconds for run in runs):.2f} s")
    assert shared_accounts.events(integration) == ["connected", *["refreshed"] * ROUNDS]


def test_continuous_users_never_see_an_expired_token(
    hasty: tuple[Accounts, OidcProvider], users: list[TokenUsers], note: Callable[[str], None]
) -> None:
    shared_accounts, server = hasty
    integration = shared_accounts.connect("steady")
    before, version = server.stats(), shared_accounts.stored(integration)["version"]
    for item in users:
        item.begin(integration, USERS, seconds=STEADY_S, pause_s=3)
    runs = [item.used() for item in users]
    done, made = server.stats().since(before), shared_accounts.stored(integration)["version"] - version
    calls, seconds = sum(run.calls for run in runs), max(run.seconds for run in runs)
    assert sum(run.statuses.get("200", 0) for run in runs) == calls, runs
    # Each is refreshed when half of its lifetime is over, at the latest when it ends.
    assert 1 <= made <= 2 * seconds / ACCESS_TOKEN_S + 1
    assert (done.granted, done.refused) == ({"refresh_token": made}, {})
    assert "grant.revoked" not in done.events
    note(f"200 users of a token of {ACCESS_TOKEN_S} s: {calls} calls, none failed, {made} refreshes")


# What the platform answers


def test_invalid_grant_ends_the_account_at_once(
    own: Accounts, server: RotatingServer, users: list[TokenUsers], ada: str
) -> None:
    server.withdraw()
    own.move(ada, expires_at=-1, renew_at=-1)
    before = Counts.of(server)
    for item in users:
        item.begin(ada, USERS, calls=3)
    runs = [item.used() for item in users]
    assert [run.errors for run in runs] == [{"NotConnected reauth_required": 3 * USERS}] * PROCESSES
    shown = own.shown(ada)
    assert (shown["status"], shown["reason"], shown["health"]) == (
        "reauth_required",
        "invalid_grant",
        "broken",
    )
    assert shown["last_error"]["detail"] == "the token: revoked refresh"
    own.call(ada, "refresh", expect=409)
    own.call(ada, "check", expect=409)
    assert Counts.of(server).since(before) == (0, 1)
    assert own.events(ada) == ["connected", "reauth_required"]


def test_invalid_grant_of_a_replaced_token_ends_nothing(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    server.withdraw()
    server.hold()
    asked = later(lambda: own.call(ada, "refresh"))
    eventually(lambda: server.waiting == 1)
    with Person(own.hub, "ada") as person:
        person.go(person.reconnect(ada)["authorization_url"])
    server.let_go()
    assert asked.result(60)["status"] == "connected"
    assert own.shown(ada)["status"] == "connected"
    own.call(ada, "check")
    assert own.events(ada) == ["connected", "connected"]


@pytest.mark.parametrize(
    ("answer", "least_s", "max_s"),
    [
        (Reply(503), 1, 3),
        (Reply.json({"error": "temporarily_unavailable"}, 400), 1, 3),
        (Reply.html("<h1>Bad gateway</h1>", 502), 1, 3),
        (Reply(429, headers={"retry-after": "120"}), 119, 121),
        (Reply(429, headers={"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}), 3599, 3601),
        (Reply.gone(), 1, 3),
    ],
    ids=["503", "temporarily-unavailable", "a-page", "429", "429-until-a-day", "no-answer"],
)
def test_refreshes_pause_while_the_provider_is_unavailable(
    own: Accounts, server: RotatingServer, ada: str, answer: Reply, least_s: float, max_s: float
) -> None:
    server.fail_next = [answer] * 2
    began = datetime.now(UTC)
    own.call(ada, "refresh", expect=503)
    answered = datetime.now(UTC)
    own.call(ada, "refresh", expect=503)
    assert len(server.fail_next) == 1, "it was asked again at once"
    own.call(ada, "check")  # the old token goes on
    shown = own.shown(ada)
    assert (shown["status"], shown["health"]) == ("connected", "at_risk")
    assert shown["last_error"]["code"] == "unavailable"
    retry_at = parse_timestamp(shown["retry_at"])
    assert retry_at
    assert least_s <= (retry_at - began).total_seconds()
    assert (retry_at - answered).total_seconds() <= max_s
    own.move(ada, retry_at=-1)
    began = datetime.now(UTC)
    own.call(ada, "refresh", expect=503)
    again = parse_timestamp(own.shown(ada)["retry_at"])
    assert again
    assert (again - began).total_seconds() > 2.5, "the second pause is longer"
    own.move(ada, retry_at=-1)
    assert own.call(ada, "refresh")["health"] == "ok"
    assert own.events(ada) == ["connected", "refreshed"]


def test_an_expired_token_is_an_error_until_the_provider_is_back(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    server.fail_next = [Reply(503)] * 2
    own.move(ada, expires_at=-1, renew_at=-60)
    own.call(ada, "check", expect=503)
    shown = own.shown(ada)
    assert (shown["status"], shown["reason"], shown["health"]) == ("error", "unavailable", "broken")
    before = Counts.of(server)
    own.move(ada, retry_at=-1, due_at=-1)

    def found_well() -> bool:
        """By itself: nobody uses it."""
        if server.fail_next == []:
            own.move(ada, retry_at=-1, due_at=-1)
        return bool(own.shown(ada)["status"] == "connected")

    eventually(found_well)
    assert Counts.of(server).since(before) == (1, 0)
    # The status is stored before its events are published.
    eventually(lambda: own.events(ada) == ["connected", "error", "refreshed", "recovered"])


@pytest.mark.parametrize("grace_s", [0, 600], ids=["strict", "lenient"])
def test_a_lost_refresh_response_is_retried_and_reported_if_it_was_the_only_one(
    own: Accounts, server: RotatingServer, ada: str, grace_s: float
) -> None:
    server.grace_s, server.lose_next = grace_s, 1
    own.call(ada, "refresh", expect=503)
    assert own.shown(ada)["status"] == "connected"
    own.move(ada, retry_at=-1)
    own.call(ada, "refresh", expect=200 if grace_s else 409)
    shown = own.shown(ada)
    if grace_s:
        assert (shown["status"], shown["health"]) == ("connected", "ok")
    else:
        assert (shown["status"], shown["reason"]) == ("reauth_required", "refresh_interrupted")


@pytest.mark.parametrize(
    "answer",
    [
        Reply(500),
        Reply(502, b"<html>", {"content-type": "text/html"}),
        Reply.json({"error": "server_error"}, 503),
        Reply(200, b"<html>", {"content-type": "text/html"}),
        Reply.json({}),
    ],
    ids=["500", "502-page", "503", "200-page", "200-empty"],
)
def test_an_error_after_the_rotation_is_reported_as_an_interrupted_refresh(
    own: Accounts, server: RotatingServer, ada: str, answer: Reply
) -> None:
    """The server has replaced the refresh token, and a proxy before it answers something else."""
    server.replace_next = [answer]
    own.call(ada, "refresh", expect=503)
    assert own.shown(ada)["status"] == "connected"
    own.move(ada, retry_at=-1)
    # What it answers before it has looked at the token leaves the doubt about the first attempt.
    server.fail_next = [Reply(429)]
    own.call(ada, "refresh", expect=503)
    own.move(ada, retry_at=-1)
    own.call(ada, "refresh", expect=409)
    shown = own.shown(ada)
    assert (shown["status"], shown["reason"]) == ("reauth_required", "refresh_interrupted")
    assert own.events(ada) == ["connected", "reauth_required"]


@pytest.mark.parametrize(
    "answer", [Reply(429), Reply.json({"error": "temporarily_unavailable"}, 400)], ids=["429", "400"]
)
def test_a_refusal_before_the_rotation_leaves_no_doubt(
    own: Accounts, server: RotatingServer, ada: str, answer: Reply
) -> None:
    server.fail_next = [answer]
    own.call(ada, "refresh", expect=503)
    own.move(ada, retry_at=-1)
    server.withdraw(own.shown(ada)["account"]["id"])
    own.call(ada, "refresh", expect=409)
    assert own.shown(ada)["reason"] == "invalid_grant"


def test_a_provider_timeout_is_an_error_too(own: Accounts, server: RotatingServer, ada: str) -> None:
    server.slow_s, server.grace_s = 2, 600
    own.move(ada, expires_at=-1, renew_at=-60)
    with TokenUsers(own.hub.env, timing=replace(PLAIN, call_s=0.5)) as impatient:
        assert impatient.ready().use(ada, USERS).errors == {"NoAnswer": USERS}
    shown = own.shown(ada)
    assert (shown["status"], shown["reason"]) == ("error", "unavailable")
    assert "timeout" in shown["last_error"]["detail"]


def test_a_rejected_app_is_logged_as_an_error_and_ends_no_account(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    own.register(server.settings, "app", "another secret")
    own.call(ada, "refresh", expect=503)
    shown = own.shown(ada)
    assert (shown["status"], shown["last_error"]["code"]) == ("connected", "invalid_client")
    app = own.hub.call("GET", "/api/platform-credentials/oidc")
    assert not app["verified"]
    assert "invalid_client" in app["reason"]
    alarms = [line for line in own.hub.log_lines("oauth") if line["event"] == "app.credentials_rejected"]
    assert [line["provider"] for line in alarms] == ["oidc"]
    own.register(server.settings, "app")
    own.move(ada, retry_at=-1)
    assert own.call(ada, "refresh")["health"] == "ok"
    assert own.events(ada) == ["connected", "refreshed"]


def refused_as_app(own: Accounts, server: RotatingServer, ada: str) -> None:
    """The account waits because the app's secret is wrong."""
    own.register(server.settings, "app", "another secret")
    own.call(ada, "refresh", expect=503)
    assert own.shown(ada)["last_error"]["code"] == "invalid_client"
    assert own.shown(ada)["retry_at"]


def test_a_changed_app_clears_the_pause_that_the_old_one_caused(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    refused_as_app(own, server, ada)
    own.move(ada, expires_at=-60, renew_at=-90)
    own.register(server.settings, "app")
    assert own.shown(ada)["retry_at"] is None
    eventually(lambda: own.shown(ada)["health"] == "ok")  # by itself: nobody uses it
    assert "refreshed" in own.events(ada)


def test_a_verified_app_clears_the_pause(own: Accounts, server: RotatingServer, ada: str) -> None:
    """The platform was repaired; the app here was right all the time."""
    invalid = server.refusal("secret")
    server.fail_next = [invalid, invalid]  # the refresh, and the question whether it takes the app
    own.call(ada, "refresh", expect=503)
    assert own.shown(ada)["retry_at"]
    verified = own.hub.call("POST", "/api/platform-credentials/oidc/verify")
    assert verified["verified"]
    assert own.shown(ada)["retry_at"] is None
    assert own.call(ada, "check")["health"] == "ok"
    assert own.call(ada, "refresh")["health"] == "ok"


def test_a_process_with_a_newer_app_does_not_wait(own: Accounts, server: RotatingServer, ada: str) -> None:
    """Whoever repaired it could not clear the pauses: the app's revision says that they are over."""
    refused_as_app(own, server, ada)
    paused = own.stored(ada)
    own.register(server.settings, "app")
    pause = {name: paused[name] for name in ("retry_at", "failures", "last_error", "refused_app", "due_at")}
    own.move(ada, expires_at=-60, renew_at=-90)
    own.database.integrations.update_one({"_id": ada}, {"$set": pause})
    before = Counts.of(server)
    with TokenUsers(own.hub.env) as others:
        assert others.ready().use(ada, USERS).statuses == {"200": USERS}
    assert Counts.of(server).since(before) == (1, 0)


def test_a_user_initiated_refresh_passes_the_pause_of_a_rejected_app_once(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    refused_as_app(own, server, ada)
    before = Counts.of(server)
    own.call(ada, "refresh", expect=503)
    passed = Counts.of(server).since(before)
    assert passed[0] == 0
    assert passed[1] >= 1, "it was asked again"
    before = Counts.of(server)
    own.call(ada, "refresh", expect=503)
    assert Counts.of(server).since(before) == (0, 0), "once, and no way to ask on and on"
    with TokenUsers(own.hub.env) as others:  # who only uses the account waits
        own.move(ada, expires_at=-60, renew_at=-90)
        assert others.ready().use(ada, USERS).errors == {"ProviderUnavailable": USERS}
    assert Counts.of(server).since(before) == (0, 0)


def test_an_account_is_an_error_once_its_token_expires_during_a_pause(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    refused_as_app(own, server, ada)
    shown = own.shown(ada)
    assert (shown["status"], shown["health"]) == ("connected", "at_risk")
    stored = own.stored(ada)
    assert stored["open"], "it is looked at when its token ends"
    assert stored["due_at"] <= stored["expires_at"]
    before = Counts.of(server)
    own.move(ada, expires_at=-1, renew_at=-60, due_at=-1)
    eventually(lambda: own.shown(ada)["status"] == "error")  # by itself: nobody uses it
    shown = own.shown(ada)
    assert (shown["reason"], shown["health"]) == ("invalid_client", "broken")
    assert Counts.of(server).since(before) == (0, 0)
    own.call(ada, "check", expect=503)
    own.register(server.settings, "app")
    eventually(lambda: own.shown(ada)["status"] == "connected")
    # The status is stored before its events are published.
    eventually(lambda: own.events(ada) == ["connected", "error", "refreshed", "recovered"])


def test_secrets_that_a_provider_repeats_are_redacted(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    before = set(server.tokens_seen)
    own.call(ada, "refresh")
    (refresh,) = [text for text in server.tokens_seen - before if text.startswith("rt-")]
    message = f"cannot use {refresh} with {SECRET}"
    server.fail_next = [Reply.json({"error": "server_says_no", "error_description": message}, 400)]
    own.call(ada, "refresh", expect=503)
    error = own.shown(ada)["last_error"]
    assert (error["code"], error["detail"]) == ("server_says_no", "cannot use [hidden] with [hidden]")


def test_a_secret_at_the_edge_of_a_truncated_text_is_redacted(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    before = set(server.tokens_seen)
    own.call(ada, "refresh")
    (refresh,) = [text for text in server.tokens_seen - before if text.startswith("rt-")]
    message = f"{'x' * (200 - len(refresh) // 2)}{refresh}"
    code = f"{'y' * (100 - len(refresh) // 2)}{refresh}"
    server.fail_next = [Reply.json({"error": code, "error_description": message}, 400)]
    problem = own.call(ada, "refresh", expect=503)
    error = own.shown(ada)["last_error"]
    for text in (problem["detail"], error["code"], error["detail"]):
        assert refresh[:8] not in text


def test_an_answer_that_is_a_form_without_an_end_is_a_failure_like_others(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    server.fail_next = [
        Reply(200, b"a=1&" * 1000, {"content-type": "application/x-www-form-urlencoded"}),
    ]
    own.call(ada, "refresh", expect=503)
    assert own.shown(ada)["last_error"]["code"] == "no_token"
    own.move(ada, retry_at=-1)
    assert own.call(ada, "refresh")["health"] == "ok"


def test_tokens_are_revoked_if_the_lock_of_the_account_times_out(
    own: Accounts, server: RotatingServer
) -> None:
    """Who connects the same account died in the middle of it: his lock is there for a minute."""
    server.login("crowd")
    with Person(own.hub, "crowd") as person:
        authorization = person.connect("oidc")
        mine = own.stored(authorization["integration_id"])["workspace"]
        lock = hashlib.sha256(repr(("alone", mine, "oidc", "crowd")).encode()).hexdigest()
        states = own.database.oauth_states
        states.insert_one({"_id": lock, "gone_at": datetime.now(UTC) + timedelta(minutes=1)})
        before = server.revocations
        try:
            came = person.consent(authorization["authorization_url"])
            answer = person.client.get(came, follow_redirects=False)
        finally:
            states.delete_one({"_id": lock})
    assert answer.status_code == 503
    assert server.revocations == before + 1
    assert server.grants_of("crowd") == []


def test_a_refresh_token_that_the_response_leaves_out_is_retained(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    server.says = {"refresh_token": None}
    server.single_use = False  # type: ignore[misc]
    for _ in range(3):
        own.call(ada, "refresh")
    server.single_use = True  # type: ignore[misc]
    server.says = {}
    own.call(ada, "refresh", expect=409)  # used before: that is what was asked with, every time


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        (None, None),
        (0, None),
        ("600", 600),
        (600.5, 600.5),
        (-600, None),
        ("soon", None),
        (10**30, 20 * 365 * 24 * 3600),
        ({"in": 600}, None),
    ],
    ids=["absent", "zero", "text", "fraction", "negative", "a-word", "huge", "an-object"],
)
def test_the_lifetime_of_a_token_is_read_in_every_providers_form(
    own: Accounts, server: RotatingServer, ada: str, message: Any, seconds: float | None
) -> None:
    server.says = {"expires_in": message}
    shown = own.call(ada, "refresh")
    if seconds is None:
        assert shown["expires_at"] is None
    else:
        ends = parse_timestamp(shown["expires_at"])
        assert ends
        assert (ends - datetime.now(UTC)).total_seconds() == pytest.approx(seconds, abs=3)
    server.spoil(server.accounts[0].id)  # and without an end that is known, too, it is refreshed when refused
    before = Counts.of(server)
    own.call(ada, "check")
    assert Counts.of(server).since(before) == (1, 0)


def test_a_token_of_one_minute_is_not_refreshed_at_every_call(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    server.says = {"expires_in": 60}
    own.call(ada, "refresh")
    before = Counts.of(server)
    for _ in range(10):
        own.call(ada, "check")
    assert Counts.of(server).since(before) == (0, 0)
    own.move(ada, renew_at=-1)
    eventually(lambda: own.call(ada, "check") and Counts.of(server).since(before) == (1, 0))


# Calls that are refused


def test_a_hundred_rejected_calls_cause_one_refresh(
    own: Accounts, server: RotatingServer, users: list[TokenUsers], ada: str
) -> None:
    server.spoil(server.accounts[0].id)
    server.together(2 * USERS)
    before = Counts.of(server)
    for item in users[:2]:
        item.begin(ada, USERS)
    runs = [item.used() for item in users[:2]]
    assert [run.statuses for run in runs] == [{"200": USERS}] * 2, runs
    assert Counts.of(server).since(before) == (1, 0)
    assert own.events(ada) == ["connected", "refreshed"]


def test_a_provider_that_rejects_new_tokens_causes_one_refresh_and_no_loop(
    own: Accounts, server: RotatingServer, users: list[TokenUsers], ada: str
) -> None:
    server.refuse_all = True
    before = Counts.of(server)
    assert users[0].use(ada, USERS).statuses == {"401": USERS}
    assert own.shown(ada)["status"] == "connected"
    runs = [item.use(ada, USERS) for item in users[:2]]
    assert [run.errors for run in runs] == [{"NotConnected reauth_required": USERS}] * 2
    assert Counts.of(server).since(before) == (1, 0)
    assert (own.shown(ada)["status"], own.shown(ada)["reason"]) == ("reauth_required", "token_refused")
    assert own.events(ada) == ["connected", "refreshed", "reauth_required"]


def test_a_token_without_refresh_is_rejected_and_published_once(
    own: Accounts, server: RotatingServer, users: list[TokenUsers]
) -> None:
    server.login("short")
    server.says = {"refresh_token": None}
    short = own.connect("short")
    server.says = {}
    assert users[0].use(short, 1).statuses == {"200": 1}
    server.spoil("short")
    server.together(PROCESSES * USERS)
    for item in users:
        item.begin(short, USERS)
    for item in users:
        assert item.used().errors == {"NotConnected reauth_required": USERS}
    assert own.events(short) == ["connected", "reauth_required"]


def test_a_rejected_call_with_a_valid_token_ends_nothing(
    own: Accounts, server: RotatingServer, users: list[TokenUsers], ada: str
) -> None:
    before = Counts.of(server)
    for _ in range(3):
        assert users[0].use(ada, USERS, at=f"{server.url}/closed").statuses == {"401": USERS}
    assert Counts.of(server).since(before) == (1, 0), "once for all, because the token might have ended"
    server.says = {"refresh_token": None}
    server.login("closed-and-short")
    short = own.connect("closed-and-short")
    assert users[0].use(short, USERS, at=f"{server.url}/closed").statuses == {"401": USERS}
    for item in (ada, short):
        assert users[0].use(item, 1).statuses == {"200": 1}
        assert own.shown(item)["status"] == "connected"
    assert own.events(short) == ["connected"]


@pytest.mark.parametrize(("scopes", "stored"), [(None, True), (["openid"], False)], ids=["same", "fewer"])
def test_a_refresh_token_that_reconnecting_leaves_out_is_retained(
    own: Accounts, server: RotatingServer, ada: str, scopes: list[str] | None, stored: bool
) -> None:
    """Unless less is allowed now: what the earlier one gives may do more."""
    server.says = {"refresh_token": None}
    with Person(own.hub, server.accounts[0].id) as person:
        authorization = person.reconnect(ada, scopes=scopes)
        assert person.go(authorization["authorization_url"]).status_code == 200
    assert own.stored(ada)["refreshable"] is stored
    before = Counts.of(server)
    own.call(ada, "refresh", expect=200 if stored else 409)
    assert Counts.of(server).since(before) == (int(stored), 0)


# What happens meanwhile


def test_an_integration_disabled_during_a_refresh_stays_disabled_with_the_new_tokens(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    server.hold()
    asked = later(lambda: own.call(ada, "refresh"))
    eventually(lambda: server.waiting == 1)
    own.call(ada, "disable")
    server.let_go()
    assert asked.result(60)["status"] == "disabled"
    own.call(ada, "check", expect=409)
    own.call(ada, "enable")
    own.call(ada, "check")
    own.call(ada, "refresh")  # with the refresh token of before, the grant would have ended


def test_an_integration_disconnected_during_a_refresh_is_revoked_too(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    server.slow_s = 1  # it has made the new tokens by then
    name, revoked, before = server.accounts[0].id, server.revocations, Counts.of(server)
    asked = later(lambda: own.call(ada, "refresh", expect=409))
    eventually(lambda: Counts.of(server).since(before) == (1, 0), every_s=0.02)
    own.call(ada, "disconnect")
    assert len(server.grants_of(name)) == 1, (
        "it was ended with a token that the platform does not know any more"
    )
    asked.result(60)
    assert own.shown(ada)["status"] == "disconnected"
    assert own.stored(ada)["credential"] is None
    eventually(lambda: not server.grants_of(name))
    assert server.revocations == revoked + 1
    assert own.events(ada) == ["connected", "disconnected"]


# By itself


def test_an_idle_refresh_token_is_used_before_it_expires(own: Accounts, server: RotatingServer) -> None:
    server.login("idle")
    server.says = {"refresh_token_expires_in": 1000}
    idle = own.connect("idle")
    for version in (1, 2):
        stored, now = own.stored(idle), datetime.now(UTC)
        assert stored["version"] == version
        assert (stored["refresh_expires_at"] - now).total_seconds() == pytest.approx(1000, abs=5)
        assert (stored["due_at"] - now).total_seconds() == pytest.approx(800, abs=5)
        own.move(idle, due_at=-1)
        eventually(lambda: own.stored(idle)["version"] > version)  # noqa: B023
    assert own.events(idle) == ["connected", "refreshed", "refreshed"]
    assert own.shown(idle)["last_used_at"] is None
    server.says = {}
    own.call(idle, "check")
    eventually(lambda: own.shown(idle)["last_used_at"])


def test_a_token_without_refresh_is_marked_when_it_expires(own: Accounts, server: RotatingServer) -> None:
    server.login("brief")
    server.says = {"refresh_token": None, "expires_in": 1}
    brief = own.connect("brief")
    server.says = {}
    eventually(lambda: own.shown(brief)["status"] == "reauth_required")
    assert own.shown(brief)["reason"] == "expired"
    eventually(lambda: own.events(brief) == ["connected", "reauth_required"])  # from the outbox


def test_an_authorization_that_was_never_completed_is_deleted(own: Accounts, server: RotatingServer) -> None:
    with Person(own.hub, "nobody") as person:
        authorization = person.connect("oidc")
        integration = authorization["integration_id"]
        assert own.shown(integration)["status"] == "pending"
        own.move(integration, due_at=-1)
        eventually(lambda: own.stored(integration)["deleted_at"])
        own.hub.call("GET", f"/api/integrations/{integration}", expect=404)
        assert person.go(authorization["authorization_url"]).status_code == 410
    assert own.events(integration) == []


def test_a_credential_that_cannot_be_decrypted_is_an_error_and_blocks_no_other(
    own: Accounts, server: RotatingServer, ada: str
) -> None:
    server.login("whole")
    whole = own.connect("whole")
    sealed = own.stored(ada)["credential"]
    broken = {**sealed, "c": sealed["c"][:-1] + bytes([sealed["c"][-1] ^ 1])}
    own.database.integrations.update_one({"_id": ada}, {"$set": {"credential": broken, "open": True}})
    own.database.integrations.update_one({"_id": whole}, {"$set": {"open": True}})
    own.move(ada, due_at=-2)
    own.move(whole, due_at=-1)
    before = Counts.of(server)
    eventually(lambda: own.stored(whole)["version"] == 2)
    eventually(lambda: own.shown(ada)["status"] == "error")
    assert own.shown(ada)["reason"] == "unreadable"
    assert own.stored(ada)["due_at"] > datetime.now(UTC)
    own.call(ada, "check", expect=409)
    assert Counts.of(server).since(before) == (1, 0)


def test_an_integration_of_a_removed_provider_is_postponed(own: Accounts, ada: str) -> None:
    own.database.integrations.update_one({"_id": ada}, {"$set": {"provider": "gone", "open": True}})
    own.move(ada, due_at=-1)
    eventually(lambda: own.stored(ada)["due_at"] > datetime.now(UTC))


AT = datetime(2026, 11, 21, tzinfo=UTC)
HOUR, DAY = 3600.0, 24 * 3600.0


def due(provider: str, tokens: Tokens, before: dict[str, Any]) -> dict[str, float | None]:
    """What is to be done when, in seconds from `AT`."""
    made = refresh_schedule(registry().connectors[provider], TokenResponse(tokens, {}, None), **before, at=AT)
    names = ("expires_at", "renew_at", "refresh_expires_at", "due_at", "grant_ends_at")
    return {name: made[name] and (made[name] - AT).total_seconds() for name in names}


def test_due_times_of_refreshes() -> None:
    # Ahead as the manifest says; a refresh token with a known life is used by itself before its end.
    assert due("microsoft", Tokens("a", "r", HOUR), {}) == {
        "expires_at": HOUR,
        "renew_at": HOUR - 300,
        "refresh_expires_at": 90 * DAY,
        "due_at": 72 * DAY,
        "grant_ends_at": None,
    }
    # An access token that is its own refresh token has to be refreshed while it is valid.
    assert due("facebook", Tokens("a", expires_in=60 * DAY), {})["due_at"] == 30 * DAY
    # What cannot be refreshed is checked when it ends.
    assert due("oidc", Tokens("a", expires_in=HOUR), {})["due_at"] == HOUR
    # Nothing ends: nothing is due.
    assert set(due("github", Tokens("a"), {}).values()) == {None}


def test_a_refresh_does_not_extend_a_lifetime_that_counts_from_the_authorization() -> None:
    tokens = Tokens("a", "r", HOUR)
    first = due("linkedin", tokens, {})
    assert (first["refresh_expires_at"], first["due_at"]) == (365 * DAY, 351 * DAY)  # a warning
    known = {"refreshable": True, "refresh_expires_at": AT + timedelta(days=2)}
    assert due("linkedin", tokens, known)["due_at"] == 2 * DAY
    over = {"refreshable": True, "refresh_expires_at": AT - timedelta(days=1)}
    assert due("linkedin", tokens, over)["due_at"] == 300  # the platform still takes it: not at every turn


def test_a_grant_ends_a_year_after_the_consent_however_often_it_is_refreshed() -> None:
    tokens = Tokens("a", "r", HOUR)
    first = due("jira", tokens, {})
    assert (first["refresh_expires_at"], first["grant_ends_at"]) == (90 * DAY, 365 * DAY)
    assert first["due_at"] == 72 * DAY  # an idle token is used before its 90 days are over

    def after(days: int, warned: int | None = None) -> dict[str, float | None]:
        """A refresh so many days after the consent, and the warning so many before the refresh."""
        warned_at = None if warned is None else AT - timedelta(days=warned)
        return due("jira", tokens, {"granted_at": AT - timedelta(days=days), "warned_at": warned_at})

    assert (after(290)["refresh_expires_at"], after(290)["due_at"]) == (75 * DAY, 61 * DAY)  # the warning
    assert (after(360)["refresh_expires_at"], after(360)["due_at"]) == (5 * DAY, 0)  # it is overdue
    assert after(360, warned=361)["due_at"] == 0  # that was about the grant before
    assert after(360, warned=3)["due_at"] == 5 * DAY
    # The provider accepts the token for longer than its documents say: it goes on as if there was no end.
    late = after(366)
    assert (late["refresh_expires_at"], late["grant_ends_at"], late["due_at"]) == (90 * DAY, None, 72 * DAY)


def test_a_response_without_a_refresh_expiry_leaves_the_stored_one() -> None:
    known = {"refreshable": True, "refresh_expires_at": AT + timedelta(days=10)}
    assert due("oidc", Tokens("a", expires_in=HOUR), known)["refresh_expires_at"] == 10 * DAY


# Events


def test_events_are_published_when_the_broker_is_back(
    own: Accounts, bus: Bus, server: RotatingServer, ada: str
) -> None:
    assert isinstance(bus.broker, EmbeddedServer)
    broker = bus.broker.child.pid
    assert broker
    os.kill(broker, signal.SIGSTOP)
    try:
        own.call(ada, "refresh")
        own.call(ada, "refresh")
        server.withdraw()
        own.call(ada, "refresh", expect=409)
        assert own.stored(ada)["untold"]
    finally:
        os.kill(broker, signal.SIGCONT)
    own.move(ada, changed_at=-60)  # the writer had time to publish it
    eventually(lambda: not own.stored(ada)["untold"], within_s=30)
    assert own.events(ada) == ["connected", "refreshed", "refreshed", "reauth_required"]
    assert own.stored(ada)["events"] == []
