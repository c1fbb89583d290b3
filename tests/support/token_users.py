"""Processes that use one account's token: many users in each, all through the hub's own `TokenSource`.

They are forked from one process that has imported everything, because a test needs many. Each has the
environment of a service, takes commands until its end, and is killed when the test is over.
"""

import asyncio
import multiprocessing
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

from shared.connections import refresher
from shared.connections.app_records import AppRepository
from shared.connections.apps import Apps
from shared.connections.configured_apps import configured_apps
from shared.connections.integrations import IntegrationRepository
from shared.connections.refresh_outcome import NotConnected
from shared.connections.refresh_types import Timing
from shared.connections.tokens import Access, TokenSource
from shared.contracts.errors import InterlinkError
from shared.manifests.registry import registry
from shared.runtime import clock, outbox
from shared.runtime.egress.client import create_egress_client
from shared.runtime.failpoints import FAILPOINT_VARIABLE, failpoint_for
from shared.runtime.service import Runtime, runtime
from shared.runtime.settings import EgressSettings, load
from shared.wire.provider_http import ProviderRequest
from tests.support import run

HASTY: Final = Timing(call_s=6.0, silent_s=1.0, settle_s=0.7, heartbeat_interval_s=0.1, wait_s=30.0)
"""Whoever stands still is given up soon. A busy machine answers a hundred calls at once within `call_s`."""
PLAIN: Final = Timing(call_s=10.0, silent_s=1.0, settle_s=0.7, heartbeat_interval_s=0.1, wait_s=30.0)
_ANSWER_S: Final = 60.0


@dataclass(frozen=True)
class Used:
    """What came of a run: calls by status, errors by class (and state), versions of the tokens used."""

    statuses: Mapping[str, int]
    errors: Mapping[str, int]
    versions: list[int]
    seconds: float

    @property
    def calls(self) -> int:
        return sum(self.statuses.values()) + sum(self.errors.values())


