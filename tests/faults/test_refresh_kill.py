"""kill -9 and SIGSTOP of whoever makes a token anew, at each step, and a store that goes away meanwhile.

Several processes use one account's token. The one that is to die has the lease first; the others, with
`USERS` users each, go on. What the platform is asked is counted by the platform.
"""

import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from time import monotonic

import pytest

from interlink.embedded import EmbeddedServer
from interlink.embedded import database as embedded_database
from interlink.supervise import ProcessGroup
from shared.runtime.failpoints import FAILPOINT_VARIABLE
from tests.support.accounts import SECRET, Accounts, accounts, app_at, oidc_settings
from tests.support.auth_servers import OidcProvider
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.npm import Unavailable
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer
from tests.support.token_users import HASTY, TokenUsers, Used

USERS = 50
FEW = 5
CLOCKS = (0, 30, -30)
"""Of the survivors, in seconds ahead: no two clocks are compared."""
PATIENCE_S = 20.0
LOOKS = 500

DOOMED = {
    "claimed": "refresh.claimed",
    "committed": "refresh.committed",
    "committing": "refresh.committing",
    "answered": "refresh.answered",
    "stored": "outbox.stored",
}
"""Accounts whose refresher is killed, and where."""
ASLEEP = {"late": "refresh.claimed", "fence": "refresh.answered"}
"""Accounts whose refresher stands still, and where."""
LENIENT = ("fence",)
"""Those at the lenient server; the others are at the strict one."""


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A store that is ours to kill."""
    group = ProcessGroup()
    made = embedded_database(tmp_path_factory.mktemp("store"), group)
    made.start()
    yield made
    made.kill()
    group.close()


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, bus: Bus, half: EmbeddedServer) -> Iterator[Accounts]:
    store = Store("an embedded store of its own", half.uri)
    with accounts(tmp_path_factory.mktemp("hub"), bus, store) as made:
        yield made


@pytest.fixture(scope="module")
def strict(there: Accounts) -> Iterator[OidcProvider]:
    """It ends the grant when a refresh token is used twice."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(OidcProvider([app_at(there)], access_token_s=3600))
        except Unavailable as error:
            pytest.skip(str(error))
        there.register(oidc_settings(made), "hub")
        yield made


@pytest.fixture(scope="module")
def lenient(there: Accounts) -> Iterator[RotatingServer]:
    """It takes a refresh token again for a while; only the access token that it gave last is good."""
    with RotatingServer("app", SECRET, there.redirect_uri) as made:
        made.grace_s = 600
        made.latest_only = True
        yield made
        assert made.faults == []


@pytest.fixture(scope="module")
def own(there: Accounts, lenient: RotatingServer) -> Accounts:
    """The accounts at the lenient server."""
    return there.at(lenient.settings, "app")


@dataclass(frozen=True)
class Processes:
    """All are started at once, which takes the time of two."""

    survivors: list[TokenUsers]
    sleepers: Mapping[str, TokenUsers]
    """By the crash point where they stand still, once."""
    patient: TokenUsers
    """It leaves a silent lease alone for longer."""
    doomed: Mapping[str, TokenUsers]
    """By what they die of."""


@pytest.fixture(scope="module")
def processes(own: Accounts, strict: OidcProvider) -> Iterator[Processes]:
    env = {**own.hub.env, "MONGODB_TIMEOUT_MS": "2000"}
    with ExitStack() as stack:
        survivors = [stack.enter_context(TokenUsers(env, timing=HASTY, clock_s=each)) for each in CLOCKS]
        sleepers = {point: stack.enter_context(TokenUsers(env, timing=HASTY)) for point in ASLEEP.values()}
        patience = replace(HASTY, settle_s=PATIENCE_S)
        patient = stack.enter_context(TokenUsers(env, timing=patience))
        doomed = {
            name: stack.enter_context(TokenUsers({**env, FAILPOINT_VARIABLE: point}, timing=HASTY))
            for name, point in DOOMED.items()
        }
        for each in (*survivors, patient, *sleepers.values(), *doomed.values()):
            each.ready()
        yield Processes(survivors, sleepers, patient, doomed)


@pytest.fixture
def survivors(processes: Processes) -> list[TokenUsers]:
    return processes.survivors


