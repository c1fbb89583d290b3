"""Request and response bodies of authorizations."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.oauth.api.schemas import FieldValues, Name, Takeover, User

Scopes = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]],
    Field(max_length=100, description="The scopes to request. If left out, those of the manifest."),
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
    scopes: Scopes | None = None
    params: FieldValues = {}
    return_to: ReturnTo | None = None
    user: User | None = None
    takeover: Takeover = False
    name: Name | None = None


class ReauthorizationCreate(BaseModel):
    """`POST /api/integrations/{id}/reconnect`."""

    model_config = ConfigDict(extra="forbid")

    scopes: Scopes | None = None
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
