"""An outgoing webhook: the URL that events are sent to, with its secrets, filter and limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from services.delivery.model.rate_limiter import RateLimit
from services.delivery.model.retry_policy import RetryPolicy
from services.delivery.model.webhook_auth import WebhookAuth
from shared.contracts.ids import WebhookId, WorkspaceId
from shared.runtime.record_secrets import unexpired_keys
from shared.webhooks.filters import EventFilter
from shared.webhooks.formats import BodyFormat
from shared.webhooks.signatures import SigningProfile
from shared.wire.expressions import Expression

Ordering = Literal["none", "strict"]
EncryptedPart = Literal["secret", "headers", "auth"]
"""A part of a webhook that is stored encrypted: signing secrets, header values, authentication."""
SigningKeys = tuple[tuple[bytes, datetime | None], ...]
"""Signing keys with the time at which each expires; None for the current one."""
MAX_RETRY_AFTER_S: Final = 900.0
"""The longest `Retry-After` that is honoured if the webhook does not set its own limit."""


@dataclass(frozen=True, slots=True)
class OutgoingWebhook:
    """An outgoing webhook as fan-out and attempts need it."""

    id: WebhookId
    workspace: WorkspaceId
    name: str
    url: str
    patterns: tuple[str, ...]
    filter: EventFilter | None
    integration_id: str
    enabled: bool
    enabled_at: datetime
    paused: bool
    format: BodyFormat
    transform: Expression | None
    profile: SigningProfile
    keys: SigningKeys
    headers: Mapping[str, str]
    auth: WebhookAuth
    unreadable: Mapping[EncryptedPart, str]
    """Parts that do not decrypt, with the reason. They are empty here, and nothing is sent meanwhile."""
    policy: RetryPolicy
    rate_limit: RateLimit | None
    ordering: Ordering
    max_in_flight: int
    timeout_s: float
    disable_after: timedelta | None
    breaker: Mapping[str, Any] | None
    """Circuit breaker settings that differ from those of the installation."""
    metadata: Mapping[str, str]
    resets: int
    """Rises when a person ends hold and open circuit: enable, resume, another URL or other limits."""
    created_at: datetime
    is_disabled_by_hub: bool
    """True if it was disabled because of its receiver's responses."""

    @property
    def strict(self) -> bool:
        """True if deliveries go out one at a time, in the order of the events."""
        return self.ordering == "strict"

    def valid_keys(self) -> list[bytes]:
        """Return the keys to sign with now, newest first. A rotated key is valid until it expires."""
        return unexpired_keys(self.keys)
