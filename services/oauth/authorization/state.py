"""Authorization states: single-use records that bind a callback to the browser that started the flow.

A state is 256 random bits, valid for ten minutes. The database has its SHA-256 only; the payload and the PKCE
verifier are sealed. A state belongs to the browser that holds its cookie: a callback from another browser is
refused and does not consume it. Authorization codes are stored as digests: a code that came back once is
never sent to a provider again, whichever state it comes with.

An authorization can have a ticket besides: whoever opens it binds the authorization to another browser, once.
What comes back by that browser has to be confirmed (`confirmation.py`). A state with a ticket is derived from
it, so that the ticket finds the state, and nobody finds the ticket from a state.

The collection also holds the locks that serialize callbacks of one account, and registrations of a provider's
apps in a workspace.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from hmac import compare_digest
from time import monotonic
from typing import Final

import orjson

from services.oauth.authorization.state_record import (
    AuthorizationOutcome,
    BrowserMismatch,
    ConsumedState,
    FinishedState,
    LockTimeout,
    OpenedTicket,
    PendingAuthorization,
    PendingState,
    SealedFields,
    StoredState,
    UnknownState,
    UsedCode,
    UsedState,
)
from shared.contracts.errors import DatabaseUnavailable, Misconfigured
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Document, Duplicate, Index, Mongo, translate_errors
from shared.runtime.records import StoredPart
from shared.runtime.secrets import Sealed, Vault
from shared.wire.oauth import new_state

COLLECTION: Final = "oauth_states"
STATE_TTL: Final = timedelta(minutes=10)
_RETENTION: Final = timedelta(hours=1)
_LOCK_TTL: Final = timedelta(seconds=60)
"""Covers a clock difference of 30 s between processes, and slow writes."""
_LOCK_TIMEOUT_S: Final = 10.0
_LOCK_POLL_INTERVAL_S: Final = 0.05
_FIELD: Final = "state"
_FIELD_OF_TICKET: Final = "ticket"
"""The field that the state is sealed for once its ticket was used.

