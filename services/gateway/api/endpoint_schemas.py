"""Request and response bodies of inbound endpoints and endpoint templates."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, HttpUrl

from services.gateway.api.endpoint_setup import endpoint_setup_steps, missing_setup
from services.gateway.api.fields import Channel, Name, Networks, RateLimit, StrictModel
from services.gateway.ingest.endpoint_records import EndpointRecord, ProviderEndpoint
from shared.contracts.envelope import rfc3339
from shared.manifests.registry import Provider
from shared.runtime.record_secrets import old_secrets_until

EndpointStatus = Literal["active", "inactive", "error"]

_ROTATION_OVERLAP_H: Final = 24
_PROVIDER_PER_MINUTE: Final = 60_000
_POLLED_SETUP_STEP: Final = (
    "Nothing to set up at the provider: the hub asks it, see GET /api/polling-triggers."
)
_SOURCE_SETUP_STEP: Final = "Send webhooks to {url}, signed as the endpoint's source says."


Secret = Annotated[str, Field(min_length=8, max_length=4000)]
Settings = Annotated[
    dict[Annotated[str, Field(max_length=40)], Annotated[str, Field(max_length=4000)]], Field(max_length=20)
]
Events = Annotated[
    list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{0,100}\*?$", min_length=1)]],
    Field(
        max_length=100,
        description="Names of events that become messages of the channel; `*` at the end matches any rest. "
        "`*` alone matches all events but the quiet ones, which the provider's page names.",
    ),
]
BodyLimit = Annotated[int | None, Field(ge=1024, le=8 * 1024 * 1024, description="Bytes.")]
DedupeWindow = Annotated[
    float | None,
    Field(ge=0, le=86_400, description="Length of the deduplication window in seconds; 0 for none."),
]
Source = Annotated[
    dict[str, Any] | None,
    Field(
        description="Only for a generic provider: how the sender signs its webhooks, what they look like, "
        "and in `message` the Liquid templates of its chat messages. At most 16 KB as JSON."
    ),
]
Reason = Annotated[str, Field(max_length=500)]
InstallationDefault = Annotated[
    bool,
    Field(
        description="Whether requests to `/api/webhooks/{provider}` reach this endpoint too, if they are "
        "signed with its secret. One endpoint per provider, and only in the operator's workspace."
    ),
]


def endpoint_status(record: EndpointRecord, source_error: str = "") -> EndpointStatus:
    """Return an endpoint's status. `source_error` says why its `source` cannot be used, if it cannot."""
    if not record.enabled:
        return "inactive"
    return "error" if source_error or record.is_failing else "active"


class EndpointCreate(StrictModel):
    """`POST /api/inbound-endpoints`."""

    provider: str
    name: Name
    secret: Secret | None = None
    settings: Settings = Field(default={})
    channel_id: Channel | None = None
    events: Events = Field(default=["*"])
    allow_ips: Networks = Field(default=[])
    rate_limit: RateLimit = _PROVIDER_PER_MINUTE
    body_limit: BodyLimit = None
    dedupe_window_s: DedupeWindow = None
    public_url: HttpUrl | None = Field(
        None, description="Scheme and host that the provider calls, if a proxy makes them differ from ours."
    )
    require_signature: bool = True
    unsigned_reason: Reason = ""
    source: Source = None
    installation_default: InstallationDefault = False
    polled: bool = Field(
        False, description="Only for the hub's own calls: its events come from a polling trigger."
    )


class EndpointUpdate(StrictModel):
    """`PATCH`: an absent field stays as it is; null removes an optional value."""

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
    installation_default: InstallationDefault | None = None


class EndpointSecretRotate(StrictModel):
    """`POST .../rotate-secret`: the old secret stays valid for `overlap_hours`."""

    secret: Secret | None = None
    overlap_hours: Annotated[int, Field(ge=0, le=168)] = _ROTATION_OVERLAP_H


class EndpointOut(BaseModel):
    """An inbound endpoint. `secret` is only in the response that created or changed it.

    `awaits` is what the endpoint needs before it can verify requests. A secret setting is null.
    `secret_handed_over`: the secret of the provider's handshake can be shown, once.
    `disabled_reason` says why the endpoint's `source` cannot be used and what to change; until then it
    accepts no requests. `polled`: its events come from a polling trigger, and `url` is empty.
    `old_secrets_until` is until when each secret before the newest is valid. `version` is for `If-Match`.
    """

    id: str
    provider: str
    name: str
    url: str
    status: EndpointStatus
    awaits: Literal["secret", "handshake"] | None
    secret_handed_over: bool
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
    installation_default: bool
    trigger_types: list[str]
    setup_steps: list[str]
    last_triggered: str | None
    trigger_count: int
    error_count: int
    created_at: str
    updated_at: str
    version: int
    old_secrets_until: list[str]
    polled: bool = False
    secret: str | None = None

    @classmethod
    def of(
        cls,
        record: ProviderEndpoint,
        provider: Provider | None,
        *,
        url: str,
        source_error: str,
        secret: str | None,
        settings: Mapping[str, str],
    ) -> Self:
        """Return an endpoint as the API shows it. `provider` is None if this release does not know it.

        `source_error` says why its `source` cannot be used. `secret` and `settings` are values in clear text
        that this call may show.
        """
        webhook = provider.manifest.webhook if provider else None
        shown_settings = record.shown_settings
        return cls(
            id=record.id,
            provider=record.provider,
            name=record.name,
            url=url,
            status=endpoint_status(record, source_error),
            awaits=None if record.polled else missing_setup(webhook, record),
            secret_handed_over=bool(record.handed_over),
            disabled_reason=source_error or None,
            channel_id=record.channel_id,
            events=list(record.events),
            settings=shown_settings,
            allow_ips=list(record.allow_ips),
            rate_limit=record.rate_limit,
            body_limit=record.body_limit,
            dedupe_window_s=record.dedupe_window_s,
            public_url=record.public_url,
            require_signature=record.require_signature,
            unsigned_reason=record.unsigned_reason or "",
            source=dict(record.source) if record.source is not None else None,
            installation_default=bool(record.is_default),
            trigger_types=provider.trigger_types if provider else [],
            setup_steps=[_POLLED_SETUP_STEP]
            if record.polled
            else [_SOURCE_SETUP_STEP.format(url=url)]
            if record.source
            else endpoint_setup_steps(webhook, url, secret, {**shown_settings, **settings}),
            last_triggered=rfc3339(record.last_triggered) if record.last_triggered else None,
            trigger_count=record.trigger_count or 0,
            error_count=record.error_count or 0,
            created_at=rfc3339(record.created_at),
            updated_at=rfc3339(record.changed_at),
            version=record.version,
            old_secrets_until=list(map(rfc3339, old_secrets_until(record.secrets))),
            polled=bool(record.polled),
            secret=secret or None,
        )


class HandshakeSecretOut(BaseModel):
    """A secret that a provider handed over."""

    secret: str


class EndpointTestCreate(StrictModel):
    """`POST .../test`: send a recorded webhook of this event, or of any event."""

    event: Annotated[str | None, Field(max_length=100)] = None


class EndpointTestOut(BaseModel):
    """The endpoint's response to a recorded webhook."""

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


class EndpointFromTemplateCreate(StrictModel):
    """`POST /api/endpoint-templates/{id}`."""

    channel_id: Channel
    name: Name | None = None
    secret: Secret | None = None
    settings: Settings = Field(default={})
