"""The inbound endpoint as the webhook path uses it: decrypted and compiled."""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from services.gateway.ingest.rate_limit import TokenBucket
from shared.contracts.envelope import EventTemplate
from shared.contracts.ids import EndpointId, WorkspaceId
from shared.manifests.registry import Provider
from shared.manifests.webhook import WebhookDefinition
from shared.runtime.record_secrets import unexpired_keys
from shared.webhooks.incoming import INCOMING_PROVIDER, MASS_MENTIONS_ATTRIBUTE

_MAX_EVENT_TEMPLATES: Final = 16
"""Templates that one endpoint keeps in memory. The sender chooses the names of events."""

NEVER: Final = datetime.fromtimestamp(0, UTC)
INTEGRATION_ID_PREFIX: Final = "int_"
"""Prefix of the id of an endpoint that stands for a connected account and has no document of its own."""


class EventSelection:
    """The events of an endpoint that become messages: names, or prefixes that end in `*`.

    `*` alone matches all events but those that the provider's manifest calls quiet.
    """

    __slots__ = ("_has_all", "_names", "_prefixes", "_quiet")

    def __init__(self, patterns: Sequence[str], quiet: AbstractSet[str] = frozenset()) -> None:
        self._names = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
        prefixes = [pattern[:-1] for pattern in patterns if pattern.endswith("*")]
        self._prefixes = tuple(filter(None, prefixes))
        self._has_all = "" in prefixes
        self._quiet = quiet

    def __contains__(self, event: str) -> bool:
        if event in self._names or event.startswith(self._prefixes):
            return True
        return self._has_all and event not in self._quiet


@dataclass(slots=True)
class InboundEndpoint:
    """One inbound endpoint in memory.

    An incoming webhook has neither `provider` nor `definition`. A connected account that receives events
    through an app webhook is an endpoint too, under its integration's id.
    """

    id: EndpointId
    workspace: WorkspaceId
    provider: Provider | None
    definition: WebhookDefinition | None
    address: str
    """The URL that the provider calls; some providers sign it."""
    channel_id: str
    enabled: bool
    keys: tuple[tuple[bytes, datetime | None], ...]
    """The secrets, newest first, each with the time at which it expires after a rotation."""
    settings: Mapping[str, str]
    """The owner's settings, and the newest secret under `SECRET_SETTING`."""
    require_signature: bool
    networks: tuple[IPv4Network | IPv6Network, ...]
    """The networks that may call; empty if every address may."""
    body_limit: int | None
    """Bytes; None for the limit of the process."""
    dedupe_window_s: float | None
    """Seconds; None for the window of the process."""
    message_events: EventSelection
    accepted: TokenBucket
    """The endpoint's own rate limit."""
    recorded_rejections: TokenBucket
    """Limits how many rejected requests are stored as executions."""
    source_error: str = ""
    """Reason for which the owner's description of the sender cannot be used. Then `definition` is None."""
    is_default: bool = False
    """True if it is the installation's default endpoint for its provider."""
    old_token: tuple[str, datetime] | None = None
    """The digest of an incoming webhook's token before the last rotation, and when it expires."""
    mass_mentions: bool = False
    """True if messages of an incoming webhook may mention everybody."""
    polled: bool = False
    """True if its events come from a polling trigger. Then it accepts no requests."""
    name: str = ""
    created_at: datetime = NEVER

    provider_id: str = field(init=False)
    """The provider's id; `incoming` for an incoming webhook."""
    record_key: bytes = field(init=False)
    """The key of its records on Kafka: its events stay in order."""
    _templates: dict[str, EventTemplate] = field(init=False)

    def __post_init__(self) -> None:
        self.provider_id = self.provider.id if self.provider else INCOMING_PROVIDER
        self.record_key = self.id.encode()
        self._templates = {}

    def event_template(self, event: str) -> EventTemplate:
        """Return the constant headers of its events with this name."""
        template = self._templates.get(event)
        if template is None:
            template = self._new_template(event)
            if len(self._templates) < _MAX_EVENT_TEMPLATES:
                self._templates[event] = template
        return template

    def _new_template(self, event: str) -> EventTemplate:
        provider = self.provider_id
        attributes = {"provider": provider, "event": event, "endpoint_id": self.id}
        if self.channel_id and event in self.message_events:
            attributes["channel_id"] = self.channel_id
        if self.mass_mentions:
            attributes[MASS_MENTIONS_ATTRIBUTE] = "true"
        return EventTemplate(
            f"{provider}.{event}", f"/webhooks/{provider}/{self.id}", self.workspace, attributes
        )

    def valid_keys(self) -> list[bytes]:
        """Return the secrets that verify now: the newest one, and rotated ones that have not expired."""
        return unexpired_keys(self.keys)

    def redact(self, data: bytes) -> bytes:
        """Return event data without the endpoint's secrets, which some providers put into the body."""
        definition = self.definition
        if definition is None or not definition.has_secret_in_body:
            return data
        return definition.redact(data, self.valid_keys())


def token_digest(token: str) -> str:
    """Return the digest under which an incoming webhook's token is stored.

    A fast hash is enough: the token has 256 random bits.
    """
    return hashlib.sha256(token.encode()).hexdigest()