@pytest.fixture(scope="module")
def stricken(
    there: Accounts, own: Accounts, lenient: RotatingServer, processes: Processes
) -> Mapping[str, str]:
    """Accounts whose token has ended and whose refresher is dead or stands still, by how."""
    made: dict[str, str] = {}
    for name in (*DOOMED, *ASLEEP):
        lenient.login(name)
        accounts = own if name in LENIENT else there
        made[name] = accounts.connect(name)
        accounts.move(made[name], expires_at=-60, renew_at=-90)
    for name, point in ASLEEP.items():
        processes.sleepers[point].stop_at(point)
        processes.sleepers[point].begin(made[name], FEW)
    for name, each in processes.doomed.items():
        each.begin(made[name], USERS)
    assert [each.died() for each in processes.doomed.values()] == [-signal.SIGKILL] * len(DOOMED)
    for each in processes.sleepers.values():
        eventually(each.stands_still, every_s=0.02)
    return made


def go_on(survivors: list[TokenUsers], integration: str) -> list[Used]:
    """What comes of the users of the other processes."""
    for each in survivors:
        each.begin(integration, USERS, calls=2)
    return [each.used() for each in survivors]


def all_good(runs: list[Used], version: int) -> bool:
    return all(run.statuses == {"200": 2 * USERS} and run.versions == [version] for run in runs)


def test_killed_before_it_asks_another_asks(
    there: Accounts, strict: OidcProvider, stricken: Mapping[str, str], survivors: list[TokenUsers]
) -> None:
    integration = stricken["claimed"]
    before = strict.stats()
    runs = go_on(survivors, integration)
    assert all_good(runs, 2), runs
    done = strict.stats().since(before)
    assert (done.granted, done.refused) == ({"refresh_token": 1}, {})
    assert there.events(integration) == ["connected", "refreshed"]


def test_killed_after_the_write_the_request_is_not_repeated(
    there: Accounts, strict: OidcProvider, stricken: Mapping[str, str], survivors: list[TokenUsers]
) -> None:
    integration = stricken["committed"]
    before = strict.stats()
    runs = go_on(survivors, integration)
    assert all_good(runs, 2), runs
    assert strict.stats().since(before).called == {}
    assert there.events(integration) == ["connected", "refreshed"]


def test_killed_before_it_published_the_event_another_publishes_it(
    there: Accounts, strict: OidcProvider, stricken: Mapping[str, str], survivors: list[TokenUsers]
) -> None:
    """State and event are one write: who finds the event later publishes it."""
    integration = stricken["stored"]
    before = strict.stats()
    runs = go_on(survivors, integration)
    assert all_good(runs, 2), runs
    assert strict.stats().since(before).called == {}
    eventually(lambda: there.events(integration) == ["connected", "refreshed"], within_s=30)
    eventually(lambda: not there.stored(integration)["untold"])


@pytest.mark.parametrize("how", ["committing", "answered"])
def test_killed_after_a_request_may_have_been_sent_it_is_not_repeated_but_reported(
    there: Accounts, strict: OidcProvider, stricken: Mapping[str, str], survivors: list[TokenUsers], how: str
) -> None:
    """The refresh token works once, and nobody knows whether it was used."""
    integration = stricken[how]
    before = strict.stats()
    runs = go_on(survivors, integration)
    assert [run.errors for run in runs] == [{"NotConnected reauth_required": 2 * USERS}] * len(CLOCKS)
    assert strict.stats().since(before).called == {}
    shown = there.shown(integration)
    assert (shown["status"], shown["reason"]) == ("reauth_required", "refresh_interrupted")
    assert there.events(integration) == ["connected", "reauth_required"]


def test_who_stood_still_before_asking_does_not_ask_after_its_lease(
    there: Accounts, strict: OidcProvider, stricken: Mapping[str, str], processes: Processes
) -> None:
    integration, sleeper = stricken["late"], processes.sleepers["refresh.claimed"]
    before = strict.stats()
    try:
        runs = go_on(processes.survivors, integration)
        assert all_good(runs, 2), runs
    finally:
        sleeper.go_on()
    late = sleeper.used()
    assert (late.statuses, late.versions) == ({"200": FEW}, [2]), late
    done = strict.stats().since(before)
    assert (done.granted, done.refused) == ({"refresh_token": 1}, {})
    assert "grant.revoked" not in done.events


