"""The record of an integration: state, sealed credential and outbox of a connected account.

One document holds all three. New tokens, the state that follows from them and the event about it are one
write, which a crash cannot split. `integrations.py` has the repository.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field

from shared.contracts.envelope import rfc3339
from shared.contracts.ids import derive, new_integration_id
from shared.runtime.clock import utcnow
from shared.runtime.leases import LeasedRecord
from shared.runtime.mongo import TOMBSTONE_TTL_S, Index
from shared.runtime.outbox import OUTBOX_INDEX, OutboxRecord, PendingEvent
from shared.runtime.records import StoredPart
from shared.runtime.secrets import StoredSecret

COLLECTION: Final = "integrations"
OPEN_FILTER: Final = {"open": True}
"""Maintenance has to act at `due_at`: refresh a token, or note its expiry."""
_IDENTITY_FILTER: Final = {"holds_identity": True}
_SOLE_FILTER: Final = {"sole": True}
_USER_INDEX_KEYS: Final = (("workspace", 1), ("user", 1), ("deleted_at", 1))
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("status", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("provider", 1), ("created_at", -1), ("_id", -1))),
        # For the list of one user, also by provider or status. Each index has every field of the query,
        # because the embedded database reads the whole collection for a field that the index lacks.
        Index((*_USER_INDEX_KEYS, ("created_at", -1), ("_id", -1))),
        # For the list by a tag or an entry of the metadata. Other filters are applied in the service.
        Index((("workspace", 1), ("deleted_at", 1), ("terms", 1), ("created_at", -1), ("_id", -1))),
        Index((*_USER_INDEX_KEYS, ("status", 1), ("created_at", -1), ("_id", -1))),
        Index((*_USER_INDEX_KEYS, ("provider", 1), ("status", 1), ("created_at", -1), ("_id", -1))),
        # These two also answer which integrations receive the webhooks of an account (`account_routes`).
        Index((("provider", 1), ("account.id", 1), ("workspace", 1))),
        Index((("provider", 1), ("account.choice.id", 1), ("workspace", 1))),
        # For the search by an account, whatever its provider.
        Index((("workspace", 1), ("account.id", 1))),
        Index((("workspace", 1), ("account.choice.id", 1))),
        Index((("workspace", 1), ("account.person", 1))),
        Index(
            (("workspace", 1), ("provider", 1), ("kind", 1), ("account.id", 1)),
            unique=True,
            where=_SOLE_FILTER,
        ),
        Index((("workspace", 1), ("identity", 1)), unique=True, where=_IDENTITY_FILTER),
        # `open` is a key too, so that the index alone answers the query.
        Index((("open", 1), ("due_at", 1), ("_id", 1)), where=OPEN_FILTER),
        OUTBOX_INDEX,
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}

IntegrationStatus = Literal["pending", "connected", "reauth_required", "error", "disabled", "disconnected"]
USABLE: Final[frozenset[IntegrationStatus]] = frozenset(("connected", "error"))
"""Statuses of integrations whose tokens may be used."""
IntegrationEventType = Literal[
    "integration.connected",
    "integration.refreshed",
    "integration.reauth_required",
    "integration.disconnected",
    "integration.error",
    "integration.recovered",
    "integration.taken_over",
    "integration.expiring",
]
_MAX_NAME_LENGTH: Final = 100


class SelectedResource(StoredPart):
    """The resource (a site, a page, a number) of an account that an integration is for."""

    id: str
    label: str


class Resource(SelectedResource):
    """A resource that can be selected."""

    attributes: Mapping[str, str] = Field(alias="kept")
    """Values for later requests: `{account:...}`."""


class Account(StoredPart):
    """The account at the provider."""

    id: str
    label: str
    url: str = ""
    attributes: Mapping[str, str] = Field(default_factory=dict, alias="kept")
    """Values for later requests: `{account:...}`."""
    person: str | None = None
    """Id of the person whom the token acts for; '' if there is none. None: an earlier release connected the
    account, or it has manual credentials."""
    resource: SelectedResource | None = Field(default=None, alias="choice")


class LastError(StoredPart):
    """Error of the last refresh or check."""

    at: datetime
    code: str
    detail: str


class Integration(OutboxRecord, LeasedRecord):
    """A connection of a workspace to one account of a provider.

    The lease is that of its refresh. Only fields that were given are stored.
    """

    provider: str
    kind: str
    """`oauth2`, `oauth1`, or a kind of manual credentials of the provider."""
    name: str
    """Given by a person; '' for the account's label. See `display_name`."""
    status: IntegrationStatus
    reason: str = ""
    """Reason for which the status is not `connected`."""
    status_before_disabled: IntegrationStatus | None = Field(default=None, alias="disabled_from")
    user: str | None = None
    """The chat's id of the user whose account it is."""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = Field(default_factory=dict)
    """The chat's own values, by their names."""
    terms: tuple[str, ...] = ()
    """Terms by which it can be listed: see `search_terms`. Written with tags and metadata."""
    created_at: datetime
    connected_at: datetime | None = None
    deleted_at: datetime | None
    merged_into: str | None = None
    """Id of another integration of the same account, which stands in place of this one."""

    # Account
    account: Account | None = None
    resources: tuple[Resource, ...] = Field(default=(), alias="choices")
    """The resources that can be selected."""
    params: Mapping[str, str] = Field(default_factory=dict)
    app: tuple[str, ...] | None = None
    """The `app_ref` of the app that it is connected with."""
    app_name: str | None = None
    """The name of that app; None for the default one."""
    identity: str | None = None
    holds_identity: bool = False
    """No other integration of the workspace may have the same `identity`."""
    is_sole: bool = Field(default=False, alias="sole")
    """It is the only integration of its account in the workspace: a second one cannot be stored."""
    allows_takeover: bool = Field(default=False, alias="takeover")
    """The selection of a resource may take over the integration of another user."""
    merged_grant: tuple[str, int] | None = Field(default=None, alias="grant_of")
    """Id and version of the integration whose grant it has got, because they were merged."""

    confirmation: str | None = None
    """The id of the unconfirmed grant that became its grant when it was confirmed."""

    # Credential
    version: int
    """Rises with each credential. A write for a version that is not the stored one does nothing."""
    credential: StoredSecret | None = None
    requested_scopes: tuple[str, ...] | None = Field(default=None, alias="asked")
    scopes: tuple[str, ...] = ()
    """The granted scopes."""
    requested_user_scopes: tuple[str, ...] | None = None
    """The scopes that were requested for the person beside those of the app; None for the app's settings."""
    user_scopes: tuple[str, ...] = ()
    """Those that the person granted."""
    expires_at: datetime | None = None
    renew_at: datetime | None = None
    """From here on, a use of the token refreshes it."""
    refresh_expires_at: datetime | None = None
    refreshable: bool = False
    grant_ends_at: datetime | None = None
    """Time by which a person has to connect the account again, in spite of refreshes; None if unknown."""
    warned_at: datetime | None = None
    """Time at which the last `integration.expiring` was published."""
    is_revoked: bool | None = Field(default=None, alias="revoked")
    """True if the provider confirmed that the grant was revoked, when it was disconnected."""

    # Refreshing
    settled_fence: int
    """The fence of the last refresh of which it is certain whether the provider issued tokens."""
    is_partially_refreshed: bool = Field(default=False, alias="halfway")
    """Some grants of the credential have new tokens, others do not yet."""
    refreshed_at: datetime | None = None
    forced_refresh_at: datetime | None = Field(default=None, alias="forced_at")
    """Time at which tokens were last refreshed because the provider rejected them."""
    retry_at: datetime | None = None
    """The end of the pause after a failed refresh."""
    failures: int = 0
    """Failed refreshes or checks in a row."""
    last_error: LastError | None = None
    rejected_app_revision: str | None = Field(default=None, alias="refused_app")
    """The revision of the app that the provider rejected, which is why there is a pause."""
    is_pause_bypassed: bool = Field(default=False, alias="pause_passed")
    """The last refresh began in a pause, because a person asked for it."""
    last_used_at: datetime | None = None

    # Maintenance
    needs_maintenance: bool = Field(default=False, alias="open")
    """Maintenance has to act at `due_at`."""
    due_at: datetime | None = None
    due_at_once_selected: datetime | None = Field(default=None, alias="due_once_chosen")

    @property
    def due_after_selection(self) -> datetime | None:
        """Time at which maintenance of the grant is due once a resource is selected; None for never."""
        # Earlier releases stored it as `due_at`.
        is_stored = "due_at_once_selected" in self.model_fields_set
        return self.due_at_once_selected if is_stored else self.due_at

    @property
    def is_unfinished(self) -> bool:
        """True if its first authorization was started, and has not led to tokens yet."""
        return self.status == "pending" and self.credential is None

    @property
    def display_name(self) -> str:
        """The name to show: the integration's own, else its account's label, else the provider.

        If the account has several resources, the label of the selected one is added.
        """
        if self.name:
            return self.name
        account = self.account
        resource = account and account.resource
        parts = (account and account.label, resource and resource.label)
        return ": ".join(part for part in parts if part)[:_MAX_NAME_LENGTH] or self.provider