A process of a release without tickets would connect the account without a confirmation. It cannot open it.
"""
_OUTCOME_TIMEOUT_S: Final = 20.0
_OUTCOME_POLL_INTERVAL_S: Final = 0.2
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {COLLECTION: (Index((("gone_at", 1),), ttl_s=0),)}


class States:
    """The repository of authorization states."""

    def __init__(self, mongo: Mongo, vault: Vault) -> None:
        self._collection = mongo.collection(COLLECTION)
        self._vault = vault

    def new(
        self,
        workspace: str,
        authorization: PendingAuthorization,
        state: str,
        verifier: str,
        *,
        authorization_url: str | None = None,
    ) -> PendingState:
        """Create the state of an authorization from `state`, which nobody can guess.

        `verifier` is the PKCE verifier. With `authorization_url`, the ticket that `state` was derived from
        can be used, and leads there. The state can be used only after `save`.
        """
        binding = new_state()
        record_id, now = _digest(state), utcnow()
        sealed_fields = SealedFields(
            authorization=authorization,
            binding_digest=_digest(binding),
            verifier=verifier,
            authorization_url=authorization_url,
        )
        stored = StoredState(
            id=record_id,
            workspace=workspace,
            sealed=self._seal(sealed_fields, workspace, record_id, _FIELD),
            created_at=now,
            expires_at=now + STATE_TTL,
            gone_at=now + _RETENTION,
            failed=False,
        )
        return PendingState(state, cookie_name(state), binding, stored)

    async def save(self, pending_state: PendingState) -> None:
        """Store a new state. Raises `DatabaseUnavailable`."""
        with translate_errors():
            await self._collection.insert_one(pending_state.stored.document())

    async def open_ticket(self, ticket: str, binding: str | None) -> OpenedTicket:
        """Return what a ticket is for, without using it.

        `binding` is the value of the state's cookie, None if the browser sent none. Raises `UnknownState`;
        `UsedState` if the ticket has expired, or if another browser used it; `DatabaseUnavailable`.
        """
        stored, sealed_fields = await self._load_ticket(ticket)
        if not self._may_use_ticket(stored, sealed_fields, binding):
            raise UsedState("this address was used before, or it has expired")
        url = sealed_fields.authorization_url or ""
        return OpenedTicket(stored.workspace, sealed_fields.authorization, url, stored.id)

    def result_of_ticket(self, ticket: str) -> str:
        """Return the id of the result page of a ticket's authorization, which names its cookie."""
        return _digest(state_of_ticket(ticket))

    async def use_ticket(self, ticket: str, binding: str) -> str:
        """Bind an authorization to the browser with this cookie, once. Return the provider's address.

        A repetition by the same browser returns the same address. Raises as `open_ticket` does.
        """
        stored, sealed_fields = await self._load_ticket(ticket)
        fields = sealed_fields.model_copy(update={"binding_digest": _digest(binding)})
        query = {
            "_id": stored.id,
            "used_at": None,
            "ticket_used_at": None,
            "expires_at": {"$gt": utcnow()},
        }
        change = {
            "sealed": self._seal(fields, stored.workspace, stored.id, _FIELD_OF_TICKET),
            "ticket_used_at": utcnow(),
        }
        with translate_errors():
            used: Document | None = await self._collection.find_one_and_update(query, {"$set": change})
        if used is None:
            stored, sealed_fields = await self._load_ticket(ticket)
            if stored.ticket_used_at is None or not self._may_use_ticket(stored, sealed_fields, binding):
                raise UsedState("this address was used before, or it has expired")
        return sealed_fields.authorization_url or ""

    async def _load_ticket(self, ticket: str) -> tuple[StoredState, SealedFields]:
        stored = await self._load(self.result_of_ticket(ticket))
        sealed_fields = self._decrypt(stored)
        if sealed_fields.authorization_url is None:
            raise UnknownState("this authorization has no ticket")
        return stored, sealed_fields

    def _may_use_ticket(self, stored: StoredState, sealed_fields: SealedFields, binding: str | None) -> bool:
        """Return whether a browser may use a ticket: nobody has, or this browser itself."""
        if stored.used_at is not None or stored.expires_at <= utcnow():
            return False
        return stored.ticket_used_at is None or _is_same_browser(sealed_fields, binding)

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
        is_same_browser = _is_same_browser(sealed_fields, binding)
        if is_same_browser and stored.used_at is not None:
            stored = await self._await_outcome(stored)
        if stored.outcome is not None:
            raise FinishedState(record_id, self._decrypt_outcome(stored) if is_same_browser else None)
        if not is_same_browser:
            raise BrowserMismatch("the callback comes from a browser that did not start the flow")
        query: Document = {"_id": record_id, "used_at": None, "expires_at": {"$gt": utcnow()}}
        if stored.ticket_used_at is None:  # Another browser may use the ticket at the same time.
            query["ticket_used_at"] = None
        with translate_errors():
            consumed: Document | None = await self._collection.find_one_and_update(
                query, {"$set": {"used_at": utcnow()}}
            )
        if consumed is None:
            stored = await self._load(record_id)
            if not _is_same_browser(self._decrypt(stored), binding):
                raise BrowserMismatch("another browser used the ticket of this flow")
            # A double click: the other request has just consumed the state.
            stored = await self._await_outcome(stored)
            if stored.outcome is not None:
                raise FinishedState(record_id, self._decrypt_outcome(stored))
            raise UsedState("this address was used before, or it has expired")
        return ConsumedState(
            stored.workspace,
            sealed_fields.authorization,
            sealed_fields.verifier,
            needs_confirmation=stored.ticket_used_at is not None,
        )

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
        is_same_browser = _is_same_browser(self._decrypt(stored), cookie)
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

    def _decrypt(self, stored: StoredState) -> SealedFields:
        """Return authorization, cookie digest and verifier. Raises `UnknownState`."""
        field = _FIELD if stored.ticket_used_at is None else _FIELD_OF_TICKET
        try:
            text = self._vault.open(stored.sealed, workspace=stored.workspace, record=stored.id, field=field)
        except (Misconfigured, KeyError) as error:
            raise UnknownState("this address cannot be decrypted any more") from error
        try:
            return SealedFields.model_validate_json(text)
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
                raise LockTimeout("this account or app is being changed by another request: try again")
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


def _is_same_browser(sealed_fields: SealedFields, binding: str | None) -> bool:
    """Return whether a state belongs to the browser with this cookie.

    It is the one that started the flow, until another one uses the ticket. From then on the first must not
    see what the other brings back.
    """
    return compare_digest(_digest(binding or ""), sealed_fields.binding_digest)


def state_of_ticket(ticket: str) -> str:
    """Return the state that belongs to a ticket, a value of `new_state()`."""
    digest = hashlib.sha256(f"state of {ticket}".encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
