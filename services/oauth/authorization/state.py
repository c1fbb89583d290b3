"""Authorization states: single-use records that bind a callback to the browser that started the flow.

A state is 256 random bits, valid for ten minutes. The database has its SHA-256 only; the payload and the PKCE
verifier are sealed. A state belongs to the browser that holds its cookie: a callback from another browser is
refused and does not consume it. Authorization codes are stored as digests: a code that came back once is
never sent to a provider again, whichever state it comes with.

The collection also holds the locks that serialize callbacks of one account.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hmac import compare_digest
from time import monotonic
from typing import Final

import orjson
from pydantic import Field

from shared.contracts.errors import DatabaseUnavailable, Forbidden, Misconfigured, NotFound
from shared.runtime.mongo import Document, Duplicate, Index, Mongo, translate_errors, utcnow
from shared.runtime.records import Record, StoredPart, stored_null
from shared.runtime.secrets import Sealed, StoredSecret, Vault
from shared.wire.oauth import new_code_verifier, new_state

COLLECTION: Final = "oauth_states"
STATE_TTL: Final = timedelta(minutes=10)
_RETENTION: Final = timedelta(hours=1)
_LOCK_TTL: Final = timedelta(seconds=60)
"""Covers a clock difference of 30 s between processes, and slow writes."""
_LOCK_TIMEOUT_S: Final = 10.0
_LOCK_POLL_INTERVAL_S: Final = 0.05
_OUTCOME_TIMEOUT_S: Final = 20.0
_OUTCOME_POLL_INTERVAL_S: Final = 0.2
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {COLLECTION: (Index((("gone_at", 1),), ttl_s=0),)}


class StoredRequestToken(StoredPart):
    """The request token of an OAuth 1.0a flow."""

    token: str
    secret: str


class PendingAuthorization(StoredPart):
    """An authorization between start and callback: what is stored sealed in its state.

    The callback may be handled by another release, which reads the same names.
    """

    provider: str
    server: tuple[str, ...]
    """The app and the addresses that have to be the same at the callback: see `server_binding`."""
    user: str | None = stored_null()
    integration_id: str
    is_reconnect: bool = Field(alias="again")
    any_account: bool
    """Whether another account than before may be connected."""
    takeover: bool = False
    params: Mapping[str, str]
    requested_scopes: tuple[str, ...] = Field(alias="asked")
    requested_user_scopes: tuple[str, ...] | None = None
    redirect_uri: str
    return_to: str | None = stored_null()
    request_token: StoredRequestToken | None = Field(default=None, alias="request")


class AuthorizationOutcome(StoredPart):
    """What the result page of an authorization shows, and where the person is sent."""

    title: str
    text: str
    return_to: str | None = stored_null()
    parameters: Mapping[str, str] = Field(alias="told")
    """The parameters that `return_to` gets."""


class _SealedFields(StoredPart):
    """The sealed part of a state."""

    authorization: PendingAuthorization = Field(alias="about")
    binding_digest: str = Field(alias="binding")
    verifier: str


class StoredState(Record):
    """A state as it is stored. Its id is a digest of it."""

    workspace: str
    sealed: StoredSecret
    created_at: datetime
    expires_at: datetime
    gone_at: datetime
    """When MongoDB deletes it."""
    used_at: datetime | None = stored_null()
    failed: bool = True
    """Earlier releases did not store it: then nothing waits for an outcome."""
    outcome: StoredSecret | None = stored_null()


@dataclass(frozen=True, slots=True)
class ConsumedState:
    """What a callback gets of its state."""

    workspace: str
    authorization: PendingAuthorization
    verifier: str
    """The PKCE verifier."""


class UnknownState(NotFound):
    """The state does not exist: it was never created, was removed, or cannot be decrypted."""


class UsedState(NotFound):
    """The state was used before, or it has expired."""


class FinishedState(NotFound):
    """The state was used, and its account is connected.

    `result` identifies the result page. `outcome` is what the page shows; None for a browser that did not
    start the flow.
    """

    def __init__(self, result: str, outcome: AuthorizationOutcome | None) -> None:
        super().__init__("this connection is finished")
        self.result = result
        self.outcome = outcome


class BrowserMismatch(Forbidden):
    """The callback comes from a browser that did not start the flow."""


class LockTimeout(DatabaseUnavailable):
    """Another process held the lock for too long. Nothing was done."""


class UsedCode(Forbidden):
    """The authorization code came back before, with this state or another one."""


@dataclass(frozen=True, slots=True)
class PendingState:
    """A new state, with what the provider, the browser and the database get of it."""

    state: str
    cookie: str
    """The cookie's name. Its value is `binding`."""
    binding: str
    verifier: str
    stored: StoredState


