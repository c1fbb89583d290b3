"""The gateway's own settings."""

from typing import Annotated

from pydantic import Field, HttpUrl
from pydantic_settings import BaseSettings, SettingsConfigDict


class GatewaySettings(BaseSettings):
    """`INTERLINK_*` that only the gateway reads."""

    model_config = SettingsConfigDict(env_prefix="INTERLINK_", frozen=True)

    max_body_bytes: Annotated[int, Field(ge=1024, le=8 * 1024 * 1024)] = 1024 * 1024
    body_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    """How long a request's body may take to arrive."""
    dedupe_window_s: Annotated[float, Field(ge=0, le=86_400)] = 600.0
    """How long a delivery id is remembered, by this process."""
    peers: dict[str, HttpUrl] = Field(default_factory=dict)
    """Where the other services are, when there is no reverse proxy in front: `{"delivery": "http://..."}`."""
