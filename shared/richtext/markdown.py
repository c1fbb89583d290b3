"""Parse the Markdown that messages have between providers and the chat. Pure.

It is a subset of CommonMark: paragraphs, quotes, lists, fenced code, bold, italic, code, links. Beyond it are
`~~strike~~`, `||spoiler||` and `++underline++` (in CommonMark `__x__` is bold, and HTML is not used). HTML is
text, a line break within a paragraph is one, headings become bold paragraphs, tables become code (with links
in them: lines of text), and images become links. A mention is a link, `[@name](mention://user/ID)`, and a
workspace's emoji an image, `![:name:](emoji:ID)`; the ids are percent-encoded.

The blocks are read by markdown-it-py, which is imported when a text first needs it. Text without blocks, as
most messages are, does without it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Final

from shared.richtext.build import MAX_CONTAINERS, canonical, canonical_inlines, clean, cut_text
from shared.richtext.markdown_inline import parse_inline
from shared.richtext.markdown_lists import parse_simple_lists
from shared.richtext.markdown_render import render_markdown
from shared.richtext.tables import table_block
from shared.richtext.tree import Block, Bold, CodeBlock, Document, Inline, ListBlock, Paragraph, Quote, Text

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.token import Token

__all__ = ["parse_markdown", "render_markdown"]

MAX_BLOCK_LINES: Final = 500
"""Behind so many lines that may begin quotes, lists or rows of tables, a text has paragraphs only."""

_BLOCK: Final = re.compile(
    r"^[ \t]*+(?:#{1,6}(?:[ \t]|$)|>|`{3}|~{3}|[-*+](?:[ \t]|$)|\d{1,9}[.)](?:[ \t]|$)"
    r"|[|:-][|:\- \t]*+$|[*_](?:[ \t]*+[*_]){2,}+[ \t]*+$)",
    re.MULTILINE,
)
_CONTAINER: Final = re.compile(r"^[ \t]*+(?:>|[-*+](?:[ \t]|$)|\d{1,9}[.)](?:[ \t]|$)|\|)", re.MULTILINE)
_LONG_RULE: Final = re.compile(r"([*_-])(?:[ \t]*\1){499}")
"""A line that the library reads again at each level of nesting. A text with one has paragraphs only."""
_WIDE_TABLE: Final = re.compile(r"^[^\n|]{0,40}(?:\|[:\- \t]*+){64}", re.MULTILINE)
"""A table with so many columns that the library would fill in millions of cells. It is paragraphs, too."""
_PARAGRAPH_END: Final = re.compile(r"\n[ \t]*+\n")
_RULES: Final = ("normalize", "block", "fence", "blockquote", "list", "hr", "heading", "table", "paragraph")
_DEPTH: Final = "containers"
_RULE: Final = "---"
_UNSEEN: Final = re.compile(r"\s*<(?:script|style|textarea|\?|!--|!doctype|!\[cdata\[)", re.IGNORECASE)
"""The beginning of HTML whose content nobody sees."""


@dataclass(frozen=True, slots=True)
class Flavor:
    """What a kind of Markdown has beside the one of messages."""

    inline: Callable[[str], tuple[Inline, ...]] = parse_inline
    """Parses the text of a paragraph."""
    other_blocks: re.Pattern[str] | None = None
    """Finds a line that may begin one of its further blocks."""
    other_rules: tuple[str, ...] = ()
    """The library's rules for its further blocks: `code`, `html_block`, `lheading`."""


_MESSAGES: Final = Flavor()


def parse_markdown(text: str) -> Document:
    """Return the canonical tree of a Markdown text. A text over 40,000 characters is cut; none is invalid."""
    return canonical(Document(parse_blocks(clean(cut_text(text)), _MESSAGES)))