class States:
    """The repository of authorization states."""

    def __init__(self, mongo: Mongo, vault: Vault) -> None:
        self._collection = mongo.collection(COLLECTION)
        self._vault = vault

    def new(self, workspace: str, authorization: PendingAuthorization, state: str) -> PendingState:
        """Create the state of an authorization from `state`, a value of `new_state()`.

        It can be used only after `save`.
        """
        binding, verifier = new_state(), new_code_verifier()
        record_id, now = _digest(state), utcnow()
        sealed_fields = _SealedFields(
            authorization=authorization, binding_digest=_digest(binding), verifier=verifier
        )
        stored = StoredState(
            id=record_id,
            workspace=workspace,
            sealed=self._seal(sealed_fields, workspace, record_id, "state"),
            created_at=now,
            expires_at=now + STATE_TTL,
            gone_at=now + _RETENTION,
            failed=False,
        )
        return PendingState(state, cookie_name(state), binding, verifier, stored)

    async def save(self, pending_state: PendingState) -> None:
        """Store a new state. Raises `DatabaseUnavailable`."""
        with translate_errors():
            await self._collection.insert_one(pending_state.stored.document())

    async def consume(self, state: str, binding: str | None) -> ConsumedState:
        """Mark a state as used, and return its authorization.

        `binding` is the value of the state's cookie. Of two concurrent calls for one state, one waits for the
        outcome of the other, up to 20 s.

        Raises `UnknownState`; `FinishedState` if the state was used and its account is connected;
        `BrowserMismatch` if the cookie is missing or not the state's; `UsedState` if it was used without
        success or has expired; `DatabaseUnavailable`.
        """
        record_id = _digest(state)
        stored = await self._load(record_id)
        sealed_fields = self._decrypt(stored)
        is_same_browser = compare_digest(_digest(binding or ""), sealed_fields.binding_digest)
        if is_same_browser and stored.used_at is not None:
            stored = await self._await_outcome(stored)
        if stored.outcome is not None:
            raise FinishedState(record_id, self._decrypt_outcome(stored) if is_same_browser else None)
        if not is_same_browser:
            raise BrowserMismatch("the callback comes from a browser that did not start the flow")
        with translate_errors():
            consumed: Document | None = await self._collection.find_one_and_update(
                {"_id": record_id, "used_at": None, "expires_at": {"$gt": utcnow()}},
                {"$set": {"used_at": utcnow()}},
            )
        if consumed is None:
            # A double click: the other request has just consumed the state.
            stored = await self._await_outcome(await self._load(record_id))
            if stored.outcome is not None:
                raise FinishedState(record_id, self._decrypt_outcome(stored))
            raise UsedState("this address was used before, or it has expired")
        return ConsumedState(stored.workspace, sealed_fields.authorization, sealed_fields.verifier)

    async def complete(self, state: str, workspace: str, outcome: AuthorizationOutcome) -> str:
        """Store the outcome of a used state, sealed. Return the id of its result page.

        Raises `DatabaseUnavailable`.
        """
        record_id = _digest(state)
        sealed = self._seal(outcome, workspace, record_id, "outcome")
        with translate_errors():
            await self._collection.update_one({"_id": record_id}, {"$set": {"outcome": sealed}})
        return record_id

    async def mark_failed(self, state: str) -> None:
        """Mark a used state as failed, so that concurrent calls stop waiting for an outcome. Never raise."""
        with suppress(DatabaseUnavailable), translate_errors():
            await self._collection.update_one({"_id": _digest(state)}, {"$set": {"failed": True}})

    async def result(self, result: str, cookie: str | None) -> AuthorizationOutcome | None:
        """Return the outcome of a state by the id of its result page; None for another browser.

        `cookie` is the value of the state's cookie. Raises `UnknownState` if there is no outcome (any more);
        `DatabaseUnavailable`.
        """
        stored = await self._load(result)
        if stored.outcome is None:
            raise UnknownState("this authorization has no outcome")
        sealed_fields = self._decrypt(stored)
        is_same_browser = compare_digest(_digest(cookie or ""), sealed_fields.binding_digest)
        return self._decrypt_outcome(stored) if is_same_browser else None

    async def _load(self, record_id: str) -> StoredState:
        with translate_errors():
            document = await self._collection.find_one({"_id": record_id})
        if document is None or "sealed" not in document:  # locks and used codes have none
            raise UnknownState("this address was not created here, or it was removed")
        return StoredState.from_document(document)

    async def _await_outcome(self, stored: StoredState) -> StoredState:
        """Wait until a used state has an outcome, has failed or has expired. Return it as read last."""
        deadline = monotonic() + _OUTCOME_TIMEOUT_S
        while monotonic() < deadline and stored.outcome is None:
            if stored.failed or stored.expires_at <= utcnow():
                break
            await asyncio.sleep(_OUTCOME_POLL_INTERVAL_S)
            stored = await self._load(stored.id)
        return stored

    def _seal(self, part: StoredPart, workspace: str, record_id: str, field: str) -> Sealed:
        text = orjson.dumps(part.document()).decode()
        return self._vault.seal(text, workspace=workspace, record=record_id, field=field)

    def _decrypt_outcome(self, stored: StoredState) -> AuthorizationOutcome | None:
        """Return the outcome; None if it cannot be decrypted."""
        if stored.outcome is None:
            return None
        try:
            text = self._vault.open(
                stored.outcome, workspace=stored.workspace, record=stored.id, field="outcome"
            )
            return AuthorizationOutcome.model_validate_json(text)
        except (Misconfigured, KeyError, TypeError, ValueError):
            return None

    def _decrypt(self, stored: StoredState) -> _SealedFields:
        """Return authorization, cookie digest and verifier. Raises `UnknownState`."""
        try:
            text = self._vault.open(
                stored.sealed, workspace=stored.workspace, record=stored.id, field="state"
            )
        except (Misconfigured, KeyError) as error:
            raise UnknownState("this address cannot be decrypted any more") from error
        try:
            return _SealedFields.model_validate_json(text)
        except ValueError:  # Its text has the secrets, so it is not passed on.
            raise UnknownState("this address was created by another release") from None

    async def consume_code(self, code: str) -> None:
        """Record that a code came back, before it is sent to the provider.

        A dishonest authorization server can send a person to an honest one and have us send it the honest
        one's code. Only we can exchange that code, and only with the state whose challenge it was issued for:
        therefore a code is never sent twice. Raises `UsedCode`, `DatabaseUnavailable`.
        """
        try:
            with translate_errors():
                await self._collection.insert_one(
                    {"_id": _digest(f"code {code}"), "gone_at": utcnow() + _RETENTION}
                )
        except Duplicate:
            raise UsedCode("the authorization code came back before") from None

    @asynccontextmanager
    async def lock(self, *key: str) -> AsyncIterator[None]:
        """Hold a lock across all processes, for 60 s at most. Wait for it up to 10 s.

        Raises `LockTimeout`, `DatabaseUnavailable`.
        """
        # "alone" is part of the stored id: a running process of another release must find the same lock.
        record_id, deadline = _digest(repr(("alone", *key))), monotonic() + _LOCK_TIMEOUT_S
        lock = {"_id": record_id, "gone_at": utcnow() + _LOCK_TTL}
        while not await self._try_lock(lock):
            if monotonic() > deadline:
                raise LockTimeout("this account is being changed by another request: try again")
            await asyncio.sleep(_LOCK_POLL_INTERVAL_S)
        try:
            yield
        finally:
            # Delete by all fields: a lock that expired here and was taken by another process stays.
            with suppress(DatabaseUnavailable), translate_errors():
                await self._collection.delete_one(lock)

    async def _try_lock(self, lock: Document) -> bool:
        with translate_errors():
            await self._collection.delete_one({"_id": lock["_id"], "gone_at": {"$lt": utcnow()}})
            try:
                with translate_errors():
                    await self._collection.insert_one(lock)
            except Duplicate:
                return False
        return True


def cookie_name(state: str) -> str:
    """Return the name of a state's cookie. Each state has its own: a browser can have several flows open."""
    return cookie_name_of_result(_digest(state))


def cookie_name_of_result(result: str) -> str:
    """Return the name of a state's cookie, by the id of its result page."""
    return f"interlink_oauth_{result[:16]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
