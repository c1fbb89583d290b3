"""The bodies of the outgoing webhooks' API: what a caller sends and sees."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.delivery.api.fields import Name
from services.delivery.api.webhook_fields import (
    Description,
    DisableAfter,
    Events,
    HeaderName,
    Headers,
    HeaderValue,
    InFlight,
    IntegrationId,
    ScheduleName,
    ScheduleWaits,
    Secret,
    Timeout,
    Transform,
    Url,
    validate_header_value,
    validate_no_colon,
)
from services.delivery.model.circuit_breaker import Circuit
from services.delivery.model.outgoing_webhook import MAX_RETRY_AFTER_S, EncryptedPart, Ordering
from services.delivery.model.retry_policy import ClientErrorPolicy
from shared.webhooks.backoff import RETRY_AFTER_CAP_S
from shared.webhooks.filters import FilterSettings
from shared.webhooks.formats import BodyFormat
from shared.webhooks.signatures import SigningProfile

_ROTATION_OVERLAP_H: Final = 24


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RetrySettings(_StrictModel):
    """Seconds to wait before each attempt, so the length is the number of attempts; or a schedule's name.

    `jitter` lengthens each wait by up to this share of it. `client_errors` says whether an answer of 4xx
    (other than 408, 410, 425 and 429) is final. `max_retry_after_s` bounds how long a `Retry-After` of the
    endpoint holds its deliveries back; 0 ignores it.
    """

    schedule: ScheduleName | ScheduleWaits = "nchat"
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    client_errors: ClientErrorPolicy = "final"
    max_retry_after_s: Annotated[float, Field(ge=0, le=RETRY_AFTER_CAP_S)] = MAX_RETRY_AFTER_S


class CircuitBreakerSettings(_StrictModel):
    """When the endpoint gets only probes; what is null is as in the installation's `INTERLINK_BREAKER_...`.

    The circuit opens after `failures` in a row over at least `failing_s` seconds. The first pause has
    `pause_s`, each later one twice as much, up to `max_pause_s`. A delivery waits behind an open circuit for
    as long as its schedule and `max_wait_s` more, without using attempts; then it is a dead letter with the
    error `circuit_open`.
    """

    enabled: bool = True
    failures: Annotated[int, Field(ge=1, le=10_000)] | None = None
    failing_s: Annotated[float, Field(ge=0, le=86_400)] | None = None
    pause_s: Annotated[float, Field(ge=0.1, le=3600)] | None = None
    max_pause_s: Annotated[float, Field(ge=0.1, le=3600)] | None = None
    max_wait_s: Annotated[float, Field(ge=1, le=604_800)] | None = None


class RateLimitSettings(_StrictModel):
    """At most `requests` in any `period_s` seconds."""

    requests: Annotated[int, Field(ge=1, le=10_000)]
    period_s: Annotated[float, Field(ge=0.1, le=86_400)] = 1.0


class NoAuth(_StrictModel):
    """The signature alone."""

    type: Literal["none"]


class BasicAuth(_StrictModel):
    """`Authorization: Basic`."""

    type: Literal["basic"]
    username: Annotated[str, Field(max_length=200), AfterValidator(validate_no_colon)]
    password: Annotated[str, Field(max_length=2000)]


class BearerAuth(_StrictModel):
    """`Authorization: Bearer`."""

    type: Literal["bearer"]
    token: Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(validate_header_value)]


class HeaderAuth(_StrictModel):
    """A header of the receiver's choice."""

    type: Literal["header"]
    name: HeaderName
    value: HeaderValue


class CertificateAuth(_StrictModel):
    """Mutual TLS: a certificate with its chain, and its key without a password, both PEM."""

    type: Literal["mtls"]
    certificate: Annotated[str, Field(max_length=32_000)]
    private_key: Annotated[str, Field(max_length=16_000)]


AuthSettings = Annotated[
    NoAuth | BasicAuth | BearerAuth | HeaderAuth | CertificateAuth, Field(discriminator="type")
]


