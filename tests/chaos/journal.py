"""A journal that is on the disk before the act that it is about, shared by many conversations.

One `fsync` covers every line that waits for it, so that hundreds of lines a second are possible.
"""

import asyncio
import os
from pathlib import Path
from time import monotonic
from typing import Any

import orjson


class SyncedJournal:
    """For writing. `at` in each line is the machine's monotonic clock, the same in every process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lines: list[bytes] = []
        self._synced: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    async def write(self, what: str, **fact: Any) -> None:
        """Write a line; return when it is on the disk. Raises `OSError`: then the act must not follow."""
        self._lines.append(orjson.dumps({"at": monotonic(), "what": what, **fact}) + b"\n")
        if self._synced is None:
            self._synced = asyncio.get_running_loop().create_future()
        synced = self._synced
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await asyncio.shield(synced)

    async def _write(self) -> None:
        while (synced := self._synced) is not None:
            lines, self._lines, self._synced = self._lines, [], None
            try:
                await asyncio.to_thread(self._sync, b"".join(lines))
            except OSError as error:
                synced.set_exception(error)
            else:
                synced.set_result(None)
        self._writer = None

    def _sync(self, lines: bytes) -> None:
        while lines:
            lines = lines[os.write(self._file, lines) :]
        os.fsync(self._file)
