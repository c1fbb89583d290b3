"""What recovery needs to know of outgoing webhooks."""

from collections.abc import Collection as Ids

from services.delivery.log.webhooks import WEBHOOKS
from shared.runtime.mongo import Collection, Document, Mongo, translate_errors


class RecoveryWebhooks:
    """Reads the state of outgoing webhooks, and counts their replays.

    Every method raises `DatabaseUnavailable`.
    """

    def __init__(self, mongo: Mongo) -> None:
        self._collection: Collection = mongo.collection(WEBHOOKS)

    async def enabled_by_id(self, webhook_ids: Ids[str]) -> dict[str, bool]:
        """Return for each of these webhooks that exists whether it is enabled."""
        query = {"_id": {"$in": list(webhook_ids)}, "deleted_at": None}
        with translate_errors():
            documents = await self._collection.find(query, {"enabled": 1}).to_list(len(webhook_ids))
        return {document["_id"]: document["enabled"] for document in documents}

    async def is_enabled(self, webhook_id: str, *, workspace: str) -> bool | None:
        """Return whether a webhook is enabled; None if the workspace has no such webhook."""
        query = {"_id": webhook_id, "workspace": workspace, "deleted_at": None}
        with translate_errors():
            document = await self._collection.find_one(query, {"enabled": 1})
        return None if document is None else bool(document["enabled"])

    async def next_replay_number(
        self, webhook_id: str, *, workspace: str, only_enabled: bool = False
    ) -> int | None:
        """Count one more replay of a webhook, and return its number; None if there is no such webhook.

        It is counted in MongoDB, whichever process is called: the ids of the new deliveries derive from it.
        """
        query: Document = {"_id": webhook_id, "workspace": workspace, "deleted_at": None}
        if only_enabled:
            query["enabled"] = True
        with translate_errors():
            document = await self._collection.find_one_and_update(
                query, {"$inc": {"replays": 1}}, projection={"replays": 1}, return_document=True
            )
        return None if document is None else int(document["replays"])
