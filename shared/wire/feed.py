"""RSS and Atom feeds of strangers: bounded, without entities of their own. Pure.

`xml_events` refuses document types. What is read is bounded in bytes by the caller, and here in elements, in
depth, in entries and in the length of each text.
"""

import html
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.wire.xml_events import parse_xml

MAX_ENTRIES: Final = 500
"""Entries of one feed that are read: the first ones, which are the newest in nearly every feed."""
_MAX_ELEMENTS: Final = 100_000
_MAX_DEPTH: Final = 64
_MAX_TEXT_LENGTH: Final = 20_000
"""Characters of one text; the rest is cut off."""
_MAX_TITLE_LENGTH: Final = 1000
_MAX_CATEGORIES: Final = 20

_ATOM: Final = "http://www.w3.org/2005/Atom"
_ROOTS: Final = frozenset({"rss", "RDF", "feed"})
_FEEDS: Final = frozenset({"channel", "feed"})
_ENTRIES: Final = frozenset({"item", "entry"})
_FIELDS: Final = {
    "title": "title",
    "guid": "id",
    "id": "id",
    "description": "summary",
    "summary": "summary",
    "encoded": "content",
    "content": "content",
    "pubDate": "published",
    "published": "published",
    "issued": "published",
    "date": "published",
    "updated": "updated",
    "modified": "updated",
    "creator": "author",
    "category": "categories",
}
"""The elements of an entry that are read, by their names without namespace, and what they become."""
_FOREIGN: Final = ("search.yahoo.com/mrss", "itunes", "podcast")
"""Parts of the namespaces whose elements have the same names and other meanings."""
_TAG: Final = re.compile(r"<[^<>]*>")
_BLANKS: Final = re.compile(r"\s+")


class _Enough(Exception):
    """As many entries as are wanted have been read."""


def parse_feed(body: bytes) -> dict[str, Any]:
    """Return a feed as `{"feed": {title, link}, "items": [...]}`.

    Each item has the texts id, title, link, summary, author, published and updated ('' if the feed has none),
    and a list of categories. Titles and summaries are plain text, without the feed's HTML. An item without
    an id of its own has its link or, without a link, its title as its id. Raises `Malformed` if it is not a
    feed, has a document type, or exceeds a bound.
    """
    reader = _Reader()
    with suppress(_Enough):
        parse_xml(body, reader, "the feed")
    return {"feed": reader.feed, "items": [item for item in map(_finished, reader.items) if item["id"]]}


class _Reader:
    """Collects the entries of a feed from the parser's events."""

    def __init__(self) -> None:
        self.feed: dict[str, str] = {"title": "", "link": ""}
        self.items: list[dict[str, Any]] = []
        self._path: list[str] = []
        self._elements = 0
        self._item: dict[str, Any] | None = None
        self._item_depth = 0
        self._field = ""
        self._field_depth = 0
        self._texts: list[str] = []
        self._length = 0

    def start(self, namespace: str, local: str, attributes: Mapping[str, str]) -> None:
        self._elements += 1
        if self._elements > _MAX_ELEMENTS or len(self._path) >= _MAX_DEPTH:
            raise Malformed("the feed has too many elements, or nests them too deep")
        if not self._path and local not in _ROOTS:
            raise Malformed(f"this is not a feed: it begins with <{local[:40]}>, not with <rss> or <feed>")
        self._path.append(local)
        if local in _ENTRIES and self._item is None:
            if len(self.items) >= MAX_ENTRIES:
                raise _Enough
            self._item = {"categories": [], "about": _attribute(attributes, "about")}
            self.items.append(self._item)
            self._item_depth = len(self._path)
            return
        if self._field or any(part in namespace for part in _FOREIGN):
            return
        depth = len(self._path)
        if self._item is not None and depth == self._item_depth + 1:
            self._start_field(local, namespace, attributes)
        elif (
            self._item is not None and depth == self._item_depth + 2 and self._path[-2:] == ["author", "name"]
        ):
            self._begin("author", depth)
        elif self._item is None and len(self._path) >= 2 and self._path[-2] in _FEEDS:
            if local == "title":
                self._begin("title", depth)
            elif local == "link":
                self._link(self.feed, namespace, attributes)

    def _start_field(self, local: str, namespace: str, attributes: Mapping[str, str]) -> None:
        assert self._item is not None  # noqa: S101 -- the caller has looked
        if local == "link":
            self._link(self._item, namespace, attributes)
        elif local == "author" and namespace != _ATOM:
            self._begin("author", len(self._path))
        elif local == "category" and attributes.get("term"):
            self._add("categories", attributes["term"])
        elif local in _FIELDS:
            self._begin(_FIELDS[local], len(self._path))

    def _link(self, target: dict[str, Any], namespace: str, attributes: Mapping[str, str]) -> None:
        """Take an Atom link to the page itself, or read the text of another one."""
        if "href" in attributes:
            if attributes.get("rel", "alternate") == "alternate" and not target.get("link"):
                target["link"] = attributes["href"][:_MAX_TITLE_LENGTH]
        elif namespace != _ATOM:
            self._begin("link", len(self._path))

    def _begin(self, field: str, depth: int) -> None:
        self._field, self._field_depth, self._texts, self._length = field, depth, [], 0

    def text(self, data: str) -> None:
        if self._field and self._length < _MAX_TEXT_LENGTH:
            self._texts.append(data[: _MAX_TEXT_LENGTH - self._length])
            self._length += len(data)

    def end(self) -> None:
        depth = len(self._path)
        if self._field and depth == self._field_depth:
            self._add(self._field, "".join(self._texts).strip())
            self._field = ""
        if self._item is not None and depth == self._item_depth:
            self._item = None
        self._path.pop()

    def _add(self, field: str, value: str) -> None:
        if self._item is None:
            if field in self.feed and not self.feed[field]:
                self.feed[field] = _plain(value)[:_MAX_TITLE_LENGTH]
        elif field == "categories":
            if value and len(self._item["categories"]) < _MAX_CATEGORIES:
                self._item["categories"].append(_plain(value)[:100])
        elif value and not self._item.get(field):
            self._item[field] = value


def _finished(item: dict[str, Any]) -> dict[str, Any]:
    link = item.get("link", "")[:_MAX_TITLE_LENGTH]
    title = _plain(item.get("title", ""))[:_MAX_TITLE_LENGTH]
    return {
        "id": item.get("id") or item["about"] or link or title,
        "title": title,
        "link": link,
        "summary": _plain(item.get("summary") or item.get("content", "")),
        "author": _plain(item.get("author", ""))[:200],
        "published": item.get("published", "")[:100],
        "updated": item.get("updated", "")[:100],
        "categories": item["categories"],
    }


def _attribute(attributes: Mapping[str, str], local: str) -> str:
    """Return an attribute by its name without namespace."""
    names = (name for name in attributes if name.rpartition(":")[2] == local)
    return next((attributes[name] for name in names), "")[:_MAX_TITLE_LENGTH]


def _plain(text: str) -> str:
    """Return HTML as one line of plain text."""
    return _BLANKS.sub(" ", html.unescape(_TAG.sub(" ", text))).strip()
