"""The manifest: a provider's folder as data, validated by `Manifest`.

Texts with sources in braces (`{json:event.type}`) are in the grammar of `shared/wire/template.py`;
the templates of messages are Liquid (`shared/wire/message_template.py`). The descriptions are for the authors
of manifests: editors show them (`interlink provider schema`). They make this file longer than 400 lines.
"""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, HttpUrl, StringConstraints, model_validator

from shared.manifests.base import EventName, ManifestModel, as_list
from shared.manifests.channel_models import ChannelSpec
from shared.manifests.connect_models import ConnectSpec, JmesPath, ProviderId, Setting, SettingName
from shared.manifests.history_models import HistorySpec
from shared.manifests.polling import PollSpec
from shared.manifests.schemes import HeaderName, MatchRules, SchemeSpec, TemplateText
from shared.manifests.subscriptions import SubscriptionSpec
from shared.verification.batch import Batch

PhraseName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,29}$")]
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


_Templates = tuple[TemplateText, ...]
Alternatives = Annotated[
    _Templates, BeforeValidator(as_list, json_schema_input_type=TemplateText | _Templates)
]
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


_EventNameTemplates = Annotated[_Templates, Field(max_length=_MAX_ALTERNATIVES)]


class EventNaming(ManifestModel):
    """Rule that names an event: by the first template of which every source has a value, made into a name.

    `strip` is removed from the beginning, then `names` renames the rest. At last `/` becomes `.`, and every
    other run of characters that are not allowed becomes `_`.
    """

    source: Annotated[
        _EventNameTemplates,
        BeforeValidator(as_list, json_schema_input_type=TemplateText | _EventNameTemplates),
    ] = Field(
        alias="from",
        description="Templates of the name, in order: the first whose sources all have a value is used.",
    )
    strip: str = Field(default="", description="Text that is removed from the beginning of the name.")
    names: dict[str, EventName] = Field(
        default={}, description="Other names for some events, looked up before or after `strip`."
    )


def parse_event_naming(value: object) -> object:
    """Turn a text or a list into the `from` of an `EventNaming`."""
    return {"from": value} if isinstance(value, str | list) else value


EventNames = Annotated[
    EventNaming,
    BeforeValidator(
        parse_event_naming, json_schema_input_type=TemplateText | _EventNameTemplates | EventNaming
    ),
]
"""Rule that names an event: a template, alternatives, or an `EventNaming`."""


class EmbeddedJson(ManifestModel):
    """A text in the payload that is itself JSON, added to the payload's fields under a new name."""

    path: str = Field(description="Path of the text in the payload: `message.data`.")
    encoding: Literal["json", "base64_json"] = Field(
        default="json", description="Whether the text is JSON, or JSON in base64."
    )


class BodyFormat(ManifestModel):
    """Settings to parse a body into the payload. JSON is always accepted; an empty body only with `empty`."""

    form_field: str | None = Field(
        default=None, description="The field of a URL-encoded form that holds the JSON payload."
    )
    form: Literal["flat", "brackets"] | None = Field(
        default=None,
        description=(
            "The fields of a URL-encoded form are the payload; `brackets` nests `data[merges][EMAIL]`."
        ),
    )
    empty: bool = Field(
        default=False, description="Whether a request without a body is accepted, as the payload `{}`."
    )
    query: bool = Field(
        default=False, description="The parameters of a GET request without a body are the payload."
    )
    text: bool = Field(
        default=False, description='A body of another content type becomes the payload `{"text": ...}`.'
    )
    decoded: Annotated[dict[SettingName, EmbeddedJson], Field(max_length=_MAX_EMBEDDED)] = Field(
        default={}, description="JSON texts inside the payload, read under a new name."
    )
    headers: Annotated[dict[SettingName, HeaderName], Field(max_length=_MAX_FIELDS)] = Field(
        default={},
        description="Headers that describe the event, added to the payload's fields under new names.",
    )


