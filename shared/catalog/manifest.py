"""The manifest: what a provider's folder says about it as data, validated by `Manifest`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, HttpUrl, StringConstraints, model_validator

from shared.wire.signatures import Algorithm, Encoding, HmacScheme

ProviderId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
PhraseName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,29}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,60}$")]


class Part(BaseModel):
    """A piece of a manifest: a field that the model does not know is a mistake, not an extension."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Verification(Part):
    """One way in which the platform signs: HMAC of the raw body in a header."""

    scheme: Literal["hmac"]
    header: HeaderName
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"
    prefix: str = ""

    def compile(self) -> HmacScheme:
        """The pure verifier that the gateway calls."""
        return HmacScheme(self.header.encode(), self.algorithm, self.encoding, self.prefix.encode())


class Source(Part):
    """Where in a request a value is: for now, always a header."""

    header: HeaderName


class MessageTemplates(Part):
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


class HandledEvent(Part):
    """An event that becomes a chat message. `triggers` are the catalogue's ids."""

    about: str
    triggers: tuple[str, ...] = ()
    message: MessageTemplates


class Webhook(Part):
    """How the platform's webhooks come in."""

    verification: Verification
    event: Source
    delivery_id: Source
    form_field: str | None = None
    """With a URL-encoded body, the field that holds the JSON payload."""
    actor: str
    """Liquid template of the name that a message is shown as from."""
    actor_icon: str = ""
    setup_steps: tuple[str, ...]
    """What a person does on the platform; `{url}` is filled in with the endpoint's address."""
    phrases: dict[PhraseName, str] = {}
    """Liquid templates of what several messages say; a message calls one as `{{ name }}`."""
    handled: dict[str, HandledEvent]
    ignored: tuple[str, ...] = ()
    """Events that are accepted and delivered to subscribers, but are no chat message."""

    @model_validator(mode="after")
    def _one_place_per_event(self) -> "Webhook":
        doubled = sorted(set(self.handled) & set(self.ignored))
        if doubled:
            raise ValueError(f"handled and ignored at once: {', '.join(doubled)}")
        return self


class Manifest(Part):
    """A provider: its folder's name is its id."""

    id: ProviderId
    name: str
    category: Literal["communication", "productivity", "social", "developer", "business", "storage"]
    docs: HttpUrl
    sources: tuple[str, ...]
    """Where the facts come from: document, SDK and version."""
    tier: Literal["verified", "from-memory"]
    webhook: Webhook | None = None
