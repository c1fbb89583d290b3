"""Publish the batches of one import, no faster than the chat stores them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Final, Protocol

from services.importer.publish.broker_memory import BrokerMemory
from services.importer.publish.confirmations import BatchRecord, Confirmations
from services.importer.publish.history_batches import Batch, record_of
from services.importer.publish.live_traffic import LiveTraffic
from shared.runtime.kafka.producer import Producer

MAX_UNCONFIRMED: Final = 64
MAX_PENDING: Final = 2 * MAX_UNCONFIRMED
"""Batches in memory from the oldest unconfirmed one on, beyond which nothing further is read."""
_PUBLISHED_AT_ONCE: Final = 16
_ACK_TIMEOUT_S: Final = 10.0
_FIRST_POLL_S: Final = 0.01
_MAX_POLL_S: Final = 0.25
SILENCE_S: Final = 10.0
"""A chat that has confirmed no batch after this time is taken for one that confirms none."""
_ASK_INTERVAL_S: Final = 1.0


class Turn(Protocol):
    """The state of an import in this process. Methods raise `Stopped`."""

    async def check_turn(self) -> None:
        """Raise an error if the import was stopped, or another process has it."""
        ...

    async def show_wait(self, batch_id: str, waited_s: float) -> None:
        """Show that a batch, the oldest unconfirmed one, has waited for so many seconds."""
        ...

    async def has_late_confirmations(self) -> bool:
        """Return whether the chat has confirmed a batch that was not waited for."""
        ...


class TakesBatches(Protocol):
    """Takes the batches of an import: publishes them, or discards them in a dry run."""

    @property
    def confirms(self) -> bool | None: ...

    async def put(self, batches: Iterable[Batch]) -> None: ...

    async def flush(self) -> None: ...

    async def poll(self) -> None: ...

    def is_settled(self, batch_ids: Iterable[str], /) -> bool: ...

    def outcomes(self, batch_ids: Iterable[str], /) -> list[BatchRecord]: ...

    async def forget(self, batch_ids: Sequence[str], /) -> None: ...


class DryOutlet:
    """Takes the batches of a dry run: each is settled at once, as if the chat had stored all of it."""

    confirms = None

    async def put(self, batches: Iterable[Batch]) -> None:
        pass

    async def flush(self) -> None:
        pass

    async def poll(self) -> None:
        pass

    def is_settled(self, _: Iterable[str]) -> bool:
        return True

    def outcomes(self, _: Iterable[str]) -> list[BatchRecord]:
        return []

    async def forget(self, _: Sequence[str]) -> None:
        pass


class Outlet:
    """The way of one import's batches to the chat.

    While the chat confirms, at most 64 batches are unconfirmed. One that confirms nothing gets the messages
    at a fixed rate, until it confirms after all. `confirms` is None until it is known which of both it is.
    """

    def __init__(
        self,
        producer: Producer,
        confirmations: Confirmations,
        *,
        workspace: str,
        import_id: str,
        messages_per_second: int,
        confirms: bool | None,
        broker_memory: BrokerMemory,
        traffic: LiveTraffic,
        turn: Turn,
        release: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        """`release` takes the ids of batches that are stored as done without their confirmations."""
        self._turn = turn
        self._release = release
        self._broker_memory = broker_memory
        self._traffic = traffic
        self._producer = producer
        self._confirmations = confirmations
        self._workspace = workspace
        self._import_id = import_id
        self._rate = messages_per_second
        self.confirms = confirms
        self._made: list[Batch] = []
        self._open: dict[str, float] = {}
        self._outcomes: dict[str, BatchRecord] = {}
        self._unconfirmed: set[str] = set()
        """Batches for which no confirmation is awaited."""
        self._next_at = 0.0
        self._asked_at = 0.0
        self._poll_pause_s = _FIRST_POLL_S

    async def put(self, batches: Iterable[Batch]) -> None:
        """Take batches, and publish them when there are enough; wait while too many are unconfirmed.

        Raises `BrokerUnavailable`, `DatabaseUnavailable` and `Stopped`.
        """
        for batch in batches:
            self._made.append(batch)
            if await self._traffic.is_live():  # one at a time: live messages do not wait for many
                await self.flush()
                await self._traffic.keep_pace(batch.items)
            elif len(self._made) >= _PUBLISHED_AT_ONCE:
                await self.flush()
            while len(self._open) + len(self._made) > MAX_UNCONFIRMED:
                await self.poll()

    async def flush(self) -> None:
        """Publish everything that was taken. Raises what `put` raises, which is also `BrokerFull`."""
        if not self._made:
            return
        made, self._made = self._made, []
        self._broker_memory.take(sum(batch.kafka_bytes for batch in made))
        # Before they are published: the confirmation may be there first.
        await self._confirmations.announce(self._workspace, self._import_id, made)
        # After the announcement: an undo that started earlier knows these batches.
        await self._turn.check_turn()
        records = [record_of(batch, self._workspace) for batch in made]
        await self._producer.publish_all(records, timeout_s=_ACK_TIMEOUT_S)
        if self.confirms is False and not await self._has_late_confirmations():
            self._unconfirmed.update(batch.id for batch in made)
            await self._keep_pace(made)
            return
        at = monotonic()
        self._open |= {batch.id: at for batch in made}

    def is_settled(self, batch_ids: Iterable[str]) -> bool:
        """Return whether all of these batches are published, and confirmed if the chat confirms."""
        made = {batch.id for batch in self._made}
        return not any(batch_id in self._open or batch_id in made for batch_id in batch_ids)

    def outcomes(self, batch_ids: Iterable[str]) -> list[BatchRecord]:
        """Return the confirmations of these batches, which are forgotten with it."""
        return [record for batch_id in batch_ids if (record := self._outcomes.pop(batch_id, None))]

    async def forget(self, batch_ids: Sequence[str]) -> None:
        """Remove the records of batches after their outcomes were stored elsewhere."""
        unconfirmed = self._unconfirmed.intersection(batch_ids)
        await self._confirmations.remove([item for item in batch_ids if item not in unconfirmed])
        await self._release([item for item in batch_ids if item in unconfirmed])
        self._unconfirmed -= unconfirmed

    async def poll(self) -> None:
        """Read new confirmations; pause if there are none, and show a long wait.

        Raises `DatabaseUnavailable` and `Stopped`.
        """
        while self._open:
            found = await self._confirmations.confirmed(self._import_id)
            new = [item for item in found if item.id in self._open]
            for item in new:
                del self._open[item.id]
                self._outcomes[item.id] = item
            if new:
                self.confirms = True
                self._poll_pause_s = _FIRST_POLL_S
                return
            oldest = next(iter(self._open))
            waited_s = monotonic() - self._open[oldest]
            if self.confirms is None and waited_s > SILENCE_S:
                self.confirms = False
                self._unconfirmed.update(self._open)
                self._open.clear()
                return
            await asyncio.sleep(self._poll_pause_s)
            if self._poll_pause_s == _MAX_POLL_S:
                await self._turn.show_wait(oldest, waited_s)
                return
            self._poll_pause_s = min(2 * self._poll_pause_s, _MAX_POLL_S)

    async def _has_late_confirmations(self) -> bool:
        """Find out, each second, whether the chat confirms after all."""
        if monotonic() > self._asked_at + _ASK_INTERVAL_S:
            self._asked_at = monotonic()
            if await self._turn.has_late_confirmations():
                self.confirms = True
        return self.confirms is True

    async def _keep_pace(self, made: Sequence[Batch]) -> None:
        now = monotonic()
        self._next_at = max(self._next_at, now) + sum(batch.items for batch in made) / self._rate
        await asyncio.sleep(max(0.0, self._next_at - now))
