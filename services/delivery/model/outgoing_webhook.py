"""An outgoing webhook: the URL that events are sent to, with its secrets, filter and limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from services.delivery.model.rate_limiter import RateLimit
from services.delivery.model.retry_policy import RetryPolicy
from services.delivery.model.webhook_auth import WebhookAuth
from shared.contracts.ids import WebhookId, WorkspaceId
from shared.runtime.secrets import unexpired_keys
from shared.webhooks.filters import EventFilter
from shared.webhooks.formats import BodyFormat
from shared.webhooks.signatures import SigningProfile
from shared.wire.expressions import Expression

Ordering = Literal["none", "strict"]
EncryptedPart = Literal["secret", "headers", "auth"]
"""What of a webhook is sealed: the secrets it signs with, the values of its headers, its auth."""
SigningKeys = tuple[tuple[bytes, datetime | None], ...]
MAX_RETRY_AFTER_S: Final = 900.0
"""Of a webhook that does not say otherwise."""


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
    """What of it does not open, so is empty here, and why: nothing is sent while there is any."""
    policy: RetryPolicy
    rate_limit: RateLimit | None
    ordering: Ordering
    max_in_flight: int
    timeout_s: float
    disable_after: timedelta | None
    breaker: Mapping[str, Any] | None
    """What of the circuit breaker this webhook sets otherwise than the installation."""
    lifts: int
    """Grows whenever a person ends what holds deliveries back: enable, resume, another URL, other limits."""

    @property
    def strict(self) -> bool:
        return self.ordering == "strict"

    def valid_keys(self) -> list[bytes]:
        """The secrets to sign with now, the newest first; a rotated one until it ends."""
        return unexpired_keys(self.keys)
