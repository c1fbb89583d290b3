"""Request and response bodies of integrations. Secrets are never returned."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.oauth.api.authorization_schemas import Scopes
from services.oauth.api.schemas import (
    AppName,
    FieldValues,
    LastError,
    Metadata,
    Name,
    ShortText,
    Tags,
    Takeover,
    User,
)
from shared.connections.grant_end import is_ending
from shared.connections.integration_record import Integration, IntegrationStatus
from shared.contracts.envelope import rfc3339
from shared.manifests.connector import Connector
from shared.manifests.scopes import missing_scopes
from shared.runtime.clock import utcnow
from shared.runtime.web.times import UtcTime

Health = Literal["ok", "at_risk", "broken", "none"]


TokenText = Annotated[str, Field(min_length=1, max_length=16384, pattern=r"^[\x21-\x7e]+$")]


class TokensImport(BaseModel):
    """Tokens of OAuth 2.0 that the provider issued before, to the same app."""

    model_config = ConfigDict(extra="forbid")

    access_token: TokenText
    refresh_token: Annotated[
        TokenText | None,
        Field(description="The hub refreshes with it from now on: nobody else may use it any more."),
    ] = None
    expires_at: Annotated[
        UtcTime | None, Field(description="When the access token expires. null: it is not known.")
    ] = None


class IntegrationCreate(BaseModel):
    """`POST /api/integrations`: connect an account by manual credentials (`fields`), or by `tokens`."""

    model_config = ConfigDict(extra="forbid")

    provider: Annotated[str, Field(max_length=40)]
    kind: Annotated[
        str | None, Field(max_length=40, description="The kind of `fields`, if the provider has several.")
    ] = None
    fields: FieldValues | None = None
    preset: Annotated[str | None, Field(max_length=40)] = None
    tokens: Annotated[
        TokensImport | None,
        Field(
            description="Tokens of OAuth 2.0, instead of `fields`. The provider is asked for their account. "
            "They must be of the workspace's own app; the operator's workspace may import those of the "
            "installation's app."
        ),
    ] = None
    scopes: Annotated[Scopes | None, Field(description="The scopes that `tokens` have, if known.")] = None
    params: Annotated[
        FieldValues | None, Field(description="What `connect` needs for the provider too, with `tokens`.")
    ] = None
    app: Annotated[
        AppName | None, Field(description="The name of the app of `tokens`. If left out, the default app.")
    ] = None
    user: User | None = None
    takeover: Takeover = False
    name: Name | None = None
    tags: Tags | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _check_credential(self) -> Self:
        if (self.fields is None) == (self.tokens is None):
            raise ValueError("either fields or tokens is required")
        of_others = (self.kind, self.preset) if self.tokens else (self.scopes, self.params, self.app)
        if any(value is not None for value in of_others):
            raise ValueError(
                "kind and preset belong to fields"
                if self.tokens
                else "scopes, params and app belong to tokens"
            )
        return self


class ManualCredentialsUpdate(BaseModel):
    """`POST /api/integrations/{id}/fields`: new credentials of the same account."""

    model_config = ConfigDict(extra="forbid")

    fields: FieldValues
    user: User | None = None
    takeover: Takeover = False
    any_account: bool = False


class IntegrationUpdate(BaseModel):
    """`PATCH /api/integrations/{id}`: fields that are left out stay unchanged, the others are replaced."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    tags: Tags | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if self.name is None and self.tags is None and self.metadata is None:
            raise ValueError("name, tags or metadata is required")
        return self


class AccountSelectionUpdate(BaseModel):
    """`POST /api/integrations/{id}/choose`."""

    model_config = ConfigDict(extra="forbid")

    choice: ShortText


class AccountOut(BaseModel):
    """The account at the provider."""

    id: str
    label: str
    url: str
    choice: str | None


class AccountResourceOut(BaseModel):
    """A resource of the account (a site, a page) that can be selected."""

    id: str
    label: str


class IntegrationOut(BaseModel):
    """An integration.

    `health` summarizes its state for people: ok, at risk (it works, but the last refresh or check failed, or
    `reconnect_by` is less than 14 days away), broken, or none (it is not in use). `reconnect_by` is when the
    grant ends, whatever is refreshed: the person has to connect the account again before. `user_scopes` are
    those of the person's own token, where a provider gives one beside the app's. `user` is the user who was
    named when it was last connected, by the chat's own id. `app` is the name of the OAuth app, null for the
    default one. `name` is the account's label, unless another name was given.
    """

    id: str
    provider: str
    kind: str
    name: str
    user: str | None
    app: str | None
    tags: list[str]
    metadata: dict[str, str]
    status: IntegrationStatus
    reason: str | None
    health: Health
    account: AccountOut | None
    choices: list[AccountResourceOut]
    scopes: list[str]
    missing_scopes: list[str]
    user_scopes: list[str]
    params: dict[str, str]
    expires_at: str | None
    refresh_expires_at: str | None
    reconnect_by: str | None
    refreshed_at: str | None
    last_used_at: str | None
    last_error: LastError | None
    retry_at: str | None
    created_at: str
    connected_at: str | None
    updated_at: str


def integration_out(integration: Integration, connector: Connector | None) -> IntegrationOut:
    """Return an integration as the API shows it.

    `connector` is that of its provider; None if the provider is no longer part of the hub.
    """
    account, error = integration.account, integration.last_error
    requested = integration.requested_scopes or ()
    return IntegrationOut(
        id=integration.id,
        provider=integration.provider,
        kind=integration.kind,
        name=integration.display_name,
        user=integration.user,
        app=integration.app_name,
        tags=list(integration.tags),
        metadata=dict(integration.metadata),
        status=integration.status,
        reason=integration.reason or None,
        health=_health(integration),
        account=AccountOut(
            id=account.id,
            label=account.label,
            url=account.url,
            choice=account.resource.label if account.resource else None,
        )
        if account
        else None,
        choices=[AccountResourceOut(id=item.id, label=item.label) for item in integration.resources],
        scopes=list(integration.scopes),
        missing_scopes=missing_scopes(connector.oauth2, requested, integration.scopes) if connector else [],
        user_scopes=list(integration.user_scopes),
        params=dict(integration.params),
        expires_at=_time(integration.expires_at),
        refresh_expires_at=_time(integration.refresh_expires_at),
        reconnect_by=_time(integration.grant_ends_at),
        refreshed_at=_time(integration.refreshed_at),
        last_used_at=_time(integration.last_used_at),
        last_error=LastError(at=rfc3339(error.at), code=error.code, detail=error.detail) if error else None,
        retry_at=_time(integration.retry_at),
        created_at=rfc3339(integration.created_at),
        connected_at=_time(integration.connected_at),
        updated_at=rfc3339(integration.changed_at),
    )


def _health(integration: Integration) -> Health:
    if integration.status in ("pending", "disabled", "disconnected"):
        return "none"
    if integration.status != "connected":
        return "broken"
    return "at_risk" if integration.failures or is_ending(integration, utcnow()) else "ok"


def _time(value: datetime | None) -> str | None:
    return rfc3339(value) if value else None
