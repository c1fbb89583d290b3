"""One refresher, stopped between two lines: no rotated token is lost, no old one given for a new one."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
import structlog

from shared.connections.app_check import AppChecker
from shared.connections.apps import Apps
from shared.connections.integrations import IntegrationRepository
from shared.connections.provider_app import App
from shared.connections.refresh_outcome import NotConnected
from shared.connections.refresh_types import Timing
from shared.connections.refresher import Refresher
from shared.runtime.mongo import Document, utcnow
from shared.wire.provider_http import ProviderRequest, ProviderResponse

HASTY = Timing(call_s=0.2, silent_s=0.3, settle_s=0.1, heartbeat_interval_s=0.05)
USER = {"access_token": "user-1", "refresh_token": "of-user-1"}


class Kept:
    """One integration's document, with the writes that a refresh makes."""

    def __init__(self, provider: str, secrets: dict[str, Any]) -> None:
        now = utcnow()
        self.collection = self
        self.document: Document = {
            "_id": "int_1",
            "workspace": "ws_1",
            "provider": provider,
            "kind": "oauth2",
            "status": "connected",
            "reason": "",
            "version": 1,
            "fence": 0,
            "settled_fence": 0,
            "deleted_at": None,
            "lease": None,
            "retry_at": None,
            "expires_at": now - timedelta(seconds=5),
            "refreshable": True,
            "params": {},
            "account": {"id": "a", "label": "Ada Example", "kept": {}},
            "credential": secrets,
            "open": False,
            "due_at": None,
            "refresh_expires_at": None,
        }

    async def find(self, _name: str) -> Document:
        return copy.deepcopy(self.document)

    async def find_one_and_update(
        self, query: Document, update: Document, return_document: bool = True
    ) -> Document | None:
        assert return_document
        for name, wanted in query.items():
            found: Any = self.document
            for part in name.split("."):
                found = (found or {}).get(part)
            if found not in wanted["$in"] if isinstance(wanted, dict) else found != wanted:
                return None
        for name, value in update.get("$set", {}).items():
            self._set(name, value)
        for name, more in update.get("$inc", {}).items():
            self._set(name, None, more)
        return copy.deepcopy(self.document)

    async def update_one(self, query: Document, update: Document) -> Any:
        changed = await self.find_one_and_update(query, update)
        return SimpleNamespace(matched_count=int(changed is not None))

    def _set(self, name: str, value: Any, more: int = 0) -> None:
        *path, last = name.split(".")
        inside = self.document
        for part in path:
            inside = inside[part]
        inside[last] = inside[last] + more if more else value

    async def change(
        self, document: Document, change: Document, *, condition: Document | None = None, **_told: object
    ) -> Document | None:
        query = {name: document[name] for name in ("_id", "version")} | (condition or {})
        return await self.find_one_and_update(query, {"$set": change})

    def seal(self, _document: Document, secrets: dict[str, Any]) -> Any:
        return copy.deepcopy(secrets)

    def open(self, document: Document) -> dict[str, Any]:
        return dict(copy.deepcopy(document["credential"]))


class OneApp:
    """The app of every provider."""

    async def current(self) -> None:
        """It never changes."""

    def find(self, provider: str, workspace: str, _registered: object = None) -> App:
        return App(provider, workspace, "app", {"client_secret": "the-secret-of-it"}, verified=True)


def refresher(kept: Kept, ask: Callable[[ProviderRequest, str], Awaitable[ProviderResponse]]) -> Refresher:
    apps, log, back = cast("Apps", OneApp()), structlog.get_logger(), "https://hub.example.com/back"
    return Refresher(
        cast("IntegrationRepository", kept),
        apps,
        AppChecker(apps, log, ask, redirect_uri=back),
        log,
        ask,
        redirect_uri=back,
        timing=HASTY,
    )


def given(**fields: Any) -> ProviderResponse:
    body = orjson.dumps({"ok": True, "expires_in": 43200, **fields})
    return ProviderResponse(200, {"content-type": "application/json"}, body)