class ResponseSpec(ManifestModel):
    """A response to the provider: status, headers and at most one of `text` and `json` (of templates)."""

    when: MatchRules = Field(
        default={}, description="The requests that get this response; every request by default."
    )
    status: Status = Field(default=200, description="The HTTP status.")
    type: MediaType = Field(
        default="", description="The content type, if it is not the usual one of `text` or `json`."
    )
    headers: Annotated[dict[ResponseHeaderName, ResponseText], Field(max_length=_MAX_FIELDS)] = Field(
        default={}, description="Headers, templates by name."
    )
    text: ResponseText | None = Field(default=None, description="The body as text: a template.")
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
    ) = Field(
        default=None,
        alias="json",
        description="The body as JSON: templates, numbers, booleans, and objects of these.",
    )

    @model_validator(mode="after")
    def _one_body(self) -> "ResponseSpec":
        if self.text is not None and self.json_ is not None:
            raise ValueError("use text or json, not both")
        if self.status in _BODILESS_STATUSES and (self.text is not None or self.json_ is not None):
            raise ValueError(f"a response with status {self.status} has no body: remove text and json")
        return self


class ConfirmationSpec(ManifestModel):
    """The URL that the hub has to call to confirm a subscription."""

    url: TemplateText = Field(description="Template of the URL.")
    hosts: Annotated[tuple[str, ...], Field(min_length=1, max_length=_MAX_FIELDS)] = Field(
        description="The only hosts that the URL may have. `{region}` is the name of an AWS region."
    )


class HandshakeSpec(ManifestModel):
    """A request with which the provider checks the address. It is not an event.

    If `require` does not hold, the response is 403. `verified`: the signature is checked first. `keeps` is
    the source of a secret that the provider hands over: it is stored only while the endpoint waits for one.
    `confirms` is called with GET before the response, which is 503 if the call fails.
    """

    about: str = Field(description="What the provider checks.")
    when: MatchRules = Field(description="The requests that are this handshake.")
    require: MatchRules = Field(
        default={}, description="Further conditions; a request that breaks one is answered with 403."
    )
    verified: bool = Field(default=False, description="Whether the signature is checked first.")
    keeps: TemplateText | None = Field(
        default=None,
        description=(
            "The source of a secret that the provider sends; stored while the endpoint waits for one."
        ),
    )
    confirms: ConfirmationSpec | None = Field(
        default=None,
        description="A URL that is called to confirm the subscription; only with `verified`.",
    )
    answer: ResponseSpec = Field(description="The response to the handshake.")

    @model_validator(mode="after")
    def _confirms_what_is_verified(self) -> "HandshakeSpec":
        if self.confirms and not self.verified:
            raise ValueError("confirms: anybody could have the hub call the URL: set verified")
        return self


class RejectionSpec(ManifestModel):
    """The status of a request without a valid signature, if the provider needs another one than 401."""

    status: Status = Field(description="The status in place of 401.")
    why: str = Field(description="What the provider does with it.")


class SecretSpec(ManifestModel):
    """The secret that verifies requests.

    `ours`: the hub generates it, and the user enters it at the provider. `theirs`: the provider shows it, and
    the user enters it in the hub, also after the endpoint was created. `handshake`: the provider sends it.
    `none`: keys are public or in the settings.
    """

    source: Literal["ours", "theirs", "handshake", "none"] = Field(
        description=(
            "Who makes the secret: the hub (`ours`), the provider (`theirs`), the provider in its "
            "handshake, or nobody."
        ),
    )
    name: str = Field(default="Secret", description="The provider's name for it.")
    about: str = Field(default="", description="Where to find it, or where to enter it.")
    pattern: str = Field(default="", description="A regular expression that the secret matches.")
    kind: Literal["hex", "token", "whsec", "basic"] = Field(
        default="hex",
        description=(
            "The generated form: 64 hex digits, 43 base64url characters, `whsec_` and base64, or "
            "user:password."
        ),
    )
    public: bool = Field(default=False, description="A public key: knowing it does not allow signing.")
    min_length: int = Field(default=8, description="Characters that an entered secret has at least.")
    max_length: int = Field(default=500, description="Characters that an entered secret has at most.")


