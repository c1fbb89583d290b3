"""Count what an import has added to the chat: messages of its ledger, and of unconfirmed batches."""

from collections.abc import Sequence

from services.importer.publish.confirmations import BatchRecord, Confirmations
from services.importer.store.unit_record import packed_ids, split_ids
from services.importer.store.units import Units


class Ledger:
    """Answers which messages an import added. Every method raises `DatabaseUnavailable`."""

    def __init__(self, units: Units, confirmations: Confirmations) -> None:
        self._units = units
        self._confirmations = confirmations

    async def count(self, import_id: str) -> int:
        """Return how many messages an import added, as far as it is known."""
        in_flight = await self.in_flight(import_id)
        return await self._units.count_added(import_id) + sum(len(added(batch)) for batch in in_flight)

    async def count_shared(self, workspace: str, import_id: str) -> int:
        """Return how many of an import's messages other imports have found, too."""
        has_others: dict[str, bool] = {}
        shared, cursor = 0, ""
        while page := await self._units.read(import_id, after=cursor):
            for record in page:
                source = record.source
                if source not in has_others:
                    has_others[source] = bool(source) and await self._units.has_source(
                        workspace, source, other_than=import_id
                    )
                if record.ids and has_others[source]:
                    claims = await self._units.claims_between(
                        workspace,
                        source,
                        record.first,
                        record.last,
                        other_than=import_id,
                        among=set(split_ids(record.ids)),
                    )
                    shared += len({packed_id for _, ids in claims for packed_id in ids})
            cursor = page[-1].id
        return shared

    async def in_flight(self, import_id: str) -> Sequence[BatchRecord]:
        """Return the batches that were published, or about to be, when the import was stopped.

        What became of them is not in the ledger.
        """
        batches = await self._confirmations.unsettled(import_id)
        parts = {batch.id: {batch.part, in_flight_part(batch)} for batch in batches}
        stored = await self._units.existing(set().union(*parts.values()))
        return [batch for batch in batches if stored.isdisjoint(parts[batch.id])]


def in_flight_part(batch: BatchRecord) -> str:
    """Return the id of the part with which an undo adds a batch that was under way to the ledger."""
    return f"{batch.import_id}:way:{batch.id}"


def added(batch: BatchRecord) -> list[bytes]:
    """Return the messages of a batch that the chat may have added, in 16 bytes each."""
    others = packed_ids((*batch.duplicates, *(item for item, _ in batch.rejected)))
    return [item for item in split_ids(batch.ids) if item not in others]
