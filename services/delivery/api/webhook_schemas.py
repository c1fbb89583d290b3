"""The request and response models of the outgoing webhooks' API."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.delivery.api.fields import CustomerId, Name, optional_rfc3339
from services.delivery.api.webhook_fields import (
    Description,
    DisableAfter,
    Events,
    HeaderName,
    Headers,
    HeaderValue,
    InFlight,
    IntegrationId,
    Metadata,
    ScheduleName,
    ScheduleWaits,
    Secret,
    Timeout,
    Transform,
    Url,
    validate_header_value,
    validate_no_colon,
)
from services.delivery.engine.waiting_reasons import hold_state_of
from services.delivery.log.endpoint_health import EndpointHealthRecord
from services.delivery.model.circuit_breaker import Circuit
from services.delivery.model.outgoing_webhook import MAX_RETRY_AFTER_S, EncryptedPart, Ordering
from services.delivery.model.retry_policy import ClientErrorPolicy
from services.delivery.webhooks.repository import AuthSummary, RateLimitPart, WebhookRecord
from shared.contracts.envelope import rfc3339
from shared.runtime.clock import utcnow
from shared.runtime.record_secrets import old_secrets_until
from shared.webhooks.filters import FilterSettings
from shared.webhooks.formats import BodyFormat
from shared.webhooks.signatures import SigningProfile
from shared.wire.retry_after import RETRY_AFTER_CAP_S

_ROTATION_OVERLAP_H: Final = 24


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RetrySettings(_StrictModel):
    """The retry schedule: seconds to wait before each attempt, or the name of a schedule.

    The length of the list is the number of attempts. `jitter` lengthens each wait by up to this share of it.
    `client_errors` says whether a 4xx response (other than 408, 410, 425 and 429) is final.
    `max_retry_after_s` limits how long a `Retry-After` of the endpoint holds its deliveries back; 0 ignores
    it.
    """

    schedule: ScheduleName | ScheduleWaits = "nchat"
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    client_errors: ClientErrorPolicy = "final"
    max_retry_after_s: Annotated[float, Field(ge=0, le=RETRY_AFTER_CAP_S)] = MAX_RETRY_AFTER_S


class CircuitBreakerSettings(_StrictModel):
    """Conditions under which the circuit opens; null means the installation's `INTERLINK_BREAKER_...`.

    The circuit opens after `failures` in a row over at least `failing_s` seconds. The first pause takes
    `pause_s`; each later one is twice as long, up to `max_pause_s`. A delivery waits behind an open circuit
    for the sum of its schedule and `max_wait_s`, without using attempts. Then it is a dead letter with the
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
    """No authentication beside the signature."""

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
    """A header that the subscriber chose."""

    type: Literal["header"]
    name: HeaderName
    value: HeaderValue


class CertificateAuth(_StrictModel):
    """Mutual TLS: a certificate with its chain, and its key without a password, both as PEM.

    An RSA key has at most 4096 bits.
    """

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
    metadata: Metadata = {}
    secret: Secret | None = None
    enabled: bool = True
    profile: SigningProfile = "standard"
    format: BodyFormat = "envelope"
    transform: Transform | None = None
    filter: FilterSettings | None = None
    integration_id: IntegrationId | None = None
    customer: CustomerId | None = None
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
    """`PATCH`: absent fields stay unchanged; `null` clears `transform`, `filter` and other optional ones."""

    name: Name | None = None
    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    metadata: Metadata | None = None
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
    """The webhook's authentication, without secret values."""

    type: str
    username: str | None = None
    name: str | None = None


class WebhookHealthOut(BaseModel):
    """The endpoint's circuit, hold, and since when it only fails.

    `held_until` is the end of a hold that the endpoint asked for with `Retry-After`. Enable and resume end a
    hold and close the circuit. A test event or the retry of one delivery goes past both, and its success ends
    them, too.
    """

    circuit: Circuit = "closed"
    next_probe_at: str | None = None
    held_until: str | None = None
    failing_since: str | None = None