class MessageTemplates(ManifestModel):
    """Liquid templates over the payload and the phrases that make a chat message.

    `text` is one line of Markdown with everything that matters (a list may follow). The others make the card
    below it: `title` and `body` are Markdown, `url` is the title's link, `color` is `#rrggbb`. A part with an
    empty result is left out; without title and body there is no card. Values from the payload go through
    `md`, `link`, `excerpt`, `markdown`, `wiki` or `url`.
    """

    text: str = Field(description="One line of Markdown with everything that matters; a list may follow.")
    title: str = Field(default="", description="Title of the card below the text.")
    url: str = Field(default="", description="Link of the title.")
    body: str = Field(default="", description="Text of the card.")
    color: str = Field(default="", description="Color of the card: `#rrggbb`.")
    when: str = Field(
        default="",
        description=(
            "Condition: a template over the payload, without phrases. If its result is empty, "
            "the event makes no message."
        ),
    )


class HandledEvent(ManifestModel):
    """An event with a meaning for the hub: its triggers with their conditions, and its chat message."""

    about: str = Field(description="What happened.")
    triggers: dict[TriggerId, MatchRules] = Field(
        default={},
        description="Triggers of the catalogue, each with the conditions under which the event fires it.",
    )
    message: MessageTemplates | None = Field(default=None, description="The chat message of the event.")
    quiet: bool = Field(
        default=False,
        description=(
            "Whether an endpoint shows it only if its `events` name it: the pattern `*` alone does not match "
            "it."
        ),
    )


class ProviderLimits(ManifestModel):
    """Facts of how the provider sends, for the documents. Unknown facts are left out."""

    within_s: float | None = Field(
        default=None, description="Seconds that the provider waits for a response."
    )
    retries: str = Field(default="", description="What the provider does without a response.")
    disables: str = Field(default="", description="When the provider stops sending for good.")
    notes: tuple[str, ...] = Field(default=(), description="Other facts about how the provider sends.")


