"""Google Chat's messages: text, `cardsV2` and the older `cards`. Pure.

Source: Google Chat API, "Cards v2" and "Cards v1 (deprecated)".
"""

from typing import Any, Final

from shared.richtext.autolinks import web_url
from shared.richtext.fragments import link
from shared.webhooks.incoming_formats.formatted import Formatter
from shared.webhooks.incoming_formats.normal_form import (
    MAX_FIELDS,
    NormalForm,
    NormalObject,
    RawObject,
    bold,
    clip,
    list_of,
    object_of,
    text_of,
)

_MAX_CARDS: Final = 10
_MAX_SECTIONS: Final = 20
_MAX_WIDGETS: Final = 50
_MAX_DEPTH: Final = 4


def is_google_chat(source: RawObject) -> bool:
    """Return whether a body has cards. A body with `text` alone is like those of the other chats."""
    return isinstance(source.get("cardsV2"), list) or isinstance(source.get("cards"), list)


def read_google_chat(source: RawObject, formatter: Formatter) -> NormalForm:
    """Return the message of a body, with an embed for each card."""
    form = NormalForm(formatter)
    if isinstance(source.get("text"), str):
        form.set("text", formatter.mrkdwn(clip(source["text"])))
    thread = object_of(source.get("thread"))
    thread_id = text_of(thread.get("threadKey")) or text_of(thread.get("name"))
    if thread_id:
        form.set("thread_id", thread_id, "thread")
    cards = [object_of(object_of(item).get("card")) for item in list_of(source.get("cardsV2"), _MAX_CARDS)]
    cards += [object_of(item) for item in list_of(source.get("cards"), _MAX_CARDS)]
    for card in cards[:_MAX_CARDS]:
        _CardReader(form).add(card)
    if len(list_of(source.get("cardsV2"), 10_000)) > _MAX_CARDS:
        form.note_cut("cardsV2", _MAX_CARDS)
    fallback = text_of(source.get("fallbackText"))
    if fallback and not form.fields.get("text") and not form.embeds:
        form.set("text", form.html(fallback), "fallbackText")
    return form


class _CardReader:
    """Reads one card into an embed."""

    def __init__(self, form: NormalForm) -> None:
        self._form = form
        self._lines: list[str] = []
        self._fields: list[NormalObject] = []

    def add(self, card: RawObject) -> None:
        """Add the card's embed to the form."""
        header = object_of(card.get("header"))
        self._line(self._form.html(header.get("subtitle")))
        self._form.add_image(header.get("imageUrl"))
        for section in list_of(card.get("sections"), _MAX_SECTIONS):
            self._line(bold(self._form.html(object_of(section).get("header"))))
            self._widgets(object_of(section).get("widgets"), _MAX_DEPTH)
        footer = object_of(card.get("fixedFooter"))
        self._buttons([footer.get("primaryButton"), footer.get("secondaryButton")])
        self._form.add_embed(
            {
                "title": text_of(header.get("title")) or text_of(card.get("name")) or None,
                "description": clip("\n".join(self._lines)),
                "fields": self._fields[:MAX_FIELDS],
            }
        )

    def _line(self, markdown: str) -> None:
        if markdown:
            self._lines.append(markdown)

    def _widgets(self, widgets: object, depth: int) -> None:
        for item in list_of(widgets, _MAX_WIDGETS) if depth else ():
            widget = object_of(item)
            self._line(self._form.html(object_of(widget.get("textParagraph")).get("text")))
            self._labelled(object_of(widget.get("decoratedText")), "text")
            self._labelled(object_of(widget.get("keyValue")), "content")
            self._form.add_image(object_of(widget.get("image")).get("imageUrl"))
            self._buttons(object_of(widget.get("buttonList")).get("buttons"))
            self._buttons(widget.get("buttons"))
            for entry in list_of(object_of(widget.get("grid")).get("items"), _MAX_WIDGETS):
                parts = (text_of(object_of(entry).get(name)) for name in ("title", "subtitle"))
                self._line(" ".join(map(self._form.html, filter(None, parts))))
            if "columns" in widget:
                for column in list_of(object_of(widget["columns"]).get("columnItems"), 2):
                    self._widgets(object_of(column).get("widgets"), depth - 1)

    def _labelled(self, widget: RawObject, name: str) -> None:
        """Add a text with a label above it as a field, one without a label as a line."""
        if not widget:
            return
        text = self._form.html(widget.get(name))
        below = self._form.html(widget.get("bottomLabel"))
        label = text_of(widget.get("topLabel")) or text_of(object_of(widget.get("startIcon")).get("altText"))
        value = "\n".join(filter(None, (text, below)))
        if label and value:
            self._fields.append({"name": label, "value": value, "inline": True})
        else:
            self._line(value or label)
        self._buttons([widget.get("button")])

    def _buttons(self, buttons: object) -> None:
        links = [_button(object_of(item)) for item in list_of(buttons, _MAX_WIDGETS)]
        self._line(" ".join(filter(None, links)))


def _button(button: RawObject) -> str:
    """Return a button that opens a page as a link."""
    inner: Any = button.get("textButton") or button.get("imageButton") or button
    inner = object_of(inner)
    url = web_url(text_of(object_of(object_of(inner.get("onClick")).get("openLink")).get("url")))
    label = text_of(inner.get("text")) or text_of(inner.get("altText")) or "Open"
    return link(label.replace("[", "").replace("]", ""), url) if url else ""