class TokenUsers:
    """One such process."""

    def __init__(self, env: Mapping[str, str], *, timing: Timing = PLAIN, clock_s: float = 0) -> None:
        """The process's wall clock is `clock_s` seconds ahead of the others."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "pytest"])
        handle, log = tempfile.mkstemp(".log", "token-users-", run.folder())
        os.close(handle)
        self._log = Path(log)
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, dict(env), log, timing, clock_s), daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Killed: how processes end in peace is others' business, and takes its time."""
        self._process.kill()
        self._process.join()
        self._ours.close()

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    def ready(self) -> Self:
        """Wait until it takes commands."""
        assert self._answer() == "ready"
        return self

    def begin(
        self,
        integration: str,
        users: int,
        *,
        calls: int = 1,
        seconds: float = 0,
        beyond: int = 0,
        pause_s: float = 0,
        at: str = "",
    ) -> None:
        """Let users call who-am-i at once: so often each, or for so long, with pauses up to `pause_s`.

        In any case until each has used newer tokens than those of the version `beyond`. With `at`, they call
        this address instead.
        """
        self._ours.send(
            {
                "integration": integration,
                "users": users,
                "calls": calls,
                "seconds": seconds,
                "beyond": beyond,
                "pause_s": pause_s,
                "at": at,
            }
        )

    def used(self) -> Used:
        """What came of what was begun."""
        return Used(**self._answer())

    def use(self, integration: str, users: int, **how: Any) -> Used:
        """Begin, and wait for what comes of it."""
        self.begin(integration, users, **how)
        return self.used()

    def stop_at(self, point: str) -> None:
        """Stand still (SIGSTOP) when it gets to this crash point; once."""
        self._ours.send({"stop_at": point})
        assert self._answer() == "ok"

    def stand_still(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def stands_still(self) -> bool:
        """Whether it has stopped."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def died(self, within_s: float = 30) -> int | None:
        """How it ended by itself: minus the signal's number."""
        self._process.join(within_s)
        return self._process.exitcode

    def _answer(self) -> Any:
        if not self._ours.poll(_ANSWER_S):
            raise AssertionError(f"no answer of a user of tokens:\n{self.log[-3000:]}")
        try:
            return self._ours.recv()
        except EOFError:
            raise AssertionError(f"a user of tokens ended:\n{self.log[-3000:]}") from None


# The process


def _run(commands: Connection, env: Mapping[str, str], log: str, timing: Timing, clock_s: float) -> None:
    os.environ.clear()
    os.environ.update(env)
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(out, stream.fileno())
    for module in (refresher, outbox):
        vars(module)["failpoint"] = failpoint_for(env.get(FAILPOINT_VARIABLE))
    _set_clock(clock_s)
    asyncio.run(_main(commands, timing))


def _set_clock(ahead_s: float) -> None:
    """Every module of the hub that asks for the time gets another one."""
    ahead, true = timedelta(seconds=ahead_s), clock.utcnow
    for module in list(sys.modules.values()):
        if getattr(module, "utcnow", None) is true:
            vars(module)["utcnow"] = lambda: true() + ahead


async def _main(commands: Connection, timing: Timing) -> None:
    async with runtime("token-users") as here:
        await _serve(here, commands, timing)


async def _serve(here: Runtime, commands: Connection, timing: Timing) -> None:
    client = create_egress_client(load(EgressSettings), max_connections=200)
    app_repository = AppRepository(here.mongo, here.vault, registry().connectors, here.log)
    apps = Apps(app_repository, configured_apps(registry()), here.configuration)
    integrations = IntegrationRepository(here.mongo, here.vault, here.producer, here.log)
    tokens = TokenSource(
        integrations,
        apps,
        registry().connectors,
        here.configuration,
        client,
        here.log,
        redirect_uri="",
        timing=timing,
    )
    await client.start()
    await apps.start()
    await here.producer.wait_ready(30)
    commands.send("ready")
    while True:
        try:
            command = await asyncio.to_thread(commands.recv)
        except EOFError:  # the test is over, without a farewell
            return
        if "stop_at" in command:
            _stop_at(command["stop_at"])
            commands.send("ok")
        else:
            commands.send(await _Users(tokens).run(**command))


def _stop_at(wanted: str) -> None:
    usual = vars(refresher)["failpoint"]

    def reached(point: str) -> None:
        if point == wanted:
            vars(refresher)["failpoint"] = usual
            os.kill(os.getpid(), signal.SIGSTOP)

    vars(refresher)["failpoint"] = reached


class _Users:
    def __init__(self, tokens: TokenSource) -> None:
        self._tokens = tokens
        self._statuses: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._versions: set[int] = set()

    async def run(self, integration: str, users: int, **how: Any) -> dict[str, Any]:
        started = monotonic()
        await asyncio.gather(*(self._user(integration, **how) for _ in range(users)))
        return {
            "statuses": dict(self._statuses),
            "errors": dict(self._errors),
            "versions": sorted(self._versions),
            "seconds": monotonic() - started,
        }

    async def _user(
        self, integration: str, calls: int, seconds: float, beyond: int, pause_s: float, at: str
    ) -> None:
        until, done, used = monotonic() + seconds, 0, 0

        def call(access: Access) -> ProviderRequest:
            nonlocal used
            used = access.version
            self._versions.add(used)
            return ProviderRequest("GET", at, dict(access.headers)) if at else _who_am_i(access)

        while 0 < beyond >= used or (monotonic() < until if seconds else done < calls):
            done += 1
            try:
                answer = await self._tokens.call(integration, call)
            except NotConnected as error:
                self._errors[f"NotConnected {error.state}"] += 1
                beyond = 0  # there will be none
            except InterlinkError as error:
                self._errors[type(error).__name__] += 1
            else:
                self._statuses[str(answer.status)] += 1
            if pause_s:
                await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311 -- only to spread


def _who_am_i(access: Access) -> ProviderRequest:
    connector = access.connector
    assert connector.account
    assert connector.account.call
    return connector.request(connector.account.call, access.values)
