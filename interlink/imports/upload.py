"""Upload a file to the hub by tus 1.0 (https://tus.io), and resume an interrupted upload."""

import asyncio
import base64
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import urlsplit

from interlink.hub_api import HubApi, Refused
from shared.contracts.errors import Misconfigured
from shared.contracts.routes import UPLOADS_PATH
from shared.runtime.http_client import Unreachable
from shared.runtime.retry import Backoff

_CHUNK_BYTES: Final = 8 * 1024 * 1024
"""Bytes of a request, which has a checksum: the most that is lost when a request fails."""
_MIN_CHUNK_BYTES: Final = 256 * 1024
"""Of a request over a line that is slow: a proxy gives each request a minute or so."""
_TUS: Final = {"tus-resumable": "1.0.0"}
_GONE: Final = frozenset({404, 410})
_REPEATED: Final = frozenset({408, 409, 429, 460})
"""Statuses after which the upload resumes at the offset that the hub has."""
_MAX_FAILURES: Final = 10
_BACKOFF: Final = Backoff(first_s=0.5, max_s=10.0)
_NAME_BYTES: Final = 32

Progress = Callable[[int], None]
"""Called with the number of bytes that the hub has."""


class FileUpload:
    """The upload of one file. Its id is stored in the user's state folder until `forget`.

    So the same command, started again, resumes the upload, unless the file has changed.
    """

    def __init__(self, api: HubApi, source: Path, path: Path) -> None:
        """Look at the file at `path`; `source` is what the user named: the file, or the folder that it packs.

        Raises `Misconfigured` if it cannot be read, or is empty.
        """
        self._api = api
        self._path = path
        try:
            status = path.stat()
            with path.open("rb"):
                pass
        except OSError as error:
            raise Misconfigured(f"{path} cannot be read: {error.strerror}") from None
        if not status.st_size:
            raise Misconfigured(f"{path} is empty: export it again")
        self.size = status.st_size
        self._chunk_bytes = _CHUNK_BYTES
        version = str(status.st_mtime_ns) if source == path else _digest(path)
        known = f"{api.url}\0{source.resolve()}\0{status.st_size}\0{version}"
        self._memory = _state_folder() / hashlib.sha256(known.encode()).hexdigest()[:_NAME_BYTES]

    async def run(self, progress: Progress) -> str:
        """Upload what the hub does not have, and return the upload's id.

        Raises `Refused`, `Unreachable` if the hub stays away, and `Misconfigured` if the file changes.
        """
        location = await self._earlier() or await self._create()
        failures, offset = 0, -1
        with self._path.open("rb") as file:
            while offset < self.size:
                try:
                    if offset < 0:
                        offset = await self._offset(location)
                        progress(offset)
                        continue
                    offset = await self._append(location, file, offset)
                except (Refused, Unreachable) as error:
                    failures += 1
                    if failures > _MAX_FAILURES or not _may_repeat(error):
                        raise
                    offset = -1
                    self._chunk_bytes = max(_MIN_CHUNK_BYTES, self._chunk_bytes // 2)
                    await asyncio.sleep(_BACKOFF.pause_s(failures))
                else:
                    failures = 0
                    progress(offset)
        return location.rpartition("/")[2]

    def forget(self) -> None:
        """Forget the upload: the next command uploads the same file from its start."""
        with suppress(OSError):
            self._memory.unlink()

    async def _earlier(self) -> str | None:
        """Return the address of an earlier, unfinished upload of this file; None if the hub has none."""
        try:
            location = self._memory.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        try:
            await self._offset(location)
        except Refused as error:
            if error.status not in _GONE:
                raise
            return None
        return location

    async def _create(self) -> str:
        name = base64.b64encode(self._path.name.encode(errors="replace")).decode()
        headers = {**_TUS, "upload-length": str(self.size), "upload-metadata": f"filename {name}"}
        answer, _ = await self._api.send("POST", UPLOADS_PATH, headers)
        location = urlsplit(answer["location"]).path  # the hub may have another address for others
        with suppress(OSError):  # then it cannot be resumed by another command
            self._memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._memory.write_text(location, "ascii")
        return location

    async def _offset(self, location: str) -> int:
        headers, _ = await self._api.send("HEAD", location, _TUS)
        return int(headers["upload-offset"])

    async def _append(self, location: str, file: BinaryIO, offset: int) -> int:
        """Send the next bytes, and return the new offset."""
        file.seek(offset)
        wanted = min(self._chunk_bytes, self.size - offset)
        chunk = await asyncio.to_thread(file.read, wanted)
        if len(chunk) < wanted:
            self.forget()
            raise Misconfigured(f"{self._path} became shorter while it was uploaded: start again")
        digest = base64.b64encode(hashlib.sha256(chunk).digest()).decode()
        headers = {
            **_TUS,
            "content-type": "application/offset+octet-stream",
            "upload-offset": str(offset),
            "upload-checksum": f"sha256 {digest}",
        }
        answer, _ = await self._api.send("PATCH", location, headers, chunk)
        return int(answer["upload-offset"])


def _may_repeat(error: Refused | Unreachable) -> bool:
    return isinstance(error, Unreachable) or error.status >= 500 or error.status in _REPEATED


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state_folder() -> Path:
    """Return where a user's programs store what they were doing (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 -- never raises
    return Path(state) / "interlink" / "uploads"
