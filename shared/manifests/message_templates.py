"""From a webhook's payload to what the chat shows: pure, with the templates of the provider's manifest."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, HttpUrl, StringConstraints, TypeAdapter, ValidationError

from shared.contracts.messages import Author, Embed, Payload
from shared.manifests.models import MessageTemplates, WebhookSpec
from shared.wire.markdown import plain_text, shorten
from shared.wire.message_template import MessageTemplate, MessageTemplateError

MAX_TEXT_LENGTH: Final = 4000
_URL: Final = TypeAdapter(HttpUrl)
_MAX_TITLE_LENGTH: Final = 256
_MAX_BODY_LENGTH: Final = 4000


class RenderedMessage(Payload):
    """A chat message without its address: who it is shown as from, its text and its card."""

    author: Author
    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_LENGTH)]
    embeds: list[Embed] = Field(default_factory=list, max_length=1)


class EventTemplates:
    """The templates of one handled event, compiled once, with the phrases that they call."""

    __slots__ = ("_actor", "_icon", "_parts", "_phrases")

    def __init__(self, name: str, message: MessageTemplates, webhook: WebhookSpec) -> None:
        """Raises `MessageTemplateError`, which names the template that is no Liquid."""
        sources = {part: source for part, source in message if source}
        self._parts = {
            part: MessageTemplate(source, f"handled.{name}.message.{part}")
            for part, source in sources.items()
        }
        self._phrases = {
            phrase: MessageTemplate(source, f"phrases.{phrase}")
            for phrase, source in webhook.phrases.items()
            if any(uses_phrase(calling, phrase) for calling in sources.values())
        }
        self._actor = MessageTemplate(webhook.actor, "actor")
        self._icon = MessageTemplate(webhook.actor_icon, "actor_icon")

    def message(self, payload: Mapping[str, Any]) -> RenderedMessage:
        """The message that this payload becomes.

        Raises `MessageTemplateError`: a template went over its bounds, or made no text or a card that is
        not valid.
        """
        said = self.rendered(payload)
        try:
            return RenderedMessage(
                author=Author.model_validate(
                    {"name": plain_text(said["actor"]), "icon_url": _valid_url(said["actor_icon"])}
                ),
                text=_truncate_lines(said.get("text", ""), MAX_TEXT_LENGTH),
                embeds=[_embed(said)] if said.get("title") or said.get("body") else [],
            )
        except ValidationError as error:
            faults = [".".join(map(str, fault["loc"])) + f": {fault['msg']}" for fault in error.errors()]
            raise MessageTemplateError("the message is not valid: " + "; ".join(faults)) from None

    def rendered(self, payload: Mapping[str, Any]) -> dict[str, str]:
        """Render each part of the message to Markdown, as its template has it.

        Raises `MessageTemplateError`.
        """
        phrases = {phrase: template.render(payload) for phrase, template in self._phrases.items()}
        context = {**payload, **phrases}
        parts = {part: template.render(context) for part, template in self._parts.items()}
        return parts | {"actor": self._actor.render(payload), "actor_icon": self._icon.render(payload)}


def uses_phrase(source: str, phrase: str) -> bool:
    """Whether a template has the name of the phrase in it."""
    return re.search(rf"\b{phrase}\b", source) is not None


def _embed(said: Mapping[str, str]) -> Embed:
    return Embed.model_validate(
        {
            "title": _truncate(plain_text(said.get("title", "")), _MAX_TITLE_LENGTH) or None,
            "description": _truncate_lines(said.get("body", ""), _MAX_BODY_LENGTH) or None,
            "url": _valid_url(said.get("url", "")),
            "color": said.get("color") or None,
        }
    )


def _valid_url(text: str) -> str | None:
    """An address that can be followed: a payload's bad one costs the link, not the message."""
    try:
        _URL.validate_python(text)
    except ValidationError:
        return None
    return text


def _truncate_lines(text: str, longest: int) -> str:
    """The text without the last lines that are too much."""
    while len(text) > longest and "\n" in text:
        text = text.rpartition("\n")[0]
    return shorten(text, longest)


def _truncate(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"