class EndpointTemplate(ManifestModel):
    """A ready-made endpoint with its mapping: which events become messages of a channel."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{3,60}$")] = Field(
        description="Id of the template: `github-to-channel`."
    )
    name: str = Field(description="Its name for people.")
    about: str = Field(description="What the messages show.")
    events: tuple[str, ...] = Field(
        default=("*",), description="Event names, or patterns with `*` at the end."
    )


class AppWebhookSpec(ManifestModel):
    """The address that a provider's app has for the webhooks of all its accounts.

    Each event goes to the workspaces that connected its account with the same app.
    """

    secrets: tuple[Literal["signing_secret", "client_secret"], ...] = Field(
        min_length=1, description="The app's secrets that may sign: each one that is set verifies."
    )
    account: Alternatives = Field(
        default=(), description="Names the connected account in an event; empty: the webhook's `account`."
    )
    choice: Alternatives = Field(
        default=(),
        description=(
            "Names the account's resource in an event. An integration with a resource gets the events of "
            "this resource and those of none."
        ),
    )
    setup_steps: tuple[str, ...] = Field(
        min_length=1,
        description=(
            "What an operator does at the provider: `{url}` is the address, `{setting:...}` are the app's "
            "settings."
        ),
    )


class WebhookSpec(ManifestModel):
    """Settings of the provider's webhooks: schemes, events, handshakes and setup."""

    methods: tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...] = Field(
        default=("POST",), description="Accepted HTTP methods."
    )
    verification: tuple[SchemeSpec, ...] = Field(
        description="The signature schemes, in order: the first that applies to a request decides."
    )
    secret: SecretSpec = Field(description="The secret that verifies requests.")
    settings: dict[SettingName, Setting] = Field(
        default={}, description="Other values that an endpoint needs, by name."
    )
    body: BodyFormat = Field(default=BodyFormat(), description="How a body becomes the payload.")
    batch: BatchPaths = Field(
        default=(),
        description=(
            "Paths of lists whose elements are events of their own: `entry[*].messaging[*]`, or `[*]`."
        ),
    )
    event: EventNames = Field(
        description="The name of an event: a template, alternatives, or an object with `from`."
    )
    delivery_id: Alternatives = Field(
        default=(),
        description=(
            "Stays the same when the provider sends the same delivery again; empty: there is no such value."
        ),
    )
    account: Alternatives = Field(
        default=(),
        description="The provider's account (team, tenant, page) that the event belongs to: the routing key.",
    )
    occurred: Alternatives = Field(
        default=(),
        description="The time of the event: Unix seconds or milliseconds, ISO 8601, or as in e-mail.",
    )
    handshakes: tuple[HandshakeSpec, ...] = Field(
        default=(), description="Requests with which the provider only checks the address."
    )
    no_handshake: str = Field(default="", description="Why there is none, if `handshakes` is empty.")
    answers: tuple[ResponseSpec, ...] = Field(
        default=(),
        description="Responses to accepted events: the first that matches, else 202 with the event ids.",
    )
    refused: RejectionSpec | None = Field(
        default=None, description="The response to a request without a valid signature, if it is not 401."
    )
    limits: ProviderLimits = Field(default=ProviderLimits(), description="How the provider sends.")
    actor: str = Field(default="", description="Liquid template of the name that a message is shown as from.")
    actor_icon: str = Field(
        default="",
        description="Liquid template of the sender's picture: an https URL. Required beside messages.",
    )
    setup_steps: tuple[str, ...] = Field(
        description=(
            "What a user does at the provider: `{url}`, `{secret}` and `{setting:...}` stand for values."
        ),
    )
    phrases: dict[PhraseName, str] = Field(
        default={},
        description="Liquid templates that several messages share; a message calls one as `{{ name }}`.",
    )
    handled: dict[EventName, HandledEvent] = Field(description="Events with a meaning for the hub, by name.")
    ignored: tuple[EventName, ...] = Field(
        default=(),
        description=(
            "Events that are accepted and delivered to subscribers, but make no chat message and no trigger."
        ),
    )
    templates: tuple[EndpointTemplate, ...] = Field(default=(), description="Ready-made endpoints.")
    configurable: bool = Field(
        default=False,
        description="Whether an endpoint may describe its sender itself, in its field `source`.",
    )
    app: AppWebhookSpec | None = Field(
        default=None,
        description="The address of a whole app, if the provider has one webhook address for all accounts.",
    )

    @model_validator(mode="after")
    def _one_place_per_event(self) -> "WebhookSpec":
        duplicates = sorted(set(self.handled) & set(self.ignored))
        if duplicates:
            raise ValueError(f"both handled and ignored: {', '.join(duplicates)}")
        return self


class PollingSpec(ManifestModel):
    """A trigger without a webhook: what to poll, and how often it makes sense."""

    about: str = Field(description="What has to be requested.")
    every_s: int = Field(default=300, description="Seconds between two requests.")


