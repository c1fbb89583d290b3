"""One line of a message: its spans of text, links, code and marks, written as Markdown and cut. Pure.

Text is escaped where it is written, and nowhere else: a span holds what a reader sees.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from shared.wire.markdown import bare_link, cut_label, escape, link, split_links
from shared.wire.mentions import defuse_mentions

_WHITESPACE: Final = re.compile(r"\s+")
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that change the direction of writing: they disguise text."""
_BACKTICKS: Final = re.compile(r"`+")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line: visible text, a link if it has a `url`, or inline code.

    `mark` is one of `**`, `*` and `~~`, which opens or closes; such a span has no text.
    """

    text: str = ""
    url: str = ""
    code: bool = False
    mark: str = ""


def clean(text: str) -> str:
    """Return text on one line, without control characters. Blanks at its ends stay."""
    return _WHITESPACE.sub(" ", _CONTROL_CHARACTERS.sub("", text))


def text_spans(text: str) -> list[Span]:
    """Return the spans of plain text, with a link for each URL in it."""
    return [Span(visible if url else clean(visible), url) for visible, url in split_links(text)]


def strip(spans: Iterable[Span]) -> list[Span]:
    """Remove the blanks at both ends of a line, if plain text is there."""
    line = list(spans)
    if line and not (line[0].url or line[0].code):
        line[0] = Span(line[0].text.lstrip(), mark=line[0].mark)
    if line and not (line[-1].url or line[-1].code):
        line[-1] = Span(line[-1].text.rstrip(), mark=line[-1].mark)
    return line


def visible_text(spans: Iterable[Span]) -> str:
    """Return what a reader sees of a line."""
    return "".join(span.text for span in spans)


def write_line(spans: Sequence[Span], max_characters: int) -> tuple[str, str]:
    """Cut a line to `max_characters` visible characters; return its visible text and its Markdown.

    A URL that is cut still links to its whole target, if its visible part includes the host. Marks that are
    open at the end are closed.
    """
    visible, left = visible_text(spans), max_characters
    if is_cut := len(visible) > max_characters:
        left = max(max_characters, 1) - 1
        visible = f"{visible[:left]}…"
    markdown = ""
    marks: list[str] = []
    for span in spans:
        if is_cut and len(span.text) > left:
            label = _cut_label(span, left) if span.url else ""
            if label:
                markdown = _append(markdown, link(f"{escape(label)}…", span.url))
            else:
                rest = "" if span.url else write_span(Span(span.text[:left], code=span.code))
                markdown = f"{_append(markdown, rest).rstrip()}…"
            break
        left -= len(span.text)
        markdown = _append(markdown, write_span(span))
        if span.mark in marks:
            marks.remove(span.mark)
        elif span.mark:
            marks.append(span.mark)
    return visible, markdown + "".join(reversed(marks))


def _append(markdown: str, span: str) -> str:
    """Append a span, so that its beginning means nothing together with the end of the Markdown before it."""
    if span.startswith("[") and markdown.endswith("!"):
        return f"{markdown[:-1]}\\!{span}"  # it would be an image
    if span.startswith("`") and markdown.endswith("`"):
        return f"{markdown} {span}"  # the code would begin or end elsewhere
    return markdown + span


def write_span(span: Span) -> str:
    """Write a span as Markdown."""
    if span.mark:
        return span.mark
    if span.url:
        return bare_link(span.text, span.url)
    return _write_code(span.text) if span.code else escape(span.text)


def _cut_label(span: Span, characters: int) -> str:
    """Cut the text of a link. A URL is not cut in its host, which would look like another host."""
    is_url = any(url for _, url in split_links(span.text))
    return cut_label(span.text, characters) if is_url else span.text[:characters].rstrip()


def _write_code(code: str) -> str:
    """Write inline code. Nothing can be escaped in it: mass mentions are defused."""
    if not code.strip():
        return ""
    fence = "`" * (1 + max((len(run) for run in _BACKTICKS.findall(code)), default=0))
    blank = " " if code[0] in "` " or code[-1] in "` " else ""
    return f"{fence}{blank}{defuse_mentions(code)}{blank}{fence}"
