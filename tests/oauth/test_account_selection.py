"""A selection that a dying or a concurrent process interrupts leaves one integration per resource."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

import pytest

from services.oauth.authorization.account_identity import AccountMatcher
from services.oauth.authorization.account_selection import AccountSelection
from services.oauth.authorization.state import States
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.integration_record import COLLECTION, Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.manifests.registry import registry
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Document
from shared.runtime.service import Runtime, runtime
from tests.support.hub import Hub, hub_with

WORKSPACE = "default"
PLACES: list[dict[str, Any]] = [
    {"id": name, "label": name.upper(), "kept": {}} for name in ("first", "second")
]


class Killed(BaseException):
    """The process ends here."""


class Quiet:
    """Tokens and watches that nobody asks."""

    def forget(self, _name: str) -> None: ...

    async def prepare_automatic(self, _integration: Integration, *, app: tuple[str, ...] | None) -> None: ...

    async def recreate_for_choice(self, _integration: Integration) -> None: ...

    async def resume(self, _name: str) -> None: ...

    async def unsubscribe_all(self, _name: str) -> None: ...


class Dying(IntegrationRepository):
    """Writes the first changes, and is killed before the next."""

    left = 1

    async def change(self, integration: Integration, **changes: Any) -> Integration | None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return await super().change(integration, **changes)


hub = hub_with(services=())


def choosing(
    here: Runtime, kind: type[IntegrationRepository] = IntegrationRepository
) -> tuple[AccountSelection, IntegrationRepository]:
    known = kind(here.mongo, here.vault, here.producer, here.log)
    tokens, watching = cast("TokenSource", Quiet()), cast("SubscriptionLifecycle", Quiet())
    accounts = AccountMatcher(known, registry().connectors, tokens)
    states = States(here.mongo, here.vault)
    return AccountSelection(known, accounts, tokens, states, watching), known


def run(hub: Hub, do: Callable[[Runtime], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with runtime("test") as here:
            await here.producer.wait_ready(30)
            await do(here)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in hub.env.items():
            patch.setenv(name, value)
        asyncio.run(inside())


async def integration(here: Runtime, known: IntegrationRepository, name: str, **more: Any) -> None:
    now = utcnow()
    times = dict.fromkeys(("created_at", "changed_at", "connected_at"), now)
    ends = dict.fromkeys(("expires_at", "renew_at"), now + timedelta(hours=1))
    document: Document = {
        "_id": name,
        "workspace": WORKSPACE,
        "provider": "jira",
        "kind": "oauth2",
        "name": "",
        "status": "pending",
        "reason": "choice_required",
        "account": {"id": "ada", "label": "Ada", "url": "", "kept": {}},
        "app": ["", "client"],
        "params": {},
        "scopes": [],
        "asked": [],
        "user": "usr_1",
        "deleted_at": None,
        "version": 1,
        "fence": 0,
        "settled_fence": 0,
        "refresh_expires_at": None,
        "refreshable": True,
        "open": False,
        "due_at": None,
        "events": [],
        "untold": False,
        "choices": PLACES,
        **times,
        **ends,
        **more,
    }
    tokens = {"access_token": f"a-{name}", "refresh_token": f"r-{name}"}
    document["credential"] = known.seal(Integration.from_document(document), tokens)
    await here.mongo.collection(COLLECTION).insert_one(document)


def of(place: str) -> dict[str, Any]:
    """What a connected integration of a place has besides."""
    account = {"id": "ada", "label": "Ada", "url": "", "kept": {}, "choice": {"id": place, "label": place}}
    return {"status": "connected", "reason": "", "account": account}


def test_a_grant_has_one_integration_when_the_process_dies_during_the_merge(hub: Hub) -> None:
    async def do(here: Runtime) -> None:
        dying, known = choosing(here, Dying)
        await integration(here, known, "int_there", **of("first"))
        await integration(here, known, "int_begun")
        with suppress(Killed):
            await dying.choose("int_begun", WORKSPACE, "first")
        living, known = choosing(here)
        assert known.open(await known.find("int_there"))["refresh_token"] == "r-int_begun"
        chosen = await living.choose("int_begun", WORKSPACE, "second")  # what it has is another's by now
        assert chosen.id == "int_there"
        assert (await known.find("int_begun")).id == "int_there"

    run(hub, do)


def test_an_integration_that_is_disabled_during_the_merge_stays_disabled(hub: Hub) -> None:
    async def do(here: Runtime) -> None:
        one, known = choosing(here)
        await integration(here, known, "int_place", **of("second"), workspace="other")
        await integration(here, known, "int_new", workspace="other")
        there = await known.find("int_place")
        authorization = await known.find("int_new")
        condition = {"status": "connected"}
        assert await known.change(
            there, condition=condition, status="disabled", status_before_disabled="connected"
        )
        merge = vars(AccountSelection)["_merge_into_existing"]
        assert await merge(one, authorization, "Second", there.account, there) is None
        assert (await known.find("int_place")).status == "disabled"

    run(hub, do)


def test_a_refresh_that_begins_during_the_merge_is_not_taken_for_an_interrupted_one(hub: Hub) -> None:
    async def do(here: Runtime) -> None:
        one, known = choosing(here)
        await integration(here, known, "int_held", **of("second"), workspace="refreshed")
        await integration(here, known, "int_later", workspace="refreshed")
        before = await known.find("int_held")
        assert await known.leases().claim(before, None) is not None
        merge = vars(AccountSelection)["_merge_into_existing"]
        authorization = await known.find("int_later")
        assert await merge(one, authorization, "Second", before.account, before) is None
        await one.choose("int_later", "refreshed", "second")
        after = await known.find("int_held")
        assert (after.fence, after.settled_fence, after.lease) == (1, 1, None)

    run(hub, do)
