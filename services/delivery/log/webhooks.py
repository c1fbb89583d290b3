"""Where outgoing webhooks and paused queues are stored: collections and indexes."""

from collections.abc import Mapping
from typing import Final

from shared.runtime.mongo import TOMBSTONE_TTL_S, Index

WEBHOOKS: Final = "outgoing_webhooks"
QUEUES: Final = "delivery_queues"
"""One document per workspace that was ever paused."""
CLAIMS_URL: Final = {"claims_url": True}
"""Webhooks with a unique URL; one that was created with `force` beside another does not claim its URL."""

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    WEBHOOKS: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("url", 1)), unique=True, where=CLAIMS_URL),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    ),
    QUEUES: (Index((("changed_at", 1),)),),
}
