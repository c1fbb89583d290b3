"""Every known attack of a tenant or a stranger, tried on a running hub.

A new attack is an `Attack` in a module of this folder; a new module is added to `_MODULES`.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from types import ModuleType

import pytest

from tests.attacks import local, resolution
from tests.attacks.attack import Attack, Setup
from tests.support.backends import Bus, Store
from tests.support.hub import Hub

_MODULES: tuple[ModuleType, ...] = (resolution, local)
ATTACKS: tuple[Attack, ...] = tuple(chain.from_iterable(module.ATTACKS for module in _MODULES))


@pytest.fixture(scope="module")
def hub_for(
    tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store
) -> Iterator[Callable[[Setup], Hub]]:
    """Return the hub of a setup, started once."""
    started: list[tuple[Setup, Hub]] = []

    def find(setup: Setup) -> Hub:
        for known, hub in started:
            if known == setup:
                return hub
        hub = setup.start(tmp_path_factory.mktemp("hub"), bus, store)
        started.append((setup, hub))
        return hub

    yield find
    for _, hub in started:
        hub.stop()


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_has_no_effect(attack: Attack, hub_for: Callable[[Setup], Hub]) -> None:
    hub = hub_for(attack.setup)
    attack.attempt(hub)
    for service in attack.setup.services:
        assert hub.ended(service) is None, hub.log_tail(service)
        assert "Traceback" not in hub.log_text(service)
