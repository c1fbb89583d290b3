"""Read an export in a process of its own, which a stranger's archive can only end, and nothing else."""

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
from services.importer.reading.protocol import MAX_LINE, contents_of, encoded
from shared.manifests.history_types import NO_ANSWERS, Contents, Unit, Unreadable

_MODULE: Final = "services.importer.reading.child"
_END_S: Final = 5.0
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "TZ")
"""What the reader sees of the environment: nothing that is secret."""


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """What a reader may use: memory in bytes, and CPU time in seconds for one command."""

    memory_bytes: int = 512 * 1024 * 1024
    cpu_s: float = 120.0
    archive: ArchiveLimits = field(default_factory=ArchiveLimits)


class ReaderProcess:
    """A reader of one file. Use it as a context; one call at a time.

    Every method raises `Unreadable` if the archive cannot be read, or its reader died from it.
    """

    def __init__(self, path: Path, name: str, limits: ReaderLimits = ReaderLimits()) -> None:
        self._path = path
        self._name = name
        self._limits = limits
        self._process: Process | None = None

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
                limit=MAX_LINE,
            )
        finally:
            os.close(descriptor)
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._running()
        if process.stdin:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _END_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def contents(self, answers: Mapping[str, str] = NO_ANSWERS) -> Contents:
        """Return what the archive has, by a person's answers to the reader's choices (`Contents.choices`).

        Following units are read by these answers.
        """
        await self._send({"do": "contents", "answers": answers})
        answer = await self._line()
        return contents_of(answer["contents"])

    async def use_names(self, names: Names) -> None:
        """Render the texts of all following units with these ids of the chat."""
        await self._send({"do": "names", "names": asdict(names)})

    async def read(self, unit: Unit) -> AsyncIterator[dict[str, Any]]:
        """Yield the lines of a unit (`message_lines`). Raises `Unreadable` at the place of the damage."""
        await self._send({"do": "read", "unit": unit.id})
        while "end" not in (line := await self._line()):
            yield line
        if line["end"] is not None:
            raise Unreadable(line["end"])

    async def _send(self, command: dict[str, Any]) -> None:
        process = self._running()
        assert process.stdin is not None  # noqa: S101 -- it was started with a pipe
        with suppress(ConnectionError):  # its end is seen where its answer is read
            process.stdin.write(encoded(command))
            await process.stdin.drain()

    async def _line(self) -> dict[str, Any]:
        process = self._running()
        assert process.stdout is not None  # noqa: S101 -- as above
        try:
            line = await process.stdout.readline()
        except ValueError:
            raise Unreadable("a record of the export is too large: export a shorter time") from None
        if not line.endswith(b"\n"):
            raise Unreadable(_ended_because(await process.wait()))
        answer: dict[str, Any] = orjson.loads(line)
        if "error" in answer:
            raise Unreadable(answer["error"])
        return answer

    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError("use a ReaderProcess as a context")
        return self._process


def _ended_because(status: int) -> str:
    """Return why a reader ended, as a sentence for a person."""
    if status == -signal.SIGPROF:
        return "it takes too long to read: export a shorter time"
    return (
        f"its reader ended ({status}): a record needs more memory than a reader may use, or the export is "
        "damaged. Export it again, or a shorter time"
    )
