"""Every index of delivery's collections, and which question each one answers."""

from collections.abc import Mapping
from typing import Final

from services.delivery.engine.backlog import DEFERRED_EVENTS
from services.delivery.log.deliveries import CLAIMS_URL, DELIVERIES, HEALTH, OPEN, QUEUES, WEBHOOKS
from services.delivery.log.erasures import ERASED_EVENTS
from services.delivery.log.statistics import RETENTION_DAYS, STATISTICS
from services.delivery.log.unmatched import UNMATCHED
from shared.runtime.mongo import TOMBSTONE_TTL_S, Index

_FAILED: Final = {"failed": True}
_LOG_ORDER: Final = (("status", 1), ("created_at", -1), ("_id", -1))
"""The end of each index that the log is read by (`log.py`): the log's order within one status."""

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    WEBHOOKS: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("url", 1)), unique=True, where=CLAIMS_URL),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    ),
    QUEUES: (Index((("changed_at", 1),)),),
    HEALTH: (Index((("partition", 1),)),),
    DELIVERIES: (
        # The log, by webhook and event type, either, both or none. Every insert pays for these.
        Index((("workspace", 1), *_LOG_ORDER)),
        Index((("workspace", 1), ("event_type", 1), *_LOG_ORDER)),
        Index((("workspace", 1), ("webhook_id", 1), *_LOG_ORDER)),
        Index((("workspace", 1), ("webhook_id", 1), ("event_type", 1), *_LOG_ORDER)),
        # One event: to look at it, and to erase it.
        Index((("workspace", 1), ("event_id", 1), ("created_at", -1), ("_id", -1))),
        # The log of what failed, by its last error. Only failures pay. The embedded store finds a
        # partial index for an equality and a range only when its condition is in the key too.
        Index((("workspace", 1), ("failed", 1), ("last_error", 1), *_LOG_ORDER), where=_FAILED),
        Index(
            (("workspace", 1), ("webhook_id", 1), ("failed", 1), ("last_error", 1), *_LOG_ORDER),
            where=_FAILED,
        ),
        # Due work, and the longest overdue of a workspace. Only open deliveries pay.
        Index((("webhook_id", 1), ("open", 1), ("due_at", 1)), where=OPEN),
        Index((("webhook_id", 1), ("open", 1), ("order", 1)), where=OPEN),
        Index((("partition", 1), ("webhook_id", 1)), where=OPEN),
        Index((("workspace", 1), ("due_at", 1)), where=OPEN),
        Index((("expires_at", 1),), ttl_s=0),
    ),
    STATISTICS: (Index((("hour", 1),), ttl_s=RETENTION_DAYS * 86_400),),
    DEFERRED_EVENTS: (Index((("source", 1),)),),
    UNMATCHED: (Index((("workspace", 1),)), Index((("expires_at", 1),), ttl_s=0)),
    ERASED_EVENTS: (
        Index((("again_at", 1),)),
        Index((("changed_at", 1),)),
        Index((("expires_at", 1),), ttl_s=0),
    ),
}
