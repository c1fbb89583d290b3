"""Polling triggers as they are stored: their record, their indexes, and every read and write of them.

A polling trigger is due work (`shared/runtime/due_work.py`): the process whose claim has the current `fence`
polls, and what it writes after a person has paused, changed or deleted the trigger does nothing. All triggers
of an account are polled one after another, by the process that holds the account's lock.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from pydantic import Field

from shared.connections.integration_record import LastError
from shared.contracts.errors import NotFound
from shared.contracts.ids import PollingTriggerId
from shared.manifests.poll_pages import PollState
from shared.runtime.clock import utcnow
from shared.runtime.due_work import OPEN, DueRecord, DueWork, claimed_query
from shared.runtime.mongo import Document, Duplicate, Index, Mongo, translate_errors
from shared.runtime.quotas import Quota
from shared.runtime.records import stored_null
from shared.runtime.web.paging import Page, Paging, page

COLLECTION: Final = "polling_triggers"
LOCKS: Final = "polling_locks"
LEASE: Final = timedelta(seconds=120)
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("open", 1), ("due_at", 1), ("_id", 1)), where=OPEN),
        Index((("provider", 1), ("app", 1), ("due_at", 1)), where=OPEN),
    ),
    LOCKS: (Index((("until", 1),), ttl_s=3600),),
}

PollingStatus = Literal["pending", "active", "failing", "paused", "stopped"]
_STATE_FIELDS: Final = frozenset(item.name for item in fields(PollState))


class PollingTrigger(DueRecord):
    """A trigger of a workspace for which a provider's API is polled."""

    workspace: str
    provider: str
    trigger: str
    name: str
    integration_id: str | None = stored_null()
    """The account; None for what needs none."""
    params: Mapping[str, str]
    channel_id: str | None = stored_null()
    interval_s: int
    created_at: datetime
    status: PollingStatus
    is_removed: bool = Field(default=False, alias="removed")
    """It was deleted, and its endpoint is still there."""
    app: str = ""
    """The app of its account: some limits of requests are those of the app."""
    endpoint_id: str | None = stored_null()
    state: Mapping[str, Any]
    """The `PollState`."""
    last_polled_at: datetime | None = stored_null()
    last_event_at: datetime | None = stored_null()
    last_error: LastError | None = stored_null()

    @property
    def poll_state(self) -> PollState:
        """State of its polls. Values that a newer release has added are left out."""
        known = {name: value for name, value in self.state.items() if name in _STATE_FIELDS}
        return PollState(**{**known, "seen": tuple(known.get("seen", ()))})


def stored_state(state: PollState) -> dict[str, Any]:
    """Return a state as it is stored."""
    return {**asdict(state), "seen": list(state.seen)}


