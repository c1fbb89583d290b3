"""A journal on disk: what an outside process did, one fact a line, written before the act that it is about.

A fact is handed to the system with one `write` to a file opened for appending, so lines never mix, and a
process that dies by kill -9 afterwards has not taken them with it: the system has them. (Only a power cut
would, and the journals of these tests need not outlive the machine.)
"""

import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import orjson

Fact = Mapping[str, Any]


class Journal:
    """For writing. `at` is the machine's monotonic clock, which is the same in every process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, what: str, **fact: Any) -> None:
        """Returns when the system has it. Raises `OSError` when it has not: then the act must not follow."""
        line = orjson.dumps({"at": monotonic(), "what": what, **fact}) + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("the journal took a part of a line")


class Reading:
    """What a journal holds so far, read on from where the last look ended; a line that is not whole waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.facts: list[Fact] = []

    def look(self) -> list[Fact]:
        """Every fact so far, in the order in which they were written."""
        self.facts += self.more()
        return self.facts

    def more(self) -> list[Fact]:
        """The facts since the last look, which are not kept."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [orjson.loads(line) for line in whole.splitlines()]
