"""The end of an undo: withdraw the channels and people that the import has brought into the chat.

The chat takes away those that nobody else uses, and gives its reason for each of the others. An import that
is undone later names these again: its messages may be what they were needed for.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import orjson

from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.new_contents import Ids, NewContents
from services.importer.publish.history_batches import BatchFactory, Item
from services.importer.publish.outlet import Outlet
from shared.contracts.history import HISTORY_WITHDRAWN, MAX_ADDED_BY, MAX_BATCH
from shared.contracts.ids import derive

_AT_ONCE: Final = 16 * MAX_BATCH
"""Ids that are withdrawn together: then the chat confirms them."""
_MAX_REASONS: Final = 20
_OTHER_REASONS: Final = "other reasons"
Field = Literal["channel_ids", "person_ids"]


class ContentsWithdrawal:
    """Withdraws the channels and people of one import. Doing it again changes nothing."""

    def __init__(
        self, job: ImportJob, imports: Imports, contents: NewContents, outlet: Outlet, batches: BatchFactory
    ) -> None:
        self._job = job
        self._imports = imports
        self._contents = contents
        self._outlet = outlet
        self._batches = batches
        self._added_by: Sequence[str] = ()

    async def withdraw(self) -> dict[str, Any]:
        """Withdraw everything, and return what became of it as fields of the import. Raises `Stopped`."""
        job = self._job
        leftovers = await self._imports.with_leftovers(job.workspace, MAX_ADDED_BY - 1)
        self._added_by = [job.id, *leftovers]
        retained_channels: Counter[str] = Counter()
        channels = self._contents.channels(job, retained_channels)
        removed_channels = await self._withdraw("channel_ids", channels, retained_channels)
        retained_people: Counter[str] = Counter()
        people = self._contents.people(job, retained_people)
        removed_people = await self._withdraw("person_ids", people, retained_people)
        return {
            "removed_channels": removed_channels,
            "removed_people": removed_people,
            "retained_channels": retained_channels.most_common(),
            "retained_people": retained_people.most_common(),
            "has_leftovers": bool(retained_channels or retained_people),
        }

    async def _withdraw(self, field: Field, ids: Ids, retained: Counter[str]) -> int:
        """Withdraw channels or people; return how many the chat has taken away, and count the others."""
        removed, group = 0, set[str]()
        async for item in ids:
            group.add(item)
            if len(group) == _AT_ONCE:
                removed += await self._withdraw_group(field, sorted(group), retained)
                group.clear()
        return removed + await self._withdraw_group(field, sorted(group), retained)

    async def _withdraw_group(self, field: Field, ids: Sequence[str], retained: Counter[str]) -> int:
        made = self._batches.make(
            HISTORY_WITHDRAWN,
            field,
            [Item(orjson.dumps(item)) for item in ids],
            field,
            # Other ids are another batch: what the chat has said of the earlier one does not count.
            derive(*self._added_by, *ids),
            keep_answered=self._job.keep_answered,
            added_by=self._added_by,
        )
        batches = list(made)
        await self._outlet.put(batches)
        await self._outlet.flush()
        batch_ids = [batch.id for batch in batches]
        while not self._outlet.is_settled(batch_ids):
            await self._outlet.poll()
        reasons = dict(pair for outcome in self._outlet.outcomes(batch_ids) for pair in outcome.rejected)
        await self._outlet.forget(batch_ids)
        # Only what was asked for: a confirmation may name anything.
        rejected = [reasons[item] for item in ids if item in reasons]
        for reason in rejected:
            retained[reason if reason in retained or len(retained) < _MAX_REASONS else _OTHER_REASONS] += 1
        return len(ids) - len(rejected)
