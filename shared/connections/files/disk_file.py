"""Write a file to the disk as it arrives, and hash it."""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from shared.runtime.egress.progress import run_to_end

_WRITE_BYTES: Final = 1024 * 1024


class DiskFile:
    """A file that is being written. Use it as an async context manager; every method raises `OSError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._buffer = bytearray()
        self._sha256 = hashlib.sha256()
        self.size = 0
        """The number of bytes given to `write`."""

    async def __aenter__(self) -> Self:
        self._file = await run_to_end(self._path.open, "wb")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            await run_to_end(self._file.close)

    async def write(self, chunk: bytes) -> None:
        """Append bytes. They are on the disk after `finish`."""
        self.size += len(chunk)
        self._buffer += chunk
        if len(self._buffer) >= _WRITE_BYTES:
            await self._flush()

    async def finish(self) -> str:
        """Write what is left, and return the SHA-256 in hexadecimal."""
        await self._flush()
        return self._sha256.hexdigest()

    async def _flush(self) -> None:
        full, self._buffer = self._buffer, bytearray()
        if full and self._file is not None:
            await run_to_end(self._append, self._file, full)

    def _append(self, file: BinaryIO, data: bytearray) -> None:
        file.write(data)
        self._sha256.update(data)
