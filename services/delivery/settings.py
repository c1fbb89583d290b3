"""The delivery service's own settings."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class DeliverySettings(BaseSettings):
    """`INTERLINK_*` that only delivery reads."""

    model_config = SettingsConfigDict(env_prefix="INTERLINK_", frozen=True)

    allow_private_networks: Literal["none", "loopback", "all"] = "none"
    """Internal addresses that deliveries may go to; `loopback` is the embedded default's."""
    most_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    """Attempts under way at a time in this process, over all outgoing webhooks."""
    delivered_days: Annotated[int, Field(ge=1, le=365)] = 7
    dead_letter_days: Annotated[int, Field(ge=1, le=365)] = 30
