"""Statistics of many webhooks are written in turns, and all of them when the service stops."""

from services.delivery.log.statistics import STATISTICS, Statistics
from shared.runtime.clock import utcnow
from shared.runtime.hourly_counts import hour_of
from shared.runtime.logs import configure
from shared.runtime.mongo import Mongo
from tests.delivery.test_log import run
from tests.support.backends import Store

WEBHOOKS = 250


def test_counts_are_written_in_turns_and_all_at_the_end(store: Store) -> None:
    now = utcnow()

    async def work(mongo: Mongo) -> None:
        statistics = Statistics(mongo, configure("tests", "warning"))
        rows = mongo.collection(STATISTICS)

        def count_attempts() -> None:
            for number in range(WEBHOOKS):
                statistics.record(f"wh_{number}", "w", "delivered", 0.01, now)

        async def written() -> tuple[int, int]:
            documents = await rows.find({"webhook_id": {"$exists": True}}).to_list(None)
            return len(documents), sum(document["attempts"] for document in documents)

        count_attempts()
        await statistics.flush(100)
        assert await written() == (100, 100)
        count_attempts()  # those that were written have to wait behind the others
        await statistics.flush(100)
        assert await written() == (200, 300)
        await statistics.flush(100)
        assert await written() == (250, 450)
        await statistics.stop()
        assert await written() == (250, 2 * WEBHOOKS)
        workspace = await rows.find_one({"hour": hour_of(now), "webhook_id": {"$exists": False}})
        assert workspace is not None
        assert workspace["attempts"] == 2 * WEBHOOKS

    run(store.uri(), work)
