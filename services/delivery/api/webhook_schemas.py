"""The bodies of the outgoing webhooks' API: what a caller sends and sees."""

import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.delivery.engine.subscriptions import MAX_RETRY_AFTER_S, EncryptedPart, Ordering
from services.delivery.model.flow_control import Circuit
from services.delivery.model.retry_policy import ClientErrorPolicy
from shared.contracts.event_types import canonical
from shared.webhooks.backoff import MAX_ATTEMPTS, MAX_WAIT_S, SCHEDULES
from shared.webhooks.filters import FilterSettings
from shared.webhooks.formats import BodyFormat
from shared.webhooks.patterns import is_pattern
from shared.webhooks.signatures import SigningProfile
from shared.wire.expressions import Expression, ExpressionError
from shared.wire.retry_after import RETRY_AFTER_CAP_S

_ROTATION_OVERLAP_H: Final = 24
_MAX_HOST_LENGTH: Final = 253
_MAX_HEADERS: Final = 20
_HOST_NAME: Final = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?"
)
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
_RESERVED_HEADERS: Final = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "upgrade", "te", "trailer"}
    | {"keep-alive", "proxy-authorization", "proxy-connection", "expect", "traceparent", "user-agent"}
)
_RESERVED_PREFIXES: Final = ("webhook-", "x-webhook-", "x-chatwoot-", "x-interlink-")


def _pattern(text: str) -> str:
    if not is_pattern(text):
        raise ValueError("an event type (message.created), a prefix (message.*), a trigger's id or *")
    return canonical(text)


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must start with https:// or http:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user name or password: use 'auth'")
    if parts.fragment or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be an encoded URL without a fragment")
    if ":" not in host and (len(host) > _MAX_HOST_LENGTH or not _HOST_NAME.fullmatch(host)):
        raise ValueError("must name a host as DNS knows it")
    return text


def _validate_waits(waits: list[float]) -> list[float]:
    if any(not 0 <= wait <= MAX_WAIT_S for wait in waits):
        raise ValueError(f"waits are seconds from 0 to {MAX_WAIT_S:.0f}")
    return waits


def _schedule_name(name: str) -> str:
    if name not in SCHEDULES:
        raise ValueError(f"one of: {', '.join(SCHEDULES)}; or a list of seconds")
    return name


def _header_name(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise ValueError("not the name of an HTTP header")
    if name.lower() in _RESERVED_HEADERS or name.lower().startswith(_RESERVED_PREFIXES):
        raise ValueError(f"{name} is set by the hub")
    return name


def _header_value(value: str) -> str:
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError("printable ASCII without a blank at either end")
    return value


def _headers(given: dict[str, str]) -> dict[str, str]:
    if len({name.lower() for name in given}) != len(given):
        raise ValueError("a header is named twice")
    if "authorization" in {name.lower() for name in given}:
        raise ValueError("Authorization belongs into 'auth'")
    return given


def _no_colon(text: str) -> str:
    if ":" in text:
        raise ValueError("must not hold a colon")
    return text


def _transform(text: str) -> str:
    try:
        Expression(text, "transform")
    except ExpressionError as error:
        raise ValueError(str(error)) from None
    return text


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RetrySettings(_StrictModel):
    """Seconds to wait before each attempt, so the length is the number of attempts; or a schedule's name.

    `jitter` lengthens each wait by up to this share of it. `client_errors` says whether an answer of 4xx
    (other than 408, 410, 425 and 429) is final. `max_retry_after_s` bounds how long a `Retry-After` of the
    endpoint holds its deliveries back; 0 ignores it.
    """

    schedule: (
        Annotated[str, AfterValidator(_schedule_name)]
        | Annotated[
            list[float], Field(min_length=1, max_length=MAX_ATTEMPTS), AfterValidator(_validate_waits)
        ]
    ) = "nchat"
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


HeaderValue = Annotated[str, Field(max_length=2000), AfterValidator(_header_value)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
Headers = Annotated[dict[HeaderName, HeaderValue], Field(max_length=_MAX_HEADERS), AfterValidator(_headers)]


class NoAuth(_StrictModel):
    """The signature alone."""

    type: Literal["none"]


class BasicAuth(_StrictModel):
    """`Authorization: Basic`."""

    type: Literal["basic"]
    username: Annotated[str, Field(max_length=200), AfterValidator(_no_colon)]
    password: Annotated[str, Field(max_length=2000)]


class BearerAuth(_StrictModel):
    """`Authorization: Bearer`."""

    type: Literal["bearer"]
    token: Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_header_value)]


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
Name = Annotated[str, Field(min_length=1, max_length=200)]
Description = Annotated[str, Field(max_length=2000)]
Url = Annotated[str, Field(max_length=2000), AfterValidator(_url)]
Events = Annotated[list[Annotated[str, AfterValidator(_pattern)]], Field(min_length=1, max_length=100)]
Secret = Annotated[str, Field(min_length=16, max_length=500)]
InFlight = Annotated[int, Field(ge=1, le=500)]
Timeout = Annotated[float, Field(ge=1, le=60)]
Transform = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_transform)]
IntegrationId = Annotated[str, Field(min_length=1, max_length=100)]
DisableAfter = Annotated[float, Field(ge=0, le=365)]


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


class PreviewCreate(_StrictModel):
    """`POST .../preview`: an event to try a webhook's filter, format and transform on."""

    type: Annotated[str, Field(min_length=1, max_length=200)] = "webhook.test"
    subject: Annotated[str, Field(max_length=500)] = ""
    data: Any = None
    events: Events = ["*"]
    format: BodyFormat = "envelope"
    transform: Annotated[str, Field(max_length=4000)] | None = None
    filter: FilterSettings | None = None
    integration_id: IntegrationId | None = None


class PreviewOut(BaseModel):
    """What would be sent, and whether patterns and filter let the event through; `because` says why not."""

    wanted: bool
    because: str
    body: str | None
    error: str | None


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


class QueueStateOut(BaseModel):
    """Whether the workspace's deliveries wait."""

    paused: bool
