"""The bodies of inbound endpoints, their executions and templates: what a caller sends and sees."""

from ipaddress import ip_network
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl

from services.gateway.api.schemas import Channel, Name, RateLimit

_ROTATION_OVERLAP_H: Final = 24
_PROVIDER_PER_MINUTE: Final = 60_000


def _network(text: str) -> str:
    return str(ip_network(text, strict=False))


Secret = Annotated[str, Field(min_length=8, max_length=4000)]
Networks = Annotated[list[Annotated[str, AfterValidator(_network)]], Field(max_length=100)]
Settings = Annotated[
    dict[Annotated[str, Field(max_length=40)], Annotated[str, Field(max_length=4000)]], Field(max_length=20)
]
Events = Annotated[
    list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{0,100}\*?$", min_length=1)]],
    Field(
        max_length=100, description="Event names that become messages of the channel; `*` at the end matches."
    ),
]
BodyLimit = Annotated[int | None, Field(ge=1024, le=8 * 1024 * 1024, description="Bytes.")]
DedupeWindow = Annotated[
    float | None, Field(ge=0, le=86_400, description="Seconds that a delivery id is remembered; 0 for not.")
]
Source = Annotated[
    dict[str, Any] | None,
    Field(
        description="Of a generic provider: how its sender signs and what its webhooks look like. "
        "At most 16 KB as JSON."
    ),
]
Reason = Annotated[str, Field(max_length=500)]


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EndpointCreate(_StrictModel):
    """`POST /api/inbound-endpoints`."""

    provider: str
    name: Name
    secret: Secret | None = None
    settings: Settings = {}
    channel_id: Channel | None = None
    events: Events = ["*"]
    allow_ips: Networks = []
    rate_limit: RateLimit = _PROVIDER_PER_MINUTE
    body_limit: BodyLimit = None
    dedupe_window_s: DedupeWindow = None
    public_url: HttpUrl | None = Field(
        None, description="Scheme and host that the platform calls, where a proxy shows it another than ours."
    )
    require_signature: bool = True
    unsigned_reason: Reason = ""
    source: Source = None


class EndpointUpdate(_StrictModel):
    """`PATCH`: what is absent stays as it is; null takes away what may be absent."""

    name: Name | None = None
    settings: Settings | None = None
    channel_id: Channel | None = None
    events: Events | None = None
    allow_ips: Networks | None = None
    rate_limit: RateLimit | None = None
    body_limit: BodyLimit = None
    dedupe_window_s: DedupeWindow = None
    public_url: HttpUrl | None = None
    require_signature: bool | None = None
    unsigned_reason: Reason | None = None
    source: Source = None
    enabled: bool | None = None


class EndpointSecretRotate(_StrictModel):
    """`POST .../rotate-secret`: the old secret stays valid for `overlap_hours`."""

    secret: Secret | None = None
    overlap_hours: Annotated[int, Field(ge=0, le=168)] = _ROTATION_OVERLAP_H


class EndpointOut(BaseModel):
    """An endpoint as the API shows it; `secret` only when it was made or changed by this call.

    `awaits`: what is missing before it can verify anything. A setting that is secret is null.
    `disabled_reason`: why its `source` cannot be used and what to change; until then it accepts nothing.
    """

    id: str
    provider: str
    name: str
    url: str
    status: Literal["active", "inactive", "error"]
    awaits: Literal["secret", "handshake"] | None
    disabled_reason: str | None
    channel_id: str | None
    events: list[str]
    settings: dict[str, str | None]
    allow_ips: list[str]
    rate_limit: int
    body_limit: int | None
    dedupe_window_s: float | None
    public_url: str | None
    require_signature: bool
    unsigned_reason: str
    source: dict[str, Any] | None
    trigger_types: list[str]
    setup_steps: list[str]
    last_triggered: str | None
    trigger_count: int
    error_count: int
    created_at: str
    updated_at: str
    secret: str | None = None


class HandshakeSecretOut(BaseModel):
    """A secret that a platform handed over."""

    secret: str


class EndpointTestCreate(_StrictModel):
    """`POST .../test`: with a recorded webhook of this event, or of any."""

    event: Annotated[str | None, Field(max_length=100)] = None


class EndpointTestOut(BaseModel):
    """What the endpoint answered."""

    fixture: str
    status: int
    answer: str


class EndpointTemplateOut(BaseModel):
    """A ready-made endpoint."""

    id: str
    name: str
    about: str
    provider: str
    provider_name: str
    events: list[str]
    required_settings: list[str]


class EndpointFromTemplateCreate(_StrictModel):
    """`POST /api/endpoint-templates/{id}`."""

    channel_id: Channel
    name: Name | None = None
    secret: Secret | None = None
    settings: Settings = {}


class ExecutionOut(BaseModel):
    """One request at an endpoint and what became of it.

    `accounts` are the provider's accounts that its events are about, `occurred_at` is when the first of them
    happened: both as the provider says, where it does.

    `verdict` is null where it did not come to that: a handshake, a limit. `replays` counts how often its
    events were put on their way again.
    """

    id: str
    endpoint_id: str
    at: str
    outcome: str
    status: int
    verdict: str | None
    detail: str
    duration_ms: float
    bytes: int
    events: int
    types: list[str]
    triggers: list[str]
    accounts: list[str]
    occurred_at: str | None
    event_ids: list[str]
    delivery_ids: list[str]
    test: bool
    replays: int


class PayloadOut(BaseModel):
    """The data of one event, or the start of a refused body: as text, or in base64 where it is none."""

    event_id: str | None
    type: str
    content_type: str
    encoding: Literal["text", "base64"]
    data: str
    truncated: bool


class PayloadsOut(BaseModel):
    """The payloads of an execution."""

    items: list[PayloadOut]
