"""What the repository of provider subscriptions writes, and what it leaves to whoever works on one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from bench.log import mongo_at
from services.oauth.subscriptions.records import (
    COLLECTION,
    INDEXES,
    LEASE,
    NOT_CREATED,
    ProviderSubscription,
    SubscriptionRepository,
)
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Document, Mongo
from shared.runtime.secrets import LocalKeyProvider, Vault
from tests.support.backends import Store

NOW = utcnow()
NEW: Document = {
    "_id": "wch_1",
    "workspace": "ws_1",
    "integrations": ["int_1"],
    "app": None,
    "provider": "twitter",
    "watch": "webhook",
    "resource": {},
    "channel_id": None,
    "status": "pending",
    "endpoint_id": None,
    "endpoint_url": None,
    "endpoint_secret": None,
    "made": None,
    "expires_at": None,
    "open": True,
    "working": False,
    "failures": 0,
    "last_error": None,
    "renewed_at": None,
    "due_at": NOW,
    "fence": 0,
    "created_at": NOW,
}
"""A new subscription as earlier releases stored it."""
LATER = {"field_of_a_later_release": 1}


def subscription(**fields: Any) -> ProviderSubscription:
    return ProviderSubscription(
        **{
            "id": "wch_1",
            "workspace": "ws_1",
            "integrations": ("int_1",),
            "provider": "twitter",
            "type_id": "webhook",
            "resource": {},
            "due_at": NOW,
            "fence": 0,
            "created_at": NOW,
            **NOT_CREATED,
            **fields,
        }
    )


@asynccontextmanager
async def repository(store: Store) -> AsyncIterator[tuple[SubscriptionRepository, Mongo]]:
    mongo = mongo_at(store.uri())
    try:
        await mongo.ensure_indexes(INDEXES)
        yield SubscriptionRepository(mongo, Vault(LocalKeyProvider([b"k" * 32]))), mongo
    finally:
        mongo.close()


async def stored(mongo: Mongo) -> Document:
    return await mongo.collection(COLLECTION).find_one({"_id": "wch_1"}) or {}


async def test_a_new_subscription_is_stored_as_ever_and_joined_by_others(store: Store) -> None:
    async with repository(store) as (subscriptions, mongo):
        assert await subscriptions.add_or_join(subscription()) == subscription()
        assert await stored(mongo) == NEW
        joined = await subscriptions.add_or_join(subscription(integrations=("int_2",), status="active"))
        assert joined == subscription(integrations=("int_1", "int_2"))
        assert await subscriptions.leave(subscription(), "int_1")
        assert not await subscriptions.leave(subscription(), "int_2"), "it is the last one"
        assert (await stored(mongo))["integrations"] == ["int_2"]


async def test_a_claimed_subscription_is_not_made_due(store: Store) -> None:
    async with repository(store) as (subscriptions, mongo):
        await subscriptions.add_or_join(subscription())
        assert await subscriptions.due_work.claim("wch_1")
        claimed, due_at = await stored(mongo), utcnow()
        assert (claimed["working"], claimed["fence"]) == (True, 1)
        await subscriptions.make_waiting_due("int_1")
        await subscriptions.make_uncreated_due(due_at)
        await subscriptions.make_types_due("twitter", ["webhook"], None, due_at)
        assert await stored(mongo) == claimed
        assert await subscriptions.claim_for_removal(subscription(), by_force=False) is None
        assert await subscriptions.claim_for_removal(subscription(), by_force=True)


async def test_an_unclaimed_subscription_is_made_due_by_its_app_and_its_account(store: Store) -> None:
    async with repository(store) as (subscriptions, mongo):
        later = utcnow() + timedelta(hours=6)
        await subscriptions.add_or_join(subscription(status="failing", due_at=later, failures=7))
        due_at = utcnow()
        for provider, type_id, workspace in (
            ("github", "webhook", None),
            ("twitter", "other", None),
            ("twitter", "webhook", "ws_2"),
        ):
            await subscriptions.make_types_due(provider, [type_id], workspace, due_at)
            assert (await stored(mongo))["due_at"] == later
        await subscriptions.make_types_due("twitter", ["webhook"], "ws_1", due_at)
        assert (await stored(mongo))["due_at"] == due_at
        assert (await stored(mongo))["failures"] == 7, "the pauses go on growing"
        await subscriptions.make_waiting_due("int_1")
        assert (await stored(mongo))["failures"] == 0


async def test_who_lost_the_claim_writes_nothing(store: Store) -> None:
    async with repository(store) as (subscriptions, mongo):
        await subscriptions.add_or_join(subscription())
        await mongo.collection(COLLECTION).update_one({"_id": "wch_1"}, {"$set": LATER})
        first = await subscriptions.due_work.claim("wch_1")
        assert first is not None
        held = await subscriptions.store_endpoint(first, "ep_1", "https://hub.example/in", "its-secret")
        assert subscriptions.decrypt_endpoint_secret(held) == "its-secret"
        second = await subscriptions.claim_for_removal(first, by_force=True)
        assert second == held.model_copy(update={"fence": 2, "due_at": second and second.due_at})
        claimed = await stored(mongo)
        await subscriptions.finish(first, status="active", due_at=None, is_open=False)
        await subscriptions.store_endpoint(first, "ep_2", "https://hub.example/other", "")
        await subscriptions.reset(first)
        assert await stored(mongo) == claimed
        assert second
        await subscriptions.reset(second)
        reset = await stored(mongo)
        assert reset["due_at"] - reset["created_at"] == LEASE
        times = {"due_at": reset["due_at"], "created_at": reset["created_at"]}
        assert reset == {**NEW, **LATER, **times, "working": True, "fence": 2}


async def test_an_account_that_joins_while_it_is_removed_gets_another_one(store: Store) -> None:
    async with repository(store) as (subscriptions, mongo):
        await subscriptions.add_or_join(subscription())
        claimed = await subscriptions.claim_for_removal(subscription(), by_force=False)
        assert claimed is not None
        await subscriptions.reset(claimed)
        await subscriptions.add_or_join(subscription(integrations=("int_2",)))
        await subscriptions.delete_or_restart(claimed)
        left = await stored(mongo)
        assert (left["integrations"], left["working"], left["status"]) == (["int_2"], False, "pending")
        assert left["created_at"] >= claimed.created_at
        again = await subscriptions.claim_for_removal(claimed, by_force=False)
        assert again is not None
        await subscriptions.delete_or_restart(again)
        assert await stored(mongo) == {}
