"""Models of the topics' payloads, shared by producers, consumers and the AsyncAPI document."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, StringConstraints

Text4000 = Annotated[str, StringConstraints(max_length=4000)]
Text256 = Annotated[str, StringConstraints(max_length=256)]
TimeText = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A time in RFC 3339, as the hub writes it. It is not validated."""


class Payload(BaseModel):
    """Base of payloads. Unknown fields are dropped, so that only documented fields are published."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Attachment(Payload):
    """A file that a message links to. The hub does not fetch it."""

    url: HttpUrl
    filename: Text256 | None = None
    content_type: Text256 | None = None


class EmbedField(Payload):
    """A name and a value shown side by side in an embed."""

    name: Text256
    value: Annotated[str, StringConstraints(max_length=1024)]
    inline: bool = False


class Embed(Payload):
    """A card below a message. `description` and the values of fields are Markdown, the rest is plain text.

    Markdown is CommonMark with tables and strikethrough. A `description` has several blocks if a person wrote
    the text; it contains no HTML.

    `color` is `#rrggbb`.
    """

    title: Text256 | None = None
    description: Text4000 | None = None
    url: HttpUrl | None = None
    color: Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None
    author: Text256 | None = None
    fields: Annotated[list[EmbedField], Field(max_length=25)] = []


class Author(Payload):
    """The author that a message shows: a person of the provider, or the integration itself. Plain text."""

    name: Text256
    icon_url: HttpUrl | None = None
    bot: bool = True


class MessageAuthor(Payload):
    id: str
    username: str


class MessageCreated(Payload):
    """`message.created` on `chat.events`: a person or a bot wrote in a channel of the chat."""

    messageId: str  # noqa: N815 -- the name that receivers of nself-chat webhooks know
    channelId: str  # noqa: N815
    content: str
    author: MessageAuthor


class ProviderEvent(Payload):
    """The data of a provider's event as a subscriber receives it (type `<provider>.<event>`).

    `triggers` are the ids of the catalogue's triggers that the event fires; `account` is the provider's
    account that it is about, null if the event does not say. `received_at` is when the hub received it; when
    it happened is `occurred_at` of the envelope. `test` is true for a test of an endpoint, and `replay_of` is
    the id of the event that this one replays.
    """

    provider: str
    endpoint_id: str
    event: str
    delivery_id: str
    triggers: list[str] = []
    account: str | None = None
    received_at: TimeText | None = None
    test: bool = False
    replay_of: str | None = None
    payload: Any


class DeadLetter(Payload):
    """The headers that a dead letter adds to those of its record. Key and value stay unchanged."""

    dl_reason: Literal["malformed", "failed", "over_limit"]
    dl_error: str
    dl_topic: str
    dl_partition: int
    dl_offset: int
    dl_group: str
    dl_time: TimeText
