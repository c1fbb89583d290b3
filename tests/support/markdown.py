"""Markdown as chats show it, by two independent parsers: the text, the links, and what marks did to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final
from urllib.parse import unquote

import mistune
from markdown_it import MarkdownIt

_mistune = mistune.create_markdown(escape=False, plugins=["url", "strikethrough", "table"])

PARSERS: Final[Mapping[str, Callable[[str], str]]] = {
    "markdown-it": MarkdownIt("commonmark").render,
    "markdown-it with bare URLs": MarkdownIt("gfm-like").render,
    "mistune with bare URLs": lambda text: str(_mistune(text)),
}
STRUCTURE: Final = frozenset({"p", "a", "br"})
"""The elements of text that only has links."""


@dataclass
class Shown:
    """What a reader sees: `text`, each link with its text and address (percent-decoded), and the elements."""

    text: str = ""
    links: list[tuple[str, str]] = field(default_factory=list)
    elements: set[str] = field(default_factory=set)
    nested: bool = False


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.shown = Shown()
        self._open: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shown.elements.add(tag)
        if tag == "a":
            self.shown.nested |= bool(self._open)
            self._open.append(("", unquote(dict(attrs).get("href") or "")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._open:
            self.shown.links.append(self._open.pop())

    def handle_data(self, data: str) -> None:
        self.shown.text += data
        self._open = [(text + data, href) for text, href in self._open]


def shown(markdown: str) -> dict[str, Shown]:
    """How each parser shows a text, by the parser's name."""
    found: dict[str, Shown] = {}
    for name, render in PARSERS.items():
        reader = _Reader()
        reader.feed(render(markdown))
        reader.close()
        reader.shown.text = reader.shown.text.strip("\n")
        found[name] = reader.shown
    return found
