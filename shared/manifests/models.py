"""The manifest: what a provider's folder says about it as data, validated by `Manifest`.

Texts with sources in braces (`{json:event.type}`) are in the language of `shared/verification/request.py`;
the templates of messages are Liquid (`shared/wire/message_template.py`).
"""

import re
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    StringConstraints,
    model_validator,
)

from shared.manifests.connect_models import ConnectSpec, ProviderId, Setting, SettingName
from shared.manifests.schemes import HeaderName, ManifestModel, MatchRules, SchemeSpec, TemplateText
from shared.manifests.subscriptions import SubscriptionSpec
from shared.verification.batch import Batch

PhraseName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,29}$")]
EventName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
TriggerId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+(_[a-z0-9]+)+$")]
Color = Annotated[str, StringConstraints(pattern=r"^#[0-9A-Fa-f]{6}$")]
Status = Annotated[int, Field(ge=200, le=599)]
MediaType = Annotated[
    str, StringConstraints(pattern=r"^([a-z]+/[a-z0-9.+-]+(; charset=utf-8)?)?$", max_length=100)
]
ResponseHeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,60}$")]

Category = Literal[
    "communication",
    "productivity",
    "social",
    "developer",
    "business",
    "storage",
    "crm",
    "e-commerce",
    "logic",
    "ai",
    "other",
]
Tier = Literal["verified", "documented", "from-memory"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Alternatives = Annotated[tuple[TemplateText, ...], BeforeValidator(_as_list)]
"""Templates in order: the first whose sources are all there says it."""


def _validate_batch_paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    Batch(paths)
    return paths


BatchPaths = Annotated[
    tuple[Annotated[str, Field(max_length=200)], ...], AfterValidator(_validate_batch_paths)
]
"""Paths of lists whose elements are events of their own: `entry[*].messaging[*]`, or `[*]`."""


_MAX_ALTERNATIVES: Final = 12
_MAX_FIELDS: Final = 20
_MAX_EMBEDDED: Final = 1
_BODILESS_STATUSES: Final = (204, 205, 304)
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x1f\x7f]")


def reject_control_characters(text: str) -> str:
    """Return a text of an answer. Raise `ValueError` for CR, LF, NUL or another control character in it."""
    if _CONTROL_CHARACTERS.search(text):
        raise ValueError("control characters (CR, LF, NUL) cannot be sent back: remove them")
    return text


ResponseText = Annotated[TemplateText, AfterValidator(reject_control_characters)]


class EventNaming(ManifestModel):
    """How an event is called: the first template that has all its sources, made into a name.

    `strip` is taken from the front, `names` gives what is left another name. Then `/` is `.`, and every
    other run of characters that a name cannot have is `_`.
    """

    source: Alternatives = Field(alias="from", max_length=_MAX_ALTERNATIVES)
    strip: str = ""
    names: dict[str, EventName] = {}


def parse_event_naming(value: object) -> object:
    """A text or list in place of a `EventNaming` is its `from`."""
    return {"from": value} if isinstance(value, str | list) else value


class EmbeddedJson(ManifestModel):
    """A text in the payload that is JSON itself, put beside the payload's own fields under a new name."""

    path: str
    encoding: Literal["json", "base64_json"] = "json"


class BodyFormat(ManifestModel):
    """How a body becomes the payload. JSON always does; an empty body only where `empty` says so."""

    form_field: str | None = None
    """The field of a URL-encoded form that holds the JSON payload."""
    form: Literal["flat", "brackets"] | None = None
    """The fields of a URL-encoded form are the payload; `brackets` nests `data[merges][EMAIL]`."""
    empty: bool = False
    text: bool = False
    """A body of another type is the payload `{"text": ...}`."""
    decoded: Annotated[dict[SettingName, EmbeddedJson], Field(max_length=_MAX_EMBEDDED)] = {}
    headers: Annotated[dict[SettingName, HeaderName], Field(max_length=_MAX_FIELDS)] = {}
    """Headers that say what happened, put beside the payload's own fields under new names."""


