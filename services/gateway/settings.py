"""The settings of the gateway."""

from typing import Annotated

from pydantic import Field, HttpUrl

from shared.runtime.settings import EgressSettings


class GatewaySettings(EgressSettings):
    """The `INTERLINK_*` variables that the gateway reads."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=8 * 1024 * 1024)] = 1024 * 1024
    """The largest accepted body in bytes, before and after decompression."""
    body_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    """The time in which a request's body has to be complete."""
    dedupe_window_s: Annotated[float, Field(ge=0, le=86_400)] = 600.0
    """The deduplication window of an endpoint that has none of its own. Each process has its own memory."""
    executions_days: Annotated[int, Field(ge=1, le=90)] = 7
    """How long executions are stored, in days; those of rejected requests for two days at most."""
    endpoints_per_workspace: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """The maximum number of inbound endpoints of one workspace."""
    incoming_webhooks_per_workspace: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """The maximum number of incoming webhooks of one workspace."""
    api_keys_per_workspace: Annotated[int, Field(ge=1, le=10_000)] = 100
    """The maximum number of API keys of one workspace. Expired keys count until they are deleted."""
    peers: dict[str, HttpUrl] = Field(default_factory=dict)
    """The base URLs of the other services, if there is no reverse proxy: `{"delivery": "http://..."}`."""
