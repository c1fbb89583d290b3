"""The settings of the console."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr

from shared.runtime.settings import ChatSettings, EgressSettings
from shared.runtime.web.members import Role


class RoleGrant(BaseModel):
    """A role in a workspace, granted to users with one value of the roles claim."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    workspace: str = Field(default="default", min_length=1, max_length=63)


class ConsoleSettings(ChatSettings, EgressSettings):
    """`INTERLINK_*` settings of the console."""

    gateway_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8080"),
        description="The gateway's address, for its API and that of every service without an entry in peers.",
    )
    peers: dict[str, HttpUrl] = Field(
        default_factory=dict,
        description="The base URLs of the other services, so that one that is down takes no other with it.",
    )
    console_idle_hours: int = Field(
        default=12, ge=1, le=168, description="Hours without a request after which a session ends."
    )
    console_session_days: int = Field(
        default=7, ge=1, le=30, description="Days after which a session ends in any case."
    )
    chat_logo: Path | None = Field(
        default=None,
        description="A PNG, SVG or WebP file of at most 64 KiB: the logo on the pages that chats embed.",
    )
    embedded_sessions_per_workspace: int = Field(
        default=1_000,
        ge=1,
        le=100_000,
        description="Open portal and connect sessions that a workspace may have together.",
    )
    oidc_issuer: str = Field(
        default="",
        description=(
            "The issuer of an OpenID Connect provider where members sign in, exactly as in its metadata; "
            "empty: members sign in with keys."
        ),
    )
    oidc_client_id: str = Field(default="", description="The hub's client id at the identity provider.")
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="The client secret; a public client has none."
    )
    oidc_client_secret_file: Path | None = Field(
        default=None, description="A file that contains the client secret instead: a mounted secret."
    )
    oidc_name: str = Field(
        default="OpenID Connect",
        min_length=1,
        max_length=60,
        description="The identity provider's name on the sign-in page.",
    )
    oidc_scopes: str = Field(
        default="openid profile email", description="The scopes to ask the identity provider for."
    )
    oidc_roles_claim: str = Field(
        default="roles",
        min_length=1,
        max_length=200,
        description="The claim of the ID token that decides the role; dots select nested claims.",
    )
    oidc_roles: dict[str, RoleGrant] = Field(
        default_factory=dict,
        description=(
            "Role and workspace by value of the claim. The first match of each workspace is used; without "
            "one, sign-in fails: "
            '`{"hub-admins": {"role": "admin", "workspace": "default"}, "staff": {"role": "viewer"}}`.'
        ),
    )
