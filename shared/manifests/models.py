"""The manifest: a provider's folder as data, validated by `Manifest`.

Texts with sources in braces (`{json:event.type}`) are in the language of `shared/verification/request.py`;
the templates of messages are Liquid (`shared/wire/message_template.py`).
"""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, HttpUrl, StringConstraints, model_validator

from shared.manifests.base import ManifestModel, as_list
from shared.manifests.connect_models import ConnectSpec, ProviderId, Setting, SettingName
from shared.manifests.schemes import HeaderName, MatchRules, SchemeSpec, TemplateText
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


Alternatives = Annotated[tuple[TemplateText, ...], BeforeValidator(as_list)]
"""Templates in order: the first whose sources all have a value is used."""


def _validate_batch_paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    Batch(paths)
    return paths


BatchPaths = Annotated[
    tuple[Annotated[str, Field(max_length=200)], ...], AfterValidator(_validate_batch_paths)
]
"""Paths of lists whose elements are separate events: `entry[*].messaging[*]`, or `[*]`."""


_MAX_ALTERNATIVES: Final = 12
_MAX_FIELDS: Final = 20
_MAX_EMBEDDED: Final = 1
_BODILESS_STATUSES: Final = (204, 205, 304)
CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x1f\x7f]")


def reject_control_characters(text: str) -> str:
    """Return a text of a response. Raise `ValueError` if it has CR, LF, NUL or another control character."""
    if CONTROL_CHARACTERS.search(text):
        raise ValueError("control characters (CR, LF, NUL) cannot be sent back: remove them")
    return text


ResponseText = Annotated[TemplateText, AfterValidator(reject_control_characters)]


class EventNaming(ManifestModel):
    """How an event gets its name: the first template whose sources all have a value, made into a name.

    `strip` is removed from the beginning, then `names` renames the rest. At last `/` becomes `.`, and every
    other run of characters that are not allowed becomes `_`.
    """

    source: Alternatives = Field(alias="from", max_length=_MAX_ALTERNATIVES)
    strip: str = ""
    names: dict[str, EventName] = {}


def parse_event_naming(value: object) -> object:
    """Turn a text or a list into the `from` of an `EventNaming`."""
    return {"from": value} if isinstance(value, str | list) else value


class EmbeddedJson(ManifestModel):
    """A text in the payload that is itself JSON, added to the payload's fields under a new name."""

    path: str
    encoding: Literal["json", "base64_json"] = "json"


class BodyFormat(ManifestModel):
    """How a body becomes the payload. JSON is always accepted; an empty body only with `empty`."""

    form_field: str | None = None
    """The field of a URL-encoded form that holds the JSON payload."""
    form: Literal["flat", "brackets"] | None = None
    """The fields of a URL-encoded form are the payload; `brackets` nests `data[merges][EMAIL]`."""
    empty: bool = False
    text: bool = False
    """A body of another content type becomes the payload `{"text": ...}`."""
    decoded: Annotated[dict[SettingName, EmbeddedJson], Field(max_length=_MAX_EMBEDDED)] = {}
    headers: Annotated[dict[SettingName, HeaderName], Field(max_length=_MAX_FIELDS)] = {}
    """Headers that describe the event, added to the payload's fields under new names."""


class ResponseSpec(ManifestModel):
    """A response to the provider: status, headers and at most one of `text` and `json` (of templates)."""

    when: MatchRules = {}
    status: Status = 200
    type: MediaType = ""
    """The content type, if it is not the usual one of `text` or `json`."""
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
            raise ValueError("use text or json, not both")
        if self.status in _BODILESS_STATUSES and (self.text is not None or self.json_ is not None):
            raise ValueError(f"a response with status {self.status} has no body: remove text and json")
        return self


class HandshakeSpec(ManifestModel):
    """A request with which the provider checks the address. It is not an event.

    If `require` does not hold, the response is 403. `verified`: the signature is checked first. `keeps` is
    the source of a secret that the provider hands over: it is stored only while the endpoint waits for one.
    """

    about: str
    when: MatchRules
    require: MatchRules = {}
    verified: bool = False
    keeps: TemplateText | None = None
    answer: ResponseSpec


class RejectionSpec(ManifestModel):
    """The status of a request without a valid signature, if the provider needs another one than 401."""

    status: Status
    why: str


class SecretSpec(ManifestModel):
    """The secret that verifies requests.

    `ours`: the hub generates it, and the user enters it at the provider. `theirs`: the provider shows it, and
    the user enters it in the hub, also after the endpoint was created. `handshake`: the provider sends it.
    `none`: keys are public or in the settings.
    """

    source: Literal["ours", "theirs", "handshake", "none"]
    name: str = "SecretSpec"
    """The provider's name for it."""
    about: str = ""
    """Where to find it, or where to enter it."""
    pattern: str = ""
    kind: Literal["hex", "token", "whsec", "basic"] = "hex"
    """The generated form: 64 hex digits, 43 base64url characters, `whsec_` and base64, or user:password."""
    public: bool = False
    """A public key: knowing it does not allow signing."""
    min_length: int = 8
    max_length: int = 500


class MessageTemplates(ManifestModel):
    """Liquid templates over the payload and the phrases that make a chat message.

    `text` is one line of Markdown with everything that matters (a list may follow). The others make the card
    below it: `title` and `body` are Markdown, `url` is the title's link, `color` is `#rrggbb`. A part with an
    empty result is left out; without title and body there is no card. Values from the payload go through
    `md`, `link`, `excerpt` or `url`.
    """

    text: str
    title: str = ""
    url: str = ""
    body: str = ""
    color: str = ""


