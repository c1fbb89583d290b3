"""The bodies of the outgoing webhooks' API: what a caller sends and sees."""

import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.delivery.pacing import Circuit
from services.delivery.retry import ClientErrors
from services.delivery.subscriptions import MAX_RETRY_AFTER_S, Ordering, Sealable
from shared.contracts.event_types import canonical
from shared.wire.backoff import MAX_ATTEMPTS, MAX_WAIT_S, MOST_RETRY_AFTER_S, SCHEDULES
from shared.wire.expressions import Expression, Unusable
from shared.wire.filters import FilterSettings
from shared.wire.formats import Format
from shared.wire.patterns import is_pattern
from shared.wire.signatures import Profile

_ROTATION_OVERLAP_H: Final = 24
_LONGEST_NAME: Final = 253
_MOST_HEADERS: Final = 20
_NAME: Final = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
_RESERVED: Final = frozenset(
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
    if ":" not in host and (len(host) > _LONGEST_NAME or not _NAME.fullmatch(host)):
        raise ValueError("must name a host as DNS knows it")
    return text


def _waits(waits: list[float]) -> list[float]:
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
    if name.lower() in _RESERVED or name.lower().startswith(_RESERVED_PREFIXES):
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
    except Unusable as error:
        raise ValueError(str(error)) from None
    return text


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Retry(_Body):
    """Seconds to wait before each attempt, so the length is the number of attempts; or a schedule's name.

    `jitter` lengthens each wait by up to this share of it. `client_errors` says whether an answer of 4xx
    (other than 408, 410, 425 and 429) is final. `max_retry_after_s` bounds how long a `Retry-After` of the
    endpoint holds its deliveries back; 0 ignores it.
    """

    schedule: (
        Annotated[str, AfterValidator(_schedule_name)]
        | Annotated[list[float], Field(min_length=1, max_length=MAX_ATTEMPTS), AfterValidator(_waits)]
    ) = "nchat"
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    client_errors: ClientErrors = "final"
    max_retry_after_s: Annotated[float, Field(ge=0, le=MOST_RETRY_AFTER_S)] = MAX_RETRY_AFTER_S


class CircuitBreaker(_Body):
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


class Rate(_Body):
    """At most `requests` in any `period_s` seconds."""

    requests: Annotated[int, Field(ge=1, le=10_000)]
    period_s: Annotated[float, Field(ge=0.1, le=86_400)] = 1.0


HeaderValue = Annotated[str, Field(max_length=2000), AfterValidator(_header_value)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
Headers = Annotated[dict[HeaderName, HeaderValue], Field(max_length=_MOST_HEADERS), AfterValidator(_headers)]


class NoAuth(_Body):
    """The signature alone."""

    type: Literal["none"]


class BasicAuth(_Body):
    """`Authorization: Basic`."""

    type: Literal["basic"]
    username: Annotated[str, Field(max_length=200), AfterValidator(_no_colon)]
    password: Annotated[str, Field(max_length=2000)]


class BearerAuth(_Body):
    """`Authorization: Bearer`."""

    type: Literal["bearer"]
    token: Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_header_value)]


class HeaderAuth(_Body):
    """A header of the receiver's choice."""

    type: Literal["header"]
    name: HeaderName
    value: HeaderValue


class CertificateAuth(_Body):
    """Mutual TLS: a certificate with its chain, and its key without a password, both PEM."""

    type: Literal["mtls"]
    certificate: Annotated[str, Field(max_length=32_000)]
    private_key: Annotated[str, Field(max_length=16_000)]


Auth = Annotated[NoAuth | BasicAuth | BearerAuth | HeaderAuth | CertificateAuth, Field(discriminator="type")]
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


class NewWebhook(_Body):
    """`POST /api/outgoing-webhooks`."""

    name: Name
    url: Url
    events: Events
    description: Description = ""
    secret: Secret | None = None
    enabled: bool = True
    profile: Profile = "standard"
    format: Format = "envelope"
    transform: Transform | None = None
    filter: FilterSettings | None = None
    integration_id: IntegrationId | None = None
    headers: Headers = {}
    auth: Auth = NoAuth(type="none")
    retry: Retry = Retry()
    rate_limit: Rate | None = None
    ordering: Ordering = "none"
    max_in_flight: InFlight = 10
    timeout_s: Timeout = 30
    disable_after_days: DisableAfter = 5
    circuit_breaker: CircuitBreaker | None = None


class WebhookChange(_Body):
    """`PATCH`: what is absent stays as it is; `null` clears what `CLEARABLE` names."""

    name: Name | None = None
    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None
    format: Format | None = None
    transform: Transform | None = None
    filter: FilterSettings | None = None
    integration_id: IntegrationId | None = None
    headers: Headers | None = None
    auth: Auth | None = None
    retry: Retry | None = None
    rate_limit: Rate | None = None
    ordering: Ordering | None = None
    max_in_flight: InFlight | None = None
    timeout_s: Timeout | None = None
    disable_after_days: DisableAfter | None = None
    circuit_breaker: CircuitBreaker | None = None


CLEARABLE: Final = frozenset({"transform", "filter", "integration_id", "rate_limit", "circuit_breaker"})


class Rotation(_Body):
    """`POST .../rotate-secret`: the old secret stays valid for `overlap_hours`."""

    secret: Secret | None = None
    overlap_hours: Annotated[int, Field(ge=0, le=168)] = _ROTATION_OVERLAP_H


class Trial(_Body):
    """`POST .../preview`: an event to try a webhook's filter, format and transform on."""

    type: Annotated[str, Field(min_length=1, max_length=200)] = "webhook.test"
    subject: Annotated[str, Field(max_length=500)] = ""
    data: Any = None
    events: Events = ["*"]
    format: Format = "envelope"
    transform: Annotated[str, Field(max_length=4000)] | None = None
    filter: FilterSettings | None = None
    integration_id: IntegrationId | None = None


class Preview(BaseModel):
    """What would be sent, and whether patterns and filter let the event through; `because` says why not."""

    wanted: bool
    because: str
    body: str | None
    error: str | None


class ShownAuth(BaseModel):
    """How the webhook says who it is, without what is secret."""

    type: str
    username: str | None = None
    name: str | None = None


class ShownHealth(BaseModel):
    """How the endpoint does: its circuit, and since when it does nothing but fail.

    `held_until` is the end of a quiet that it asked for with `Retry-After`. Enable and resume end a hold and
    close the circuit; a test or a retry of one delivery goes past both, and its success does the same.
    """

    circuit: Circuit = "closed"
    next_probe_at: str | None = None
    held_until: str | None = None
    failing_since: str | None = None


class Unreadable(BaseModel):
    """A part that is stored encrypted and does not open, and why: add its key, or enter it again."""

    part: Sealable
    reason: str


class ShownWebhook(BaseModel):
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
    profile: Profile
    public_keys: list[str]
    format: Format
    transform: str | None
    filter: FilterSettings | None
    integration_id: str | None
    headers: list[str]
    auth: ShownAuth
    retry: Retry
    rate_limit: Rate | None
    ordering: Ordering
    max_in_flight: int
    timeout_s: float
    disable_after_days: float
    circuit_breaker: CircuitBreaker | None
    health: ShownHealth
    unreadable: list[Unreadable]
    created_at: str
    updated_at: str
    secret: str | None = None
    warnings: list[str] = []


class TestDelivery(BaseModel):
    """A test event is on its way: look the delivery up in the log."""

    delivery_id: str


class QueueState(BaseModel):
    """Whether the workspace's deliveries wait."""

    paused: bool
