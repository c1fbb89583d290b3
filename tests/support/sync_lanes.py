"""Records of lanes, for changes that a test or the bench stores itself."""

from secrets import token_hex

from services.sync.model.lane_record import LaneRecord, lane_record_id
from services.sync.model.synced_message import QueuedChange


def lane_record(first: QueuedChange) -> LaneRecord:
    """Return the record of a lane with this first change."""
    return LaneRecord(
        id=lane_record_id(first.partition, first.lane),
        workspace=first.workspace,
        lane=first.lane,
        partition=first.partition,
        head=first.position,
        stamp=token_hex(8),
    )