def parse_blocks(text: str, flavor: Flavor) -> tuple[Block, ...]:
    """Return the blocks of a clean text in a flavor. They are not yet canonical."""
    has_others = flavor.other_blocks is not None and flavor.other_blocks.search(text) is not None
    has_blocks = has_others or _BLOCK.search(text) is not None
    if not has_blocks or _LONG_RULE.search(text) or _WIDE_TABLE.search(text):
        return tuple(_paragraphs(text, flavor))
    surplus = next(islice(_CONTAINER.finditer(text), MAX_BLOCK_LINES, None), None)
    if surplus:
        return (*parse_blocks(text[: surplus.start()], flavor), *_paragraphs(text[surplus.start() :], flavor))
    simple = None if has_others else parse_simple_lists(text, flavor.inline)
    if simple is None:
        tokens = _parser(flavor.other_rules).parse(text, {_DEPTH: 0})
        return _Reader(tokens, flavor).blocks("")
    return simple


def _paragraphs(text: str, flavor: Flavor) -> list[Paragraph]:
    parts = _PARAGRAPH_END.split(text) if "\n" in text else [text]
    return [Paragraph(flavor.inline(part.strip())) for part in parts]


@cache
def _parser(other_rules: tuple[str, ...]) -> "MarkdownIt":
    """Return the parser of blocks. It leaves the text in them as it is."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 -- not loaded before it is needed
    from markdown_it.rules_block import blockquote, list_block  # noqa: PLC0415

    parser = MarkdownIt("zero", {"maxNesting": 100, "html": "html_block" in other_rules}).enable(
        [*_RULES, *other_rules]
    )
    parser.core.ruler.enableOnly(["normalize", "block"])
    ended = ["paragraph", "reference", "blockquote"]  # the blocks that a quote or list may end
    parser.block.ruler.at("blockquote", _limited(blockquote), {"alt": [*ended, "list"]})
    parser.block.ruler.at("list", _limited(list_block), {"alt": ended})
    return parser


_BlockRule = Callable[["StateBlock", int, int, bool], bool]


def _limited(rule: _BlockRule) -> _BlockRule:
    """Return a rule of quotes or lists that leaves those that are nested too deeply as text."""

    def run(state: "StateBlock", start: int, end: int, silent: bool) -> bool:
        if state.env[_DEPTH] >= MAX_CONTAINERS:
            return False
        state.env[_DEPTH] += 1
        try:
            return rule(state, start, end, silent)
        finally:
            state.env[_DEPTH] -= 1

    return run


class _Reader:
    """Reads the tokens of blocks in their order."""

    def __init__(self, tokens: "Sequence[Token]", flavor: Flavor) -> None:
        self._tokens = iter(tokens)
        self._inline = flavor.inline

    def blocks(self, end: str) -> tuple[Block, ...]:
        """Return the blocks up to a token of type `end`."""
        blocks: list[Block] = []
        for token in self._tokens:
            match token.type:
                case "inline":
                    blocks.append(Paragraph(self._inline(token.content)))
                case "heading_open":
                    heading = self._inline(next(self._tokens).content)
                    blocks.append(Paragraph((Bold(heading),)))
                case "fence" | "code_block":
                    language = token.info.split(maxsplit=1)[:1]
                    blocks.append(CodeBlock(token.content.removesuffix("\n"), "".join(language)))
                case "html_block" if not _UNSEEN.match(token.content):
                    blocks.append(Paragraph(self._inline(token.content.strip())))
                case "hr":
                    blocks.append(Paragraph((Text(_RULE),)))
                case "blockquote_open":
                    blocks.append(Quote(self.blocks("blockquote_close")))
                case "bullet_list_open":
                    blocks.append(ListBlock(self._items("bullet_list_close")))
                case "ordered_list_open":
                    start = int(token.attrs.get("start", 1))
                    blocks.append(ListBlock(self._items("ordered_list_close"), ordered=True, start=start))
                case "table_open":
                    blocks.append(self._table())
                case kind if kind == end:
                    break
        return tuple(blocks)

    def _items(self, end: str) -> tuple[tuple[Block, ...], ...]:
        items = []
        for token in self._tokens:
            if token.type == end:
                break
            items.append(self.blocks("list_item_close"))
        return tuple(items)

    def _table(self) -> Block:
        rows: list[list[tuple[Inline, ...]]] = []
        for token in self._tokens:
            if token.type == "table_close":
                break
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "inline":
                rows[-1].append(canonical_inlines(self._inline(token.content)))
        return table_block(rows)