class WebhookCreate(_StrictModel):
    """`POST /api/outgoing-webhooks`."""

    name: Name
    url: Url
    events: Events
    description: Description = ""
    secret: Secret | None = None
    enabled: bool = True
    profile: SigningProfile = "standard"
    format: BodyFormat = "envelope"
    transform: Transform | None = None
    filter: FilterSettings | None = None
    integration_id: IntegrationId | None = None
    headers: Headers = {}
    auth: AuthSettings = NoAuth(type="none")
    retry: RetrySettings = RetrySettings()
    rate_limit: RateLimitSettings | None = None
    ordering: Ordering = "none"
    max_in_flight: InFlight = 10
    timeout_s: Timeout = 30
    disable_after_days: DisableAfter = 5
    circuit_breaker: CircuitBreakerSettings | None = None


class WebhookUpdate(_StrictModel):
    """`PATCH`: what is absent stays as it is; `null` clears what `CLEARABLE` names."""

    name: Name | None = None
    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None
    format: BodyFormat | None = None
    transform: Transform | None = None
    filter: FilterSettings | None = None
    integration_id: IntegrationId | None = None
    headers: Headers | None = None
    auth: AuthSettings | None = None
    retry: RetrySettings | None = None
    rate_limit: RateLimitSettings | None = None
    ordering: Ordering | None = None
    max_in_flight: InFlight | None = None
    timeout_s: Timeout | None = None
    disable_after_days: DisableAfter | None = None
    circuit_breaker: CircuitBreakerSettings | None = None


CLEARABLE: Final = frozenset({"transform", "filter", "integration_id", "rate_limit", "circuit_breaker"})


class WebhookSecretRotate(_StrictModel):
    """`POST .../rotate-secret`: the old secret stays valid for `overlap_hours`."""

    secret: Secret | None = None
    overlap_hours: Annotated[int, Field(ge=0, le=168)] = _ROTATION_OVERLAP_H


class WebhookAuthOut(BaseModel):
    """How the webhook says who it is, without what is secret."""

    type: str
    username: str | None = None
    name: str | None = None


class WebhookHealthOut(BaseModel):
    """How the endpoint does: its circuit, and since when it does nothing but fail.

    `held_until` is the end of a quiet that it asked for with `Retry-After`. Enable and resume end a hold and
    close the circuit; a test or a retry of one delivery goes past both, and its success does the same.
    """

    circuit: Circuit = "closed"
    next_probe_at: str | None = None
    held_until: str | None = None
    failing_since: str | None = None


class UnreadablePartOut(BaseModel):
    """A part that is stored encrypted and does not open, and why: add its key, or enter it again."""

    part: EncryptedPart
    reason: str


class WebhookOut(BaseModel):
    """An outgoing webhook; `secret` only when it was made or changed by this call.

    `headers` are names alone: values are secret. `public_keys` are what receivers verify `standard_v1a`
    with, the newest first. While anything is in `unreadable`, nothing is sent and every event waits.
    `warnings` are about names in `events` that the catalogue does not know.
    """

    id: str
    name: str
    url: str
    events: list[str]
    description: str
    enabled: bool
    disabled_reason: str | None
    paused: bool
    profile: SigningProfile
    public_keys: list[str]
    format: BodyFormat
    transform: str | None
    filter: FilterSettings | None
    integration_id: str | None
    headers: list[str]
    auth: WebhookAuthOut
    retry: RetrySettings
    rate_limit: RateLimitSettings | None
    ordering: Ordering
    max_in_flight: int
    timeout_s: float
    disable_after_days: float
    circuit_breaker: CircuitBreakerSettings | None
    health: WebhookHealthOut
    unreadable: list[UnreadablePartOut]
    created_at: str
    updated_at: str
    secret: str | None = None
    warnings: list[str] = []


class WebhookTestOut(BaseModel):
    """A test event is on its way: look the delivery up in the log."""

    delivery_id: str
