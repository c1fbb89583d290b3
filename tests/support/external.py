"""The producer and the receiver of the durability tests, as processes: started, read and ended.

Each ends when its input does, so that none outlives the test run, however that one ends.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support.journal import Fact, Reading


class ExternalProcess:
    """A process of its own with a journal. What it complains about is in `<journal>.log`."""

    def __init__(self, module: str, journal: Path) -> None:
        self._module = module
        self._log = journal.with_suffix(".log")
        self._reading = Reading(journal)
        self._process: subprocess.Popen[bytes] | None = None

    def facts(self) -> list[Fact]:
        """What its journal holds so far."""
        return self._reading.look()

    def running(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, within_s: float = 90) -> None:
        """End its input and wait; fails with its last words when it did not end well. Can be repeated."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin
        process.stdin.close()
        try:
            status = process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        assert status == 0, f"{self._module} ended with {status}:\n{self._log.read_text()[-3000:]}"

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        return self._process


class ExternalProducer(ExternalProcess):
    """Publishes numbered events of several conversations at a bounded rate."""

    def __init__(self, folder: Path, run: str) -> None:
        self.run = run
        self._journal = folder / f"{run}.producer.jsonl"
        super().__init__("tests.support.external_producer", self._journal)

    def start(self, bootstrap: str, *, conversations: int, rate: float) -> Self:
        self._start(
            *(bootstrap, str(self._journal), self.run),
            *("--conversations", str(conversations), "--rate", str(rate)),
        )
        return self


class ExternalReceiver(ExternalProcess):
    """Takes deliveries; `refuse` names the paths where one in so many is refused at first."""

    def __init__(self, folder: Path, refuse: Mapping[str, int]) -> None:
        self._journal = folder / "receiver.jsonl"
        self._refuse = refuse
        self._port = 0
        super().__init__("tests.support.external_receiver", self._journal)

    def start(self) -> Self:
        """Returns when it listens."""
        shares = [f"{path}={one_in}" for path, one_in in self._refuse.items()]
        process = self._start(str(self._journal), "--refuse", *shares)
        assert process.stdout
        self._port = int(process.stdout.readline())
        return self

    def url(self, path: str) -> str:
        """The address of one of its paths."""
        return f"http://127.0.0.1:{self._port}/{path}"
