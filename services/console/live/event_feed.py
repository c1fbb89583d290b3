"""Read the topics of events once for all viewers in this process, and sort the events by workspace."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import aclosing
from time import monotonic
from typing import Final

from services.console.live.events import TOPICS, EventRing, LiveEvent, parse_record
from shared.contracts.errors import BrokerUnavailable
from shared.runtime.kafka.tail import TailedRecord, tail
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings

_WATCHED_S: Final = 30.0
"""Time for which a workspace's events are collected after the last call of `ring`."""
_RETRY_S: Final = 1.0
_PAST: Final = 50
"""Records of each partition that are read from before its end, so that a browser that reconnects to this
process misses few events."""
_MAX_RECENT: Final = 4_000
"""Recent events in memory, of all workspaces together. More than are read again after a reconnect: 50 of each
of about 30 partitions."""


class EventFeed:
    """Collects events by workspace while there are viewers; without viewers, it reads nothing."""

    def __init__(self, kafka: KafkaSettings, log: Log, *, instance: str) -> None:
        """`instance` names this process."""
        self._kafka = kafka
        self._log = log
        self._instance = instance
        self._rings: dict[str, EventRing] = {}
        self._looked_at: dict[str, float] = {}
        self._recent: OrderedDict[tuple[str, str, str], LiveEvent] = OrderedDict()
        """Recent events of all workspaces, oldest first, by workspace, scope and event id.

        They recognize records that are read again, and fill the ring of a workspace's first viewer.
        """
        self._has_viewers = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.is_available = True
        """False while the broker does not answer."""

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def ring(self, workspace: str) -> EventRing:
        """Return the newest events of a workspace, and collect them for another 30 s."""
        self._looked_at[workspace] = monotonic()
        self._has_viewers.set()
        ring = self._rings.get(workspace)
        if ring is None:
            ring = self._rings[workspace] = EventRing()
            for (owner, _, _), event in self._recent.items():
                if owner == workspace:
                    ring.add(event)
        return ring

    async def _run(self) -> None:
        while True:
            await self._has_viewers.wait()
            try:
                await self._follow()
            except BrokerUnavailable as error:
                self._log.warning("console.events_unavailable", error=str(error))
                self.is_available = False
            except Exception as error:  # noqa: BLE001 -- one bad record must not end it for all
                self._log.error("console.events_failed", exc_info=error)
            self._note_gap()
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        """Read until there are no viewers. Raises `BrokerUnavailable`."""
        batches = tail(self._kafka, TOPICS, self._log, name=self._instance, past=_PAST)
        async with aclosing(batches):
            async for batch in batches:
                self.is_available = True
                self._take(batch.records)
                if batch.is_incomplete:
                    self._note_gap()
                self._forget_unwatched()
                if not self._rings:
                    self._has_viewers.clear()
                    self._recent.clear()  # the next viewer's start reads the newest records again
                    return

    def _take(self, records: Iterable[TailedRecord]) -> None:
        """Add the events of records that were not read before."""
        for record in records:
            parsed = parse_record(record)
            if parsed is None:
                continue
            workspace, event = parsed
            key = workspace, event.scope, event.id
            if key in self._recent:
                continue
            self._recent[key] = event
            if len(self._recent) > _MAX_RECENT:
                self._recent.popitem(last=False)
            if ring := self._rings.get(workspace):
                ring.add(event)

    def _note_gap(self) -> None:
        """Record for every viewer that events may be missing."""
        for ring in self._rings.values():
            ring.gaps += 1

    def _forget_unwatched(self) -> None:
        since = monotonic() - _WATCHED_S
        for workspace in [name for name, at in self._looked_at.items() if at < since]:
            del self._looked_at[workspace], self._rings[workspace]
