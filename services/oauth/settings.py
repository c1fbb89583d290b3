"""The settings of the oauth service."""

from pydantic import Field, HttpUrl

from shared.runtime.settings import ChatSettings, EgressSettings


class OAuthSettings(EgressSettings, ChatSettings):
    """The `INTERLINK_*` environment variables that only the oauth service reads."""

    gateway_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8080"),
        description="The gateway's address, for creating the inbound endpoints of provider subscriptions.",
    )
    upkeep_every_s: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description=(
            "The interval in which due integrations and provider subscriptions are processed, in seconds."
        ),
    )

    polling_triggers_per_workspace: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="The maximum number of polling triggers of one workspace.",
    )
