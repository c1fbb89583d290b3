"""Take confirmations into account that came when their import no longer waited for them.

An import takes a chat that is silent for ten seconds for one that confirms nothing, and counts its messages
as added when they are published. If such a chat confirms after all, what it had already, or rejects, leaves
the ledger: an undo must not count it. What it has not removed for an undo is in the ledger again.
"""

from collections.abc import Sequence

from services.importer.jobs.imports import Imports
from services.importer.publish.confirmations import BatchRecord, Confirmations
from services.importer.store.unit_record import packed_ids, split_ids
from services.importer.store.units import Units
from shared.runtime.kafka.batch import ConsumedEvent


class LateConfirmations:
    """Corrects the ledger by late confirmations. Methods raise `DatabaseUnavailable`."""

    def __init__(self, imports: Imports, units: Units, confirmations: Confirmations) -> None:
        self._imports = imports
        self._units = units
        self._confirmations = confirmations

    async def handle(self, batch: Sequence[ConsumedEvent]) -> None:
        """Store the confirmations among the chat's events, and settle late ones. Raises `Malformed`."""
        await self._settle(await self._confirmations.handle(batch))

    async def release(self, batch_ids: Sequence[str]) -> None:
        """Note that batches were stored in the ledger without their confirmations."""
        await self._confirmations.release(batch_ids)
        await self._settle(batch_ids)  # one may have come meanwhile

    async def _settle(self, batch_ids: Sequence[str]) -> None:
        late = await self._confirmations.late(batch_ids)
        for record in late:
            rejected = packed_ids(message_id for message_id, _ in record.rejected)
            if record.is_withdrawal:
                await self._give_back(record, rejected)
                continue
            duplicates = packed_ids(record.duplicates)
            number = await self._units.take(record.part, duplicates, rejected) if record.part else 0
            await self._imports.add(record.import_id, late=number, late_batches=1)
        await self._confirmations.remove([record.id for record in late])

    async def _give_back(self, record: BatchRecord, rejected: set[bytes]) -> None:
        """Add messages to the ledger again that the chat has not removed."""
        ids = [packed_id for packed_id in split_ids(record.ids) if packed_id in rejected]
        number = await self._units.give_back(record.part, ids, record.source) if ids else 0
        remaining = await self._units.count_added(record.import_id) if number else 0
        await self._imports.give_back(record.import_id, number, remaining)
