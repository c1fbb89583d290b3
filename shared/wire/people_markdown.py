"""Markdown that people wrote (GitHub's flavour), rewritten as safe Markdown for a message. Pure.

The text is parsed, and what it means is written anew: nothing of the source reaches a message unescaped.
Emphasis, links, code, quotes, lists and tables stay. Headings become bold, images become links, raw HTML is
dropped, and only http, https and mailto links stay links.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import unescape
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from shared.wire.excerpt import Line, text_line
from shared.wire.markdown import MAX_URL_CHARACTERS, split_links
from shared.wire.markdown_text import LINE_BREAK_TAG, TextReader
from shared.wire.mentions import defuse_mentions
from shared.wire.spans import Span, strip, text_spans, visible_text, write_line

_MAX_COLUMNS: Final = 10
_MAX_CELL_CHARACTERS: Final = 60
_SCHEME: Final = re.compile(r"(?:https?|mailto)\Z", re.IGNORECASE)
_SCHEME_CHARACTER: Final = re.compile(r"[A-Za-z0-9+.-]")
_BLANK: Final = re.compile(r"\s")
_LANGUAGE: Final = re.compile(r"[A-Za-z0-9_+#.-]{1,20}")
_TASK: Final = re.compile(r"\[([ xX])\] +")
_CHECKBOXES: Final = {" ": "[ ] ", "x": "[x] ", "X": "[x] "}
_ALERT: Final = re.compile(r"\[!(NOTE|TIP|IMPORTANT|WARNING|CAUTION)\]\s*")
_TAG: Final = re.compile(r"<!--.*?(?:-->|\Z)|<[^<>]*>", re.DOTALL)
_UNSEEN: Final = re.compile(r"\s*<(?:script|style|textarea|[?!])", re.IGNORECASE)
_CODE_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FENCE: Final = re.compile(r"`{3,}")


class _Parser(MarkdownIt):
    """A parser that leaves the targets of links as they are written: they are checked where they are used."""

    def __init__(self) -> None:
        super().__init__("commonmark")
        self.enable(["table", "strikethrough"])
        self.inline.ruler.before("autolink", "bare_url", _bare_url)

    def validateLink(self, url: str) -> bool:  # noqa: ARG002, N802 -- the parser's method
        """Accept every target."""
        return True

    def normalizeLink(self, url: str) -> str:  # noqa: N802
        """Return the target as it is written."""
        return url


def _bare_url(state: StateInline, silent: bool) -> bool:
    """Read a URL in text as one token: marks in it have no meaning."""
    position = state.pos
    if state.src[position] != ":" or state.linkLevel > 0:
        return False
    scheme = _SCHEME.search(state.src, max(0, position - 6), position)
    if scheme is None or not (silent or state.pending.endswith(scheme[0])):
        return False
    start = scheme.start()
    if start and _SCHEME_CHARACTER.match(state.src, start - 1):
        return False
    blank = _BLANK.search(state.src, position, min(state.posMax, position + MAX_URL_CHARACTERS + 1))
    text = state.src[start : blank.start() if blank else min(state.posMax, position + MAX_URL_CHARACTERS + 1)]
    visible, url = next(split_links(text), ("", ""))
    if not url:
        return False
    if not silent:
        state.pending = state.pending[: -len(scheme[0])]
        token = state.push("bare_url", "", 0)
        token.content, token.meta = visible, {"url": url}
    state.pos = start + len(visible)
    return True


_PARSER: Final = _Parser()


def markdown_lines(text: str) -> list[Line]:
    """Return the lines of a message for a text in Markdown, each with the index of its line in the text."""
    return _Writer().write(_PARSER.parse(text))


@dataclass(slots=True)
class _Container:
    """A quote or an item of a list: what its first line and its other lines begin with."""

    first: str
    rest: str = "> "
    is_used: bool = False


@dataclass(slots=True)
class _List:
    """An open list: the number of its next item, None for one with bullets."""

    number: int | None
    is_started: bool = False


@dataclass(slots=True)
class _Writer:
    """Writes the lines of parsed Markdown."""

    lines: list[Line] = field(default_factory=list)
    containers: list[_Container] = field(default_factory=list)
    lists: list[_List] = field(default_factory=list)
    needs_gap: bool = False
    """True if an empty line must separate the next block from the one before it."""
    text: TextReader = field(default_factory=TextReader)

    def write(self, tokens: Sequence[Token]) -> list[Line]:
        remaining = iter(tokens)
        opened = ""
        for token in remaining:
            match token.type:
                case "blockquote_open":
                    self.containers.append(_Container("> "))
                case "bullet_list_open" | "ordered_list_open":
                    self._open_list(token)
                case "list_item_open":
                    self._open_item()
                case "blockquote_close" | "list_item_close":
                    self.containers.pop()
                    self.needs_gap = True
                case "bullet_list_close" | "ordered_list_close":
                    self.lists.pop()
                    self.needs_gap = True
                case "inline":
                    self._write_text(token, is_heading=opened == "heading_open")
                case "fence" | "code_block":
                    self._write_code(token)
                case "html_block":
                    self._write_html(token)
                case "table_open":
                    self._write_table(remaining)
                case "hr" if self.lines and not self.containers:
                    self._add(Line(_row(token), markdown="---", is_beginning=True))
                    self.needs_gap = True
            opened = token.type
        return self.lines

    # Containers, and the empty lines between blocks

    def _open_list(self, token: Token) -> None:
        number = int(token.attrs.get("start", 1)) if token.type == "ordered_list_open" else None
        # Within an item, a list follows a line of text at once; only one that begins with 1 may do so.
        if self.lists and number in (None, 1):
            self.needs_gap = False
        self.lists.append(_List(number))

    def _open_item(self) -> None:
        current = self.lists[-1]
        marker = "- " if current.number is None else f"{current.number}. "
        if current.number is not None:
            current.number += 1
        if current.is_started:
            self.needs_gap = False
        current.is_started = True
        self.containers.append(_Container(marker, " " * len(marker)))

    def _prefix(self) -> str:
        """Return what the next line begins with."""
        prefix = "".join(item.rest if item.is_used else item.first for item in self.containers)
        for item in self.containers:
            item.is_used = True
        return prefix

    def _add(self, line: Line) -> None:
        """Add the first line of a block, and the empty line before it."""
        if self.needs_gap and self.lines:
            gap = "".join(item.rest for item in self.containers if item.is_used).rstrip()
            self.lines.append(Line(line.source, markdown=gap, is_beginning=True))
        self.needs_gap = False
        self.lines.append(replace(line, prefix=self._prefix() + line.prefix))

    # Blocks

    def _write_text(self, token: Token, *, is_heading: bool) -> None:
        container = self.containers[-1] if self.containers else None
        is_first = container is not None and not container.is_used
        for index, spans in enumerate(self.text.read(token, is_heading=is_heading)):
            line, text = spans, visible_text(spans)
            if not text.strip():
                continue
            if container and is_first:
                is_first = False
                if container.rest != "> " and (task := _TASK.match(line[0].text)):
                    container.first += _CHECKBOXES[task[1]]
                    line[0] = Span(line[0].text[task.end() :])
                elif container.rest == "> " and (alert := _ALERT.fullmatch(text)):
                    line = [Span(mark="**"), Span(alert[1].capitalize()), Span(mark="**")]
            self._add(text_line(_row(token) + index, line))
        self.needs_gap = True

    def _write_code(self, token: Token) -> None:
        code = [_CODE_CONTROL.sub("", line) for line in token.content.expandtabs(4).rstrip().split("\n")]
        if not any(code):
            return
        fence = "`" * max(3, 1 + max((len(run) for run in _FENCE.findall(token.content)), default=0))
        language = _LANGUAGE.match(token.info.strip())
        row = _row(token)
        self._add(Line(row, markdown=fence + (language[0] if language else ""), is_beginning=True))
        rest = "".join(item.rest for item in self.containers)
        for index, text in enumerate(code, row + (token.type == "fence")):
            shown = defuse_mentions(text)
            if not shown.strip():
                self.lines.append(Line(index, rest.rstrip(), is_beginning=True))
                continue
            spans = (Span(shown),)
            self.lines.append(
                Line(index, rest, spans, visible=len(shown), is_code=True, closing=rest + fence)
            )
        self.lines.append(Line(row + len(code) + 1, rest, markdown=fence))
        self.needs_gap = True

    def _write_html(self, token: Token) -> None:
        """Write the text of a block of HTML; scripts and the like have none."""
        if _UNSEEN.match(token.content):
            return
        text = unescape(_TAG.sub("", LINE_BREAK_TAG.sub("\n", token.content)))
        for line in text.splitlines():
            spans = strip(text_spans(line))
            if visible_text(spans).strip():
                self._add(text_line(_row(token), spans))
        self.needs_gap = True

    def _write_table(self, tokens: Iterator[Token]) -> None:
        rows: list[tuple[int, list[str]]] = []
        visible: list[int] = []
        for token in tokens:
            if token.type == "table_close":
                break
            if token.type == "tr_open":
                rows.append((_row(token), []))
                visible.append(0)
            elif token.type == "inline" and len(rows[-1][1]) < _MAX_COLUMNS:
                spans = [span for line in self.text.read(token) for span in (*line, Span(" "))]
                text, markdown = write_line(strip(map(_without_bar, spans)), _MAX_CELL_CHARACTERS)
                rows[-1][1].append(markdown)
                visible[-1] += len(text)
        for index, (row, cells) in enumerate(rows):
            line = Line(
                row, markdown=f"| {' | '.join(cells)} |", visible=visible[index], is_beginning=not index
            )
            self._add(line)
            if not index:
                rule = "".join("| --- " for _ in cells) + "|"
                self._add(Line(row + 1, markdown=rule, is_beginning=len(rows) > 1))
        self.needs_gap = True


def _row(token: Token) -> int:
    return token.map[0] if token.map else 0


def _without_bar(span: Span) -> Span:
    """Return inline code as text if it has a vertical bar, at which some parsers end the cell of a table."""
    return Span(span.text) if span.code and "|" in span.text else span
