"""The settings of the console."""

from pathlib import Path

from pydantic import Field, HttpUrl
from pydantic_settings import SettingsConfigDict

from shared.runtime.settings import ChatSettings


class ConsoleSettings(ChatSettings):
    """`INTERLINK_*` settings of the console."""

    model_config = SettingsConfigDict(env_prefix="INTERLINK_", frozen=True)

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
