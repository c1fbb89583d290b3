"""Microsoft Teams' messages: `MessageCard`, and attachments with cards. Pure.

Source: Microsoft's "Legacy actionable message card reference" and "Create and send messages" of incoming
webhooks; Alertmanager writes the card's type without the `@`.
"""

from collections.abc import Iterable
from typing import Final

from shared.richtext.autolinks import web_url
from shared.richtext.fragments import link
from shared.webhooks.incoming_formats.adaptive_card import read_adaptive_card
from shared.webhooks.incoming_formats.formatted import Formatter
from shared.webhooks.incoming_formats.normal_form import (
    MAX_EMBEDS,
    MAX_FIELDS,
    NormalForm,
    NormalObject,
    RawObject,
    append_line,
    bold,
    list_of,
    object_of,
    text_of,
)

_CARD_TYPES: Final = "application/vnd.microsoft."
_ADAPTIVE_CARD: Final = "application/vnd.microsoft.card.adaptive"
_MAX_ITEMS: Final = 25


def is_teams(source: RawObject) -> bool:
    """Return whether a body is a card, or a message with cards."""
    if _is_message_card(source) or source.get("type") == "AdaptiveCard":
        return True
    return any(_is_card(item) for item in list_of(source.get("attachments"), MAX_EMBEDS))


def _is_message_card(source: RawObject) -> bool:
    return "MessageCard" in (source.get("@type"), source.get("type"))


def _is_card(attachment: object) -> bool:
    kind = attachment.get("contentType") if isinstance(attachment, dict) else None
    return isinstance(kind, str) and kind.startswith(_CARD_TYPES)


def read_teams(source: RawObject, formatter: Formatter) -> NormalForm:
    """Return the message of a body."""
    form = NormalForm(formatter)
    if _is_message_card(source):
        _read_message_card(form, source)
    elif source.get("type") == "AdaptiveCard":
        read_adaptive_card(form, source)
    else:
        if isinstance(source.get("text"), str):
            form.set("text", form.html(source["text"]))
        for item in list_of(source.get("attachments"), MAX_EMBEDS):
            if _is_card(item):
                _read_attachment(form, item)
        summary = text_of(source.get("summary"))
        if summary and not form.fields.get("text") and not form.embeds:
            form.set("text", form.html(summary), "summary")
    return form


def _read_attachment(form: NormalForm, attachment: RawObject) -> None:
    content = object_of(attachment.get("content"))
    if attachment.get("contentType") == _ADAPTIVE_CARD:
        read_adaptive_card(form, content)
    elif _is_message_card(content) or "sections" in content:
        _read_message_card(form, content)
    else:  # a hero or thumbnail card: title, subtitle, text, images, buttons
        embed: NormalObject = {"title": text_of(content.get("title")) or None}
        append_line(embed, form.html(content.get("subtitle")))
        append_line(embed, form.html(content.get("text")))
        buttons = [object_of(item) for item in list_of(content.get("buttons"), _MAX_ITEMS)]
        append_line(
            embed, _links((text_of(item.get("title")), text_of(item.get("value"))) for item in buttons)
        )
        for image in list_of(content.get("images"), _MAX_ITEMS):
            form.add_image(object_of(image).get("url"))
        form.add_embed(embed)


def _read_message_card(form: NormalForm, card: RawObject) -> None:
    """Read a card: its title and text are the message's, its sections are embeds."""
    title, text = form.html(card.get("title")), form.html(card.get("text"))
    headline = "\n\n".join(filter(None, (bold(title.replace("\n", " ")), text)))
    color = text_of(card.get("themeColor")).removeprefix("#")
    for section in list_of(card.get("sections"), MAX_EMBEDS):
        form.add_embed(_section(form, object_of(section), color))
    links = _links(_target(object_of(action)) for action in list_of(card.get("potentialAction"), _MAX_ITEMS))
    if not headline and not form.embeds:
        headline = form.html(card.get("summary"))
    form.set("text", "\n\n".join(filter(None, (form.fields.get("text"), headline, links))))


def _section(form: NormalForm, section: RawObject, color: str) -> NormalObject:
    embed: NormalObject = {
        "title": text_of(section.get("title")) or text_of(section.get("activityTitle")) or None,
        "color": f"#{color}" if len(color) == 6 else None,
        "fields": [
            {
                "name": text_of(fact.get("name")).rstrip(":"),
                "value": form.html(fact.get("value")),
                "inline": True,
            }
            for fact in map(object_of, list_of(section.get("facts"), MAX_FIELDS))
            if text_of(fact.get("name")) or text_of(fact.get("value"))
        ],
    }
    if text_of(section.get("title")):
        append_line(embed, bold(form.html(section.get("activityTitle"))))
    for name in ("activitySubtitle", "activityText", "text"):
        append_line(embed, form.html(section.get(name)))
    actions = (object_of(action) for action in list_of(section.get("potentialAction"), _MAX_ITEMS))
    append_line(embed, _links(map(_target, actions)))
    form.add_image(object_of(section.get("heroImage")).get("image"))
    for image in list_of(section.get("images"), _MAX_ITEMS):
        form.add_image(object_of(image).get("image"))
    return embed


def _target(action: RawObject) -> tuple[str, str]:
    """Return the label and the address of an action that opens a page."""
    targets = list_of(action.get("targets"), 1) or list_of(action.get("target"), 1)
    first = targets[0] if targets else ""
    return text_of(action.get("name")), text_of(object_of(first).get("uri") or first)


def _links(pairs: Iterable[tuple[str, str]]) -> str:
    return " ".join(
        link(label.replace("[", "").replace("]", "") or "Open", url)
        for label, address in pairs
        if (url := web_url(address))
    )
