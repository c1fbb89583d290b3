"""Every known attack of a tenant or a stranger, tried on a running hub.

A new attack is an `Attack` in the tuple `ATTACKS` of a module of this folder.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules

import pytest

from tests import attacks
from tests.attacks.attack import Attack, Setup
from tests.support.backends import Bus, Store
from tests.support.hub import Hub

_MODULES = [
    import_module(f"{attacks.__name__}.{results.name}")
    for results in iter_modules(attacks.__path__)
    if not results.name.startswith("test_")
]
ATTACKS: list[Attack] = [attack for module in _MODULES for attack in getattr(module, "ATTACKS", ())]
_SETUPS: list[Setup] = []
for _attack in ATTACKS:
    if _attack.setup not in _SETUPS:
        _SETUPS.append(_attack.setup)
ATTACKS.sort(key=lambda attack: _SETUPS.index(attack.setup))  # each hub is started once


@pytest.fixture(scope="module")
def hub_for(
    tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store
) -> Iterator[Callable[[Setup], Hub]]:
    """Return the hub of a setup, one at a time: hubs on one bus are members of the same consumer groups."""
    started: list[tuple[Setup, Hub]] = []

    def find(setup: Setup) -> Hub:
        for known, hub in started:
            if known == setup:
                return hub
            hub.stop()
        started.clear()
        hub = setup.start(tmp_path_factory.mktemp("hub"), bus, store)
        started.append((setup, hub))
        return hub

    yield find
    for _, hub in started:
        hub.stop()


def new_log(hub: Hub, service: str) -> str:
    """What a service has logged since the attack before: one fault is the failure of one attack."""
    log, name = hub.log_text(service), (hub, service)
    start, _looked_at[name] = _looked_at.get(name, 0), len(log)
    return log[start:]


_looked_at: dict[tuple[Hub, str], int] = {}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_has_no_effect(attack: Attack, hub_for: Callable[[Setup], Hub]) -> None:
    hub = hub_for(attack.setup)
    attack.attempt(hub)
    for service in attack.setup.services:
        assert hub.ended(service) is None, hub.log_tail(service)
    logged = "".join([new_log(hub, service) for service in attack.setup.services])
    assert "Traceback" not in logged, logged
