"""Read an untrusted export in a confined process: a malicious archive can end only that process."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import orjson

from services.importer.archive.zip_archive import ArchiveLimits
from services.importer.reading.message_lines import Names
from services.importer.reading.protocol import FILE_BLOCK_BYTES, LENGTH_BYTES, MAX_FRAME, contents_of, encoded
from shared.manifests.history_types import NO_ANSWERS, Contents, Unit, Unreadable

_MODULE: Final = "services.importer.reading.child"
_EXIT_TIMEOUT_S: Final = 5.0
_BUFFER_BYTES: Final = 256 * 1024
"""Bytes of responses that are buffered while the importer is busy."""
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "TZ")
"""Environment variables that the reader process inherits: none of them has a secret."""


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """Limits of a reader process: memory in bytes, CPU time in seconds per command, and those of archives."""

    memory_bytes: int = 512 * 1024 * 1024
    cpu_s: float = 120.0
    archive: ArchiveLimits = field(default_factory=ArchiveLimits)


class ReaderProcess:
    """A process that reads one file. Use it as an async context manager, with one call at a time.

    Every method raises `Unreadable` if the archive cannot be read, or if the process died while reading it.
    """

    def __init__(self, path: Path, name: str, limits: ReaderLimits = ReaderLimits()) -> None:
        self._path = path
        self._name = name
        self._limits = limits
        self._process: Process | None = None
        self._announced: str | None = None
        """The unit that the process reads already."""

    async def __aenter__(self) -> Self:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                _MODULE,
                str(descriptor),
                self._name,
                orjson.dumps(asdict(self._limits)).decode(),
                stdin=PIPE,
                stdout=PIPE,
                pass_fds=(descriptor,),
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                limit=_BUFFER_BYTES,
            )
        finally:
            os.close(descriptor)
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._running()
        if process.stdin:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _EXIT_TIMEOUT_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether the process can be asked for more after `Unreadable`."""
        return self._running().returncode is None

    async def kill(self) -> None:
        """End the process at once, whatever it does."""
        process = self._running()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def contents(self, answers: Mapping[str, str] = NO_ANSWERS) -> Contents:
        """Return the contents of the archive, by a person's answers to its choices (`Contents.choices`).

        All further units are read by these answers.
        """
        await self._send({"do": "contents", "answers": answers})
        response = await self._response()
        return contents_of(response["contents"])

    async def use_names(self, names: Names) -> None:
        """Set the ids and names of the chat with which the texts of all further units are rendered."""
        await self._send({"do": "names", "names": asdict(names)})

    async def read(self, unit: Unit, following: Unit | None = None) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the lines of a unit (`message_lines`), many at a time.

        With the unit that is read next as `following`, the process goes on with it meanwhile. Raises
        `Unreadable` where the unit is damaged, after the lines before that.
        """
        if self._announced != unit.id:
            await self._send({"do": "read", "unit": unit.id})
        self._announced = None
        if following is not None:
            await self._send({"do": "read", "unit": following.id})
            self._announced = following.id
        while True:
            response = await self._response()
            if response["lines"]:
                yield response["lines"]
            if "end" in response:
                break
        if response["end"] is not None:
            raise Unreadable(response["end"])

    async def file(self, name: str, max_bytes: int) -> AsyncIterator[bytes]:
        """Yield the blocks of a file of the archive, and at most one byte more than `max_bytes`.

        Raises `Unreadable` if it is missing or damaged. End the process if you do not read to the end.
        """
        await self._send({"do": "file", "name": name, "max_bytes": max_bytes})
        while "end" not in (response := await self._response()):
            yield await self._block(response["block"])
        if response["end"] is not None:
            raise Unreadable(response["end"])

    async def _block(self, size: int) -> bytes:
        process = self._running()
        assert process.stdout is not None  # noqa: S101 -- started with pipes
        if not 0 < size <= FILE_BLOCK_BYTES:
            await self.kill()
            raise Unreadable("its reader process sent a block of another size: export it again")
        try:
            return await process.stdout.readexactly(size)
        except asyncio.IncompleteReadError:
            raise Unreadable(_exit_reason(await process.wait())) from None

    async def _send(self, command: dict[str, Any]) -> None:
        process = self._running()
        assert process.stdin is not None  # noqa: S101 -- started with pipes
        with suppress(ConnectionError):  # `_response` reports that the process has ended
            process.stdin.write(encoded(command) + b"\n")
            await process.stdin.drain()

    async def _response(self) -> dict[str, Any]:
        process = self._running()
        assert process.stdout is not None  # noqa: S101 -- started with pipes
        try:
            length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES))
            if length > MAX_FRAME:
                raise Unreadable("a record of the export is too large: export a shorter time")
            response: dict[str, Any] = orjson.loads(await process.stdout.readexactly(length))
        except asyncio.IncompleteReadError:
            raise Unreadable(_exit_reason(await process.wait())) from None
        if "error" in response:
            raise Unreadable(response["error"])
        return response

    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError("use ReaderProcess as an async context manager")
        return self._process


def _exit_reason(status: int) -> str:
    """Return the user-visible reason for the exit status of a reader process, with the fix."""
    if status == -signal.SIGPROF:
        return "it takes too long to read: export a shorter time"
    return (
        f"its reader process ended ({status}): a record needs too much memory, or the export is damaged. "
        "Export it again, or a shorter time"
    )
