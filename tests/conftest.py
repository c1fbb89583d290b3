"""The bus, the store and the hub that test modules share; what each is, is in `tests/support`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from interlink.embedded import Embedded
from tests.support.backends import Bus, Store, best_bus, best_store, embedded, embedded_broker
from tests.support.hub import Hub

_FACTS = pytest.StashKey[list[str]]()


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


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Summary())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands its facts to the process that prints."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["facts"] = session.config.stash.get(_FACTS, [])


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    started = embedded(tmp_path_factory.mktemp("embedded"))
    yield started
    started.stop()


@pytest.fixture(scope="session")
def store(pair: Embedded, note: Callable[[str], None]) -> Iterator[Store]:
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
    pair: Embedded,
    request: pytest.FixtureRequest,
    note: Callable[[str], None],
) -> Iterator[Bus]:
    """The most real broker that is to be had, for this module alone."""
    found = best_bus(tmp_path_factory.mktemp("kafka"), pair)
    note(f"{request.node.name}: on {found.name}")
    yield found
    found.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    """A whole hub for one module, on the embedded bus."""
    folder: Path = tmp_path_factory.mktemp("hub")
    started = Hub(folder, bus, store)
    try:
        yield started.start()
    finally:
        started.stop()
