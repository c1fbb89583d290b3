"""Refreshers that stand still for 20 s with the hub's own times, and clocks that are a minute apart.

The authorization server takes each refresh token once. No process may send one that another may have sent.
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic, sleep

import pytest

from shared.connections.refresh_types import Timing
from shared.runtime.failpoints import FAILPOINT_VARIABLE
from tests.support.accounts import SECRET, Accounts, accounts
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.rotating_server import RotatingServer
from tests.support.token_users import TokenUsers

FEW = 5
STANDS_S = 20.0
TAKEN_OVER_WITHIN_S = 10.0
AHEAD, BEHIND = 30, -30
USUAL = Timing()


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Accounts]:
    with accounts(tmp_path_factory.mktemp("hub"), bus, store) as made:
        yield made


@pytest.fixture(scope="module")
def server(there: Accounts) -> Iterator[RotatingServer]:
    with RotatingServer("app", SECRET, there.redirect_uri) as made:
        there.register(made.settings, "app")
        yield made
        assert made.faults == []


def ended(there: Accounts, server: RotatingServer, name: str) -> str:
    """An account whose access token has ended."""
    server.login(name)
    integration = there.connect(name)
    there.move(integration, expires_at=-60, renew_at=-90)
    return integration


def test_a_refresher_that_was_killed_before_it_asked_stops_its_account_for_less_than_ten_seconds(
    there: Accounts, server: RotatingServer
) -> None:
    integration, refreshes = ended(there, server, "killed"), server.refreshes
    with ExitStack() as stack:
        env = there.hub.env
        doomed = stack.enter_context(
            TokenUsers({**env, FAILPOINT_VARIABLE: "refresh.claimed"}, clock_s=AHEAD)
        )
        other = stack.enter_context(TokenUsers(env, timing=USUAL, clock_s=BEHIND))
        doomed.ready().begin(integration, FEW)
        other.ready()
        assert doomed.died() == -signal.SIGKILL
        began = monotonic()
        used = other.use(integration, FEW)
        assert monotonic() - began < TAKEN_OVER_WITHIN_S
    assert (used.statuses, used.versions) == ({"200": FEW}, [2])
    assert (server.refreshes - refreshes, server.refused) == (1, [])
    assert there.events(integration) == ["connected", "refreshed"]


def test_a_refresher_that_stands_still_for_twenty_seconds_costs_no_account_its_grant(
    there: Accounts, server: RotatingServer
) -> None:
    """One stands still before it asks, one after it: both go on with the tokens of one answer."""
    before, after = ended(there, server, "before"), ended(there, server, "after")
    refreshes = server.refreshes
    with ExitStack() as stack:

        def users(clock_s: float) -> TokenUsers:
            return stack.enter_context(TokenUsers(there.hub.env, timing=USUAL, clock_s=clock_s))

        slow, late = users(AHEAD), users(BEHIND)
        others = [users(AHEAD), users(BEHIND)]
        for each in (slow, late, *others):
            each.ready()
        slow.stop_at("refresh.claimed")
        slow.begin(before, FEW)
        eventually(slow.stands_still, every_s=0.02)
        server.hold()
        late.begin(after, FEW)
        eventually(lambda: server.waiting == 1, every_s=0.02)
        late.stand_still()
        stood = monotonic()
        server.let_go()  # the answer waits in the socket of a process that does not read it
        for each in others:
            each.begin(before, FEW)
        assert [each.used().versions for each in others] == [[2], [2]]
        for each in others:
            each.begin(after, FEW)
        assert [each.used().errors for each in others] == [{"NotConnected reauth_required": FEW}] * 2
        shown = there.shown(after)
        assert (shown["status"], shown["reason"]) == ("reauth_required", "refresh_interrupted")
        sleep(max(0.0, STANDS_S - (monotonic() - stood)))
        slow.go_on()
        late.go_on()
        assert [each.used().versions for each in (slow, late)] == [[2], [2]]
        for each in others:
            used = each.use(after, FEW)
            assert (used.statuses, used.versions) == ({"200": FEW}, [2])
    assert (server.refreshes - refreshes, server.refused) == (2, [])
    assert there.events(before) == ["connected", "refreshed"]
    assert there.events(after) == ["connected", "reauth_required", "refreshed", "recovered"]
