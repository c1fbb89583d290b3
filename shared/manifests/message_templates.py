"""Chat messages from a webhook's payload, by the manifest's templates. Pure."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, HttpUrl, StringConstraints, TypeAdapter, ValidationError

from shared.contracts.messages import Author, Embed, Payload
from shared.manifests.models import MessageTemplates, PollingSection, WebhookSpec
from shared.richtext.build import CUT_MARK
from shared.richtext.excerpt import fit_markdown
from shared.richtext.fragments import plain_text
from shared.wire.message_template import BoundedEnvironment, MessageTemplate, MessageTemplateError

MAX_TEXT_LENGTH: Final = 4000
_URL: Final = TypeAdapter(HttpUrl)
_MAX_TITLE_LENGTH: Final = 256
_MAX_BODY_LENGTH: Final = 4000


class RenderedMessage(Payload):
    """A chat message without its address: the author, the text and the card."""

    author: Author
    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_LENGTH)]
    embeds: list[Embed] = Field(default_factory=list, max_length=1)


class EventTemplates:
    """The templates of one handled event, compiled once, with the phrases that they call."""

    __slots__ = ("_actor", "_icon", "_parts", "_phrases", "_when")

    def __init__(
        self,
        name: str,
        message: MessageTemplates,
        section: WebhookSpec | PollingSection,
        environment: BoundedEnvironment,
    ) -> None:
        """Compile the templates of an event of this section of the manifest.

        `environment` has the filters that they may use. Raises `MessageTemplateError` for one that is not
        valid Liquid.
        """
        sources = {part: source for part, source in message if source and part != "when"}

        def compiled(source: str, name: str) -> MessageTemplate:
            return MessageTemplate(source, name, environment)

        self._when = compiled(message.when, f"handled.{name}.message.when") if message.when else None
        self._parts = {
            part: compiled(source, f"handled.{name}.message.{part}") for part, source in sources.items()
        }
        self._phrases = {
            phrase: compiled(source, f"phrases.{phrase}")
            for phrase, source in section.phrases.items()
            if any(uses_phrase(calling, phrase) for calling in sources.values())
        }
        self._actor = compiled(section.actor, "actor")
        self._icon = compiled(section.actor_icon, "actor_icon")

    def applies(self, payload: Mapping[str, Any]) -> bool:
        """Return whether an event with this payload makes a message. Raises `MessageTemplateError`."""
        return self._when is None or bool(self._when.render(payload))

    def message(self, payload: Mapping[str, Any]) -> RenderedMessage:
        """Render the message for a payload.

        Raises `MessageTemplateError` if a template exceeds its limits, or makes no text or a card that is not
        valid.
        """
        return message_of_parts(self.rendered(payload))

    def rendered(self, payload: Mapping[str, Any]) -> dict[str, str]:
        """Render each part of the message to Markdown, as its template has it.

        Raises `MessageTemplateError`.
        """
        phrases = {phrase: template.render_phrase(payload) for phrase, template in self._phrases.items()}
        # A phrase hides a payload field of the same name; the checker rejects that.
        context = {**payload, **phrases}
        parts = {part: template.render(context) for part, template in self._parts.items()}
        return parts | {"actor": self._actor.render(payload), "actor_icon": self._icon.render(payload)}


def message_of_parts(parts: Mapping[str, str]) -> RenderedMessage:
    """Return the message of rendered parts: text, title, url, body, color, actor and actor_icon.

    Raises `MessageTemplateError` if there is no text, or the card is not valid.
    """
    try:
        return RenderedMessage(
            author=Author.model_validate(
                {"name": plain_text(parts["actor"]), "icon_url": _valid_url(parts.get("actor_icon", ""))}
            ),
            text=fit_markdown(parts.get("text", ""), MAX_TEXT_LENGTH, CUT_MARK),
            embeds=[_embed(parts)] if parts.get("title") or parts.get("body") else [],
        )
    except ValidationError as error:
        errors = [".".join(map(str, item["loc"])) + f": {item['msg']}" for item in error.errors()]
        raise MessageTemplateError("the message is not valid: " + "; ".join(errors)) from None


def uses_phrase(source: str, phrase: str) -> bool:
    """Return whether a template contains the name of the phrase."""
    return re.search(rf"\b{phrase}\b", source) is not None


def _embed(parts: Mapping[str, str]) -> Embed:
    return Embed.model_validate(
        {
            "title": _truncate(plain_text(parts.get("title", "")), _MAX_TITLE_LENGTH) or None,
            "description": fit_markdown(parts.get("body", ""), _MAX_BODY_LENGTH, CUT_MARK) or None,
            "url": _valid_url(parts.get("url", "")),
            "color": parts.get("color") or None,
        }
    )


def _valid_url(text: str) -> str | None:
    """Return the URL; None if it is not valid, so that a bad payload costs the link and not the message."""
    try:
        _URL.validate_python(text)
    except ValidationError:
        return None
    return text


def _truncate(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else f"{text[: max_length - 1].rstrip()}…"
