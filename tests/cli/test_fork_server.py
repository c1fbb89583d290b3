"""The fork server: what its processes get, what becomes known of their end, and what it never has itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from secrets import token_hex

import psutil
import pytest

from interlink.fork_client import ForkedProcess, ForkServer
from interlink.supervise import Child, ProcessGroup, ProcessSpec
from tests.cli.commands import gone_within, memory, readable_memory
from tests.support.eventually import eventually

Fork = Callable[..., ForkedProcess]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be forked."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    folder.joinpath("environment.py").write_text(
        "import json, os, sys; print(json.dumps([sys.argv, dict(os.environ)]))"
    )
    folder.joinpath("ending.py").write_text("import sys; print('last words'); sys.exit(int(sys.argv[1]))")
    folder.joinpath("refusing.py").write_text(
        "import atexit, concurrent.futures, sys, time; atexit.register(print, 'cleaned up'); "
        "concurrent.futures.ThreadPoolExecutor().submit(lambda: print(time.sleep(0.2) or 'finished')); "
        "sys.exit(sys.argv[1] if sys.argv[1:] else 5)"
    )
    folder.joinpath("lasting.py").write_text("import time; print('up', flush=True); time.sleep(60)")
    return folder


@pytest.fixture
def process_group() -> Iterator[ProcessGroup]:
    started = ProcessGroup()
    yield started
    started.close()


@pytest.fixture
def server(modules: Path, tmp_path: Path, process_group: ProcessGroup) -> Iterator[ForkServer]:
    started = ForkServer([], tmp_path / "fork-server.log", process_group)
    started.child.start()
    eventually(started.is_ready)
    yield started
    started.child.kill()


@pytest.fixture
def fork(server: ForkServer, tmp_path: Path) -> Iterator[Fork]:
    started: list[ForkedProcess] = []

    def fork(*command: str, env: Mapping[str, str] | None = None) -> ForkedProcess:
        with (tmp_path / "output").open("wb") as output, (tmp_path / "errors").open("wb") as errors:
            started.append(server.fork(command, env or {}, output, errors))
        return started[-1]

    yield fork
    for process in started:
        process.kill()


def test_a_process_gets_its_arguments_and_its_environment_and_no_other(fork: Fork, tmp_path: Path) -> None:
    env = {"TOKEN": "a secret", "PATH": "/nowhere"}
    assert fork("environment", "one", env=env).wait(60) == 0
    arguments, environment = json.loads((tmp_path / "output").read_text())
    assert arguments[1:] == ["one"]
    assert environment == env


@readable_memory
def test_the_server_never_has_what_it_gives_to_a_process(server: ForkServer, fork: Fork) -> None:
    secret, seen = token_hex(16), token_hex(16)
    child = fork("lasting", secret, env={"TOKEN": secret, "SEEN": seen})
    assert server.child.pid
    eventually(lambda: any(seen.encode() in part for part in memory(child.pid)))
    assert not [part for part in memory(server.child.pid) if secret.encode() in part]


def test_its_end_is_known(fork: Fork, tmp_path: Path) -> None:
    assert fork("ending", "3").wait(60) == 3
    assert (tmp_path / "output").read_text() == "last words\n"
    lasting = fork("lasting")
    assert lasting.poll() is None
    lasting.send_signal(signal.SIGTERM)
    assert lasting.wait(60) == -signal.SIGTERM
    assert lasting.poll() == -signal.SIGTERM
    assert fork("nothing").wait(60) == 1
    assert "No module named nothing" in (tmp_path / "errors").read_text()


@pytest.mark.parametrize(("reason", "status"), [((), 5), (("this is why",), 1)])
def test_its_threads_and_exit_handlers_finish(
    fork: Fork, tmp_path: Path, reason: tuple[str, ...], status: int
) -> None:
    assert fork("refusing", *reason).wait(60) == status
    assert (tmp_path / "output").read_text() == "finished\ncleaned up\n"
    assert (tmp_path / "errors").read_text().split("\n")[0] == "".join(reason)


def test_processes_that_end_at_the_same_moment_do_not_end_the_server(fork: Fork) -> None:
    for _ in range(60):
        children = [fork("lasting") for _ in range(4)]
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        assert [child.wait(60) for child in children] == [-signal.SIGKILL] * 4


def test_a_process_list_shows_which_it_is(fork: Fork) -> None:
    child = psutil.Process(fork("lasting", "one").pid)
    eventually(lambda: " ".join(child.cmdline()).strip() == "lasting one")
    assert os.getsid(child.pid) == child.pid  # Ctrl-C in a terminal does not reach it


def test_processes_outlive_a_killed_server_and_it_can_be_started_again(
    server: ForkServer, fork: Fork, tmp_path: Path
) -> None:
    first, second = fork("lasting"), fork("lasting")
    server.child.kill()
    with pytest.raises(OSError, match="the fork server does not run"):
        fork("ending", "0")
    assert (first.poll(), second.poll()) == (None, None)
    first.kill()
    assert first.wait(60) == 255  # nobody is left to learn more
    server.child.start()
    eventually(server.is_ready)
    assert second.poll() is None
    assert fork("ending", "4").wait(60) == 4


def test_it_ends_with_its_supervisor(server: ForkServer) -> None:
    assert server.child.pid
    process = psutil.Process(server.child.pid)
    assert server._control
    server._control.close()  # as the end of the supervisor does
    gone_within([process], 5)


def test_supervision_handles_a_forked_process_like_any_other(
    server: ForkServer, tmp_path: Path, process_group: ProcessGroup
) -> None:
    log = tmp_path / "child.log"
    child = Child(ProcessSpec("child", ("lasting",), {}, log), process_group, server.launch)
    child.start()
    eventually(lambda: child.last_lines() == ["up"])
    assert child.stop()
    assert child.status == -signal.SIGTERM


def test_what_a_forked_process_runs_is_imported_before_without_the_command_line() -> None:
    script = (
        "import sys, interlink.preload; before = set(sys.modules); import interlink.forked; "
        "print(sorted(sys.modules.keys() - before), {'typer', 'interlink.cli'} & before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "['interlink.forked'] set()\n"


def test_what_services_need_is_imported_without_threads_and_connections(
    tmp_path: Path, process_group: ProcessGroup
) -> None:
    server = ForkServer(["interlink.preload"], tmp_path / "fork-server.log", process_group)
    server.child.start()
    assert server.child.pid
    try:
        eventually(server.is_ready, within_s=60)
        process = psutil.Process(server.child.pid)
        assert process.num_threads() == 1
        assert process.net_connections("inet") == []
        before = process.cpu_times()
        time.sleep(0.5)
        assert process.cpu_times() == before
    finally:
        server.child.kill()
