"""Read an untrusted export in a confined process: a malicious archive can end only that process."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import orjson

from services.importer.archive.zip_archive import ArchiveLimits
from services.importer.reading.confined_process import ConfinedProcess
from services.importer.reading.protocol import (
    FILE_BLOCK_BYTES,
    ListName,
    Overview,
    SourcePart,
    conversation_of,
    overview_of,
    person_of,
)
from shared.manifests.history_types import (
    NO_ANSWERS,
    HistoryConversation,
    HistoryPerson,
    Unit,
    Unreadable,
)

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
        self.merges_units = True
        """Whether a part has several short units. It is the same whenever it is read from the same place."""

    async def __aenter__(self) -> Self:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            limits = orjson.dumps(asdict(self._limits)).decode()
            await self._start(str(descriptor), self._name, limits, descriptors=(descriptor,))
        finally:
            os.close(descriptor)
        return self

    async def restart(self) -> None:
        """Start the process again, after it has ended: it knows no answers and no names.

        Each part has one unit from then on, so that the next end shows which unit it is that ends it.
        """
        self.merges_units = False
        await self.__aexit__(None)
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

    async def contents(self, answers: Mapping[str, str] = NO_ANSWERS) -> Overview:
        """Return the contents of the archive, by a person's answers to its choices (`Contents.choices`).

        All lists and units are those of these answers from then on.
        """
        await self._send({"do": "contents", "answers": answers})
        return overview_of((await self._response())["contents"])

    async def people(self) -> AsyncIterator[HistoryPerson]:
        """Yield the people of the archive."""
        async for item in self._items("people"):
            yield person_of(item)

    async def conversations(self) -> AsyncIterator[HistoryConversation]:
        """Yield the conversations of the archive."""
        async for item in self._items("conversations"):
            yield conversation_of(item)

    async def units(self) -> AsyncIterator[Unit]:
        """Yield the units of the archive."""
        async for item in self._items("units"):
            yield Unit(**item)

    async def use_names(self, users: Mapping[str, str], channels: Mapping[str, str]) -> None:
        """Set the ids of the chat for people, and for the conversations that are to be read."""
        await self._send({"do": "names", "users": users, "channels": channels})

    async def read(self, position: int = 0, skip: int = 0) -> AsyncIterator[SourcePart]:
        """Yield the records of those conversations, from a unit on, without its first `skip`.

        The process goes on meanwhile, as far as the pipe and the buffer take it. A unit that is damaged ends
        with a line that says why.
        """
        await self._send({"do": "read", "position": position, "skip": skip, "merges": self.merges_units})
        lines: list[dict[str, Any]] = []
        while "end" not in (response := await self._response()):
            lines += response["lines"]
            if part := response.get("part"):
                yield SourcePart(**part, lines=lines)
                lines = []

    async def file(self, name: str, max_bytes: int) -> AsyncIterator[bytes]:
        """Yield the blocks of a file of the archive, and at most one byte more than `max_bytes`.

        Raises `Unreadable` if it is missing or damaged. End the process if you do not read to the end.
        """
        await self._send({"do": "file", "name": name, "max_bytes": max_bytes})
        while "end" not in (response := await self._response()):
            yield await self._block(response["block"])
        if response["end"] is not None:
            raise Unreadable(response["end"])

    async def _items(self, name: ListName) -> AsyncIterator[dict[str, Any]]:
        start = 0
        while True:
            await self._send({"do": "list", "list": name, "start": start})
            items = (await self._response())["items"]
            if not items:
                return
            for item in items:
                yield item
            start += len(items)

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
