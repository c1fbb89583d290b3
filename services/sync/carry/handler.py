"""The handler of `sync.requested`: puts each request into the lane of its mapping and target."""

from datetime import datetime

from pydantic import ValidationError

from services.sync.carry.lanes import Lanes
from services.sync.carry.outcomes import Change
from services.sync.model.mapping import account_key, lane_of
from services.sync.store.mapping_index import MappingIndex
from services.sync.store.queue import POSITION_BITS
from shared.contracts.errors import Malformed
from shared.contracts.sync import SyncRequested
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.batch import Batch, ConsumedEvent


class CarryHandler:
    """Takes the records of a batch, which are completed when their changes are done or stored."""

    def __init__(self, index: MappingIndex, lanes: Lanes) -> None:
        self._index = index
        self._lanes = lanes

    async def handle(self, batch: Batch) -> None:
        """Put the requests of a batch into their lanes. Raises `Malformed` and `DatabaseUnavailable`."""
        await self._index.ensure_current()
        requests = [(consumed, _parse(consumed)) for consumed in batch]
        failpoint("carry.read")
        changes: list[Change] = []
        for consumed, (request, received_at) in requests:
            mapping = self._index.get(request.mapping_id)
            leg = mapping.leg(request.leg_id) if mapping else None
            if mapping is None or leg is None or mapping.workspace != consumed.event.workspace:
                continue  # the mapping or its leg was removed meanwhile: nothing is left to do
            key = account_key(leg.provider, leg.account)
            changes.append(
                Change(
                    request=request,
                    workspace=consumed.event.workspace,
                    traceparent=consumed.event.traceparent,
                    lane=lane_of(mapping.id, key, leg.conversation),
                    account_key=key,
                    partition=consumed.partition,
                    # Times order the records of one partition, and offsets those of one millisecond.
                    position=consumed.at_ms << POSITION_BITS | consumed.offset & ((1 << POSITION_BITS) - 1),
                    received_at=received_at,
                    completion=batch.take(consumed),
                )
            )
        if changes:
            await self._lanes.put(changes)


def _parse(consumed: ConsumedEvent) -> tuple[SyncRequested, datetime]:
    """Return a request, and when its cause was received. Raises `Malformed`."""
    try:
        request = SyncRequested.model_validate_json(consumed.event.data)
        return request, datetime.fromisoformat(request.received_at)
    except ValidationError as error:
        raise Malformed(f"not a request of the sync service: {error.error_count()} wrong fields") from None
    except ValueError:
        raise Malformed("not a request of the sync service: received_at is no RFC 3339 time") from None