class PollingSection(ManifestModel):
    """The polling triggers of a provider and the events that they bring."""

    actor: str = Field(default="", description="Liquid template of the name that a message is shown as from.")
    actor_icon: str = Field(
        default="",
        description="Liquid template of the sender's picture: an https URL. Required beside messages.",
    )
    phrases: dict[PhraseName, str] = Field(
        default={},
        description="Liquid templates that several messages share; a message calls one as `{{ name }}`.",
    )
    setup_steps: tuple[str, ...] = Field(
        default=(), description="What a user does at a provider without webhooks and without accounts."
    )
    busy: JmesPath = Field(
        default="",
        description=(
            "An expression on an error response: whether it only asks for a pause, as status 429 does."
        ),
    )
    handled: dict[EventName, HandledEvent] = Field(
        description="The events, by name. They have no `triggers`: each comes from the trigger that asks."
    )
    triggers: dict[TriggerId, PollSpec] = Field(min_length=1, description="The polling triggers, by id.")

    @model_validator(mode="after")
    def _events_are_known(self) -> "PollingSection":
        for trigger, spec in self.triggers.items():
            if spec.event not in self.handled:
                raise ValueError(f"triggers.{trigger}.event: {spec.event} is not in handled: add it")
        unused = sorted(self.handled.keys() - {spec.event for spec in self.triggers.values()})
        if unused:
            raise ValueError(f"handled: no trigger brings {', '.join(unused)}: remove it")
        return self


class CatalogueEntry(ManifestModel):
    """The provider as an integration of the catalogue."""

    auth_type: Literal["oauth", "apiKey", "none"] = Field(description="How accounts are connected.")
    category: str = Field(
        default="", description="The category in the catalogue, if it differs from the provider's."
    )
    docs: str = Field(default="", description="URL of the documentation of the provider's API.")
    capabilities: tuple[str, ...] = Field(default=(), description="What the integration can do.")
    scopes: tuple[str, ...] = Field(
        default=(), description="Scopes that are requested when an account is connected."
    )
    triggers: tuple[TriggerId, ...] = Field(default=(), description="Ids of the integration's triggers.")
    polled: dict[TriggerId, PollingSpec] = Field(
        default={}, description="Triggers that no webhook brings, by id."
    )
    through: tuple[ProviderId, ...] = Field(
        default=(),
        description=(
            "Providers whose webhooks bring this integration's triggers, if it has no webhooks of its own."
        ),
    )
    setup_steps: tuple[str, ...] = Field(
        default=(), description="Steps for an integration without webhooks of its own."
    )


class Manifest(ManifestModel):
    """A provider. Its id is the name of its folder."""

    id: ProviderId = Field(description="The provider's id: the name of its folder.")
    name: str = Field(description="The provider's name.")
    category: Category = Field(description="The category in the catalogue.")
    color: Color = Field(default="#6B7280", description="The provider's color.")
    docs: HttpUrl | Literal[""] = Field(
        description="URL of the page on webhooks in the provider's documentation; may be empty."
    )
    sources: tuple[str, ...] = Field(description="Where the facts come from: document, SDK and version.")
    tier: Tier = Field(
        description=(
            "`verified`: a published signature is reproduced; `documented`: from the provider's documents "
            "or SDK; `from-memory`: likely, not certain."
        ),
    )
    from_memory: tuple[str, ...] = Field(default=(), description="The facts without a source.")
    exemptions: dict[str, str] = Field(
        default={},
        description="Rules of the checker that do not apply to this provider, each with the reason.",
    )
    aliases: tuple[str, ...] = Field(default=(), description="Other names that people search for.")
    integration: CatalogueEntry | None = Field(
        default=None, description="Its entry in the catalogue of integrations."
    )
    webhook: WebhookSpec | None = Field(default=None, description="How the provider's webhooks come in.")
    connect: ConnectSpec | None = Field(default=None, description="How accounts are connected.")
    watches: tuple[SubscriptionSpec, ...] = Field(
        default=(),
        description="Provider subscriptions that a connected account needs, so that its webhooks come.",
    )
    polling: PollingSection | None = Field(
        default=None, description="Triggers that the hub asks for again and again."
    )
    channel: ChannelSpec | None = Field(
        default=None, description="Conversations whose messages can be mapped to others, beside `channel.py`."
    )
    history: HistorySpec | None = Field(
        default=None, description="History of connected accounts that can be imported, beside `history.py`."
    )
