"""The stream of events of all workspaces that somebody watches: the topics are read once for all of them."""

import asyncio
from collections import OrderedDict, deque
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
"""Time after the last look of a viewer for which a workspace's events are collected."""
_RETRY_S: Final = 1.0
_PAST: Final = 50
"""Records of each partition that are read from before the start: whoever reconnects here misses little."""
_RECENT: Final = 2_000
"""Events of all workspaces together that are held for those whose first viewer comes later."""


class EventFeed:
    """Collects events by workspace while somebody watches; without viewers, nothing is read."""

    def __init__(self, kafka: KafkaSettings, log: Log, *, instance: str) -> None:
        """`instance` names this process."""
        self._kafka = kafka
        self._log = log
        self._instance = instance
        self._rings: dict[str, EventRing] = {}
        self._looked_at: dict[str, float] = {}
        self._recent: deque[tuple[str, LiveEvent]] = deque(maxlen=_RECENT)
        self._seen: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        """Workspace, scope and id of recent events: records come again after a reconnect."""
        self._wanted = asyncio.Event()
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
        """Return the events of a workspace, which are collected for another half minute."""
        self._looked_at[workspace] = monotonic()
        self._wanted.set()
        ring = self._rings.get(workspace)
        if ring is None:
            ring = self._rings[workspace] = EventRing()
            for of, event in self._recent:
                if of == workspace:
                    ring.add(event)
        return ring

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            try:
                await self._follow()
            except BrokerUnavailable as error:
                self._log.warning("console.events_unavailable", error=str(error))
                self.is_available = False
            except Exception as error:  # noqa: BLE001 -- one wrong record must not end it for all
                self._log.error("console.events_failed", exc_info=error)
            for ring in self._rings.values():
                ring.gaps += 1
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        """Read until nobody watches. Raises `BrokerUnavailable`."""
        batches = tail(self._kafka, TOPICS, self._log, name=self._instance, past=_PAST)
        async with aclosing(batches):
            async for batch in batches:
                self.is_available = True
                self._take(batch.records)
                if batch.is_incomplete:
                    for ring in self._rings.values():
                        ring.gaps += 1
                self._forget_unwatched()
                if not self._rings:
                    self._wanted.clear()
                    self._recent.clear()  # it would be old when the next viewer comes
                    return

    def _take(self, records: Iterable[TailedRecord]) -> None:
        for record in records:
            found = parse_record(record)
            if found is None:
                continue
            workspace, event = found
            key = workspace, event.scope, event.id
            if key in self._seen:
                continue
            self._seen[key] = None
            if len(self._seen) > 2 * _RECENT:
                self._seen.popitem(last=False)
            self._recent.append(found)
            if ring := self._rings.get(workspace):
                ring.add(event)

    def _forget_unwatched(self) -> None:
        since = monotonic() - _WATCHED_S
        for workspace in [name for name, at in self._looked_at.items() if at < since]:
            del self._looked_at[workspace], self._rings[workspace]
