"""Jira's wiki markup, parsed to the document tree.

Each pattern has an upper bound, so that the work grows with the length of the text only.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.richtext.autolinks import honest_label, link_at
from shared.richtext.build import canonical, canonical_inlines, clean, cut_text
from shared.richtext.tables import Row, table_block
from shared.richtext.tree import (
    Block,
    Bold,
    Code,
    CodeBlock,
    Document,
    Inline,
    Italic,
    LineBreak,
    Link,
    ListBlock,
    Mark,
    Paragraph,
    Quote,
    Strike,
    Text,
    Underline,
)

FILTER: Final = "wiki"
"""The name of the filter for this dialect in message templates."""

_MAX_DEPTH: Final = 3
"""Maximum depth of nested emphasis."""
_MAX_LEVELS: Final = 7
"""Levels of a list; deeper items are at this level."""
_MAX_MACROS: Final = 500
_MAX_MARKS: Final = 3000
"""A line with more characters that may be marks is plain text."""
_MACRO: Final = re.compile(r"\{(code|noformat|quote|panel)(?::([^{}\n]{0,200}))?\}")
_STYLE: Final = re.compile(r"\{(?:color|anchor)(?::[^{}\n]{0,200})?\}")
_LANGUAGE: Final = re.compile(r"(?:language=)?([A-Za-z0-9_+#-]{1,20})(?:\||\Z)")
_TITLE: Final = re.compile(r"(?:\A|\|)title=([^|]{1,200})")
_HEADING: Final = re.compile(r"h[1-6]\. +")
_QUOTE: Final = re.compile(r"bq\. +")
_RULE: Final = re.compile(r"-{4,}")
_ITEM: Final = re.compile(r"([*#]{1,10}|-) +(?=\S)")
_CELL: Final = re.compile(r"\|\|?")
_LINK_OR_CELL: Final = re.compile(r"\[[^\[\]\n]{0,2000}\]|\|\|?|[^\[|]+|\[")
_MARK: Final = re.compile(r"[\\{\[!*_+?:-]")


def _pair(name: str, mark: str) -> str:
    """Return the pattern of text between two equal marks."""
    sign = re.escape(mark)
    return rf"(?<![\w{sign}]){sign}(?![\s{sign}])(?P<{name}>[^{sign}\n]{{1,300}})(?<!\s){sign}(?![\w{sign}])"


_INLINE: Final = re.compile(
    "|".join(
        (
            r"(?P<line_break>\\\\)\s?",
            r"\\(?P<escaped>[!-/:-@\[-`{-~])",
            r"\{\{(?P<code>.{1,300}?)\}\}",
            r"\[~(?P<person>[^\[\]\n]{1,100})\]",
            r"\[\^(?P<file>[^\[\]\n]{1,200})\]",
            r"\[(?:(?P<label>[^\[\]|\n]{1,300})\|)?(?P<target>[a-z]{2,10}:[^\[\]|\s]{1,2000})(?:\|[^\[\]\n]{0,50})?\]",
            r"\[(?P<place>[^\[\]|\n]{1,300})\|[^\[\]\n]{0,300}\]",
            r"!(?P<image>[^\s!|]{1,300}\.[A-Za-z0-9]{2,5})(?:\|[^!\n]{0,100})?!",
            r"(?<![A-Za-z0-9])(?P<url>(?:https?://|mailto:)[^\s|\[\]{}<>\"]{1,2000})",
            _pair("strong", "*"),
            _pair("emphasis", "_"),
            _pair("deleted", "-"),
            _pair("inserted", "+"),
            r"\?\?(?P<citation>[^?\n]{1,300})\?\?",
        )
    )
)
_MARKS: Final[Mapping[str, Mark]] = {
    "strong": Bold,
    "emphasis": Italic,
    "deleted": Strike,
    "inserted": Underline,
    "citation": Italic,
}


def parse(text: str) -> Document:
    """Return the canonical tree of a text in wiki markup. What the tree cannot say stays as text."""
    text = _STYLE.sub("", clean(cut_text(text)))
    blocks: list[Block] = []
    quoted: list[Block] | None = None
    code, end = "", 0
    language = ""
    for number, macro in enumerate(_MACRO.finditer(text)):
        name, argument = macro[1], macro[2] or ""
        if number == _MAX_MACROS:
            break
        if code and name != code:
            continue  # it is part of the code
        target = blocks if quoted is None else quoted
        content = text[end : macro.start()]
        target += [CodeBlock(content.strip("\n"), language)] if code else _blocks(content)
        end = macro.end()
        if name in ("code", "noformat"):
            code = "" if code else name
            match = _LANGUAGE.match(argument)
            language = match[1] if match else ""
        elif name == "quote":
            blocks += [Quote(tuple(quoted))] if quoted else []
            quoted = [] if quoted is None else None
        elif title := _TITLE.search(argument):  # of a panel
            target.append(Paragraph((Bold((Text(title[1]),)),)))
    target = blocks if quoted is None else quoted
    target += [CodeBlock(text[end:].strip("\n"), language)] if code else _blocks(text[end:])
    blocks += [Quote(tuple(quoted))] if quoted else []
    return canonical(Document(tuple(block for block in blocks if block != CodeBlock("", language))))


@dataclass(slots=True)
class _Item:
    children: tuple[Inline, ...]
    lists: "list[_List]" = field(default_factory=list)

    def blocks(self) -> tuple[Block, ...]:
        return (Paragraph(self.children), *(inner.block() for inner in self.lists))


@dataclass(slots=True)
class _List:
    mark: str
    items: list[_Item] = field(default_factory=list)

    def block(self) -> ListBlock:
        return ListBlock(tuple(item.blocks() for item in self.items), ordered=self.mark == "#")


@dataclass(slots=True)
class _Reader:
    """Reads the lines of a text without macros."""

    blocks: list[Block] = field(default_factory=list)
    text: list[Inline] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    has_head: bool = False
    quotes: list[Inline] = field(default_factory=list)
    levels: list[_List] = field(default_factory=list)
    """The open lists, the outermost first."""

    def end(self, kind: str = "") -> None:
        """End the open block, unless it is of this kind."""
        if self.text and kind != "text":
            self.blocks.append(Paragraph(tuple(self.text)))
            self.text = []
        if self.quotes and kind != "quote":
            self.blocks.append(Quote((Paragraph(tuple(self.quotes)),)))
            self.quotes = []
        if self.rows and kind != "table":
            self.blocks.append(table_block(self.rows, has_head=self.has_head))
            self.rows = []
        if self.levels and kind != "list":
            self.blocks.append(self.levels[0].block())
            self.levels = []

    def read(self, line: str) -> None:
        if not line:
            self.end()
        elif heading := _HEADING.match(line):
            self.end()
            self.blocks.append(Paragraph((Bold(_inline(line[heading.end() :])),)))
        elif mark := _QUOTE.match(line):
            self.end("quote")
            _append_line(self.quotes, _inline(line[mark.end() :]))
        elif _RULE.fullmatch(line):
            self.end()
            self.blocks.append(Paragraph((Text("---"),)))
        elif item := _ITEM.match(line):
            self.end("list")
            self.item(item[1], _inline(line[item.end() :]))
        elif line.startswith("|") and line.endswith("|") and len(line) > 2:
            self.end("table")
            self.has_head = line.startswith("||") if not self.rows else self.has_head
            self.rows.append([canonical_inlines(_inline(cell)) for cell in _cells(line)])
        else:
            self.end("text")
            _append_line(self.text, _inline(line))

    def item(self, marks: str, children: tuple[Inline, ...]) -> None:
        level = min(len(marks) - 1, len(self.levels), _MAX_LEVELS)
        del self.levels[level + 1 :]
        if level < len(self.levels) and self.levels[level].mark != marks[-1]:
            if not level:
                self.end()
            del self.levels[level:]
        if level == len(self.levels):
            opened = _List(marks[-1])
            if level:
                self.levels[-1].items[-1].lists.append(opened)
            self.levels.append(opened)
        self.levels[level].items.append(_Item(children))


def _append_line(nodes: list[Inline], line: Sequence[Inline]) -> None:
    if nodes:
        nodes.append(LineBreak())
    nodes += line


def _blocks(text: str) -> list[Block]:
    reader = _Reader()
    for line in text.split("\n"):
        reader.read(line.strip())
    reader.end()
    return reader.blocks


def _cells(line: str) -> Iterator[str]:
    """Yield the cells of a table's row. A bar in a link does not end one."""
    cell = ""
    start = _CELL.match(line)
    for part in _LINK_OR_CELL.finditer(line, start.end() if start else 0):
        if part[0][0] == "|":
            yield cell.strip()
            cell = ""
        else:
            cell += part[0]
    if cell.strip():
        yield cell.strip()


