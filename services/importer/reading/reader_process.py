"""Read an untrusted export in a confined process: a malicious archive can end only that process."""

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import orjson

from services.importer.archive.zip_archive import ArchiveLimits
from services.importer.reading.confined_process import ConfinedProcess
from services.importer.reading.message_lines import Names
from services.importer.reading.protocol import FILE_BLOCK_BYTES, contents_of
from shared.manifests.history_types import NO_ANSWERS, Contents, Unit, Unreadable

_MODULE: Final = "services.importer.reading.child"


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """Limits of a reader process: memory in bytes, CPU time in seconds per command, and those of archives."""

    memory_bytes: int = 512 * 1024 * 1024
    cpu_s: float = 120.0
    archive: ArchiveLimits = field(default_factory=ArchiveLimits)


class ReaderProcess(ConfinedProcess):
    """A process that reads one file. Use it as an async context manager, with one call at a time.

    Every method raises `Unreadable` if the archive cannot be read, or if the process died while reading it;
    and `ProcessKilled` if it was killed, which need not be the archive's fault.
    """

    def __init__(self, path: Path, name: str, limits: ReaderLimits = ReaderLimits()) -> None:
        super().__init__(_MODULE)
        self._path = path
        self._name = name
        self._limits = limits
        self._announced: str | None = None
        """The unit that the process reads already."""
        self._following: Unit | None = None
        """The unit that is read after the next one."""

    async def __aenter__(self) -> Self:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            limits = orjson.dumps(asdict(self._limits)).decode()
            await self._start(str(descriptor), self._name, limits, descriptors=(descriptor,))
        finally:
            os.close(descriptor)
        return self

    async def restart(self) -> None:
        """Start the process again, after it has ended: it knows no answers and no names."""
        await self.__aexit__()
        self._announced = None
        await self.__aenter__()

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

    async def units(
        self, contents: Contents, selected: Collection[str], start: int
    ) -> AsyncIterator[tuple[int, Unit]]:
        """Yield the units of the selected conversations with their numbers, from the number `start` on.

        The process goes on with the following unit while one is worked on.
        """
        numbered = [
            (position, unit)
            for position, unit in islice(enumerate(contents.units), start, None)
            if unit.conversation in selected
        ]
        followers = [*(unit for _, unit in numbered[1:]), None]
        for (position, unit), following in zip(numbered, followers, strict=False):
            self._following = following
            yield position, unit

    async def read(self, unit: Unit) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the lines of a unit (`message_lines`), many at a time.

        Raises `Unreadable` where the unit is damaged, after the lines before that.
        """
        following, self._following = self._following, None
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
            raise await self._ended() from None