async def test_who_waits_gets_no_token_of_a_consent_that_is_not_made_anew_yet() -> None:
    """Slack has two grants, made anew one after the other: the first write is not the end."""
    kept = Kept("slack", {"access_token": "bot-1", "refresh_token": "of-bot-1", "others": {"user": USER}})
    halfway, goes_on = asyncio.Event(), asyncio.Event()

    async def ask(call: ProviderRequest, _workspace: str) -> ProviderResponse:
        if b"of-bot" in call.body:
            return given(access_token="bot-2", refresh_token="of-bot-2", token_type="bot")
        halfway.set()
        await goes_on.wait()
        return given(access_token="user-2", refresh_token="of-user-2", token_type="user")

    async with asyncio.TaskGroup() as group:
        holder = group.create_task(refresher(kept, ask).ensure_newer("int_1", 1))
        await halfway.wait()
        other = group.create_task(refresher(kept, ask).ensure_newer("int_1", 1))
        await asyncio.sleep(0.3)
        assert not other.done(), "the person's token is the old one"
        goes_on.set()
    for done in (holder.result(), other.result()):
        assert done["credential"]["others"]["user"]["access_token"] == "user-2"
        assert done["expires_at"] > utcnow()


def abandoned(provider: str, *, committed: bool) -> Kept:
    """An integration whose refresher is gone."""
    kept = Kept(provider, {"access_token": "a-1", "refresh_token": "r-1"})
    kept.document |= {"fence": 1, "lease": {"holder": "gone", "beat": 7, "committed": committed}}
    return kept


@pytest.mark.parametrize(
    ("provider", "committed"),
    [("slack", False), ("google", False), ("google", True)],
    ids=["single-use-not-asked", "reusable-not-asked", "reusable-maybe-asked"],
)
async def test_a_token_is_made_anew_after_its_refresher_is_gone(provider: str, committed: bool) -> None:
    kept, asked = abandoned(provider, committed=committed), []

    async def ask(call: ProviderRequest, _workspace: str) -> ProviderResponse:
        asked.append(call)
        return given(access_token="a-2", refresh_token="r-2")

    document = await refresher(kept, ask).ensure_newer("int_1", 1)
    assert (len(asked), document["credential"]["refresh_token"], document["lease"]) == (1, "r-2", None)
    assert (document["fence"], document["settled_fence"]) == (2, 2)


async def test_a_token_that_works_once_is_not_sent_after_its_refresher_may_have_sent_it() -> None:
    kept = abandoned("slack", committed=True)

    async def ask(_call: ProviderRequest, _workspace: str) -> ProviderResponse:
        raise AssertionError("it may have been used")

    with pytest.raises(NotConnected):
        await refresher(kept, ask).ensure_newer("int_1", 1)
    assert (kept.document["status"], kept.document["reason"]) == ("reauth_required", "refresh_interrupted")


async def test_who_lives_is_waited_for_however_slow_the_platform_is() -> None:
    """Its beat is seen, so its lease does not end."""
    kept, goes_on, asked = (
        Kept("google", {"access_token": "a-1", "refresh_token": "r-1"}),
        asyncio.Event(),
        [],
    )

    async def ask(call: ProviderRequest, _workspace: str) -> ProviderResponse:
        asked.append(call)
        await goes_on.wait()
        return given(access_token="a-2", refresh_token="r-2")

    async with asyncio.TaskGroup() as group:
        holder = group.create_task(refresher(kept, ask).ensure_newer("int_1", 1))
        other = group.create_task(refresher(kept, ask).ensure_newer("int_1", 1))
        await asyncio.sleep(3 * (HASTY.call_s + HASTY.settle_s))
        assert (len(asked), kept.document["fence"]) == (1, 1)
        goes_on.set()
    assert holder.result()["version"] == other.result()["version"] == 2


async def test_who_lost_its_lease_does_not_ask() -> None:
    """It stood still between the claim and the request; another one has refreshed meanwhile."""
    kept = Kept("slack", {"access_token": "a-1", "refresh_token": "r-1"})
    asked: list[bytes] = []

    async def ask(call: ProviderRequest, _workspace: str) -> ProviderResponse:
        asked.append(call.body)
        return given(access_token="a-2", refresh_token="r-2")

    first = refresher(kept, ask)
    plain = first.outcomes.decrypt_credential

    def opened(document: Document) -> dict[str, Any]:
        if document["fence"] == 1:  # as another holder leaves it
            kept.document |= {"fence": 2, "lease": {"holder": "another", "beat": 0, "committed": False}}
        return plain(document)

    vars(first.outcomes)["decrypt_credential"] = opened
    document = await first.ensure_newer("int_1", 1)
    assert [b"refresh_token=r-1" in body for body in asked] == [True], "once, with the third claim"
    assert document["fence"] == 3
