"""The temporary files of one process: a folder of its own, and a bounded number of bytes in it.

The folder has a lock file that its process holds a lock on. The system ends the lock with the process,
however that ends, so the next process to start deletes the folders of dead ones.
"""

import asyncio
import fcntl
import os
import shutil
import stat
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from shared.contracts.errors import Misconfigured
from shared.runtime.egress.progress import run_to_end

_BASE_NAME: Final = "interlink-files"
_LOCK_NAME: Final = ".lock"
_SHARES: Final = 4
"""The part of the disk that one workspace may use is one of so many."""


class DiskFull(Exception):
    """The disk for files was used up for as long as the caller would wait."""


class FileSpace:
    """Folders for the files of messages, with at most `max_bytes` bytes in all.

    `base` is the folder for the folders of processes, by default in the system's for temporary files.
    """

    def __init__(self, base: Path | None, *, max_bytes: int) -> None:
        self._base = base or Path(tempfile.gettempdir()) / f"{_BASE_NAME}-{os.getuid()}"
        self._all = _Bytes(max_bytes)
        self._workspaces: dict[str, _Bytes] = {}
        self._users: dict[str, int] = {}
        self._folder: Path | None = None
        self._lock = -1
        self.share: Final = max_bytes // _SHARES
        """How many bytes one workspace may use, and so one message."""

    async def start(self) -> None:
        """Create this process's folder, and delete those of dead ones. Raises `Misconfigured`."""
        try:
            await run_to_end(self._open)
        except OSError as error:
            raise Misconfigured(
                f"INTERLINK_FILE_FOLDER: {self._base} cannot be used: {error.strerror or error}"
            ) from None

    async def stop(self) -> None:
        """Delete this process's folder."""
        if self._folder is not None:
            await run_to_end(_remove, self._folder)
            os.close(self._lock)
            self._folder = None

    @asynccontextmanager
    async def reserve(self, workspace: str, size: int, *, wait_s: float) -> AsyncIterator["Reservation"]:
        """Reserve bytes and create a folder for a message while the context lasts.

        `size` is at most `share`. Raises `DiskFull` if they are not free within `wait_s` seconds, and
        `OSError`. Messages of a workspace wait in their order, and so do workspaces.
        """
        own = self._workspaces.setdefault(workspace, _Bytes(self.share))
        self._users[workspace] = self._users.get(workspace, 0) + 1
        try:
            async with _taken((own, self._all), size, wait_s) as taken:
                assert self._folder is not None  # noqa: S101 -- start() comes first
                folder = Path(await run_to_end(tempfile.mkdtemp, dir=self._folder))
                try:
                    yield Reservation(folder, taken)
                finally:
                    await run_to_end(_remove, folder)
        finally:
            self._users[workspace] -= 1
            if not self._users[workspace]:
                del self._users[workspace], self._workspaces[workspace]

    def _open(self) -> None:
        self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._base.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise OSError("it is no folder of this user")
        # Under this lock, no folder is there whose lock file is not locked yet.
        with _locked(self._base / _LOCK_NAME):
            for path in self._base.iterdir():
                if path.is_dir() and not path.is_symlink() and _is_abandoned(path):
                    _remove(path)
            folder = Path(tempfile.mkdtemp(dir=self._base))
            self._lock = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._folder = folder


class Reservation:
    """A message's folder and its reserved bytes."""

    def __init__(self, folder: Path, taken: "_Taken") -> None:
        self.folder = folder
        self._taken = taken

    def give_back(self, size: int) -> None:
        """Give bytes back that the message does not need after all."""
        self._taken.give_back(size)


class _Bytes:
    """A number of bytes that are taken and given back. Those who wait are served in their order."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, future)
        self._waiting.append(entry)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back(size)
            else:
                self._waiting.remove(entry)
                self._serve()  # those behind may need less
            raise

    def give_back(self, size: int) -> None:
        self._free += size
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, future = self._waiting.popleft()
            self._free -= size
            future.set_result(None)


class _Taken:
    """Bytes that were taken of several counters."""

    def __init__(self, counters: tuple[_Bytes, ...], size: int) -> None:
        self._counters = counters
        self.size = size

    def give_back(self, size: int) -> None:
        size = min(size, self.size)
        self.size -= size
        for counter in self._counters:
            counter.give_back(size)


@asynccontextmanager
async def _taken(counters: tuple[_Bytes, ...], size: int, wait_s: float) -> AsyncIterator[_Taken]:
    held: list[_Bytes] = []
    try:
        async with asyncio.timeout(wait_s):
            for counter in counters:
                await counter.take(size)
                held.append(counter)
    except BaseException as error:
        for counter in held:
            counter.give_back(size)
        if isinstance(error, TimeoutError):
            raise DiskFull from None
        raise
    taken = _Taken(counters, size)
    try:
        yield taken
    finally:
        taken.give_back(taken.size)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file while the context lasts, and wait for it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _is_abandoned(folder: Path) -> bool:
    """Return whether no process has a lock on a folder's lock file."""
    try:
        fd = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