def _inline(text: str, depth: int = 0) -> tuple[Inline, ...]:
    """Return the nodes of a line."""
    if not _MARK.search(text):  # every pattern of `_INLINE` has one
        return (Text(text),) if text else ()
    if len(_MARK.findall(text)) > _MAX_MARKS:
        return (Text(text),)
    nodes: list[Inline] = []
    end = 0
    for match in _INLINE.finditer(text):
        if match.start() > end:
            nodes.append(Text(text[end : match.start()]))
        nodes += _nodes(match, depth)
        end = match.end()
    if end < len(text):
        nodes.append(Text(text[end:]))
    return tuple(nodes)


def _nodes(match: re.Match[str], depth: int) -> tuple[Inline, ...]:
    """Return what is not plain text in a line."""
    kind = match.lastgroup or ""
    content = match[kind]
    if mark := _MARKS.get(kind):
        return (mark(_inline(content, depth + 1) if depth < _MAX_DEPTH else (Text(content),)),)
    match kind:
        case "line_break":
            return (LineBreak(),)
        case "code":
            return (Code(content),)
        case "person":
            return (Text("@someone" if content.startswith("accountid:") else f"@{content}"),)
        case "target":
            return (Link(content, (Text(honest_label(match["label"] or content, content)),)),)
        case "image":
            is_url = content.lower().startswith(("http://", "https://"))
            return (Link(content, (Text("image"),)) if is_url else Text(content),)
        case "url":
            visible, url, end = link_at(content, 0) or (content, "", len(content))
            return (Link(url, (Text(visible),)) if url else Text(visible), Text(content[end:]))
    return (Text(content),)
