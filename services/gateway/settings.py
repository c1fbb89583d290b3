"""The settings of the gateway."""

from typing import Annotated, Final

from pydantic import Field, HttpUrl

from shared.runtime.settings import EgressSettings

MAX_QUOTA: Final = 10**15
_Quota = Annotated[int, Field(ge=0, le=MAX_QUOTA)] | None


class GatewaySettings(EgressSettings):
    """The `INTERLINK_*` variables that the gateway reads."""

    max_body_bytes: int = Field(
        default=1024 * 1024,
        ge=1024,
        le=8 * 1024 * 1024,
        description="The largest accepted body in bytes, before and after decompression.",
    )
    body_timeout_s: float = Field(
        default=10.0, gt=0, le=120, description="The time in which a request's body has to be complete."
    )
    dedupe_window_s: float = Field(
        default=600.0,
        ge=0,
        le=86_400,
        description=(
            "The deduplication window of an endpoint that has none of its own. Each replica has its own "
            "memory, which its workers share."
        ),
    )
    executions_days: int = Field(
        default=7,
        ge=1,
        le=90,
        description=(
            "How long executions are stored, in days; those of rejected requests for two days at most."
        ),
    )
    endpoints_per_workspace: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="The maximum number of inbound endpoints of one workspace.",
    )
    incoming_webhooks_per_workspace: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="The maximum number of incoming webhooks of one workspace.",
    )
    api_keys_per_workspace: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description=(
            "The maximum number of API keys of one workspace. Expired keys count until they are deleted."
        ),
    )
    members_per_workspace: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="The maximum number of members of one workspace, with those who were removed.",
    )
    quota_requests: _Quota = Field(
        default=None,
        description=(
            "The quota of requests with events of one workspace in a UTC day, unless it has its own "
            "(`PATCH /api/workspaces/{id}`). Without it there is no limit. 0 refuses all."
        ),
    )
    quota_events: _Quota = Field(
        default=None, description="The quota of events of one workspace in a UTC day, likewise."
    )
    quota_deliveries: _Quota = Field(
        default=None,
        description=(
            "The quota of delivery attempts of one workspace in a UTC day, likewise. Beyond it, new events "
            "are refused; those that were accepted are delivered."
        ),
    )
    quota_stored_bytes: _Quota = Field(
        default=None,
        description=(
            "The quota of bytes of events, and of bodies of deliveries, of one workspace within seven UTC "
            "days with the current one, likewise."
        ),
    )
    oidc_issuer: str = Field(
        default="",
        description=(
            "The console's `INTERLINK_OIDC_ISSUER`: the last admin key of a workspace can be revoked once an "
            "admin of this identity provider can sign in."
        ),
    )
    peers: dict[str, HttpUrl] = Field(
        default_factory=dict,
        description=(
            'The base URLs of the other services, if there is no reverse proxy: `{"delivery": "http://..."}`.'
        ),
    )
