"""Adaptive Cards, as Microsoft Teams' workflows, Alertmanager and Grafana send them. Pure.

Source: the schema of Adaptive Cards 1.6 (https://adaptivecards.io/explorer/). A card's texts are Markdown.
"""

from collections.abc import Callable, Mapping
from typing import Final

from shared.richtext.autolinks import web_url
from shared.richtext.fragments import link
from shared.webhooks.incoming_formats.normal_form import (
    MAX_FIELDS,
    NormalForm,
    NormalObject,
    RawObject,
    bold,
    clip,
    list_of,
    object_of,
    plain_to_markdown,
    text_of,
)

_MAX_DEPTH: Final = 8
_MAX_ELEMENTS: Final = 300
_MAX_ITEMS: Final = 50
_CONTAINERS: Final = {
    "Container": "items",
    "CarouselPage": "items",
    "Carousel": "pages",
    "ImageSet": "images",
}
"""Elements that only have others, and the field with these."""
_LARGE: Final = frozenset({"large", "extralarge"})
_COLORS: Final = {"attention": "#d63232", "warning": "#daa038", "good": "#36a64f", "accent": "#0078d7"}


def read_adaptive_card(form: NormalForm, card: RawObject) -> None:
    """Add a card to the form: its heading is the text, the rest is an embed."""
    reader = _CardReader(form)
    reader.elements(card.get("body"), _MAX_DEPTH)
    reader.actions(card.get("actions"))
    heading, *lines = reader.lines or [""]
    if not heading:
        heading = form.html(card.get("fallbackText")) or form.html(card.get("speak"))
    texts = filter(None, (form.fields.get("text"), heading))
    form.set("text", "\n\n".join(texts), "attachments")
    form.add_embed(
        {
            "description": clip("\n\n".join(lines)),
            "fields": reader.fields[:MAX_FIELDS],
            "color": reader.color,
        }
    )


class _CardReader:
    """Walks through the elements of one card."""

    def __init__(self, form: NormalForm) -> None:
        self._form = form
        self._left = _MAX_ELEMENTS
        self.lines: list[str] = []
        self.fields: list[NormalObject] = []
        self.color: str | None = None

    def elements(self, elements: object, depth: int) -> None:
        """Read elements in their order. What is nested too deep, or behind too many, is left out."""
        for item in list_of(elements, _MAX_ITEMS) if depth else ():
            self._left -= 1
            if self._left < 0:
                return
            self._element(object_of(item), depth)

    def _element(self, element: RawObject, depth: int) -> None:
        kind = str(element.get("type"))
        if kind in _CONTAINERS:
            self.elements(element.get(_CONTAINERS[kind]), depth - 1)
        elif kind in _READERS:
            _READERS[kind](self, element)
        elif kind == "ColumnSet":
            for column in list_of(element.get("columns"), _MAX_ITEMS):
                self.elements(object_of(column).get("items"), depth - 1)
        elif kind == "Table":
            for row in list_of(element.get("rows"), _MAX_ITEMS):
                self._row(object_of(row), depth - 1)

    def _rich_text_block(self, element: RawObject) -> None:
        self._line("".join(map(_inline, list_of(element.get("inlines"), _MAX_ITEMS))))

    def _fact_set(self, element: RawObject) -> None:
        for fact in map(object_of, list_of(element.get("facts"), MAX_FIELDS)):
            name, value = text_of(fact.get("title")).rstrip(":"), self._form.html(fact.get("value"))
            if name or value:
                self.fields.append({"name": name, "value": value, "inline": True})

    def _image(self, element: RawObject) -> None:
        self._form.add_image(element.get("url"))

    def _action_set(self, element: RawObject) -> None:
        self.actions(element.get("actions"))

    def _code_block(self, element: RawObject) -> None:
        code = text_of(element.get("codeSnippet"))
        self._line(f"```\n{code}\n```" if code and "```" not in code else plain_to_markdown(code))

    def _text_block(self, element: RawObject) -> None:
        text = self._form.html(element.get("text"))
        size, weight = str(element.get("size")).lower(), str(element.get("weight")).lower()
        is_heading = weight == "bolder" or size in _LARGE
        self._line(bold(text) if is_heading and "\n" not in text and "**" not in text else text)
        if self.color is None:
            self.color = _COLORS.get(str(element.get("color")).lower())

    def _row(self, row: RawObject, depth: int) -> None:
        """Read a row of a table into one line."""
        before = self.lines
        cells: list[str] = []
        for cell in list_of(row.get("cells"), MAX_FIELDS):
            self.lines = []
            self.elements(object_of(cell).get("items"), depth - 1)
            cells.append(" ".join(self.lines))
        self.lines = before
        self._line(" | ".join(filter(None, cells)))

    def actions(self, actions: object) -> None:
        """Add the actions that open a page as links on one line."""
        links: list[str] = []
        for action in map(object_of, list_of(actions, _MAX_ITEMS)):
            url = web_url(text_of(action.get("url")))
            label = text_of(action.get("title")).replace("[", "").replace("]", "")
            if url:
                links.append(link(label or "Open", url))
        self._line(" ".join(links))

    def _line(self, markdown: str) -> None:
        if markdown.strip():
            self.lines.append(markdown)


_READERS: Final[Mapping[str, Callable[[_CardReader, RawObject], None]]] = {
    "TextBlock": _CardReader._text_block,
    "RichTextBlock": _CardReader._rich_text_block,
    "FactSet": _CardReader._fact_set,
    "Image": _CardReader._image,
    "ActionSet": _CardReader._action_set,
    "CodeBlock": _CardReader._code_block,
}
"""Readers of the elements that contain no others, by type."""


def _inline(item: object) -> str:
    """Return a run of text; blanks at its ends stay, outside of its marks."""
    run = {"text": item} if isinstance(item, str) else object_of(item)
    text = run.get("text")
    if not isinstance(text, str) or not text.strip():
        return " " if text else ""
    markdown = plain_to_markdown(text)
    styled = bold(markdown) if str(run.get("weight")).lower() == "bolder" else markdown
    before, after = " " * text[0].isspace(), " " * text[-1].isspace()
    return f"{before}{styled}{after}"
