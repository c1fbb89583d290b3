"""What `interlink up` runs: which processes, on which ports, with which settings."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interlink.datadir import DataFolder, display_path
from interlink.embedded import BROKER_SETTINGS, HOST, EmbeddedServer, kafka_bootstrap, plain_environment
from interlink.supervise import ProcessSpec
from shared.contracts.errors import Misconfigured
from shared.contracts.routes import SERVICE_PATHS
from shared.runtime.encryption_keys import embedded_key, load_keys, read_keys
from shared.runtime.settings import HubSettings, load

MINICHAT: Final = "minichat"
_MINICHAT_PORT_OFFSET: Final = 10
_LOCAL_EGRESS_SETTINGS: Final = {
    "INTERLINK_ALLOW_PRIVATE_NETWORKS": "loopback",
    "INTERLINK_ALLOW_HTTP": "true",
    "INTERLINK_EGRESS_PORTS": "any",
}
"""On the embedded pair, webhooks may go to programs on this machine."""
_DRAIN_TIMEOUT_S: Final = 20.0
_STOP_MARGIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asked for. The first service is the entrance: it listens on `port`."""

    port: int
    data_dir: Path
    minichat: bool
    services: Sequence[str]

    def ports(self) -> dict[str, int]:
        """The port of every process that people or the entrance talk to."""
        ports = {name: self.port + offset for offset, name in enumerate(self.services)}
        if self.minichat:
            ports[MINICHAT] = self.port + _MINICHAT_PORT_OFFSET
        return ports

    def host(self, name: str) -> str:
        """Where it listens: only the entrance can be opened up to other machines."""
        return os.environ.get("INTERLINK_HOST", HOST) if name == self.services[0] else HOST


class Topology:
    """The commands and environments of one run; `broker` and `store` are None where the user has one."""

    def __init__(
        self, plan: Plan, folder: DataFolder, broker: EmbeddedServer | None, store: EmbeddedServer | None
    ) -> None:
        """Raises `Misconfigured`: the folder's secrets have another key than there is."""
        self._plan = plan
        self._folder = folder
        self._broker = broker
        self._store = store
        given = os.environ.get("INTERLINK_ENCRYPTION_KEY") or os.environ.get("INTERLINK_ENCRYPTION_KEY_FILE")
        self._own_key = "" if given else self._key()
        if given and store:
            self._refuse_another_key()

    @property
    def public_url(self) -> str:
        """Where people and platforms find the hub, unless the user says so otherwise: here."""
        return os.environ.get("INTERLINK_PUBLIC_URL") or f"http://{HOST}:{self._plan.port}"

    def init(self) -> tuple[Sequence[str], dict[str, str]]:
        """Command and environment of `interlink init`."""
        key_file = ("--key-file", display_path(self._folder.admin_key))
        return _python_command("-m", "interlink", "init", "--quiet", *key_file), self._environment()

    def services(self) -> Iterator[tuple[ProcessSpec, int, str]]:
        """Of every service and the chat page: how to run it, its port, and the path that says it is ready."""
        for name, port in self._plan.ports().items():
            if name == MINICHAT:
                command, env, ready = (
                    _python_command("-m", "examples.minichat"),
                    self._minichat(port),
                    "/healthz",
                )
            else:
                command, env, ready = (
                    _python_command("-m", "interlink", "serve", name),
                    self._service(name),
                    "/readyz",
                )
            log = self._folder.logs / f"{name}.log"
            yield ProcessSpec(name, command, env, log, _stop_timeout_s()), port, ready

    def _environment(self) -> dict[str, str]:
        """What `init` and every service get. What the user has set stays, but for the embedded pair's."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
        env |= self._bus()
        if self._store:
            env["MONGODB_URI"] = self._store.uri
        if self._own_key:
            env["INTERLINK_ENCRYPTION_KEY"] = self._own_key
        if self._broker and self._store:
            env = {**_LOCAL_EGRESS_SETTINGS, **env}
        env["INTERLINK_PUBLIC_URL"] = self.public_url
        env["INTERLINK_DATA_DIR"] = str(self._folder.path)
        return env

    def _key(self) -> str:
        """The folder's own key. Raises `Misconfigured`: it was begun with one that was given."""
        folder = self._folder
        if folder.admin_key.exists() and not folder.encryption_key.exists():
            raise Misconfigured(
                f"{display_path(folder.path)} was begun with an encryption key that was given: set "
                "INTERLINK_ENCRYPTION_KEY (or _FILE) to it again, because nothing else opens its secrets; "
                "or begin anew in another folder with --data-dir"
            )
        return embedded_key(folder.path)

    def _refuse_another_key(self) -> None:
        """Raises `Misconfigured`: the keys that are given do not have the folder's own."""
        own = self._folder.encryption_key
        if not own.is_file():
            return
        if not set(read_keys(own, display_path(own)).ids) <= set(load_keys(load(HubSettings)).ids):
            raise Misconfigured(
                f"INTERLINK_ENCRYPTION_KEY (or _FILE) does not have the key in {display_path(own)}, which "
                f"{display_path(self._folder.path)} is sealed with: put it behind the new one (README, "
                "Keys), or remove that file when 'interlink keys status' says that nothing is sealed with it"
            )

    def _service(self, name: str) -> dict[str, str]:
        env, ports = self._environment(), self._plan.ports()
        env.pop("INTERLINK_BOOTSTRAP_ADMIN_KEY", None)
        env["INTERLINK_HOST"] = self._plan.host(name)
        env["INTERLINK_PORT"] = str(ports[name])
        env.setdefault("INTERLINK_GATEWAY_URL", f"http://{HOST}:{self._plan.port}")
        if name == self._plan.services[0]:
            peers = {owner: f"http://{HOST}:{ports[owner]}" for owner in SERVICE_PATHS if owner in ports}
            env.setdefault("INTERLINK_PEERS", json.dumps(peers))
        return env

    def _minichat(self, port: int) -> dict[str, str]:
        """What an internal service is given: the bus, and none of the hub's secrets."""
        own = {name: value for name, value in os.environ.items() if name.startswith("MINICHAT_")}
        return plain_environment() | own | self._bus() | {"MINICHAT_PORT": str(port)}

    def _bus(self) -> dict[str, str]:
        if self._broker is None:
            return {name: value for name, value in os.environ.items() if name.startswith("KAFKA_")}
        return {"KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap(self._broker.port), **BROKER_SETTINGS}


def _python_command(*arguments: str) -> Sequence[str]:
    # -P: a folder called `services` where the user happens to be is not ours.
    return (sys.executable, "-P", *arguments)


def _stop_timeout_s() -> float:
    drain = _DRAIN_TIMEOUT_S
    with contextlib.suppress(ValueError):
        drain = float(os.environ.get("INTERLINK_DRAIN_SECONDS", ""))
    return drain + _STOP_MARGIN_S
