"""Saved views over a real database."""

from datetime import timedelta

import pytest

from bench.log import mongo_at
from services.console.saved_views import COLLECTION, MAX_VIEWS, SavedViews
from shared.contracts.errors import Conflict
from shared.runtime.clock import utcnow
from tests.support.backends import Store


async def test_a_member_has_a_maximum_of_views_and_only_those_in_use_stay(store: Store) -> None:
    mongo = mongo_at(store.uri())
    views, collection = SavedViews(mongo), mongo.collection(COLLECTION)
    for number in range(MAX_VIEWS):
        await views.add("w", "ada", name=f"view {number:02}", path="deliveries", query="status=failed")
    with pytest.raises(Conflict, match="delete one first"):
        await views.add("w", "ada", name="more", path="deliveries", query="")
    await views.add("w", "bob", name="own", path="deliveries", query="")
    long_ago = utcnow() - timedelta(days=100)
    await collection.update_many({}, {"$set": {"used_at": long_ago}})
    assert [view.name for view in await views.list_all("w", "bob")] == ["own"]
    assert [view.used_at for view in await views.list_all("w", "bob")] > [long_ago]
    assert await collection.count_documents({"used_at": long_ago}) == MAX_VIEWS, "those of the other member"
    await views.delete("w", "ada", 3)
    await views.add("w", "ada", name="more", path="deliveries", query="")
    assert len(await views.list_all("w", "ada")) == MAX_VIEWS
    mongo.close()
