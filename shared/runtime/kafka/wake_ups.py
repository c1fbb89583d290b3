"""Wake-ups: a producer tells the consumers on this machine that a partition has a new record.

For the embedded broker, which does not: it answers a fetch that found nothing only when its wait is over.
Each consumer has a FIFO for each of its topics, `<folder>/<topic>/<client id>`. A producer writes to all
FIFOs of a topic after an acknowledgement: a byte for each partition, its number plus one, or 0 for any. A
wake-up that is lost, or wrong, costs time, not records: the consumer finds them at its next regular fetch
(`fetch_pacing`).

FIFOs, because the path of a Unix socket may have about 100 bytes only, and a data folder's can be longer.
"""

import asyncio
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from aiokafka import TopicPartition

from shared.runtime.logs import Log

_LISTING_TTL_S: Final = 1.0
"""Time for which a producer caches the FIFOs of a topic. A new consumer gets no wake-ups for this time."""
_MAX_RECEIVERS: Final = 64
"""FIFOs of one topic that a producer writes to."""
_READ_BYTES: Final = 65_536
"""A FIFO has room for as many: if they are all there, more may have been lost."""
_ANY_FROM: Final = 255
"""Partitions from this number on have no byte of their own."""


@dataclass(slots=True)
class _Listing:
    """The open FIFOs of a topic, as of `at` on the monotonic clock."""

    fifos: Sequence[int]
    at: float


class WakeUpSender:
    """Wakes the consumers of partitions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listings: dict[str, _Listing] = {}

    def send(self, topic: str, partitions: Collection[int]) -> None:
        """Wake the consumers of a topic. Takes microseconds, raises nothing, and never waits."""
        message = bytes(number + 1 if number < _ANY_FROM else 0 for number in partitions)
        listing = self._listings.get(topic)
        if listing is None or monotonic() - listing.at > _LISTING_TTL_S:
            listing = self._list(topic)
        for fifo in listing.fifos:
            # Full: its consumer has wake-ups to read. Broken: its consumer has ended.
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(fifo, message)

    def close(self) -> None:
        """Close all FIFOs."""
        for topic in list(self._listings):
            self._close(topic)

    def _list(self, topic: str) -> _Listing:
        """Open the FIFOs of a topic again: consumers come and go."""
        self._close(topic)
        fifos: list[int] = []
        with suppress(OSError):  # no folder: no consumer has started yet
            for path in sorted((self._folder / topic).iterdir())[:_MAX_RECEIVERS]:
                with suppress(OSError):  # nobody reads it: a killed consumer left it behind
                    if path.is_fifo():
                        fifos.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        listing = self._listings[topic] = _Listing(fifos, monotonic())
        return listing

    def _close(self, topic: str) -> None:
        if listing := self._listings.pop(topic, None):
            for fifo in listing.fifos:
                os.close(fifo)


class WakeUpReceiver:
    """The wake-ups of one consumer. `event` is set by each, and `take` clears it."""

    def __init__(self, folder: Path | None, topics: Iterable[str], client_id: str, log: Log) -> None:
        """Set what to receive; without a folder, there are no wake-ups."""
        self._topics = tuple(topics) if folder else ()
        self._folder = folder or Path()
        self._client_id = client_id
        self._log = log
        self._fifos: dict[int, tuple[str, Path]] = {}
        """The topic and the path by file descriptor."""
        self._woken: set[TopicPartition] = set()
        self._woken_topics: set[str] = set()
        """Topics of which any partition may have records."""
        self.event = asyncio.Event()

    def start(self) -> None:
        """Create the FIFOs and listen. Where that is not possible, log it: the consumer works without."""
        for topic in self._topics:
            path = self._folder / topic / self._client_id
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # of a killed process of the same name
                os.mkfifo(path, 0o600)
                # Also for writing: without any writer, the FIFO would be readable, at its end, all the time.
                fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            except OSError as error:
                self._log.warning("consumer.no_wake_ups", path=str(path), error=str(error))
                continue
            self._fifos[fifo] = topic, path
            asyncio.get_running_loop().add_reader(fifo, self._receive, fifo)

    def stop(self) -> None:
        """Remove the FIFOs."""
        for fifo, (_, path) in self._fifos.items():
            asyncio.get_running_loop().remove_reader(fifo)
            os.close(fifo)
            with suppress(OSError):
                path.unlink()
        self._fifos.clear()

    def take(
        self, offered: Collection[TopicPartition], assigned: Collection[TopicPartition]
    ) -> set[TopicPartition]:
        """Return the partitions of `offered` with a wake-up since they were last returned, and clear `event`.

        Those of `assigned` that are not offered are kept for a later call; all others are forgotten.
        """
        self.event.clear()
        if self._woken_topics:
            self._woken |= {tp for tp in assigned if tp.topic in self._woken_topics}
            self._woken_topics.clear()
        woken = {tp for tp in offered if tp in self._woken}
        self._woken = {tp for tp in self._woken if tp in assigned} - woken
        return woken

    def _receive(self, fifo: int) -> None:
        with suppress(BlockingIOError):
            read = os.read(fifo, _READ_BYTES)
            topic, _ = self._fifos[fifo]
            numbers = set(read)
            if 0 in numbers or len(read) == _READ_BYTES:
                self._woken_topics.add(topic)
            self._woken |= {TopicPartition(topic, number - 1) for number in numbers if number}
            self.event.set()
