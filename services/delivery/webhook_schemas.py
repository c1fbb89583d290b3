"""The bodies of the outgoing webhooks' API: what a caller sends and sees."""

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.delivery.subscriptions import Ordering
from shared.wire.backoff import MAX_ATTEMPTS, MAX_WAIT_S, SCHEDULES
from shared.wire.patterns import is_pattern
from shared.wire.signatures import Profile

_ROTATION_OVERLAP_H: Final = 24
_LONGEST_NAME: Final = 253
_NAME: Final = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?")


def _pattern(text: str) -> str:
    if not is_pattern(text):
        raise ValueError("an event type (message.created), a prefix (message.*) or *")
    return text


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must start with https:// or http:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user name or password")
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


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Retry(_Body):
    """Seconds to wait before each attempt, so the length is the number of attempts; or a schedule's name."""

    schedule: (
        Annotated[str, AfterValidator(_schedule_name)]
        | Annotated[list[float], Field(min_length=1, max_length=MAX_ATTEMPTS), AfterValidator(_waits)]
    ) = "nchat"


Name = Annotated[str, Field(min_length=1, max_length=200)]
Description = Annotated[str, Field(max_length=2000)]
Url = Annotated[str, Field(max_length=2000), AfterValidator(_url)]
Events = Annotated[list[Annotated[str, AfterValidator(_pattern)]], Field(min_length=1, max_length=100)]
Secret = Annotated[str, Field(min_length=16, max_length=500)]
InFlight = Annotated[int, Field(ge=1, le=500)]
Timeout = Annotated[float, Field(ge=1, le=60)]


class NewWebhook(_Body):
    """`POST /api/outgoing-webhooks`."""

    name: Name
    url: Url
    events: Events
    description: Description = ""
    secret: Secret | None = None
    enabled: bool = True
    profile: Profile = "standard"
    retry: Retry = Retry()
    ordering: Ordering = "none"
    max_in_flight: InFlight = 10
    timeout_s: Timeout = 30


class WebhookChange(_Body):
    """`PATCH`: what is absent stays as it is."""

    name: Name | None = None
    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None
    retry: Retry | None = None
    ordering: Ordering | None = None
    max_in_flight: InFlight | None = None
    timeout_s: Timeout | None = None


class Rotation(_Body):
    """`POST .../rotate-secret`: both secrets sign for `overlap_hours`."""

    secret: Secret | None = None
    overlap_hours: Annotated[int, Field(ge=0, le=168)] = _ROTATION_OVERLAP_H


class ShownWebhook(BaseModel):
    """An outgoing webhook; `secret` only when it was made or changed by this call."""

    id: str
    name: str
    url: str
    events: list[str]
    description: str
    enabled: bool
    profile: Profile
    retry: Retry
    ordering: Ordering
    max_in_flight: int
    timeout_s: float
    created_at: str
    updated_at: str
    secret: str | None = None


class TestDelivery(BaseModel):
    """A test event is on its way: look the delivery up in the log."""

    delivery_id: str
