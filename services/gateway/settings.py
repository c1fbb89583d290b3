"""The gateway's own settings."""

from typing import Annotated

from pydantic import Field, HttpUrl

from shared.runtime.settings import EgressSettings


class GatewaySettings(EgressSettings):
    """`INTERLINK_*` that the gateway reads."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=8 * 1024 * 1024)] = 1024 * 1024
    """The largest body that is taken, in bytes, before and after it is inflated."""
    body_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    """How long a request's body may take to arrive."""
    dedupe_window_s: Annotated[float, Field(ge=0, le=86_400)] = 600.0
    """How long a delivery id is remembered, by this process, where an endpoint does not say it."""
    executions_days: Annotated[int, Field(ge=1, le=90)] = 7
    """How long it is kept what arrived at an endpoint; of refused requests, two days at most."""
    endpoints_per_workspace: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Inbound endpoints of one workspace, at most."""
    incoming_webhooks_per_workspace: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Incoming webhooks of one workspace, at most."""
    api_keys_per_workspace: Annotated[int, Field(ge=1, le=10_000)] = 100
    """API keys of one workspace, at most; expired ones count until they are deleted."""
    peers: dict[str, HttpUrl] = Field(default_factory=dict)
    """Where the other services are, when there is no reverse proxy in front: `{"delivery": "http://..."}`."""
