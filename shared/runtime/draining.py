"""The stop of a process, for responses that go on for minutes."""

import asyncio


class Draining:
    """A flag that is set once, when the process begins to stop, so that streams of events end."""

    def __init__(self) -> None:
        self._started = asyncio.Event()

    @property
    def has_started(self) -> bool:
        """True if the process stops."""
        return self._started.is_set()

    def start(self) -> None:
        """End all streams. Their clients connect again, to another process."""
        self._started.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Return after `seconds`, or as soon as the process stops; without `seconds`, only then."""
        try:
            async with asyncio.timeout(seconds):
                await self._started.wait()
        except TimeoutError:
            return
