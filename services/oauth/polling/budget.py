"""Limit what the polls of one workspace use of a process, so that none can use up what all share."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

MAX_CONCURRENT_POLLS: Final = 4
MAX_POLLS_PER_MINUTE: Final = 120
MAX_BYTES_PER_MINUTE: Final = 20 * 1024 * 1024
_WINDOW_S: Final = 60.0
_BUSY_S: Final = 5.0
"""After which a trigger looks again whether one of its workspace's polls has ended."""
_MAX_WORKSPACES: Final = 10_000


class _Usage:
    __slots__ = ("ends_at", "polls", "read_bytes")

    def __init__(self) -> None:
        self.ends_at = monotonic() + _WINDOW_S
        self.polls = 0
        self.read_bytes = 0


class PollBudget:
    """Counts polls under way, polls per minute and bytes per minute of each workspace, in this process."""

    def __init__(self) -> None:
        self._usage: dict[str, _Usage] = {}
        self._running: dict[str, int] = {}

    def wait_s(self, workspace: str) -> float:
        """Return the seconds until the workspace may poll again; 0 if it may poll now."""
        if self._running.get(workspace, 0) >= MAX_CONCURRENT_POLLS:
            return _BUSY_S
        usage = self._current(workspace)
        if usage.polls >= MAX_POLLS_PER_MINUTE or usage.read_bytes >= MAX_BYTES_PER_MINUTE:
            return max(1.0, usage.ends_at - monotonic())
        return 0.0

    @contextmanager
    def poll(self, workspace: str) -> Iterator[None]:
        """Count a poll, which is under way while the context lasts."""
        self._current(workspace).polls += 1
        self._running[workspace] = self._running.get(workspace, 0) + 1
        try:
            yield
        finally:
            self._running[workspace] -= 1
            if not self._running[workspace]:
                del self._running[workspace]

    def read(self, workspace: str, size: int) -> None:
        """Count bytes that were read for a workspace."""
        self._current(workspace).read_bytes += size

    def _current(self, workspace: str) -> _Usage:
        usage = self._usage.get(workspace)
        if usage is None or usage.ends_at <= monotonic():
            if len(self._usage) >= _MAX_WORKSPACES:
                self._usage.clear()
            usage = self._usage[workspace] = _Usage()
        return usage
