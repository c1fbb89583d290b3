"""A child process that is confined, and what it and the importer say to each other."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Self

import orjson

from services.importer.reading.protocol import LENGTH_BYTES, MAX_FRAME, encoded
from shared.manifests.history_types import Unreadable

_EXIT_TIMEOUT_S: Final = 5.0
_BUFFER_BYTES: Final = 256 * 1024
"""Bytes of responses that are buffered while the importer is busy."""
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "TZ")
"""Environment variables that the process inherits: none of them has a secret."""


class ProcessEnded(Unreadable):
    """The process has ended: it read something that needs too much."""


class ProcessKilled(Exception):
    """The process was killed from outside: by a person, or by a system that lacks memory."""


class ConfinedProcess:
    """A process of a module of this package. Use it as an async context manager, with one call at a time."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        process = self._running()
        if kind is not None:  # it may be in the middle of a long command
            with suppress(ProcessLookupError):
                process.kill()
        if process.stdin:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _EXIT_TIMEOUT_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _start(self, *arguments: str, descriptors: Sequence[int] = ()) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # nothing is imported from the folder that the hub was started in
            "-m",
            self._module,
            *arguments,
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=descriptors,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            limit=_BUFFER_BYTES,
        )

    async def _send(self, command: dict[str, Any], body: bytes = b"") -> None:
        """Send a command, and bytes behind it."""
        process = self._running()
        assert process.stdin is not None  # noqa: S101 -- started with pipes
        # `_response` reports that the process has ended. uvloop raises no ConnectionError for a closed pipe.
        if process.stdin.is_closing():
            return
        with suppress(ConnectionError):
            process.stdin.write(encoded(command) + b"\n" + body)
            await process.stdin.drain()

    async def _response(self) -> dict[str, Any]:
        """Return the next response. Raises `Unreadable` for an error, `ProcessEnded` and `ProcessKilled`."""
        process = self._running()
        assert process.stdout is not None  # noqa: S101 -- started with pipes
        try:
            length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES))
            if length > MAX_FRAME:
                raise Unreadable("a record of the export is too large: export a shorter time")
            response: dict[str, Any] = orjson.loads(await process.stdout.readexactly(length))
        except asyncio.IncompleteReadError:
            raise await self._ended() from None
        if "error" in response:
            raise Unreadable(response["error"])
        return response

    async def _ended(self) -> ProcessEnded | ProcessKilled:
        """Return the error of a process that has ended."""
        status = await self._running().wait()
        if status == -signal.SIGKILL:
            return ProcessKilled("its reader process was killed")
        return ProcessEnded(_exit_reason(status))

    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"use {type(self).__name__} as an async context manager")
        return self._process


def _exit_reason(status: int) -> str:
    """Return the user-visible reason for the exit status of a reader process, with the fix."""
    if status == -signal.SIGPROF:
        return "it takes too long to read: export a shorter time"
    return (
        f"its reader process ended ({status}): a record needs too much memory, or the export is damaged. "
        "Export it again, or a shorter time"
    )
