"""One refresher, stopped between two lines: no rotated token is lost, no old one given for a new one."""

import asyncio
import copy
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import orjson
import pytest
import structlog

from shared.runtime import refresh
from shared.runtime.app_trial import AppTrial
from shared.runtime.apps import App, Apps
from shared.runtime.integrations import Integrations
from shared.runtime.mongo import Document, utcnow
from shared.runtime.refresh import Refresher, Timing
from shared.wire.oauth import Answered, Call

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
            "lease_until": None,
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
            found = self.document.get(name)
            if found not in wanted["$in"] if isinstance(wanted, dict) else found != wanted:
                return None
        self.document |= update["$set"]
        for name, more in update.get("$inc", {}).items():
            self.document[name] += more
        return copy.deepcopy(self.document)

    async def change(
        self, document: Document, change: Document, *, only: Document | None = None, **_told: object
    ) -> Document | None:
        query = {name: document[name] for name in ("_id", "version")} | (only or {})
        return await self.find_one_and_update(query, {"$set": change})

    def seal(self, _document: Document, secrets: dict[str, Any]) -> Any:
        return copy.deepcopy(secrets)

    def open(self, document: Document) -> dict[str, Any]:
        return dict(copy.deepcopy(document["credential"]))


class OneApp:
    """The app of every provider."""

    def find(self, provider: str, workspace: str, _registered: object = None) -> App:
        return App(provider, workspace, "app", {"client_secret": "the-secret-of-it"}, verified=True)


def refresher(kept: Kept, ask: Callable[[Call, str], Awaitable[Answered]]) -> Refresher:
    apps, log, back = cast("Apps", OneApp()), structlog.get_logger(), "https://hub.example.com/back"
    return Refresher(
        cast("Integrations", kept),
        apps,
        AppTrial(apps, log, ask, redirect_uri=back),
        log,
        ask,
        redirect_uri=back,
        timing=Timing(settle_s=0.1),
    )


def given(**fields: Any) -> Answered:
    body = orjson.dumps({"ok": True, "expires_in": 43200, **fields})
    return Answered(200, {"content-type": "application/json"}, body)


async def test_who_waits_gets_no_token_of_a_consent_that_is_not_made_anew_yet() -> None:
    """Slack has two grants, made anew one after the other: the first write is not the end."""
    kept = Kept("slack", {"access_token": "bot-1", "refresh_token": "of-bot-1", "others": {"user": USER}})
    halfway, goes_on = asyncio.Event(), asyncio.Event()

    async def ask(call: Call, _workspace: str) -> Answered:
        if b"of-bot" in call.body:
            return given(access_token="bot-2", refresh_token="of-bot-2", token_type="bot")
        halfway.set()
        await goes_on.wait()
        return given(access_token="user-2", refresh_token="of-user-2", token_type="user")

    async with asyncio.TaskGroup() as group:
        holder = group.create_task(refresher(kept, ask).newer("int_1", 1, forced=False))
        await halfway.wait()
        other = group.create_task(refresher(kept, ask).newer("int_1", 1, forced=False))
        await asyncio.sleep(0.3)
        assert not other.done(), "the person's token is the old one"
        goes_on.set()
    for done in (holder.result(), other.result()):
        assert done["credential"]["others"]["user"]["access_token"] == "user-2"
        assert done["expires_at"] > utcnow()


async def test_who_stood_still_does_not_ask_when_another_clock_may_have_ended_his_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """20 s between claim and request; the other's clock is 30 s ahead. One refresh token, used once."""
    kept = Kept("google", {"access_token": "a-1", "refresh_token": "r-1"})
    ahead = threading.local()
    monkeypatch.setattr(
        refresh, "utcnow", lambda: utcnow() + timedelta(seconds=getattr(ahead, "seconds", 0.0))
    )
    asked: list[bytes] = []

    async def ask(call: Call, _workspace: str) -> Answered:
        asked.append(call.body)
        return given(access_token=f"a-{len(asked) + 1}", refresh_token=f"r-{len(asked) + 1}")

    def meanwhile() -> None:
        ahead.seconds = 20.0 + 30.0
        asyncio.run(refresher(kept, ask).newer("int_1", 1, forced=False))

    plain = kept.open
    stood: list[bool] = []

    def opened(document: Document) -> dict[str, Any]:
        if not stood:
            stood.append(True)
            ahead.seconds = 20.0
            other = threading.Thread(target=meanwhile)
            other.start()
            other.join()
        return plain(document)

    monkeypatch.setattr(kept, "open", opened)
    document = await refresher(kept, ask).newer("int_1", 1, forced=False)
    assert [b"refresh_token=r-1" in body for body in asked] == [True]
    assert document["credential"]["refresh_token"] == "r-2"
