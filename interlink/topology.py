"""The processes of `interlink up`: commands, ports and environments."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interlink.datadir import DataFolder, display_path
from interlink.embedded import (
    HOST,
    EmbeddedServer,
    broker_settings,
    kafka_bootstrap,
    plain_environment,
    stored_port,
)
from interlink.private_files import embedded_key
from interlink.supervise import ProcessSpec
from shared.contracts.errors import Misconfigured
from shared.contracts.routes import CONSOLE, SERVICE_PATHS

MINICHAT: Final = "minichat"
_MINICHAT_PORT_OFFSET: Final = 10
_LOCAL_EGRESS_SETTINGS: Final = {
    "INTERLINK_ALLOW_PRIVATE_NETWORKS": "loopback",
    "INTERLINK_ALLOW_HTTP": "true",
    "INTERLINK_EGRESS_PORTS": "any",
}
"""With embedded broker and database, webhooks may go to programs on this machine."""
_DRAIN_TIMEOUT_S: Final = 20.0
_STOP_MARGIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of the command line. The first service is the entrance of the hub: it listens on `port`.

    The chat page listens ten above. The other services take free ports, which are stored in the data folder.
    """

    port: int
    data_dir: Path
    minichat: bool
    services: Sequence[str]

    def fixed_ports(self) -> dict[str, int]:
        """Return the ports that people connect to."""
        ports = {self.services[0]: self.port}
        if self.minichat:
            ports[MINICHAT] = self.port + _MINICHAT_PORT_OFFSET
        return ports

    def host(self, name: str) -> str:
        """Return the address that a process listens on. Only the entrance can be open to other machines."""
        return os.environ.get("INTERLINK_HOST", HOST) if name == self.services[0] else HOST


class Topology:
    """The commands and environments of one run. `broker` or `store` is None if the user has one."""

    def __init__(
        self, plan: Plan, folder: DataFolder, broker: EmbeddedServer | None, store: EmbeddedServer | None
    ) -> None:
        """Find the encryption key. Raises `Misconfigured` if the folder's secrets need another one."""
        self._plan = plan
        self._folder = folder
        self._broker = broker
        self._store = store
        inner = {name: stored_port(folder.path, name) for name in plan.services[1:]}
        self.ports: Mapping[str, int] = plan.fixed_ports() | inner
        """The port of each service and of the chat page."""
        key = os.environ.get("INTERLINK_ENCRYPTION_KEY") or os.environ.get("INTERLINK_ENCRYPTION_KEY_FILE")
        self._own_key = "" if key else self._key()
        if key and store:
            self._check_folder_key()

    @property
    def public_url(self) -> str:
        """The address of the hub for people and providers: INTERLINK_PUBLIC_URL, else this machine."""
        return os.environ.get("INTERLINK_PUBLIC_URL") or f"http://{HOST}:{self._plan.port}"

    def init(self) -> tuple[Sequence[str], dict[str, str]]:
        """Return command and environment of what `interlink init` does."""
        key_file = display_path(self._folder.admin_key)
        return ("interlink.forked", "init", key_file, *self._plan.services), self._environment()

    def services(self) -> Iterator[tuple[ProcessSpec, int, str]]:
        """Yield how to run each service and the chat page, with port and path of its readiness check.

        The commands are those of the fork server: a module and its arguments.
        """
        command: Sequence[str]
        for name, port in self.ports.items():
            if name == MINICHAT:
                command, env, ready = ("interlink.examples.minichat",), self._minichat(port), "/healthz"
            else:
                command, env, ready = ("interlink.forked", "serve", name), self._service(name), "/readyz"
            log = self._folder.logs / f"{name}.log"
            yield ProcessSpec(name, command, env, log, _stop_timeout_s()), port, ready

    def _environment(self) -> dict[str, str]:
        """Return the environment of `init` and services: the user's, with the embedded servers' addresses."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
        env |= self._kafka()
        if self._store:
            env["MONGODB_URI"] = self._store.uri
        if self._own_key:
            env["INTERLINK_ENCRYPTION_KEY"] = self._own_key
        if self._broker and self._store:
            env = {**_LOCAL_EGRESS_SETTINGS, **env}
        env["INTERLINK_PUBLIC_URL"] = self.public_url
        env["INTERLINK_DATA_DIR"] = str(self._folder.path)
        env.setdefault("INTERLINK_UPLOAD_FOLDER", str(self._folder.path / "uploads"))
        return env

    def _key(self) -> str:
        """Return the folder's own key. Raises `Misconfigured` if a key of the user sealed its secrets."""
        folder = self._folder
        if folder.admin_key.exists() and not folder.encryption_key.exists():
            raise Misconfigured(
                f"{display_path(folder.path)} was created with an encryption key from the environment: set "
                "INTERLINK_ENCRYPTION_KEY (or _FILE) to it again, because no other key opens its secrets; "
                "or start with another folder by --data-dir"
            )
        return embedded_key(folder.path)

    def _check_folder_key(self) -> None:
        """Raise `Misconfigured` if the keys that the user set do not include the folder's own."""
        own = self._folder.encryption_key
        if not own.is_file():
            return
        # Imported late: they would be most of the supervisor's memory, and few installations need them.
        from shared.runtime.encryption_keys import load_keys, read_keys  # noqa: PLC0415
        from shared.runtime.settings import HubSettings, load  # noqa: PLC0415

        if not set(read_keys(own, display_path(own)).ids) <= set(load_keys(load(HubSettings)).ids):
            raise Misconfigured(
                f"INTERLINK_ENCRYPTION_KEY (or _FILE) does not have the key in {display_path(own)}, which "
                f"secrets in {display_path(self._folder.path)} need: put it behind the new one "
                "(docs/how-to/rotate-keys.md), or remove that file if 'interlink keys status' says that "
                "nothing is sealed with it"
            )

    def _service(self, name: str) -> dict[str, str]:
        """Return the environment of a service."""
        env, ports = self._environment(), self.ports
        env.pop("INTERLINK_BOOTSTRAP_ADMIN_KEY", None)
        env.pop("INTERLINK_BOOTSTRAP_ADMIN_KEY_FILE", None)
        env["INTERLINK_HOST"] = self._plan.host(name)
        env["INTERLINK_PORT"] = str(ports[name])
        env.setdefault("INTERLINK_GATEWAY_URL", f"http://{HOST}:{self._plan.port}")
        if name in (self._plan.services[0], CONSOLE):
            peers = {owner: f"http://{HOST}:{ports[owner]}" for owner in SERVICE_PATHS if owner in ports}
            env.setdefault("INTERLINK_PEERS", json.dumps(peers))
        return env

    def _minichat(self, port: int) -> dict[str, str]:
        """Return the environment of the chat page: Kafka's settings, and none of the hub's secrets."""
        own = {name: value for name, value in os.environ.items() if name.startswith("MINICHAT_")}
        return plain_environment() | own | self._kafka() | {"MINICHAT_PORT": str(port)}

    def _kafka(self) -> dict[str, str]:
        if self._broker is None:
            return {name: value for name, value in os.environ.items() if name.startswith("KAFKA_")}
        address = {"KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap(self._broker.port)}
        return address | broker_settings(self._folder.path)


def _stop_timeout_s() -> float:
    drain = _DRAIN_TIMEOUT_S
    with contextlib.suppress(ValueError):
        drain = float(os.environ.get("INTERLINK_DRAIN_SECONDS", ""))
    return drain + _STOP_MARGIN_S
