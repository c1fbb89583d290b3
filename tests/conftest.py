"""The bus, the store and the hub that test modules share; what each is, is in `tests/support`.

At the end of the run, whatever it has left behind is searched for secrets: see `tests/support/leaks.py`.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest

from interlink.embedded import EmbeddedPair, EmbeddedServer, database
from interlink.supervise import ProcessGroup
from tests.support import apache_kafka, capture, run
from tests.support.backends import (
    Bus,
    Store,
    best_bus,
    best_store,
    embedded,
    embedded_broker,
    started_kafka,
)
from tests.support.hub import hub_with
from tests.support.leaks import Searched, search

_FACTS = pytest.StashKey[list[str]]()
_SEARCHED = pytest.StashKey[Searched]()
_FIRST = (
    "faults/test_durability.py",
    "importer/test_kills.py",
    "console/test_browser.py",
    "importer/test_reader_process.py",
    "attacks/test_attacks.py",
    "delivery/test_recovery.py",
    "importer/test_files_broken_off.py",
    "importer/test_plans.py",
    "docs/test_pages.py",
    "importer/test_imports.py",
    "delivery/test_attempts.py",
    "faults/test_backlog_kill.py",
    "oauth/test_refresh.py",
    "importer/test_files.py",
    "sync/test_kills.py",
    "importer/test_processes.py",
    "sync/test_random_acts.py",
    "importer/test_files_of_providers.py",
    "deploy/test_wheel.py",
    "cli/test_up.py",
    "providers/test_conformance.py",
    "sync/test_failures.py",
    "delivery/test_pacing.py",
    "delivery/test_log.py",
    "oauth/test_provider_oauth.py",
    "flows/test_freshness.py",
    "importer/test_account_imports.py",
    "faults/test_refresh_kill.py",
    "importer/test_commands.py",
    "console/test_embedding_browser.py",
    "faults/test_kill.py",
    "runtime/test_kafka_seam.py",
    "console/test_pages.py",
    "delivery/test_holds.py",
    "console/test_hostile.py",
    "runtime/test_observability.py",
    "sync/test_flow.py",
    "oauth/test_manual_credentials.py",
    "importer/test_page_process.py",
    "console/test_openid.py",
    "console/test_connect.py",
    "oauth/test_apps.py",
)
"""Modules that take about a minute or more, the longest first: short ones fill the end of a run."""
_LAST = frozenset({"contracts", "manifests", "verification", "webhooks", "wire"})
"""Folders of modules that take seconds: they come last, so that all workers of a run end at the same time."""


@pytest.fixture(scope="session")
def note(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Says something at the end of the run: what the tests ran on, what they counted and measured."""
    return pytestconfig.stash.setdefault(_FACTS, []).append


class Summary:
    """Prints the facts of every worker at the end of the run."""

    def __init__(self) -> None:
        self.facts: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.facts += node.workeroutput.get("facts", []) if hasattr(node, "workeroutput") else []

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        facts = dict.fromkeys([*self.facts, *config.stash.get(_FACTS, [])])
        if facts:
            terminalreporter.section("facts")
            for fact in facts:
                terminalreporter.write_line(fact)
        searched = config.stash.get(_SEARCHED, None)
        if searched and searched.findings:
            terminalreporter.section("secrets were found", red=True, bold=True)
            for finding in searched.shown():
                terminalreporter.write_line(finding)


def _base(config: pytest.Config) -> Path:
    """The folder of the whole run, in each of its processes."""
    own: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # as xdist does it
    return own.parent if hasattr(config, "workerinput") else own


def pytest_configure(config: pytest.Config) -> None:
    # Nothing that is collected is freed: searching it for garbage, then and during the tests, is wasted.
    gc.disable()
    config.pluginmanager.register(Summary())
    # On a busy machine, an example takes as long as it takes: no test here is about time.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
    # Without a client of its own, each call of httpx reads every certificate authority anew: 20 ms of work.
    patched = pytest.MonkeyPatch()
    patched.setattr("httpx._transports.default.create_ssl_context", cache(httpx.create_ssl_context))
    config.add_cleanup(patched.undo)


def pytest_collection(session: pytest.Session) -> None:
    """Of all modules, each worker imports its own share first.

    Without bytecode, as in CI, all would otherwise rewrite and compile the same module at the same time.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    root = session.config.rootpath
    modules = sorted(Path(__file__).parent.rglob("test_*.py"))
    number = int(worker["workerid"].removeprefix("gw"))
    for module in modules[number :: worker["workercount"]]:
        with suppress(Exception):  # the collection reports it
            import_module(".".join(module.relative_to(root).with_suffix("").parts))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first and the shortest last; `loadfile` keeps this order."""
    places = {Path(__file__).parent / module: place for place, module in enumerate(_FIRST)}
    items.sort(key=lambda item: (item.path.parent.name in _LAST, places.get(item.path, len(places))))


def pytest_sessionstart(session: pytest.Session) -> None:
    run.begin(_base(session.config))
    capture.listen()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands its facts to the process that prints, which searches what all have left behind."""
    config = session.config
    output = getattr(config, "workeroutput", None)
    if output is not None:
        output["facts"] = config.stash.get(_FACTS, [])
        return
    searched = config.stash[_SEARCHED] = search(_base(config))
    if searched.secrets:
        config.stash.setdefault(_FACTS, []).append(str(searched))
    if searched.findings:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPair]:
    started = embedded(tmp_path_factory.mktemp("embedded"))
    yield started
    started.stop()


@pytest.fixture(scope="session")
def store(pair: EmbeddedPair, note: Callable[[str], None]) -> Iterator[Store]:
    found = best_store(pair)
    note(f"store: {found.name}")
    yield found
    found.close()


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """An embedded broker of this module's own: quick, and no member that another killed is in its groups."""
    started = embedded_broker(tmp_path_factory.mktemp("bus"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def kafka(
    tmp_path_factory: pytest.TempPathFactory,
    pair: EmbeddedPair,
    request: pytest.FixtureRequest,
    note: Callable[[str], None],
) -> Iterator[Bus]:
    """The most real broker that is to be had, for this module alone."""
    found = best_bus(tmp_path_factory.mktemp("kafka"), pair)
    note(f"{request.node.name}: on {found.name}")
    yield found
    found.close()


@pytest.fixture(scope="module")
def durable_bus(
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    note: Callable[[str], None],
) -> Iterator[Bus]:
    """Apache Kafka for this module alone, which keeps its data when it is killed."""
    if reason := apache_kafka.available():
        pytest.skip(reason)
    found = started_kafka(tmp_path_factory.mktemp("kafka"))
    note(f"{request.node.name}: on {found.name}")
    yield found
    found.close()


@pytest.fixture(scope="module")
def own_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """An embedded database for this module alone, which keeps its data when it is killed."""
    processes = ProcessGroup()
    server = database(tmp_path_factory.mktemp("database"), processes)
    server.start()
    yield server
    server.stop()
    processes.close()


hub = hub_with()
"""A whole hub for one module, on the embedded bus."""
