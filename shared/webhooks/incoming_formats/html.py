"""The few HTML tags that cards of Google Chat and Microsoft Teams may have, as Markdown. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from shared.richtext.autolinks import web_url
from shared.richtext.fragments import link
from shared.webhooks.incoming_formats.normal_form import text_of

_LINK: Final = re.compile(
    r"<a\s[^<>]{0,200}?href\s?=\s?[\"']?(?P<url>[^\"'<>\s]{1,2000})[\"']?[^<>]{0,200}>(?P<label>[^<>]{0,500})</a>",
    re.IGNORECASE,
)
_TAG: Final = re.compile(r"<(/?)([a-z][a-z0-9]{0,10})(?:\s[^<>]{0,500})?/?>", re.IGNORECASE)
_MARKS: Final[Mapping[str, str]] = {
    "b": "**",
    "strong": "**",
    "i": "*",
    "em": "*",
    "s": "~~",
    "strike": "~~",
    "del": "~~",
    "code": "`",
}
_OPENING: Final[Mapping[str, str]] = {"br": "\n", "li": "\n- ", "p": "\n"}
_REMOVED: Final = frozenset(
    {"u", "font", "time", "span", "div", "p", "ul", "ol", "li", "at", "h1", "h2", "h3", "pre"}
)
_EMPTY_LINES: Final = re.compile(r"\n{3,}")


def html_to_markdown(value: object) -> str:
    """Return text with tags as Markdown. Unknown tags stay as they are, and so does Markdown in the text."""
    text = text_of(value)
    if "<" not in text:
        return text
    text = _TAG.sub(_replace_tag, _LINK.sub(_replace_link, text))
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _replace_link(match: re.Match[str]) -> str:
    url, label = web_url(match["url"]), match["label"].strip().replace("[", "").replace("]", "")
    return link(label, url) if url and label else label


def _replace_tag(match: re.Match[str]) -> str:
    closing, name = match[1], match[2].lower()
    if name in _MARKS:
        return _MARKS[name]
    if not closing and name in _OPENING:
        return _OPENING[name]
    return "" if name in _REMOVED or name in _OPENING else match[0]