class UnreadablePartOut(BaseModel):
    """An encrypted part that does not decrypt, and why: add its key, or enter the values again."""

    part: EncryptedPart
    reason: str


class WebhookOut(BaseModel):
    """An outgoing webhook; `secret` only if this call created or changed it.

    `headers` are names: the values are secret. `public_keys` are for verifying `standard_v1a`, newest first.
    While `unreadable` has a part, nothing is sent and every event waits. `warnings` name entries of `events`
    that the catalogue does not know. `customer` sees and changes the webhook in a portal.
    `old_secrets_until` is until when each secret before the newest is valid. `version` is for `If-Match`.
    """

    id: str
    name: str
    url: str
    events: list[str]
    description: str
    metadata: dict[str, str]
    enabled: bool
    disabled_reason: str | None
    paused: bool
    profile: SigningProfile
    public_keys: list[str]
    format: BodyFormat
    transform: str | None
    filter: FilterSettings | None
    integration_id: str | None
    customer: str | None
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
    version: int
    old_secrets_until: list[str]
    secret: str | None = None
    warnings: list[str] = []

    @classmethod
    def of(
        cls,
        record: WebhookRecord,
        health: EndpointHealthRecord,
        *,
        public_keys: Sequence[str],
        unreadable: Mapping[EncryptedPart, str],
        warnings: Sequence[str],
        secret: str | None = None,
    ) -> Self:
        """Return a webhook as the API shows it.

        `unreadable` has the parts that do not decrypt,
        with the reasons. `secret` is shown if it is given.
        """
        hold_state = hold_state_of(record, health, utcnow())
        breaker = record.circuit_breaker
        return cls(
            id=record.id,
            name=record.name,
            url=record.url,
            events=list(record.events),
            description=record.description,
            metadata=dict(record.metadata or {}),
            enabled=record.enabled,
            disabled_reason=None if record.enabled else record.disabled_reason,
            paused=record.paused,
            profile=record.profile,
            public_keys=list(public_keys),
            format=record.format,
            transform=record.transform,
            filter=None if record.filter is None else FilterSettings.model_validate(record.filter),
            integration_id=record.integration_id,
            customer=record.customer,
            headers=list(record.header_names or ()),
            auth=_auth_out(record.auth_summary),
            retry=RetrySettings.model_validate(
                {name: getattr(record, name) for name in RetrySettings.model_fields}
            ),
            rate_limit=_rate_limit_out(record.rate_limit),
            ordering=record.ordering,
            max_in_flight=record.max_in_flight,
            timeout_s=record.timeout_s,
            disable_after_days=record.disable_after_days,
            circuit_breaker=CircuitBreakerSettings.model_validate(breaker.overrides()) if breaker else None,
            health=WebhookHealthOut(
                circuit="open" if hold_state.is_open else "closed",
                next_probe_at=optional_rfc3339(hold_state.next_probe_at),
                held_until=optional_rfc3339(hold_state.held_until),
                failing_since=optional_rfc3339(health.since),
            ),
            unreadable=[UnreadablePartOut(part=part, reason=reason) for part, reason in unreadable.items()],
            created_at=rfc3339(record.created_at),
            updated_at=rfc3339(record.changed_at),
            version=record.version,
            old_secrets_until=list(map(rfc3339, old_secrets_until(record.secrets))),
            secret=secret or None,
            warnings=list(warnings),
        )


def _auth_out(summary: AuthSummary | None) -> WebhookAuthOut:
    if summary is None:
        return WebhookAuthOut(type="none")
    return WebhookAuthOut(type=summary.type, username=summary.username, name=summary.name)


def _rate_limit_out(limit: RateLimitPart | None) -> RateLimitSettings | None:
    return None if limit is None else RateLimitSettings(requests=limit.requests, period_s=limit.period_s)


class WebhookTestOut(BaseModel):
    """The delivery of a test event: read it in the delivery log."""

    delivery_id: str