class PollingTriggerRepository:
    """Reads and writes of the collection. Every method with `async` raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo, *, per_workspace: int) -> None:
        """Set the maximum number of polling triggers of one workspace."""
        self._collection = mongo.collection(COLLECTION)
        self._locks = mongo.collection(LOCKS)
        self._quota = Quota(
            self._collection,
            per_workspace,
            "polling triggers",
            "INTERLINK_POLLING_TRIGGERS_PER_WORKSPACE",
        )
        self.due_work: Final = DueWork(
            self._collection,
            PollingTrigger.from_document,
            lease=LEASE,
            claim_fields=PollingTrigger.stored_fields({"is_claimed": True}),
        )

    # For people

    async def find(self, trigger_id: str, workspace: str) -> PollingTrigger:
        """Return a polling trigger of a workspace. Raises `NotFound`."""
        with translate_errors():
            document = await self._collection.find_one({"_id": trigger_id, **_of_workspace(workspace)})
        return _existing(document)

    async def list_page(self, workspace: str, paging: Paging) -> Page[PollingTrigger]:
        """Return a page of a workspace's polling triggers, newest first. Raises `Malformed`."""
        return await page(
            self._collection,
            _of_workspace(workspace),
            PollingTrigger.from_document,
            paging,
        )

    async def insert(self, trigger: PollingTrigger) -> None:
        """Insert a polling trigger. Raises `Conflict` if the workspace has the maximum."""
        async with self._reserve(trigger):
            with translate_errors():
                await self._collection.insert_one(trigger.document())

    def _reserve(self, trigger: PollingTrigger) -> AbstractAsyncContextManager[None]:
        async def undo() -> None:
            with translate_errors():
                await self._collection.delete_one({"_id": trigger.id})

        return self._quota.reserve(_of_workspace(trigger.workspace), undo)

    async def change(self, trigger: PollingTrigger, **changes: Any) -> PollingTrigger:
        """Change fields, by their names here, and take the trigger from whoever polls it.

        Return it as it is now. Raises `NotFound` if it was deleted.
        """
        changed = PollingTrigger.stored_fields({"is_claimed": False, **changes})
        with translate_errors():
            document = await self._collection.find_one_and_update(
                {"_id": trigger.id, **_of_workspace(trigger.workspace)},
                {"$set": changed, "$inc": {"fence": 1}},
                return_document=True,
            )
        return _existing(document)

    async def remove(self, trigger: PollingTrigger) -> None:
        """Delete a trigger for its workspace; its owner deletes the inbound endpoint and the record."""
        with suppress(NotFound):
            await self.change(trigger, is_removed=True, is_open=True, due_at=utcnow())

    # For the process that has claimed a trigger

    async def store(self, claimed: PollingTrigger, **changes: Any) -> bool:
        """Write fields of a claimed trigger, and renew its lease. Return False if the claim is over."""
        changes = {"due_at": utcnow() + LEASE, **changes}
        return await self.due_work.write(claimed, {"$set": PollingTrigger.stored_fields(changes)})

    async def finish(self, claimed: PollingTrigger, *, is_page_refused: bool = False, **changes: Any) -> None:
        """Write the outcome of a poll, and end the claim; do nothing if the claim is over already.

        If the page was refused, the next poll begins with the first page. What was published is not
        published again: it is in `seen`.
        """
        changed = PollingTrigger.stored_fields({"is_claimed": False, **changes})
        if is_page_refused:
            changed |= {"state.page": "", "state.pending": ""}
        await self.due_work.write(claimed, {"$set": changed})

    async def delete(self, claimed: PollingTrigger) -> None:
        """Delete a claimed trigger, unless the claim is over."""
        with translate_errors():
            await self._collection.delete_one(claimed_query(claimed))

    async def hold(self, limited: PollingTrigger, app: str, account: str, until: datetime) -> None:
        """Let no trigger of the workspace's accounts of an app be due before this time.

        Except those that are being polled. Without an app, those of the account `account` are held. Other
        workspaces are not: anybody can make a provider limit an account of their own.
        """
        query: Document = {
            **OPEN,
            **_of_workspace(limited.workspace),
            "provider": limited.provider,
            "app": app,
            "working": False,
        }
        if not app:
            query["integration_id"] = account
        with translate_errors():
            await self._collection.update_many(
                {**query, "due_at": {"$lt": until}}, {"$set": {"due_at": until}}
            )

    # The lock of an account

    async def lock(self, account: str, holder: PollingTrigger) -> bool:
        """Lock an account for the lease of one claim; return False if another claim has it."""
        now = utcnow()
        held = {"holder": _holder(holder), "until": now + LEASE}
        with translate_errors():
            taken = await self._locks.update_one({"_id": account, "until": {"$lte": now}}, {"$set": held})
            if taken.matched_count:
                return True
        try:
            with translate_errors():
                await self._locks.insert_one({"_id": account, **held})
        except Duplicate:
            return False
        return True

    async def unlock(self, account: str, holder: PollingTrigger) -> None:
        """Release the lock of an account, if this claim has it."""
        with translate_errors():
            await self._locks.update_one(
                {"_id": account, "holder": _holder(holder)}, {"$set": {"until": utcnow()}}
            )


def _of_workspace(workspace: str) -> Document:
    return {"workspace": workspace, "removed": False}


def _holder(claimed: PollingTrigger) -> str:
    return f"{claimed.id} {claimed.fence}"


def _existing(document: Document | None) -> PollingTrigger:
    if document is None:
        raise NotFound("no such polling trigger")
    return PollingTrigger.from_document(document)


def new_trigger(
    trigger_id: PollingTriggerId,
    workspace: str,
    provider: str,
    trigger: str,
    name: str,
    params: Mapping[str, str],
    *,
    integration_id: str | None,
    app: str,
    channel_id: str | None,
    interval_s: int,
) -> PollingTrigger:
    """Return a polling trigger whose first poll is due now."""
    now = utcnow()
    return PollingTrigger(
        id=trigger_id,
        workspace=workspace,
        provider=provider,
        trigger=trigger,
        name=name,
        integration_id=integration_id,
        params=params,
        channel_id=channel_id,
        interval_s=interval_s,
        created_at=now,
        status="pending",
        app=app,
        state=stored_state(PollState()),
        is_open=True,
        due_at=now,
        is_claimed=False,
        fence=0,
        failures=0,
    )
