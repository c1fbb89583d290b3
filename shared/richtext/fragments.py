"""Pieces of Markdown that are put together with other text: a line of plain text, a link. Pure.

The Markdown of a whole document is rendered by `markdown_render`. What stands beside a piece is not known, so
every character is escaped that could mean something with it. A URL never is escaped: in the middle of text
it becomes an autolink (`<https://...>`), because every CommonMark parser takes what is between the brackets
byte for byte, and where the URL ends does not depend on how a chat client finds bare URLs.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from shared.richtext.autolinks import cut_label, split_links
from shared.richtext.build import CUT_MARK, visible_text
from shared.richtext.markdown_inline import parse_inline
from shared.richtext.tree import Inline, Link, Text

_WHITESPACE: Final = re.compile(r"\s+")
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that change the direction of writing: they disguise text."""
_SPECIAL: Final = re.compile(r"[\\`*_{}\[\]<>#|~@&]|:(?=//)|\+(?=\+)|(?<=\+)\+")
_ENTITY: Final = re.compile(r"(&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31}));")

Line = Sequence[Text | Link]
"""A line of plain text: texts, and links that have one text each."""


def one_line(text: str) -> str:
    """Return text on one line, without control characters. Blanks at its ends stay."""
    return _WHITESPACE.sub(" ", _CONTROL_CHARACTERS.sub("", text))


def parse_line(text: str) -> list[Text | Link]:
    """Return plain text as one line, with a link for each URL in it and without blanks at its ends."""
    line: list[Text | Link] = [
        Link(url, (Text(visible),)) if url else Text(one_line(visible)) for visible, url in split_links(text)
    ]
    return strip_line(line)


def strip_line(line: list[Text | Link]) -> list[Text | Link]:
    """Remove the blanks at both ends of a line."""
    if line and isinstance(line[0], Text):
        line[0] = Text(line[0].text.lstrip())
    if line and isinstance(line[-1], Text):
        line[-1] = Text(line[-1].text.rstrip())
    return line


def cut_line(line: Line, max_characters: int) -> Line:
    """Return a line with at most `max_characters`, an ellipsis at its end included if it was cut.

    A URL that is cut still links to its whole target, if its visible part includes the host.
    """
    if len(visible_text(line)) <= max_characters:
        return line
    left = max(max_characters, 1) - 1
    cut: list[Text | Link] = []
    for node in line:
        text = visible_text((node,))
        if len(text) > left:
            cut.append(_cut(node, text, left))
            break
        left -= len(text)
        cut.append(node)
    if len(cut) > 1 and cut[-1] == Text(CUT_MARK) and isinstance(cut[-2], Text):
        cut[-2:] = [Text(cut[-2].text.rstrip() + CUT_MARK)]
    return cut


def _cut(node: Text | Link, text: str, characters: int) -> Text | Link:
    if isinstance(node, Text):
        return Text(text[:characters].rstrip() + CUT_MARK)
    is_url = any(url for _, url in split_links(text))
    label = cut_label(text, characters) if is_url else text[:characters].rstrip()
    return Link(node.url, (Text(label + CUT_MARK),)) if label else Text(CUT_MARK)


def write_line(line: Iterable[Inline]) -> str:
    """Return a line as Markdown: text escaped, links written."""
    markdown = ""
    for node in line:
        text = visible_text((node,))
        if not isinstance(node, Link):
            markdown += escape(text)
            continue
        if text == node.url and not _ENTITY.search(text):
            markdown += f"<{text}>"
            continue
        if markdown.endswith("!"):
            markdown = f"{markdown[:-1]}\\!"  # it would be an image
        markdown += link(escape(text), node.url)
    return markdown


def plain_to_markdown(text: str) -> str:
    """Return plain text of any number of lines as Markdown that shows it as it is, with its URLs as links."""
    return write_line(
        Link(url, (Text(visible),)) if url else Text(visible) for visible, url in split_links(text)
    )


def escape(text: str) -> str:
    """Escape text for Markdown, so that it is shown as it is and no client makes a URL or mention of it."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def link(label: str, url: str) -> str:
    """Write a link. `label` is Markdown without a link; `url` is from `autolinks`."""
    target = _ENTITY.sub(r"\1%3B", url)  # parsers differ in how often they decode an entity
    return f"[{label}](<{target}>)" if "(" in target or ")" in target else f"[{label}]({target})"


def plain_text(markdown: str) -> str:
    """Return the visible text of Markdown that was put together from pieces."""
    return visible_text(parse_inline(markdown))
