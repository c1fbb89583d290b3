"""Request and response bodies of authorizations."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.oauth.api.schemas import FieldValues, Name, Takeover, User
from shared.manifests.connect_models import Purpose

ScopeName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]
Scopes = Annotated[
    list[ScopeName],
    Field(max_length=100, description="The scopes to request. If left out, those of the manifest."),
]
Purposes = Annotated[
    Purpose | Annotated[list[Purpose], Field(min_length=1, max_length=3)],
    Field(
        description="What the account is connected for, one or several: their scopes are requested together, "
        "and `scopes` beside them. The catalogue lists them for each provider."
    ),
]
UserScopes = Annotated[
    list[ScopeName],
    Field(
        max_length=100,
        description="The scopes to request for a token of the person, beside the app's own (Slack). If left "
        "out, those of the app's settings.",
    ),
]
ReturnTo = Annotated[
    str,
    Field(
        max_length=2000,
        description="Where the person is sent after the authorization: an address of an allowed origin.",
    ),
]


class AuthorizationCreate(BaseModel):
    """`POST /api/auth/oauth/connect`."""

    model_config = ConfigDict(extra="forbid")

    provider: Annotated[str, Field(max_length=40)]
    purpose: Purposes | None = None
    scopes: Scopes | None = None
    user_scopes: UserScopes | None = None
    params: FieldValues = {}
    return_to: ReturnTo | None = None
    user: User | None = None
    takeover: Takeover = False
    name: Name | None = None


class ReauthorizationCreate(BaseModel):
    """`POST /api/integrations/{id}/reconnect`."""

    model_config = ConfigDict(extra="forbid")

    purpose: Purposes | None = None
    scopes: Scopes | None = None
    user_scopes: UserScopes | None = None
    params: FieldValues = {}
    return_to: ReturnTo | None = None
    user: User | None = None
    takeover: Takeover = False
    any_account: Annotated[
        bool, Field(description="Accept another account than the one that was connected before.")
    ] = False


class AuthorizationOut(BaseModel):
    """The address to send the person to. The response's cookie must reach the browser that opens it."""

    authorization_url: str
    integration_id: str
    expires_at: str


def purposes_of(body: AuthorizationCreate | ReauthorizationCreate) -> list[Purpose]:
    """Return the purposes of a request."""
    purpose = body.purpose or []
    return purpose if isinstance(purpose, list) else [purpose]
