"""Excerpts of longer texts: whole lines, and how much is left out. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from shared.wire.fences import next_closing
from shared.wire.markdown import shorten, split_links
from shared.wire.spans import Span, clean, strip, visible_text, write_line

_RULE: Final = re.compile(r"[-=+: ]+")
_BULLET: Final = re.compile(r"[-+](?=\s|$)")
_NUMBER: Final = re.compile(r"\d{1,9}(?=[.)](?:\s|$))")
_HEADING: Final = re.compile(r"#{1,6}\s+")
_STAR_BULLET: Final = re.compile(r"[*+]\s+")
_STRONG: Final = re.compile(r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)")
_MAX_STRONG_CHARACTERS: Final = 2000
_WORD: Final = re.compile(r"\w")
_MAX_WORD_CHARACTERS: Final = 30
"""A line is cut in front of a word that is not longer than this."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an excerpt: `prefix` (of a list or a quote), and text that can be cut or else `markdown`.

    `visible` counts the characters that a reader sees. It is 0 for a line that only structures the text;
    such a line counts as none.
    """

    source: int
    """Index of the line of the source that this line comes from."""
    prefix: str = ""
    spans: Sequence[Span] = ()
    markdown: str = ""
    visible: int = 0
    is_code: bool = False
    """True if it is a line of a code block. Such a line is written unchanged."""
    closing: str = ""
    """The line that must follow if the excerpt ends here: the end of a code block."""
    is_beginning: bool = False
    """True if it must not be the last line: the beginning of a code block, or the header of a table."""

    def write(self, max_characters: int) -> str:
        """Return the line; text is cut to `max_characters`."""
        if not self.spans:
            return self.prefix + self.markdown
        if not self.is_code:
            return self.prefix + write_line(self.spans, max_characters)[1]
        code = visible_text(self.spans)
        return self.prefix + (code if len(code) <= max_characters else f"{code[: max_characters - 1]}…")

    def cut_position(self, max_characters: int) -> int:
        """Return the length to which the line is cut: in front of a word, if none is very long."""
        text = visible_text(self.spans)[: max_characters - 1]
        end = text.rfind(" ", max(0, len(text) - _MAX_WORD_CHARACTERS))
        return end + 1 if end > 0 and not self.is_code else max(max_characters, 1)


def plain_lines(lines: Sequence[str]) -> list[Line]:
    """Return the lines of a message for the lines of a text, without those that are empty.

    Marks of Markdown that plain text does not need are removed, and every bullet becomes `-`.
    """
    shown: list[Line] = []
    for index, line in enumerate(lines):
        spans = strip(_without_marks(line.strip()))
        if visible := visible_text(spans):
            # A line of dashes would be a rule, or make a heading of the line above it.
            prefix = "\\" if _RULE.fullmatch(visible) else ""
            shown.append(Line(index, prefix, spans, visible=len(visible)))
    return shown


def _without_marks(line: str) -> Iterator[Span]:
    """Return the spans of a line without the marks of headings, bold type and autolinks."""
    line = _HEADING.sub("", line, count=1) if line.startswith("#") else line
    line = _STAR_BULLET.sub("- ", line, count=1) if line.startswith(("* ", "+ ")) else line
    # Marks in a URL have no meaning: a NUL replaces each URL while the marks in the text are removed.
    parts = list(split_links(line.replace("\0", "")))
    masked = "".join("\0" if url else text for text, url in parts)[:_MAX_STRONG_CHARACTERS]
    texts = _STRONG.sub(r"\1", masked).replace("<\0>", "\0").split("\0")
    yield Span(clean(texts[0]))
    for text, part in zip(texts[1:], (part for part in parts if part[1]), strict=False):
        yield Span(*part)
        yield Span(clean(text))


def text_line(source: int, spans: Sequence[Span]) -> Line:
    """Return a line of text. A beginning that would make it a list or a rule is escaped."""
    visible, first = visible_text(spans), spans[0]
    is_text = not (first.mark or first.url or first.code)
    prefix = ""
    if is_text and (_RULE.fullmatch(visible) or _BULLET.match(visible)):
        prefix = "\\"
    elif is_text and (number := _NUMBER.match(visible)) and first.text.startswith(number[0]):
        prefix, spans = f"{number[0]}\\", (Span(first.text[number.end() :]), *spans[1:])
    return Line(source, prefix, spans, visible=len(visible))


def cut_lines(
    lines: Sequence[Line], source: Sequence[str], unread: str, max_lines: int, max_characters: int, gap: str
) -> str:
    """Return the first lines, at most `max_lines` with `max_characters`, and a note of what is left out.

    Lines stay whole. Only a first line, or one that begins in the first half of the characters, is cut.
    `source` are the lines of the text that `lines` were made from, `unread` is the text behind them. `gap`
    separates the note from the lines.
    """
    max_lines, left, unread = max(max_lines, 1), max(max_characters, 1), unread.strip()
    shown: list[Line] = []
    count, partial = 0, None
    for line in lines:
        if line.visible and (count == max_lines or line.visible > left):
            if count == 0 or (count < max_lines and left > max_characters // 2):
                partial = line
            break
        count += bool(line.visible)
        left -= line.visible
        shown.append(line)
    else:
        if not unread:
            return _write(_closed(shown))
    if partial and partial.spans:
        limit = partial.cut_position(left)
        rest = sum(line.visible for line in lines[len(shown) + 1 :]) + len(unread)
        note = f"({_count(partial.visible - limit + 1 + rest, 'character')})"
        text = "\n".join(filter(None, (_write(shown), partial.write(limit), partial.closing)))
        return f"{text}{gap}… {note}" if partial.is_code else f"{text} {note}"
    if partial:
        shown.append(partial)
    last = shown[-1].source if (shown := _closed(shown)) else -1
    hidden = sum(1 for line in source[last + 1 :] if _WORD.search(line))
    hidden += unread.count("\n") + 1 if unread else 0
    note = f"… ({_count(hidden, 'line')})" if hidden else ""
    return gap.join(filter(None, (_write(shown), note)))


def fit_lines(markdown: str, max_length: int) -> str:
    """Remove lines from the end of Markdown that was written here until it is short enough.

    A code block that is cut is closed, and a table keeps its header. A single line is shortened.
    """
    if len(markdown) <= max_length:
        return markdown
    lines = markdown.split("\n")
    fitting: list[str] = []
    closing, left = "", max_length
    for line in lines:
        after = next_closing(line, closing)
        if len(line) + 1 + len(after) > left:
            break
        fitting.append(line)
        left -= len(line) + 1
        closing = after
    if not fitting:
        return shorten(lines[0], max_length)
    if lines[len(fitting)].lstrip("> ").startswith("| ---"):
        fitting.pop()
    return "\n".join((*fitting, closing) if closing else fitting).rstrip()


def _write(lines: Sequence[Line]) -> str:
    return "\n".join(line.write(line.visible) for line in lines)


def _closed(lines: Sequence[Line]) -> list[Line]:
    """Remove beginnings at the end of an excerpt, and close a code block that is cut."""
    closed = list(lines)
    while closed and closed[-1].is_beginning:
        closed.pop()
    if closed and closed[-1].closing:
        closed.append(Line(closed[-1].source, markdown=closed[-1].closing))
    return closed


def _count(number: int, unit: str) -> str:
    return f"{number:,} more {unit}{'' if number == 1 else 's'}"
