"""OAuth states: one for each time that somebody is sent to a platform, used once, for ten minutes.

A state is 256 random bits; the store has its SHA-256, and what it was made for is sealed under that. It
belongs to the browser that holds its cookie: whoever else comes back with it is refused, and does not use
it up. Codes that came back are kept as digests: one that was seen is never brought to a platform again,
whatever state it comes with.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hmac import compare_digest
from time import monotonic
from typing import Any, Final

import orjson

from shared.contracts.errors import DatabaseUnavailable, Forbidden, Misconfigured, NotFound
from shared.runtime.mongo import Document, Duplicate, Index, Mongo, translate_errors, utcnow
from shared.runtime.secrets import Vault
from shared.wire.oauth import new_code_verifier, new_state

COLLECTION: Final = "oauth_states"
LIFETIME: Final = timedelta(minutes=10)
_RETENTION: Final = timedelta(hours=1)
_LOCK_TTL: Final = timedelta(seconds=60)
"""Two clocks may differ by 30 s, and a store that is slow takes its time."""
_LOCK_TIMEOUT_S: Final = 10.0
_LOCK_POLL_INTERVAL_S: Final = 0.05
_OUTCOME_TIMEOUT_S: Final = 20.0
_OUTCOME_POLL_INTERVAL_S: Final = 0.2
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {COLLECTION: (Index((("gone_at", 1),), ttl_s=0),)}


class UnknownState(NotFound):
    """No such state: never made, long over, or changed in the store."""


class UsedState(NotFound):
    """The state was used before, or its ten minutes are over."""


class FinishedState(NotFound):
    """The state was used, and its account is connected. `result` names the page that says so."""

    def __init__(self, result: str, outcome: Document | None) -> None:
        super().__init__("this connection is finished")
        self.result = result
        self.outcome = outcome
        """For the browser that set out; None for another one."""


class BrowserMismatch(Forbidden):
    """The browser that comes back is not the one that set out."""


class LockTimeout(DatabaseUnavailable):
    """Another one is at the same thing, and has been for too long; nothing was done."""


class UsedCode(Forbidden):
    """The code came back before, with this state or another one."""


@dataclass(frozen=True, slots=True)
class PendingState:
    """A state on its way: what the platform, the browser and we need to know."""

    state: str
    cookie: str
    """Its name; its value is `binding`."""
    binding: str
    verifier: str
    expires_at: datetime
    document: Document


class States:
    """The collection."""

    def __init__(self, mongo: Mongo, vault: Vault) -> None:
        self.collection = mongo.collection(COLLECTION)
        self._vault = vault

    def new(self, workspace: str, about: Mapping[str, Any], state: str) -> PendingState:
        """A new state, of `new_state()`, for something that is JSON; it counts once it is `save`d."""
        binding, verifier = new_state(), new_code_verifier()
        name, now = _digest(state), utcnow()
        inside = {"about": about, "binding": _digest(binding), "verifier": verifier}
        document = {
            "_id": name,
            "workspace": workspace,
            "sealed": self._vault.seal(
                orjson.dumps(inside).decode(), workspace=workspace, record=name, field="state"
            ),
            "created_at": now,
            "expires_at": now + LIFETIME,
            "gone_at": now + _RETENTION,
            "used_at": None,
            "failed": False,
            "outcome": None,
        }
        return PendingState(state, cookie_name(state), binding, verifier, now + LIFETIME, document)

    async def save(self, pending_state: PendingState) -> None:
        """Raises `DatabaseUnavailable`."""
        with translate_errors():
            await self.collection.insert_one(pending_state.document)

    async def consume(self, state: str, binding: str | None) -> tuple[Document, str]:
        """What the state was made for, with its workspace, and its PKCE verifier; it cannot be used again.

        Raises `UnknownState`, `FinishedState`, `BrowserMismatch`, `UsedState`, `DatabaseUnavailable`.
        """
        name = _digest(state)
        document = await self._load(name)
        inside = self._decrypt(document)
        known = compare_digest(_digest(binding or ""), inside["binding"])
        if known and document["used_at"] is not None:
            document = await self._await_outcome(document)
        if document.get("outcome") is not None:
            raise FinishedState(name, self._decrypt_outcome(document) if known else None)
        if not known:
            raise BrowserMismatch("the browser that comes back is not the one that set out")
        with translate_errors():
            taken: Document | None = await self.collection.find_one_and_update(
                {"_id": name, "used_at": None, "expires_at": {"$gt": utcnow()}},
                {"$set": {"used_at": utcnow()}},
            )
        if taken is None:
            document = await self._await_outcome(await self._load(name))  # the same answer came twice at once
            if document.get("outcome") is not None:
                raise FinishedState(name, self._decrypt_outcome(document))
            raise UsedState("this address was used before, or its ten minutes are over")
        return {**inside["about"], "workspace": document["workspace"]}, inside["verifier"]

    async def complete(self, state: str, workspace: str, outcome: Mapping[str, Any]) -> str:
        """Keep what came of a state that was used; return the name of the page that shows it.

        Raises `DatabaseUnavailable`.
        """
        name = _digest(state)
        sealed = self._vault.seal(
            orjson.dumps(outcome).decode(), workspace=workspace, record=name, field="outcome"
        )
        with translate_errors():
            await self.collection.update_one({"_id": name}, {"$set": {"outcome": sealed}})
        return name

    async def mark_failed(self, state: str) -> None:
        """Note that nothing came of a state that was used: nobody waits for it. Never raises."""
        with suppress(DatabaseUnavailable), translate_errors():
            await self.collection.update_one({"_id": _digest(state)}, {"$set": {"failed": True}})

    async def result(self, name: str, cookie: str | None) -> Document | None:
        """Return what came of a state, by the name of its page; None for another browser than its own.

        Raises `UnknownState`: nothing, or nobody knows any more; `DatabaseUnavailable`.
        """
        document = await self._load(name)
        if document.get("outcome") is None:
            raise UnknownState("nothing came of it")
        inside = self._decrypt(document)
        known = compare_digest(_digest(cookie or ""), inside["binding"])
        return self._decrypt_outcome(document) if known else None

    async def _load(self, name: str) -> Document:
        with translate_errors():
            document = await self.collection.find_one({"_id": name})
        if document is None or "sealed" not in document:
            raise UnknownState("this address was not made by us, or is long over")
        return document

    async def _await_outcome(self, document: Document) -> Document:
        """Wait a while until it is known what came of a state that is being used."""
        until = monotonic() + _OUTCOME_TIMEOUT_S
        while monotonic() < until and document.get("outcome") is None:
            if document.get("failed", True) or document["expires_at"] <= utcnow():
                break
            await asyncio.sleep(_OUTCOME_POLL_INTERVAL_S)
            document = await self._load(document["_id"])
        return document

    def _decrypt_outcome(self, document: Document) -> Document | None:
        try:
            text = self._vault.open(
                document["outcome"], workspace=document["workspace"], record=document["_id"], field="outcome"
            )
        except (Misconfigured, KeyError, TypeError):
            return None
        found: Document = orjson.loads(text)
        return found

    def _decrypt(self, document: Document) -> dict[str, Any]:
        try:
            text = self._vault.open(
                document["sealed"], workspace=document["workspace"], record=document["_id"], field="state"
            )
        except (Misconfigured, KeyError) as error:
            raise UnknownState("this address is not known any more") from error
        found: dict[str, Any] = orjson.loads(text)
        return found

    async def consume_code(self, code: str) -> None:
        """Note that a code came back, before it is brought to the platform.

        A server that is not honest may have sent the person on to an honest one, and be given that one's code
        by us: only we can make tokens of it, with a state whose challenge it was made for. Raises `UsedCode`,
        `DatabaseUnavailable`.
        """
        try:
            with translate_errors():
                await self.collection.insert_one(
                    {"_id": _digest(f"code {code}"), "gone_at": utcnow() + _RETENTION}
                )
        except Duplicate:
            raise UsedCode("the code came back before") from None

    @asynccontextmanager
    async def lock(self, *about: str) -> AsyncIterator[None]:
        """Nobody else does the same meanwhile, in any process.

        Raises `LockTimeout`, `DatabaseUnavailable`.
        """
        name, until = _digest(repr(("alone", *about))), monotonic() + _LOCK_TIMEOUT_S
        mine = {"_id": name, "gone_at": utcnow() + _LOCK_TTL}
        while not await self._try_lock(mine):
            if monotonic() > until:
                raise LockTimeout("another one is at it")
            await asyncio.sleep(_LOCK_POLL_INTERVAL_S)
        try:
            yield
        finally:
            with suppress(DatabaseUnavailable), translate_errors():
                await self.collection.delete_one(mine)

    async def _try_lock(self, mine: Document) -> bool:
        with translate_errors():
            await self.collection.delete_one({"_id": mine["_id"], "gone_at": {"$lt": utcnow()}})
            try:
                with translate_errors():
                    await self.collection.insert_one(mine)
            except Duplicate:
                return False
        return True


def cookie_name(state: str) -> str:
    """The name of a state's cookie: several can be under way in one browser."""
    return cookie_name_of_result(_digest(state))


def cookie_name_of_result(result: str) -> str:
    """The same, by the name of the page that shows what came of the state."""
    return f"interlink_oauth_{result[:16]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
