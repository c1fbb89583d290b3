"""The open streams of this process: their limits, and the current keys of their sessions."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from services.console.sessions.sign_in import SignIn
from shared.contracts.errors import OverLimit
from shared.runtime.cached_reads import CachedReads
from shared.runtime.draining import Draining
from shared.runtime.web.access import ApiKey

MAX_STREAMS: Final = 1_000
_MAX_OF_WORKSPACE: Final = 250
_MAX_OF_MEMBER: Final = 50
MAX_OF_SESSION: Final = 4
"""Only visible tabs have a stream, and a browser allows six connections to a host without HTTP/2."""
_LIMITS: Final = (
    (MAX_STREAMS, "this console has"),
    (_MAX_OF_WORKSPACE, "your workspace has"),
    (_MAX_OF_MEMBER, "you have"),
    (MAX_OF_SESSION, "this session has"),
)
_CHECKED_S: Final = 1.9
_ADVICE: Final = "the page works without: it reads itself again every few seconds"


class Streams:
    """Counts streams by process, workspace, member and session."""

    def __init__(self, sign_in: SignIn, draining: Draining) -> None:
        self._sign_in = sign_in
        self._open: Counter[tuple[str, str]] = Counter()
        self._checks: CachedReads[dict[str, ApiKey | None]] = CachedReads(min_s=_CHECKED_S, factor=0)
        self.draining = draining

    def open(self, session: str, key: ApiKey) -> "OpenStream":
        """Return a new stream of a session. Raises `OverLimit` if there is no room for it."""
        names = (("process", ""), ("workspace", key.workspace), ("member", key.id), ("session", session))
        for name, (limit, who) in zip(names, _LIMITS, strict=True):
            if self._open[name] >= limit:
                raise OverLimit(f"{who} {limit} live streams already: {_ADVICE}")
        self._open.update(names)
        return OpenStream(lambda: self._close(names))

    def _close(self, names: Iterable[tuple[str, str]]) -> None:
        for name in names:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]

    async def key_of(self, session: str) -> ApiKey | None:
        """Return the key of an open stream's session as it is now; None if the session has ended.

        All sessions are read together, once in two seconds. Raises `DatabaseUnavailable`.
        """
        keys = await self._checks.get("", "keys", self._read_keys)
        if session in keys:
            return keys[session]
        # It was opened after they were read.
        return (await self._sign_in.find_all([session])).get(session)

    async def _read_keys(self) -> dict[str, ApiKey | None]:
        sessions = [name for kind, name in self._open if kind == "session"]
        return dict.fromkeys(sessions) | await self._sign_in.find_all(sessions)


class OpenStream:
    """A stream that counts against the limits until it is closed."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close: Callable[[], None] | None = close

    def close(self) -> None:
        """Count the stream as closed. Further calls do nothing."""
        close, self._close = self._close, None
        if close:
            close()
