"""The text of a block of Markdown as spans: emphasis, code and links, made safe. Pure."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from markdown_it.token import Token

from shared.wire.markdown import split_links, web_url
from shared.wire.spans import Span, clean, strip, text_spans

LINE_BREAK_TAG: Final = re.compile(r"<(?:br|/p|/div|/li|/tr|/h[1-6]|hr)\b[^<>]*>", re.IGNORECASE)

_MAX_TARGET_CHARACTERS: Final = 2000
_MARKS: Final = {"strong": "**", "em": "*", "s": "~~"}


class TextReader:
    """Reads the texts of one document.

    Once the targets of its links have 2,000 characters together, further links are text only. A link whose
    text is the target itself is not counted.
    """

    def __init__(self) -> None:
        self._target_characters = 0
        self._lines: list[list[Span]] = []
        self._marks: list[str] = []

    def read(self, token: Token, *, is_heading: bool = False) -> list[list[Span]]:
        """Return the lines of a text; a heading is in bold type.

        Marks that are open at the end of a line are closed there, and opened again in the next one.
        """
        self._marks = ["**"] if is_heading else []
        self._lines = [self._open_marks()]
        tokens = iter(token.children or ())
        for child in tokens:
            kind, _, end = child.type.rpartition("_")
            if kind in _MARKS:
                if not (is_heading and kind == "strong"):
                    self._mark(_MARKS[kind], is_open=end == "open")
            elif child.type in ("softbreak", "hardbreak") or _is_line_break_tag(child):
                self._lines[-1] += reversed(self._open_marks())
                self._lines.append(self._open_marks())
            else:
                self._lines[-1] += self._spans(child, tokens)
        self._lines[-1] += reversed(self._open_marks())
        return [strip(_tidy(line)) for line in self._lines]

    def _mark(self, mark: str, *, is_open: bool) -> None:
        if is_open:
            self._marks.append(mark)
        elif mark in self._marks:
            self._marks.remove(mark)
        if self._marks.count(mark) == is_open:  # a mark within the same one means nothing
            self._lines[-1].append(Span(mark=mark))

    def _open_marks(self) -> list[Span]:
        return [Span(mark=mark) for mark in dict.fromkeys(self._marks)]

    def _spans(self, token: Token, tokens: Iterator[Token]) -> list[Span]:
        """Return the spans of a token; those of a link are read up to its end."""
        match token.type:
            case "link_open":
                return self._link(str(token.attrs.get("href", "")), _label(tokens))
            case "image":
                return self._link(str(token.attrs.get("src", "")), clean(token.content).strip() or "image")
            case "code_inline":
                return [Span(clean(token.content), code=True)]
            case "bare_url":
                return [Span(token.content, token.meta["url"])]
            case "text":
                return text_spans(token.content)
        return []

    def _link(self, target: str, label: str) -> list[Span]:
        """Return a link, or its text if it leads to no web page or mail address."""
        url = web_url(target) or _mail_url(target)
        if not url:
            return text_spans(label)
        # A text that is another URL would hide where the link leads.
        if not label or any(label_url not in ("", url) for _, label_url in split_links(label)):
            return [Span(url, url)]
        self._target_characters += len(url)
        if self._target_characters > _MAX_TARGET_CHARACTERS:
            return text_spans(label)
        return [Span(label, url)]


def _mail_url(target: str) -> str:
    links = list(split_links(target)) if target[:7].lower() == "mailto:" else []
    return target if links == [(target, target)] else ""


def _is_line_break_tag(token: Token) -> bool:
    return token.type == "html_inline" and LINE_BREAK_TAG.match(token.content) is not None


def _label(tokens: Iterator[Token]) -> str:
    """Return the text of a link, up to its end."""
    label = ""
    for token in tokens:
        if token.type == "link_close":
            break
        label += " " if token.type in ("softbreak", "hardbreak") else ""
        if token.type in ("text", "code_inline", "image", "bare_url"):
            label += token.content
    return clean(label).strip()


def _tidy(spans: Sequence[Span]) -> list[Span]:
    """Remove marks around nothing, and put blanks outside of marks: the marks would mean nothing there."""
    tidy: list[Span] = []
    marks: set[str] = set()
    for span in spans:
        last = tidy[-1] if tidy else Span()
        if span.mark:
            is_closing = span.mark in marks
            marks ^= {span.mark}
            if last.mark == span.mark:
                tidy.pop()
            elif is_closing and _is_text(last) and last.text.endswith(" "):
                tidy[-1:] = [Span(last.text.rstrip()), span, Span(" ")]
            else:
                tidy.append(span)
        elif _is_text(span) and span.text.startswith(" ") and last.mark in marks:
            tidy[-1:] = [Span(" "), last, Span(span.text.lstrip())]
        elif _is_text(span) and _is_text(last) and last.text.endswith(" "):
            tidy.append(Span(span.text.lstrip()))
        elif span.text:
            tidy.append(span)
    return tidy


def _is_text(span: Span) -> bool:
    return not (span.mark or span.url or span.code)
