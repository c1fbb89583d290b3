"""The bodies of the gateway's management API: what a caller sends and sees."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from services.gateway.api.event_type_registry import NAME_PATTERN, EventTypeSource
from shared.runtime.web.access import Scope
from shared.runtime.web.problems import to_utc

_INCOMING_PER_MINUTE: Final = 60


Name = Annotated[str, Field(min_length=1, max_length=200)]
Channel = Annotated[str, Field(min_length=1, max_length=200)]
RateLimit = Annotated[int, Field(ge=1, le=100_000_000, description="Requests per minute.")]

MassMentions = Annotated[
    bool, Field(description="Whether `@everyone`, `<!here>` and the like call people, or are shown as text.")
]


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class IncomingWebhookCreate(_StrictModel):
    """`POST /api/incoming-webhooks`."""

    name: Name
    target_channel_id: Channel
    enabled: bool = True
    rate_limit: RateLimit = _INCOMING_PER_MINUTE
    allow_mass_mentions: MassMentions = False


class IncomingWebhookUpdate(_StrictModel):
    """`PATCH /api/incoming-webhooks/{id}`: what is absent stays as it is."""

    name: Name | None = None
    target_channel_id: Channel | None = None
    enabled: bool | None = None
    rate_limit: RateLimit | None = None
    allow_mass_mentions: MassMentions | None = None


class IncomingWebhookOut(BaseModel):
    """An incoming webhook; `token` and `url` only in the answer that made it."""

    id: str
    name: str
    target_channel_id: str
    enabled: bool
    rate_limit: int
    allow_mass_mentions: bool
    created_at: str
    updated_at: str
    token: str | None = None
    url: str | None = None


About = Annotated[str, Field(min_length=1, max_length=2000)]
_SCHEMA: Final = "JSON Schema 2020-12 of the data, at most 64 KiB, with references inside it only."


class EventTypeCreate(_StrictModel):
    """`POST /api/event-types`: events of the type are checked against `schema` when they are published."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=200)]
    about: About
    schema_: dict[str, Any] | None = Field(None, alias="schema", description=_SCHEMA)
    example: Any = None


class EventTypeUpdate(_StrictModel):
    """`PATCH`: what is absent stays as it is; `schema: null` or `example: null` takes it away."""

    about: About | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema", description=_SCHEMA)
    example: Any = None


class EventTypeOut(BaseModel):
    """An event type; `aliases` are names that are taken for it when an event is published.

    `triggers` are those of the catalogue that an event of a provider may fire: other names to subscribe to.
    """

    name: str
    source: EventTypeSource
    about: str
    aliases: list[str]
    schema_: dict[str, Any] | None = Field(alias="schema")
    example: Any
    triggers: list[str]
    created_at: str | None
    updated_at: str | None


class ApiKeyCreate(_StrictModel):
    """`POST /api/api-keys`."""

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1)]
    expires_at: Annotated[AwareDatetime, AfterValidator(to_utc)] | None = None


class ApiKeyOut(BaseModel):
    """An API key without the key itself, but in the answer that made it."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    key: str | None = None


class AcceptedEventsOut(BaseModel):
    """The ids of the events that are now on Kafka."""

    accepted: list[str]
