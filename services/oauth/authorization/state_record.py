"""Define the stored record of an authorization state, what callers get of it, and the errors of its use."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import Field

from shared.contracts.errors import DatabaseUnavailable, Forbidden, NotFound
from shared.runtime.records import Record, StoredPart, stored_null
from shared.runtime.secrets import StoredSecret


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
    """True if another account than before may be connected."""
    takeover: bool = False
    app_name: str | None = None
    """None for the default app."""
    tags: tuple[str, ...] | None = None
    metadata: Mapping[str, str] | None = None
    params: Mapping[str, str]
    requested_scopes: tuple[str, ...] = Field(alias="asked")
    requested_user_scopes: tuple[str, ...] | None = None
    redirect_uri: str
    return_to: str | None = stored_null()
    request_token: StoredRequestToken | None = Field(default=None, alias="request")


class AuthorizationOutcome(StoredPart):
    """Text of an authorization's result page, and the address that the person is sent to."""

    title: str
    text: str
    return_to: str | None = stored_null()
    parameters: Mapping[str, str] = Field(alias="told")
    """The parameters that `return_to` gets."""


class SealedFields(StoredPart):
    """The sealed part of a state."""

    authorization: PendingAuthorization = Field(alias="about")
    binding_digest: str = Field(alias="binding")
    """Of the cookie of the browser that it belongs to."""
    verifier: str
    authorization_url: str | None = None
    """Address that the ticket leads to; None if the authorization has no ticket."""


class StoredState(Record):
    """A state as it is stored. Its id is a digest of it."""

    workspace: str
    sealed: StoredSecret
    created_at: datetime
    expires_at: datetime
    gone_at: datetime
    """Time at which MongoDB deletes it."""
    used_at: datetime | None = stored_null()
    failed: bool = True
    """Earlier releases did not store it: then nothing waits for an outcome."""
    outcome: StoredSecret | None = stored_null()
    ticket_used_at: datetime | None = None
    """From here on the state belongs to the browser that used the ticket, and `sealed` is another one."""


@dataclass(frozen=True, slots=True)
class ConsumedState:
    """State that a callback has consumed."""

    workspace: str
    authorization: PendingAuthorization
    verifier: str
    """The PKCE verifier."""
    needs_confirmation: bool
    """The browser used the ticket, so it is not known to be the one of the person who started the flow."""


@dataclass(frozen=True, slots=True)
class OpenedTicket:
    """Authorization that a ticket opens."""

    workspace: str
    authorization: PendingAuthorization
    authorization_url: str
    """The provider's address that it leads to."""
    result: str
    """The id of the state's result page, which names its cookie."""


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
    stored: StoredState
