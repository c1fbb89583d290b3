"""A hub with accounts, and a server that rotates refresh tokens, for the modules that ask for them."""

from collections.abc import Iterator

import pytest

from tests.support.accounts import SECRET, Accounts, accounts
from tests.support.backends import Bus, Store
from tests.support.rotating_server import RotatingServer


@pytest.fixture(scope="module")
def shared_accounts(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Accounts]:
    with accounts(tmp_path_factory.mktemp("hub"), bus, store) as made:
        yield made


@pytest.fixture(scope="module")
def rotating(shared_accounts: Accounts) -> Iterator[RotatingServer]:
    """Accounts are connected at it as `oidc`."""
    with RotatingServer("app", SECRET, shared_accounts.redirect_uri) as made:
        shared_accounts.register(made.settings, "app")
        yield made
        assert made.faults == []
