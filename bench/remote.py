"""Helper processes of the bench: JSON lines in on standard input, one JSON line out per command."""

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

_LONGEST_S: Final = 180.0


class Failed(Exception):
    """A helper process ended, said nothing in time, or what it had to do went wrong."""


class Remote:
    """A helper process, pinned; it dies with this one."""

    def __init__(self, module: str, to: frozenset[int], leash: ProcessGroup) -> None:
        self._module = module
        with pinned(to):
            self._process = subprocess.Popen(
                [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        leash.add(self._process.pid)
        self._process_group = leash

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Have it do something and wait for what comes out. Raises `Failed` after three minutes."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
        readable, _, _ = select.select([self._process.stdout], [], [], _LONGEST_S)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            raise Failed(f"{self._module} {command}: no answer")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise Failed(f"{self._module} {command}: {answer['failed']}")
        return answer

    def stop(self) -> None:
        """Close its input, which ends it."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process_group.remove(self._process.pid)


async def answer(commands: Mapping[str, Command]) -> None:
    """Do what standard input says until it ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        wanted = json.loads(line)
        try:
            out = await commands[wanted.pop("do")](**wanted)
        except Exception as error:  # noqa: BLE001 -- the other side reports it
            out = {"failed": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(out) + "\n")
        sys.stdout.flush()
