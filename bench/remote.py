"""Helper processes of the bench. They read commands as JSON lines and answer each with one JSON line."""

import asyncio
import json
import select
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from bench.machine import pinned
from interlink.supervise import ProcessGroup

Command = Callable[..., Awaitable[dict[str, Any]]]

_CALL_TIMEOUT_S: Final = 180.0


class Failed(Exception):
    """A helper process ended, did not answer in time, or reported an error."""


class Remote:
    """A helper process on given cores. It ends with this process."""

    def __init__(self, module: str, cores: frozenset[int], group: ProcessGroup) -> None:
        self._module = module
        with pinned(cores):
            self._process = subprocess.Popen(
                [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        group.add(self._process.pid)
        self._process_group = group

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Run a command in the helper; return its result. Raises `Failed`, after 3 minutes at the latest."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
        readable, _, _ = select.select([self._process.stdout], [], [], _CALL_TIMEOUT_S)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            raise Failed(f"{self._module} {command}: no answer")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise Failed(f"{self._module} {command}: {answer['failed']}")
        return answer

    def stop(self) -> None:
        """End the helper by closing its standard input."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process_group.remove(self._process.pid)


async def answer(commands: Mapping[str, Command]) -> None:
    """Run the commands on standard input until it ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        arguments = json.loads(line)
        try:
            result = await commands[arguments.pop("do")](**arguments)
        except Exception as error:  # noqa: BLE001 -- the other side reports it
            result = {"failed": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
