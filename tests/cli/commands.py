"""Running `interlink` as a person does: a process with an environment, its exit status and its output."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from interlink.cli import app
from interlink.embedded import HOST, EmbeddedPair, broker_settings, is_free
from tests.support.backends import in_database
from tests.support.eventually import eventually

COMMAND = (sys.executable, "-m", "interlink")
KEY = re.compile(r"ilk_[A-Za-z0-9_-]{43}")
ENCRYPTION_KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


def clean_env(**settings: str) -> dict[str, str]:
    """This process's environment without anybody's settings of the hub, and with these."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("INTERLINK_", "KAFKA_", "MONGODB_", "MINICHAT_"))
    }
    return inherited | settings


def settings_of(pair: EmbeddedPair, database: str) -> dict[str, str]:
    """The settings of a service for the embedded pair, with a database of its own."""
    return {
        "KAFKA_BOOTSTRAP_SERVERS": pair.kafka_bootstrap,
        **broker_settings(pair.folder),
        "MONGODB_URI": in_database(pair.mongodb_uri, database),
        "INTERLINK_ENCRYPTION_KEY": ENCRYPTION_KEY,
    }


def interlink(*arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=clean_env(**settings),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def invoked(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The same in this process: quicker, for commands that end by themselves."""
    exec_fails = mock.patch("os.execv", side_effect=AssertionError("it would replace this process"))
    with mock.patch.dict(os.environ, clean_env(**settings), clear=True), exec_fails:
        done = CliRunner().invoke(app, arguments)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The error message of a command: exactly one line on standard error, and status 2."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("interlink: ")
    return lines[0].removeprefix("interlink: ")


PORTS = (0, 10)
"""Those that people connect to, above that of `interlink up`; the other services take free ones."""


def port_block() -> int:
    """A port such that all that `up` takes with it are free."""
    return next(
        port
        for port in range(30_000 + os.getpid() % 500 * 2, 32_000, 4)
        if all(is_free(HOST, port + offset) for offset in PORTS)
    )


@dataclass
class Up:
    """A running `interlink up`."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    output: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def chat(self) -> str:
        return f"http://{HOST}:{self.port + 10}"

    @property
    def key(self) -> str:
        return (self.folder / "admin.key").read_text().strip()

    def text(self) -> str:
        return self.output.read_text("utf-8", "replace")

    def wait_for_text(self, expected: str, within_s: float = 60) -> None:
        def has_text() -> bool:
            assert expected in self.text() or self.process.poll() is None, self.text()
            return expected in self.text()

        eventually(has_text, within_s)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, *words: str) -> psutil.Process:
        """The child whose command line has these words."""
        for child in self.children():
            with contextlib.suppress(psutil.Error):
                if all(word in " ".join(child.cmdline()) for word in words):
                    return child
        raise AssertionError(f"no child with {words}")

    def end(self, number: signal.Signals, within_s: float = 60) -> int:
        """Send a signal and wait; the exit status. No process may be left behind."""
        children = self.children()
        self.process.send_signal(number)
        status = self.process.wait(within_s)
        gone_within(children, 5)
        return status


def gone_within(processes: list[psutil.Process], seconds: float) -> None:
    """Fail when one of them still runs after that time."""
    deadline = time.monotonic() + seconds
    left = list(processes)
    while left and time.monotonic() < deadline:
        left = [process for process in left if _alive(process)]
        time.sleep(0.02)
    assert not left, left


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def memory(pid: int) -> Iterator[bytes]:
    """The memory of a process that it can write to."""
    with Path(f"/proc/{pid}/mem").open("rb") as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if span:
                start, end = (int(part, 16) for part in span.groups())
                mem.seek(start)
                yield mem.read(end - start)


readable_memory = pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="the memory of processes is not readable here"
)


def start_up(
    folder: Path, port: int, *arguments: str, command: Sequence[str] = COMMAND, **settings: Any
) -> Up:
    """Start `interlink up` on this data folder; it is not ready yet."""
    output = folder.with_name(f"{folder.name}.out")
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*command, "up", "--port", str(port), "--data-dir", str(folder), *arguments],
            cwd=None if command is COMMAND else folder.parent,  # one that is installed sees no repository
            env=clean_env(**settings),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    return Up(process, folder, port, output)


@contextlib.contextmanager
def running(folder: Path, *arguments: str, command: Sequence[str] = COMMAND, **settings: str) -> Iterator[Up]:
    """A ready `interlink up`; killed with all it started when the test has not ended it."""
    up = start_up(folder, port_block(), *arguments, command=command, **settings)
    try:
        up.wait_for_text("Ctrl-C stops everything.", within_s=120)
        yield up
    finally:
        if up.process.poll() is None:
            children = up.children()
            up.process.kill()
            up.process.wait(60)
            gone_within(children, 10)


def call(up: Up, method: str, path: str, body: Any = None) -> Any:
    answer = httpx.request(
        method, up.url + path, json=body, headers={"authorization": f"Bearer {up.key}"}, timeout=10
    )
    assert answer.is_success, answer.text
    return answer.json()


def shown_in_chat(up: Up) -> dict[str, dict[str, Any]]:
    """The messages that the chat page has now, by their id."""
    messages: dict[str, dict[str, Any]] = {}
    try:
        with httpx.stream("GET", f"{up.chat}/events", timeout=1) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    message = json.loads(line.removeprefix("data: "))
                    messages[message["message_id"]] = message
    except httpx.ReadTimeout:  # it has sent everything it has
        pass
    return messages


def environment_of(pair: EmbeddedPair) -> Mapping[str, str]:
    """The Kafka settings of a chat service."""
    return {"KAFKA_BOOTSTRAP_SERVERS": pair.kafka_bootstrap, **broker_settings(pair.folder)}
