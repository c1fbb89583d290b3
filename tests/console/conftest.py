"""One hub with a console for each module, and people at it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console.person import Person
from tests.support.backends import Bus, Store
from tests.support.hub import Hub
from tests.support.npm import Unavailable, installed


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    env = {"INTERLINK_RETURN_ORIGINS": "https://chat.example.com"}
    with Hub(tmp_path_factory.mktemp("hub"), bus, store, env=env, entrance=True) as hub:
        yield hub


@pytest.fixture(scope="module")
def admin(hub: Hub) -> Iterator[Person]:
    """Somebody with the admin key, signed in."""
    person = Person(hub.url("gateway"))
    assert person.sign_in(hub.admin_key).status == 200
    yield person
    person.close()


@pytest.fixture
def person(hub: Hub) -> Iterator[Person]:
    """Somebody who has not signed in."""
    person = Person(hub.url("gateway"))
    yield person
    person.close()


@pytest.fixture(scope="session")
def axe() -> str | Unavailable:
    """The script of axe-core, or why it is not there."""
    try:
        folder = installed(Path(__file__).parents[1] / "support" / "axe")
    except Unavailable as reason:
        return reason
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")
