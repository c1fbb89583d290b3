"""The ids of the whole delivery log, read in ranges."""

from services.delivery.log.deliveries import DELIVERIES
from shared.runtime.mongo import Collection, ExecutionTimeout, Mongo, translate_errors


class DeliveryIds:
    """Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection: Collection = mongo.collection(DELIVERIES)

    async def are_indexed(self) -> bool:
        """Return whether the database reads a range of ids from their index, as MongoDB does."""
        bounds = {"_id": {"$gte": "dlv_0", "$lt": "dlv_1"}}
        find = {"find": DELIVERIES, "filter": bounds, "projection": {"_id": 1}}
        with translate_errors():
            plan = await self._collection.database.command({"explain": find, "verbosity": "queryPlanner"})
        return "IXSCAN" in str(plan["queryPlanner"]["winningPlan"])

    async def estimated_count(self) -> int:
        """Return about how many deliveries the log has."""
        with translate_errors():
            return await self._collection.estimated_document_count()

    async def count_within(self, seconds: float) -> int | None:
        """Return how many deliveries the log has; None if the database cannot count them in this time.

        The embedded database reads all documents to count them, and answers nobody meanwhile.
        """
        with translate_errors():
            try:
                return await self._collection.estimated_document_count(maxTimeMS=round(seconds * 1000))
            except ExecutionTimeout:
                return None

    async def between(self, low: str | None, high: str | None) -> list[str]:
        """Return the ids from `low` to before `high`; None for no bound."""
        bounds = {name: bound for name, bound in (("$gte", low), ("$lt", high)) if bound is not None}
        query = {"_id": bounds} if bounds else {}
        with translate_errors():
            documents = await self._collection.find(query, {"_id": 1}).to_list(None)
        return [document["_id"] for document in documents]
