"""Mark messages as being sent, before the step that people see, at a fraction of a message's update.

The marks of messages that are sent at the same time are one small document, apart from the messages. The
process deletes it when the outcomes are stored. After a crash, the new owners of its partitions write its
marks into the messages (`adopt`), before they carry anything: from then on, a message is `sending`.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import count
from secrets import token_hex
from typing import Final

from services.sync.carry.outcomes import Change, OpenMark
from services.sync.model.send_mark import SendMark, SendMarks
from services.sync.store.messages import SyncedMessages, mark_update
from services.sync.store.send_marks import SendMarkRepository
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.grouped import Grouped
from shared.runtime.mongo import utcnow

_MAX_MARKS: Final = 200
_MAX_ENDED: Final = 32
"""Documents without an open send that are left before they are deleted together."""


class OpenSends:
    """The sends that this process has begun. A part of the service, which stops after the lanes.

    Every method with `async` raises `DatabaseUnavailable`.
    """

    def __init__(self, store: SendMarkRepository, messages: SyncedMessages) -> None:
        self._store = store
        self._messages = messages
        self._process = token_hex(8)
        self._numbers = count()
        self._open: Counter[str] = Counter()
        """Number of open sends of each document."""
        self._ended: list[str] = []
        self._add: Grouped[SendMark, str] = Grouped(self._add_all, max_items=_MAX_MARKS)

    async def stop(self) -> None:
        """Delete the documents of sends that have ended."""
        with suppress(DatabaseUnavailable):
            await self._remove_ended()

    async def begin(self, change: Change, leg: str) -> None:
        """Store that a message is about to be sent. Marks at the same time share a write."""
        self.end(change)  # a refused first try with files is followed by one without
        mark = SendMark(synced_id=change.request.synced_id, leg=leg, partition=change.partition, at=utcnow())
        change.mark = OpenMark(mark, await self._add(mark))

    def end(self, change: Change) -> None:
        """Note that the message's new state is stored, after which its mark changes nothing."""
        mark, change.mark = change.mark, None
        if mark is None:
            return
        self._open[mark.document] -= 1
        if not self._open[mark.document]:
            del self._open[mark.document]
            self._ended.append(mark.document)

    async def withdraw(self, change: Change) -> None:
        """Remove the mark of a message that the provider does not have, and that may be sent later."""
        if (mark := change.mark) is not None:
            await self._store.remove_mark(mark.document, mark.mark)
            self.end(change)

    async def expose(self, change: Change) -> None:
        """Write the mark into the message: the provider may have the message, or not."""
        if (mark := change.mark) is not None:
            await self._messages.write([mark_update(mark.mark)])
            await self.withdraw(change)

    async def adopt(self, partitions: Collection[int]) -> None:
        """Write the marks of these partitions, which this process owns from now on, into their messages.

        That of a message with a later state changes nothing. Marks of this process are written as well: it
        may have lost a partition and got it back, and handles the record of the message once more.
        """
        found = await self._store.all()
        owned = [mark for marks in found for mark in marks.marks if mark.partition in partitions]
        if not owned:
            return
        await self._messages.write([mark_update(mark) for mark in owned])
        others = [marks.id for marks in found if marks.process != self._process]
        await self._store.remove_partitions(others, partitions)

    async def _add_all(self, marks: Sequence[SendMark]) -> Sequence[str]:
        document = SendMarks(
            id=f"{self._process}:{next(self._numbers)}", process=self._process, marks=tuple(marks)
        )
        try:
            await self._store.add(document)
        except BaseException:
            self._ended.append(document.id)  # it may be stored nevertheless
            raise
        self._open[document.id] = len(marks)
        if len(self._ended) >= _MAX_ENDED:
            with suppress(DatabaseUnavailable):
                await self._remove_ended()
        return [document.id] * len(marks)

    async def _remove_ended(self) -> None:
        if ended := self._ended[:]:
            await self._store.remove(ended)
            del self._ended[: len(ended)]
