"""Request and response bodies of authorizations."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.oauth.api.schemas import AppName, FieldValues, Metadata, Name, Tags, Takeover, User
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
    app: AppName | None = None
    tags: Tags | None = None
    metadata: Metadata | None = None


class ReauthorizationCreate(BaseModel):
    """`POST /api/integrations/{id}/reconnect`."""

    model_config = ConfigDict(extra="forbid")

    purpose: Purposes | None = None
    scopes: Annotated[
        Scopes | None,
        Field(description="The scopes to request. If left out, those that were requested before."),
    ] = None
    add_scopes: Annotated[
        Scopes, Field(description="Scopes to request besides: the person is asked for all of them together.")
    ] = []
    user_scopes: UserScopes | None = None
    params: FieldValues = {}
    return_to: ReturnTo | None = None
    user: User | None = None
    takeover: Takeover = False
    app: Annotated[
        AppName | None,
        Field(description="The name of the app to connect with. If left out, that of before."),
    ] = None
    any_account: Annotated[
        bool, Field(description="Accept another account than the one that was connected before.")
    ] = False


class AuthorizationOut(BaseModel):
    """Two addresses: send the person to one of them. Each can be used once, until `expires_at`."""

    authorization_url: Annotated[
        str,
        Field(
            description="The provider's address. The response's cookie must reach the browser that opens it."
        ),
    ]
    connect_url: Annotated[
        str | None,
        Field(
            description="An address of the hub, for any browser without a cookie. `return_to` gets a "
            "`confirmation_code` then, and the account is connected once that is confirmed at "
            "`POST /api/auth/oauth/confirm`. null without `user` and a `return_to` on another host than the "
            "hub's."
        ),
    ]
    integration_id: str
    expires_at: str


class ConfirmationCreate(BaseModel):
    """`POST /api/auth/oauth/confirm`."""

    model_config = ConfigDict(extra="forbid")

    confirmation_code: Annotated[
        str,
        Field(
            min_length=1,
            max_length=200,
            description="The parameter that the person's browser brought to `return_to`.",
        ),
    ]
    user: Annotated[
        str,
        Field(
            min_length=1,
            max_length=200,
            pattern=r"^[^\x00-\x1f\x7f]*$",
            description="The user who is logged in to the chat in that browser, by the chat's own id.",
        ),
    ]


def purposes_of(body: AuthorizationCreate | ReauthorizationCreate) -> list[Purpose]:
    """Return the purposes of a request."""
    purpose = body.purpose or []
    return purpose if isinstance(purpose, list) else [purpose]