def test_who_stood_still_with_the_answer_brings_the_account_back(
    own: Accounts, lenient: RotatingServer, stricken: Mapping[str, str], processes: Processes
) -> None:
    """Meanwhile, nobody sent the refresh token that was used."""
    integration, sleeper = stricken["fence"], processes.sleepers["refresh.answered"]
    refreshes = lenient.refreshes
    try:
        runs = go_on(processes.survivors, integration)
        assert [run.errors for run in runs] == [{"NotConnected reauth_required": 2 * USERS}] * len(CLOCKS)
    finally:
        sleeper.go_on()
    late = sleeper.used()
    assert (late.statuses, late.versions) == ({"200": FEW}, [2]), late
    shown = own.shown(integration)
    assert (shown["status"], shown["reason"], shown["health"]) == ("connected", None, "ok")
    eventually(lambda: all_good(go_on(processes.survivors, integration), 2))  # what is known is kept for 2 s
    assert (lenient.refreshes, lenient.refused) == (refreshes, [])
    assert own.events(integration) == ["connected", "reauth_required", "refreshed", "recovered"]


def test_a_store_that_is_away_when_the_answer_comes_gets_the_tokens_when_it_is_back(
    own: Accounts,
    lenient: RotatingServer,
    half: EmbeddedServer,
    processes: Processes,
    note: Callable[[str], None],
) -> None:
    """Also when the lease is silent meanwhile, and somebody else is there first."""
    sleeper, patient = processes.sleepers["refresh.claimed"], processes.patient
    lenient.login("unsaved")
    integration = own.connect("unsaved")
    own.move(integration, expires_at=-60, renew_at=-90)
    refreshes = lenient.refreshes
    lenient.grace_s = 0  # the old refresh token is worth nothing once it was used
    lenient.hold()
    sleeper.begin(integration, FEW)
    eventually(lambda: lenient.waiting == 1)
    claimed = own.stored(integration)
    half.kill()
    lenient.let_go()
    eventually(lambda: "token.save_failed" in sleeper.log, within_s=30)
    sleeper.stand_still()
    half.start()
    patient.begin(integration, USERS)
    for _ in range(LOOKS):  # it finds a lease that is silent, and does not take it at once
        assert own.stored(integration)["fence"] == claimed["fence"]
    sleeper.go_on()
    back = monotonic()
    eventually(lambda: own.stored(integration)["version"] == 2, every_s=0.01)
    note(f"store back: the tokens were saved {monotonic() - back:.1f} s later")
    runs = [each.used() for each in (sleeper, patient)]
    assert [(run.statuses, run.versions) for run in runs] == [({"200": FEW}, [2]), ({"200": USERS}, [2])], (
        runs
    )
    assert (lenient.refreshes - refreshes, lenient.refused) == (1, [])
    assert own.events(integration) == ["connected", "refreshed"]


def test_an_unavailable_database_during_the_callback_costs_only_another_try(
    own: Accounts, lenient: RotatingServer, half: EmbeddedServer
) -> None:
    """Before the state is used, the same address goes on later; after it, the person begins anew."""
    lenient.login("early")
    with Person(own.hub, "early") as early:
        started = early.connect("oidc")
        back = early.consent(started["authorization_url"])
        half.kill()
        try:
            refused = early.client.get(back)
        finally:
            half.start()
        assert (refused.status_code, "try again in a moment" in refused.text) == (503, True)
        eventually(lambda: early.client.get(back).status_code == 303, within_s=30)
    assert own.shown(started["integration_id"])["status"] == "connected"

    lenient.login("late")
    exchanges, lenient.slow_s = lenient.exchanges, 1.5
    with Person(own.hub, "late") as late:
        started = late.connect("oidc")
        back = late.consent(started["authorization_url"])
        with ThreadPoolExecutor(1) as beside:
            coming = beside.submit(late.client.get, back)
            eventually(lambda: lenient.exchanges == exchanges + 1)
            half.kill()
            refused = coming.result(60)
            lenient.slow_s = 0
            half.start()
        assert (refused.status_code, "start again in a moment" in refused.text) == (503, True)
        eventually(lambda: own.shown(started["integration_id"])["status"] == "pending", within_s=30)
        again = late.reconnect(started["integration_id"])
        assert late.go(again["authorization_url"]).status_code == 200
    assert own.shown(started["integration_id"])["status"] == "connected"
    assert own.events(started["integration_id"]) == ["connected"]