class ResponseSpec(ManifestModel):
    """What the platform is told: a status and a body, `text` or `json` (its texts are templates), or none."""

    when: MatchRules = {}
    status: Status = 200
    type: MediaType = ""
    """The content type, where it is not the one that the body's kind has."""
    headers: Annotated[dict[ResponseHeaderName, ResponseText], Field(max_length=_MAX_FIELDS)] = {}
    text: ResponseText | None = None
    json_: (
        Annotated[
            dict[
                str,
                ResponseText
                | int
                | bool
                | Annotated[dict[str, ResponseText | int | bool], Field(max_length=_MAX_FIELDS)],
            ],
            Field(max_length=_MAX_FIELDS),
        ]
        | None
    ) = Field(None, alias="json")

    @model_validator(mode="after")
    def _one_body(self) -> "ResponseSpec":
        if self.text is not None and self.json_ is not None:
            raise ValueError("text or json, not both")
        if self.status in _BODILESS_STATUSES and (self.text is not None or self.json_ is not None):
            raise ValueError(f"an answer with status {self.status} has no body: remove text and json")
        return self


class HandshakeSpec(ManifestModel):
    """A request that proves to the platform that the address is ours. It is no event.

    `require` has to hold too, else 403. `verified` asks for the signature first. `keeps` is the source of a
    secret that the platform hands over: it is taken only while the endpoint waits for one.
    """

    about: str
    when: MatchRules
    require: MatchRules = {}
    verified: bool = False
    keeps: TemplateText | None = None
    answer: ResponseSpec


class RejectionSpec(ManifestModel):
    """What a request without a valid signature is answered where the platform asks for another than 401."""

    status: Status
    why: str


class SecretSpec(ManifestModel):
    """The secret that verifies.

    `ours`: we make it, and its owner enters it on the platform. `theirs`: the platform shows it, and its
    owner enters it here (also after the endpoint was made). `handshake`: the platform hands it over. `none`:
    keys are public or in the settings.
    """

    source: Literal["ours", "theirs", "handshake", "none"]
    name: str = "SecretSpec"
    """As the platform calls it."""
    about: str = ""
    """Where it is found, or where it goes."""
    pattern: str = ""
    kind: Literal["hex", "token", "whsec", "basic"] = "hex"
    """What we make: 64 hex digits, 43 characters of base64url, `whsec_` and base64, or user:password."""
    public: bool = False
    """A public key: whoever knows it cannot sign."""
    min_length: int = 8
    max_length: int = 500


class MessageTemplates(ManifestModel):
    """Liquid templates over the payload and the phrases that make a chat message.

    `text` says everything that matters on a line of Markdown (a list may follow). The others make the
    card below it: `title` and `body` are Markdown, `url` where the title leads, `color` is `#rrggbb`. An
    empty result leaves the part out; without title and body there is no card. Whatever comes from the
    payload goes through `md`, `link`, `excerpt` or `url`.
    """

    text: str
    title: str = ""
    url: str = ""
    body: str = ""
    color: str = ""


class HandledEvent(ManifestModel):
    """An event that we know: `triggers` of the catalogue with what has to match, and its chat message."""

    about: str
    triggers: dict[TriggerId, MatchRules] = {}
    message: MessageTemplates | None = None


class ProviderLimits(ManifestModel):
    """How the platform sends: for the documents. What is not known is left out."""

    within_s: float | None = None
    """How long the platform waits for an answer."""
    retries: str = ""
    disables: str = ""
    notes: tuple[str, ...] = ()


class EndpointTemplate(ManifestModel):
    """A ready-made endpoint with its mapping: which events become messages of a channel."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{3,60}$")]
    name: str
    about: str
    events: tuple[str, ...] = ("*",)
    """Event names, or patterns with `*` at the end."""


class AppWebhookSpec(ManifestModel):
    """The one address that an app registered with the platform has, for the webhooks of all its accounts.

    Each event goes to the workspaces that have connected its account with the same app.
    """

    secrets: tuple[Literal["signing_secret", "client_secret"], ...] = Field(min_length=1)
    """Which of the app's secrets sign: every one that it has verifies."""
    account: Alternatives = ()
    """What names the connected account in an event; without it, the webhook's `account`."""
    choice: Alternatives = ()
    """The same for an account's chosen place: an account that has one gets only what is of this place, and
    what is of no place."""
    setup_steps: tuple[str, ...] = Field(min_length=1)
    """What an operator does on the platform: `{url}` says where the address goes, `{setting:...}` the app's
    settings."""


