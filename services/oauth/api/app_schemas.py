"""Request and response bodies of OAuth apps. Secrets are named and never returned."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.oauth.api.schemas import AppName, FieldValues


class AppUpdate(BaseModel):
    """`PUT /api/platform-credentials/{provider}`: fields that are left out stay unchanged."""

    model_config = ConfigDict(extra="forbid")

    client_id: Annotated[str | None, Field(min_length=1, max_length=1000, pattern=r"^[\x21-\x7e]+$")] = None
    client_secret: Annotated[str | None, Field(min_length=1, max_length=8000, pattern=r"^[\x20-\x7e]+$")] = (
        None
    )
    signing_secret: Annotated[str | None, Field(min_length=1, max_length=8000, pattern=r"^[\x20-\x7e]+$")] = (
        None
    )
    settings: FieldValues | None = None
    app: AppName | None = None
    scope: Annotated[
        Literal["workspace", "installation"],
        Field(description="Whether accounts of this workspace or of all workspaces are connected with it."),
    ] = "workspace"
    verified: Annotated[
        bool | None,
        Field(
            description="true: the credentials are right, do not check them. "
            "If left out, the provider is asked."
        ),
    ] = None


class AppOut(BaseModel):
    """An OAuth app of a provider.

    `app` is its name, null for the default app; `secrets` lists the names of its secrets.
    """

    provider: str
    app: str | None
    scope: Literal["workspace", "installation"]
    source: Literal["api", "environment", "file"]
    client_id: str
    secrets: list[str]
    settings: dict[str, str | None]
    verified: bool
    reason: str | None
    redirect_uri: str
    updated_at: str | None


class AppListOut(BaseModel):
    """The apps that accounts of the workspace can be connected with, by provider; the default one first."""

    items: list[AppOut]
