"""A hub of real processes for a test: started, asked, killed and brought back as an operator would."""

import base64
import json
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex, token_urlsafe
from subprocess import TimeoutExpired
from time import monotonic, sleep
from typing import Any, Self
from unittest import mock

import httpx
import pytest
from typer.testing import CliRunner

from interlink.cli import app
from interlink.commands.common import ServiceName
from shared.contracts.routes import SERVICE_PATHS, service_for_path
from tests.support import capture
from tests.support.backends import Bus, Store
from tests.support.eventually import longer_pause
from tests.support.ports import free_port
from tests.support.recorded_secrets import record_secret
from tests.support.services import Child

SERVICES = tuple(name.value for name in ServiceName)
_READY_S = 60.0
_INIT_S = 90.0
_ASKED = {
    "gateway": "/api/api-keys",
    "delivery": "/api/queue/stats",
    "sync": "/api/mappings",
    "oauth": "/api/integrations",
    "importer": "/api/imports",
}
"""What an admin may ask of each service that has an API."""
_SECRET = re.compile(r"INTERLINK_.*(SECRET|KEY)")
"""The names of settings that are secret."""


class Hub:
    """Services as child processes on free ports, on the given bus and a database of their own."""

    def __init__(
        self,
        folder: Path,
        bus: Bus,
        store: Store,
        *,
        services: Sequence[str] = SERVICES,
        env: Mapping[str, str] | None = None,
        workspace: str = "default",
        entrance: bool = False,
    ) -> None:
        """With `entrance`, the gateway passes on calls of the others' paths, as with `interlink up`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._bus = bus
        self.services = tuple(services)
        self.ports = {name: free_port() for name in services}
        self.admin_key = f"ilk_test_{token_urlsafe(24)}"
        self.workspace = workspace
        self._children: dict[str, Child] = {}
        self._env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("INTERLINK_", "KAFKA_", "MONGODB_"))
            },
            **bus.env,
            "MONGODB_URI": store.uri(),
            "INTERLINK_ENCRYPTION_KEY": base64.b64encode(os.urandom(32)).decode(),
            "INTERLINK_BOOTSTRAP_ADMIN_KEY": self.admin_key,
            "INTERLINK_ALLOW_PRIVATE_NETWORKS": "loopback",
            "INTERLINK_ALLOW_HTTP": "true",
            "INTERLINK_EGRESS_PORTS": "any",
            "INTERLINK_BREAKER_FAILURES": "10000",  # endpoints that only fail are what many tests are about
            "INTERLINK_DRAIN_SECONDS": "10",
            "INTERLINK_GATEWAY_URL": self.url("gateway") if "gateway" in services else "http://127.0.0.1:1",
            "INTERLINK_PUBLIC_URL": self.url("gateway") if "gateway" in services else "http://127.0.0.1:1",
            **(env or {}),
        }
        if entrance:
            peers = {name: self.url(name) for name in services if name in SERVICE_PATHS}
            self._env["INTERLINK_PEERS"] = json.dumps(peers)
        self._owns_database = "MONGODB_URI" not in (env or {})
        capture.include_ports(*self.ports.values())
        for name, value in self._env.items():
            if _SECRET.fullmatch(name):
                record_secret("a secret setting of the hub", *value.split(","))

    @property
    def env(self) -> dict[str, str]:
        """The environment of every service but for its port."""
        return dict(self._env)

    @property
    def bus(self) -> Bus:
        """The bus that it runs on."""
        return self._bus

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def start(self) -> Self:
        """`init`, then every service; returns when all are ready."""
        self.init(self.workspace)
        for name in self.services:
            self.start_service(name)
        for name in self.services:
            self.wait_ready(name)
        return self

    def init(self, workspace: str, admin_key: str | None = None) -> None:
        """`interlink init` for a workspace, in this process: most of what the command does is its imports.

        In a thread of its own, because the test may have a loop that runs.
        """
        env = self._env | self._bus.service_env("init")
        env |= {"INTERLINK_BOOTSTRAP_ADMIN_KEY": admin_key or self.admin_key}
        record_secret("an API key", env["INTERLINK_BOOTSTRAP_ADMIN_KEY"])
        with mock.patch.dict(os.environ, env, clear=True), ThreadPoolExecutor(1) as aside:
            done = aside.submit(CliRunner().invoke, app, ["init", "--workspace", workspace]).result(_INIT_S)
        with (self.folder / "init.log").open("ab") as log:
            log.write(done.output_bytes)
        assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"

    def other_workspace(self) -> str:
        """The admin key of another workspace, made now: every service that runs takes it at once."""
        key = f"ilk_other_{token_urlsafe(24)}"
        self.init(f"other-{token_hex(4)}", key)
        return key

    def knows(self, service: str, key: str) -> bool:
        """Whether a service takes this admin key."""
        headers = {"authorization": f"Bearer {key}"}
        return httpx.get(self.url(service) + _ASKED[service], headers=headers, timeout=10).is_success

    def start_service(self, name: str, *, module: Sequence[str] = (), **env: str) -> None:
        """Start it; with settings of its own in `env`, and from another `module` than the real one."""
        own = {"INTERLINK_PORT": str(self.ports[name])}
        env = self._env | self._bus.service_env(name) | own | env
        command = module or ("interlink", "serve", name)
        self._children[name] = Child(command, env, self.folder / f"{name}.log")

    def wait_ready(self, name: str, within_s: float = _READY_S) -> None:
        """Until `/readyz` says 200; fails with the end of the service's log."""
        began = monotonic()
        last = ""
        while (waited := monotonic() - began) < within_s:
            assert self._children[name].poll() is None, f"{name} ended:\n{self.log_tail(name)}"
            try:
                answer = httpx.get(self.url(name) + "/readyz", timeout=5)
            except httpx.HTTPError as error:
                last = repr(error)
            else:
                if answer.status_code == 200:
                    return
                last = answer.text
            sleep(longer_pause(waited, 0))
        raise AssertionError(f"{name} was not ready within {within_s} s: {last}\n{self.log_tail(name)}")

    def kill(self, name: str) -> None:
        """SIGKILL, as if the machine took it."""
        self._children[name].kill()
        self._children[name].wait(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop_service(self, name: str) -> int:
        """SIGTERM and wait; the exit status."""
        child = self._children[name]
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        return child.wait(30)

    def stop(self) -> None:
        """SIGTERM to all, or SIGKILL after a while; what they leave behind is kept for the search."""
        running = [name for name, child in self._children.items() if child.poll() is None]
        for name in running:
            with suppress(httpx.HTTPError):
                httpx.get(self.url(name) + "/metrics", timeout=5)
        for name in running:
            self._children[name].send_signal(signal.SIGTERM)
        for child in self._children.values():
            try:
                child.wait(20)
            except TimeoutExpired:
                child.kill()
                child.wait(10)
        if self._children:
            self._bus.keep()
            if self._owns_database:
                capture.documents(self._env["MONGODB_URI"])

    def ended(self, name: str) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        return self._children[name].poll()

    def pid(self, name: str) -> int:
        return self._children[name].pid

    def log_lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON log of a service so far."""
        text = (self.folder / f"{name}.log").read_text("utf-8", "replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def log_text(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")

    def log_tail(self, name: str) -> str:
        return self.log_text(name)[-3000:]

    @contextmanager
    def unbroken(self, service: str) -> Iterator[None]:
        """Nothing that a caller does meanwhile is an error of ours."""
        before = len(self.log_text(service))
        yield
        log = self.log_text(service)[before:]
        assert "Traceback" not in log, log

    def client(self, service: str, key: str | None = None) -> httpx.Client:
        """Calls a service with an API key, the admin key when none is given."""
        headers = {"authorization": f"Bearer {key or self.admin_key}"}
        return httpx.Client(base_url=self.url(service), headers=headers, timeout=30)

    def metric(self, service: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in httpx.get(self.url(service) + "/metrics", timeout=10).text.splitlines():
            sample = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? ([0-9.e+-]+|NaN)", line)
            if sample and sample[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', sample[2] or ""))
                if labels.items() <= found.items():
                    total += float(sample[3])
        return total

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        expect: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """A management call to the service that owns the path; the JSON of the answer."""
        headers = {"authorization": f"Bearer {key or self.admin_key}"}
        answer = httpx.request(
            method,
            self.url(service_for_path(path.partition("?")[0])) + path,
            json=body,
            headers=headers,
            timeout=30,
            **kwargs,
        )
        if expect is None:
            assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        else:
            assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def github_endpoint(self, **fields: Any) -> dict[str, Any]:
        """A new endpoint for GitHub; with its secret."""
        body = {"provider": "github", "name": "test", **fields}
        return dict(self.call("POST", "/api/inbound-endpoints", body, expect=201))

    def outgoing_webhook(self, url: str, **fields: Any) -> dict[str, Any]:
        """A new outgoing webhook; with its secret."""
        body = {"name": "test", "url": url, "events": ["*"], **fields}
        return dict(self.call("POST", "/api/outgoing-webhooks?force=true", body, expect=201))

    def deliveries(self, **query: str) -> list[dict[str, Any]]:
        """The whole delivery log that matches, newest first."""
        found: list[dict[str, Any]] = []
        params = {"limit": "500", **query}
        while True:
            page = self.call("GET", "/api/deliveries", params=params)
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            params["cursor"] = page["next_cursor"]


def hub_with(
    *,
    services: Sequence[str] = SERVICES,
    env: Mapping[str, str] | None = None,
    workspace: str = "default",
    entrance: bool = False,
) -> Any:
    """Return the fixture `hub` of a module: `hub = hub_with(services=("gateway",))`."""

    @pytest.fixture(scope="module", name="hub")
    def fixture(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
        folder = tmp_path_factory.mktemp("hub")
        options: dict[str, Any] = {"env": env, "workspace": workspace, "entrance": entrance}
        with Hub(folder, bus, store, services=services, **options) as hub:
            yield hub

    return fixture
