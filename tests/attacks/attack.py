"""The form of one attack on the hub, and the hub that it is tried on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.backends import Bus, Store
from tests.support.hub import Hub


@dataclass(frozen=True)
class Setup:
    """The hub that an attack needs. Attacks with an equal setup share one hub."""

    services: tuple[str, ...] = ("gateway",)
    env: Mapping[str, str] = field(default_factory=dict)
    entrance: bool = False
    """Whether the gateway forwards the other services' paths, as with `interlink up`."""

    def start(self, folder: Path, bus: Bus, store: Store) -> Hub:
        """Start the hub; the caller stops it."""
        hub = Hub(
            folder,
            bus,
            store,
            services=self.services,
            env=self.env,
            entrance=self.entrance,
            workspace=f"attacks-{folder.name}",
        )
        return hub.start()


@dataclass(frozen=True)
class Attack:
    """One attempt of a hostile tenant, endpoint owner or sender.

    `attempt` makes the attempt and raises `AssertionError` if the attack has an effect. It must leave the
    hub usable for the attacks after it: each attack makes its own endpoints and webhooks.
    """

    name: str
    attempt: Callable[[Hub], None]
    setup: Setup = Setup()

    def __str__(self) -> str:
        return self.name