class WebhookSpec(ManifestModel):
    """How the platform's webhooks come in."""

    methods: tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...] = ("POST",)
    verification: tuple[SchemeSpec, ...]
    """The ways of signing, in order: the first that applies to a request decides."""
    secret: SecretSpec
    settings: dict[SettingName, Setting] = {}
    body: BodyFormat = BodyFormat()
    batch: BatchPaths = ()
    event: Annotated[EventNaming, BeforeValidator(parse_event_naming)]
    delivery_id: Alternatives = ()
    """What is the same when the platform sends the same again; empty: the platform gives nothing such."""
    account: Alternatives = ()
    """Which account (team, tenant, page) on the platform the event belongs to: the routing key."""
    occurred: Alternatives = ()
    """When it happened, as the platform writes it: see `shared.wire.timestamps`."""
    handshakes: tuple[HandshakeSpec, ...] = ()
    no_handshake: str = ""
    """Why there is none to describe, where `handshakes` is empty."""
    answers: tuple[ResponseSpec, ...] = ()
    """To an accepted event: the first that matches; 202 with the event's id when there is none."""
    refused: RejectionSpec | None = None
    limits: ProviderLimits = ProviderLimits()
    actor: str = ""
    """Liquid template of the name that a message is shown as from."""
    actor_icon: str = ""
    setup_steps: tuple[str, ...]
    """What a person does on the platform: `{url}`, `{secret}` and `{setting:...}` say where values go."""
    phrases: dict[PhraseName, str] = {}
    """Liquid templates of what several messages say; a message calls one as `{{ name }}`."""
    handled: dict[EventName, HandledEvent]
    ignored: tuple[EventName, ...] = ()
    """Events that are accepted and delivered to subscribers, but are no chat message and no trigger."""
    templates: tuple[EndpointTemplate, ...] = ()
    configurable: bool = False
    """An endpoint may describe its sender itself: see `shared.manifests.sender_description`."""
    app: AppWebhookSpec | None = None
    """The address of a whole app; None where webhooks come to addresses of single endpoints only."""

    @model_validator(mode="after")
    def _one_place_per_event(self) -> "WebhookSpec":
        doubled = sorted(set(self.handled) & set(self.ignored))
        if doubled:
            raise ValueError(f"handled and ignored at once: {', '.join(doubled)}")
        return self


class PollingSpec(ManifestModel):
    """A trigger that no webhook brings: what has to be asked for, and how often it makes sense."""

    about: str
    every_s: int = 300


class CatalogueEntry(ManifestModel):
    """The provider as an integration of the catalogue."""

    auth_type: Literal["oauth", "apiKey", "none"]
    category: str = ""
    """The catalogue's own, where it is another than the provider's."""
    docs: str = ""
    capabilities: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    triggers: tuple[TriggerId, ...] = ()
    polled: dict[TriggerId, PollingSpec] = {}
    through: tuple[ProviderId, ...] = ()
    """Providers whose webhooks bring this integration's triggers, where it has none of its own."""
    setup_steps: tuple[str, ...] = ()
    """For an integration without webhooks of its own."""


class Manifest(ManifestModel):
    """A provider: its folder's name is its id."""

    id: ProviderId
    name: str
    category: Category
    color: Color = "#6B7280"
    docs: HttpUrl | Literal[""]
    sources: tuple[str, ...]
    """Where the facts come from: document, SDK and version."""
    tier: Tier
    """`verified`: a published signature is reproduced; `documented`: from the platform's documents or
    SDK; `from-memory`: likely, not certain."""
    from_memory: tuple[str, ...] = ()
    """The facts that no source was found for."""
    exemptions: dict[str, str] = {}
    """Rules of the checker that do not hold for this provider, each with the reason."""
    aliases: tuple[str, ...] = ()
    """Other names that people look for."""
    integration: CatalogueEntry | None = None
    """Its entry in the catalogue of integrations."""
    webhook: WebhookSpec | None = None
    connect: ConnectSpec | None = None
    """How accounts are connected."""
    watches: tuple[SubscriptionSpec, ...] = ()
    """Subscriptions that a connected account needs at the platform, for its webhooks to come."""