def new_integration(
    workspace: str, provider: str, kind: str, *, name: str | None, status: IntegrationStatus, **fields: Any
) -> Integration:
    """Return a new integration, which has no grant yet and is not stored. `fields` has more of its fields."""
    now = utcnow()
    initial: dict[str, Any] = {
        "scopes": (),
        "created_at": now,
        "changed_at": now,
        "deleted_at": None,
        "version": 0,
        "fence": 0,
        "settled_fence": 0,
        "expires_at": None,
        "refreshable": False,
        "needs_maintenance": False,
        "due_at": None,
    }
    return Integration(
        id=new_integration_id(),
        workspace=workspace,
        provider=provider,
        kind=kind,
        name=name or "",
        status=status,
        **initial | fields,
    )


def search_terms(tags: Iterable[str], metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the terms of an integration, or of a list of some, by tags and entries of the metadata."""
    return (
        *(f"metadata:{name}:{value}" for name, value in metadata.items()),
        *(f"tag:{tag}" for tag in tags),
    )


def build_events(
    integration: Integration,
    event_types: Sequence[IntegrationEventType],
    moment: datetime,
    *,
    before: Integration | None = None,
) -> list[PendingEvent]:
    """Return events about an integration as it is after a change at `moment`.

    `before` is the integration before the change; None for a new one. The ids are derived, so that publishing
    an event twice is one event.
    """
    return [_build_event(integration, event_type, moment, before) for event_type in event_types]


def _build_event(
    integration: Integration,
    event_type: IntegrationEventType,
    moment: datetime,
    before: Integration | None,
) -> PendingEvent:
    account = integration.account
    data = {
        "integrationId": integration.id,
        "provider": integration.provider,
        "user": integration.user,
        "status": integration.status,
        "reason": integration.reason or None,
        "account": {"id": account.id, "label": account.label} if account else None,
        "scopes": list(integration.scopes),
        "tags": list(integration.tags),
        "metadata": dict(integration.metadata),
        "expiresAt": rfc3339(integration.expires_at) if integration.expires_at else None,
    }
    if event_type == "integration.taken_over" and before is not None:
        data["previousUser"] = before.user
    if event_type == "integration.expiring" and integration.grant_ends_at is not None:
        data["reconnectBy"] = rfc3339(integration.grant_ends_at)
    digest = derive(integration.id, event_type, str(integration.version), rfc3339(moment))
    return PendingEvent(id=f"evt_{digest}", type=event_type, at=moment, data=data)
