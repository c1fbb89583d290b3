"""Grants that wait for their confirmation: sealed, found by a one-use code, and due for revocation.

The code is in the address that the person's browser is sent to, and nowhere else: the database has its
SHA-256 only. A grant is due work: when its time is over, any process revokes it. A confirmation claims it
first, so that it is not revoked meanwhile; the claim can be made once.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final, Self

import orjson
from pydantic import Field

from services.oauth.authorization.state_record import PendingAuthorization
from shared.connections.integration_record import Resource
from shared.contracts.errors import Misconfigured, NotFound
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.manifests.token_response import TokenResponse, Tokens
from shared.runtime.clock import utcnow
from shared.runtime.due_work import OPEN, DueWork, claimed_query
from shared.runtime.mongo import Index, Mongo, translate_errors
from shared.runtime.records import Record, StoredPart
from shared.runtime.secrets import StoredSecret, Vault
from shared.wire.oauth import new_state

COLLECTION: Final = "oauth_confirmations"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("open", 1), ("due_at", 1), ("_id", 1)), where=OPEN),
        Index((("workspace", 1),)),
    )
}
CONFIRMATION_TTL: Final = timedelta(minutes=10)
CONFIRMATION_REQUIRED: Final = "confirmation_required"
"""The reason of a new integration that is pending because its grant is not confirmed."""
_LEASE: Final = timedelta(minutes=2)
_FIELD: Final = "grant"


class StoredTokens(StoredPart):
    """Tokens of one grant: see `Tokens`."""

    access_token: str
    refresh_token: str = ""
    expires_in: float | None = None
    refresh_expires_in: float | None = None
    scopes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, tokens: Tokens) -> Self:
        return cls.model_validate(asdict(tokens))

    def tokens(self) -> Tokens:
        return Tokens(**self.model_dump())


class StoredAccount(StoredPart):
    """The account that a grant is for: see `AccountIdentity`."""

    id: str
    label: str
    url: str
    attributes: Mapping[str, str]
    person: str


class UnconfirmedGrant(StoredPart):
    """Sealed part of the record: the authorization, its tokens and its account."""

    authorization: PendingAuthorization
    tokens: StoredTokens | None = None
    others: Mapping[str, StoredTokens]
    account: StoredAccount
    resources: tuple[Resource, ...]

    def granted(self) -> TokenResponse:
        """Return the tokens as the provider gave them, without its response."""
        others = {name: tokens.tokens() for name, tokens in self.others.items()}
        return TokenResponse(self.tokens.tokens() if self.tokens else None, others, None)

    def provider_account(self) -> AccountIdentity:
        return AccountIdentity(**self.account.model_dump())

    def account_resources(self) -> list[AccountResource]:
        return [AccountResource(item.id, item.label, item.attributes) for item in self.resources]


class UnconfirmedRecord(Record):
    """A grant as it is stored. Its id is a digest of the code."""

    workspace: str
    sealed: StoredSecret
    created_at: datetime
    expires_at: datetime
    is_used: bool = Field(alias="used")
    """True if the code was used. It is accepted once, even if the confirmation fails."""
    is_open: bool = Field(alias="open")
    due_at: datetime
    """Time at which the grant is revoked; during a confirmation, the end of its lease."""
    fence: int


class UnconfirmedGrants:
    """The repository. Every method with `async` raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo, vault: Vault) -> None:
        self._collection = mongo.collection(COLLECTION)
        self._vault = vault
        self.due_work: Final = DueWork(self._collection, UnconfirmedRecord.from_document, lease=_LEASE)
        """For the revocations."""
        self.confirmations: Final = DueWork(
            self._collection,
            UnconfirmedRecord.from_document,
            lease=_LEASE,
            claim_fields=UnconfirmedRecord.stored_fields({"is_used": True}),
        )

    async def add(
        self,
        workspace: str,
        authorization: PendingAuthorization,
        granted: TokenResponse,
        account: AccountIdentity,
        resources: Sequence[AccountResource],
    ) -> str:
        """Store what an authorization has brought. Return the code that confirms it."""
        code, now = new_state(), utcnow()
        record_id = _digest(code)
        grant = UnconfirmedGrant(
            authorization=authorization,
            tokens=StoredTokens.of(granted.tokens) if granted.tokens else None,
            others={name: StoredTokens.of(tokens) for name, tokens in granted.others.items()},
            account=StoredAccount.model_validate(asdict(account)),
            resources=tuple(
                Resource(id=item.id, label=item.label, attributes=item.attributes) for item in resources
            ),
        )
        text = orjson.dumps(grant.document()).decode()
        record = UnconfirmedRecord(
            id=record_id,
            workspace=workspace,
            sealed=self._vault.seal(text, workspace=workspace, record=record_id, field=_FIELD),
            created_at=now,
            expires_at=now + CONFIRMATION_TTL,
            is_used=False,
            is_open=True,
            due_at=now + CONFIRMATION_TTL,
            fence=0,
        )
        with translate_errors():
            await self._collection.insert_one(record.document())
        return code

    async def claim(self, code: str, workspace: str) -> UnconfirmedRecord:
        """Use a code, and claim its grant. Raises `NotFound` if it is unknown, was used, or has expired."""
        condition = UnconfirmedRecord.stored_query({"workspace": workspace, "is_used": False})
        claimed = await self.confirmations.claim(
            _digest(code), condition={**condition, "expires_at": {"$gt": utcnow()}}, early=True
        )
        if claimed is None:
            raise NotFound(
                "there is no such confirmation code, it was used before, or it has expired: connect again"
            )
        return claimed

    async def ids_of(self, workspace: str) -> list[str]:
        """Return the ids of all grants of a workspace."""
        with translate_errors():
            documents = await self._collection.find({"workspace": workspace}, {"_id": 1}).to_list(None)
        return [document["_id"] for document in documents]

    async def delete(self, claimed: UnconfirmedRecord) -> None:
        """Delete a claimed grant, unless another process has claimed it since."""
        with translate_errors():
            await self._collection.delete_one(claimed_query(claimed))

    def open(self, record: UnconfirmedRecord) -> UnconfirmedGrant:
        """Decrypt a grant. Raises `Misconfigured`."""
        text = self._vault.open(record.sealed, workspace=record.workspace, record=record.id, field=_FIELD)
        try:
            return UnconfirmedGrant.model_validate_json(text)
        except ValueError:  # Its text has the tokens, so it is not passed on.
            raise Misconfigured("an unconfirmed grant was stored by another release") from None


def _digest(code: str) -> str:
    return hashlib.sha256(f"confirmation {code}".encode()).hexdigest()
