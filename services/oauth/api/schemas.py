"""What callers of the oauth service send and see. No secret is ever shown."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.connections.integrations import IntegrationStatus, display_name
from shared.contracts.envelope import rfc3339
from shared.manifests.registry import connectors
from shared.runtime.mongo import Document

ShortText = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
FieldValue = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]
FieldValues = Annotated[dict[Annotated[str, Field(max_length=40)], FieldValue], Field(max_length=30)]
Scopes = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]],
    Field(max_length=100, description="What is asked for; without it, what the provider's manifest says."),
]
ReturnTo = Annotated[
    str,
    Field(max_length=2000, description="Where the person is sent in the end: an allowed origin's address."),
]
User = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Whose account it is, by the chat's own id of the person. Left out: as it was.",
    ),
]

Takeover = Annotated[
    bool,
    Field(description="Take the integration over from another `user`, if one has the account connected."),
]


class _OAuthRequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AuthorizationCreate(_OAuthRequestBody):
    """`POST /api/auth/oauth/connect`."""

    provider: Annotated[str, Field(max_length=40)]
    scopes: Scopes | None = None
    params: FieldValues = {}
    return_to: ReturnTo | None = None
    user: User | None = None
    takeover: Takeover = False
    name: Name | None = None


class ReauthorizationCreate(_OAuthRequestBody):
    """`POST /api/integrations/{id}/reconnect`."""

    scopes: Scopes | None = None
    params: FieldValues = {}
    return_to: ReturnTo | None = None
    user: User | None = None
    takeover: Takeover = False
    any_account: Annotated[
        bool, Field(description="Take another account than the one that was connected, too.")
    ] = False


class AuthorizationOut(BaseModel):
    """Where to send the person; the answer's cookie has to reach the browser that goes there."""

    authorization_url: str
    integration_id: str
    expires_at: str


class IntegrationCreate(_OAuthRequestBody):
    """`POST /api/integrations`: an account by what somebody enters."""

    provider: Annotated[str, Field(max_length=40)]
    kind: Annotated[str | None, Field(max_length=40)] = None
    fields: FieldValues
    preset: Annotated[str | None, Field(max_length=40)] = None
    user: User | None = None
    takeover: Takeover = False
    name: Name | None = None


class ManualCredentialsUpdate(_OAuthRequestBody):
    """`POST /api/integrations/{id}/fields`: new secrets of the same account."""

    fields: FieldValues
    user: User | None = None
    takeover: Takeover = False
    any_account: bool = False


class IntegrationUpdate(_OAuthRequestBody):
    """`PATCH /api/integrations/{id}`."""

    name: Name


class AccountSelectionUpdate(_OAuthRequestBody):
    """`POST /api/integrations/{id}/choose`."""

    choice: ShortText


class AccountOut(BaseModel):
    """The account on the platform."""

    id: str
    label: str
    url: str
    choice: str | None


class AccountResourceOut(BaseModel):
    """One of several places of the account."""

    id: str
    label: str


class LastError(BaseModel):
    """What went wrong last."""

    at: str
    code: str
    detail: str


class IntegrationOut(BaseModel):
    """An integration. `health` is for people: well, at risk (it works, something is wrong), or broken.

    `user` is who was named last when it was connected: the chat's own id of the person whose account it is.
    `name` is the account's label, unless another was given.
    """

    id: str
    provider: str
    kind: str
    name: str
    user: str | None
    status: IntegrationStatus
    reason: str | None
    health: Literal["ok", "at_risk", "broken", "none"]
    account: AccountOut | None
    choices: list[AccountResourceOut]
    scopes: list[str]
    missing_scopes: list[str]
    params: dict[str, str]
    expires_at: str | None
    refresh_expires_at: str | None
    refreshed_at: str | None
    last_used_at: str | None
    last_error: LastError | None
    retry_at: str | None
    created_at: str
    connected_at: str | None
    updated_at: str


class AppUpdate(_OAuthRequestBody):
    """`PUT /api/platform-credentials/{provider}`: what is left out of an app that is there stays."""

    client_id: Annotated[str | None, Field(min_length=1, max_length=1000, pattern=r"^[\x21-\x7e]+$")] = None
    client_secret: Annotated[str | None, Field(min_length=1, max_length=8000, pattern=r"^[\x20-\x7e]+$")] = (
        None
    )
    signing_secret: Annotated[str | None, Field(min_length=1, max_length=8000, pattern=r"^[\x20-\x7e]+$")] = (
        None
    )
    settings: FieldValues | None = None
    scope: Annotated[
        Literal["workspace", "installation"], Field(description="Whose accounts are connected with it.")
    ] = "workspace"
    verified: Annotated[
        bool | None,
        Field(
            description="true: it is right, the platform need not be asked. Left out: the platform is asked."
        ),
    ] = None


class AppOut(BaseModel):
    """A platform credential. Secrets are named, never shown."""

    provider: str
    scope: Literal["workspace", "installation"]
    source: Literal["api", "environment", "file"]
    client_id: str
    secrets: list[str]
    settings: dict[str, str | None]
    verified: bool
    reason: str | None
    redirect_uri: str
    updated_at: str | None


def integration_out(document: Document) -> IntegrationOut:
    """An integration's document as it is shown."""
    account = document.get("account")
    error = document.get("last_error")
    asked, granted = document.get("asked", []), document.get("scopes", [])
    connector = connectors().get(document["provider"])
    return IntegrationOut(
        id=document["_id"],
        provider=document["provider"],
        kind=document["kind"],
        name=display_name(document),
        user=document.get("user"),
        status=document["status"],
        reason=document.get("reason") or None,
        health=_health(document),
        account=AccountOut(
            id=account["id"],
            label=account["label"],
            url=account.get("url", ""),
            choice=(account.get("choice") or {}).get("label"),
        )
        if account
        else None,
        choices=[
            AccountResourceOut(id=each["id"], label=each["label"]) for each in document.get("choices", [])
        ],
        scopes=granted,
        missing_scopes=connector.missing_scopes(asked, granted) if connector else [],
        params=document.get("params", {}),
        expires_at=_time(document, "expires_at"),
        refresh_expires_at=_time(document, "refresh_expires_at"),
        refreshed_at=_time(document, "refreshed_at"),
        last_used_at=_time(document, "last_used_at"),
        last_error=LastError(at=rfc3339(error["at"]), code=error["code"], detail=error["detail"])
        if error
        else None,
        retry_at=_time(document, "retry_at"),
        created_at=rfc3339(document["created_at"]),
        connected_at=_time(document, "connected_at"),
        updated_at=rfc3339(document["changed_at"]),
    )


def _health(document: Document) -> Literal["ok", "at_risk", "broken", "none"]:
    status = document["status"]
    if status in ("pending", "disabled", "disconnected"):
        return "none"
    if status != "connected":
        return "broken"
    return "at_risk" if document.get("failures") else "ok"


def _time(document: Document, field: str) -> str | None:
    value: Any = document.get(field)
    return rfc3339(value) if value else None