class HandledEvent(ManifestModel):
    """An event with a meaning for the hub: its triggers with their conditions, and its chat message."""

    about: str
    triggers: dict[TriggerId, MatchRules] = {}
    message: MessageTemplates | None = None


class ProviderLimits(ManifestModel):
    """How the provider sends, for the documents. Unknown facts are left out."""

    within_s: float | None = None
    """Seconds that the provider waits for a response."""
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
    """The address that a provider's app has for the webhooks of all its accounts.

    Each event goes to the workspaces that connected its account with the same app.
    """

    secrets: tuple[Literal["signing_secret", "client_secret"], ...] = Field(min_length=1)
    """The app's secrets that may sign: each one that is set verifies."""
    account: Alternatives = ()
    """Names the connected account in an event; empty: the webhook's `account`."""
    choice: Alternatives = ()
    """Names the account's resource in an event. An integration with a resource gets the events of this
    resource and those of none."""
    setup_steps: tuple[str, ...] = Field(min_length=1)
    """What an operator does at the provider: `{url}` is the address, `{setting:...}` are the app's
    settings."""


class WebhookSpec(ManifestModel):
    """How the provider's webhooks come in."""

    methods: tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...] = ("POST",)
    verification: tuple[SchemeSpec, ...]
    """The signature schemes, in order: the first that applies to a request decides."""
    secret: SecretSpec
    settings: dict[SettingName, Setting] = {}
    body: BodyFormat = BodyFormat()
    batch: BatchPaths = ()
    event: Annotated[EventNaming, BeforeValidator(parse_event_naming)]
    delivery_id: Alternatives = ()
    """Stays the same when the provider sends the same delivery again; empty: there is no such value."""
    account: Alternatives = ()
    """The provider's account (team, tenant, page) that the event belongs to: the routing key."""
    occurred: Alternatives = ()
    """The time of the event, in one of the formats of `shared.wire.timestamps`."""
    handshakes: tuple[HandshakeSpec, ...] = ()
    no_handshake: str = ""
    """Why there is none, if `handshakes` is empty."""
    answers: tuple[ResponseSpec, ...] = ()
    """Responses to accepted events: the first that matches, else 202 with the event ids."""
    refused: RejectionSpec | None = None
    limits: ProviderLimits = ProviderLimits()
    actor: str = ""
    """Liquid template of the name that a message is shown as from."""
    actor_icon: str = ""
    setup_steps: tuple[str, ...]
    """What a user does at the provider: `{url}`, `{secret}` and `{setting:...}` stand for values."""
    phrases: dict[PhraseName, str] = {}
    """Liquid templates that several messages share; a message calls one as `{{ name }}`."""
    handled: dict[EventName, HandledEvent]
    ignored: tuple[EventName, ...] = ()
    """Events that are accepted and delivered to subscribers, but make no chat message and no trigger."""
    templates: tuple[EndpointTemplate, ...] = ()
    configurable: bool = False
    """Whether an endpoint may describe its sender: see `shared.manifests.sender_description`."""
    app: AppWebhookSpec | None = None
    """The address of a whole app; None if only single endpoints have addresses."""

    @model_validator(mode="after")
    def _one_place_per_event(self) -> "WebhookSpec":
        duplicates = sorted(set(self.handled) & set(self.ignored))
        if duplicates:
            raise ValueError(f"both handled and ignored: {', '.join(duplicates)}")
        return self


class PollingSpec(ManifestModel):
    """A trigger without a webhook: what to poll, and how often it makes sense."""

    about: str
    every_s: int = 300


class CatalogueEntry(ManifestModel):
    """The provider as an integration of the catalogue."""

    auth_type: Literal["oauth", "apiKey", "none"]
    category: str = ""
    """The category in the catalogue, if it differs from the provider's."""
    docs: str = ""
    capabilities: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    triggers: tuple[TriggerId, ...] = ()
    polled: dict[TriggerId, PollingSpec] = {}
    through: tuple[ProviderId, ...] = ()
    """Providers whose webhooks bring this integration's triggers, if it has no webhooks of its own."""
    setup_steps: tuple[str, ...] = ()
    """Steps for an integration without webhooks of its own."""


class Manifest(ManifestModel):
    """A provider. Its id is the name of its folder."""

    id: ProviderId
    name: str
    category: Category
    color: Color = "#6B7280"
    docs: HttpUrl | Literal[""]
    sources: tuple[str, ...]
    """Where the facts come from: document, SDK and version."""
    tier: Tier
    """`verified`: a published signature is reproduced; `documented`: from the provider's documents or SDK;
    `from-memory`: likely, not certain."""
    from_memory: tuple[str, ...] = ()
    """The facts without a source."""
    exemptions: dict[str, str] = {}
    """Rules of the checker that do not apply to this provider, each with the reason."""
    aliases: tuple[str, ...] = ()
    """Other names that people search for."""
    integration: CatalogueEntry | None = None
    """Its entry in the catalogue of integrations."""
    webhook: WebhookSpec | None = None
    connect: ConnectSpec | None = None
    """How accounts are connected."""
    watches: tuple[SubscriptionSpec, ...] = ()
    """Provider subscriptions that a connected account needs, so that its webhooks come."""
