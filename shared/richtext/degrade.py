"""Replace nodes that a dialect does not have by ones that it has. Pure.

| node | becomes |
|---|---|
| bold, italic, strike, underline, spoiler | its children |
| link | its children, and the URL in parentheses if they are another text |
| code | text |
| emoji | its characters, or `:name:` |
| custom emoji | `:name:` |
| mention of a person, channel or group | `@label`, `#label`; the id if there is no label |
| mass mention | text that no dialect takes for a mention |
| time | its fallback |
| line break | a blank |
| code block, quote, list | paragraphs: code line by line, quotes with `> `, items with `•` or a number |
"""

from collections.abc import Iterable
from itertools import chain
from typing import Final

from shared.richtext.build import text_nodes, visible_text
from shared.richtext.tree import (
    MARKS,
    Block,
    Bold,
    CodeBlock,
    Document,
    Emoji,
    EveryoneMention,
    Inline,
    Italic,
    LineBreak,
    Link,
    ListBlock,
    Loss,
    Paragraph,
    Quote,
    Spoiler,
    Strike,
    Text,
    Underline,
)

_LOSSES: Final[dict[str, tuple[str, str]]] = {
    "Bold": ("bold", "plain text"),
    "Italic": ("italic", "plain text"),
    "Strike": ("strike", "plain text"),
    "Underline": ("underline", "plain text"),
    "Spoiler": ("spoiler", "plain text"),
    "Link": ("link", "text and URL"),
    "Code": ("code", "plain text"),
    "CustomEmoji": ("custom_emoji", "its name"),
    "UserMention": ("user_mention", "plain text"),
    "ChannelMention": ("channel_mention", "plain text"),
    "GroupMention": ("group_mention", "plain text"),
    "EveryoneMention": ("everyone_mention", "plain text"),
    "Time": ("time", "plain text"),
    "LineBreak": ("line_break", "a blank"),
    "CodeBlock": ("code_block", "plain text"),
    "Quote": ("quote", "lines with >"),
    "ListBlock": ("list", "lines with bullets"),
}
"""The loss of each node. An emoji of Unicode loses nothing as text."""
_ALWAYS: Final = frozenset({Text, Paragraph})
PARENTS: Final = frozenset({Paragraph, Quote, Link, *MARKS})
"""The nodes with `children`."""
_BULLET: Final = "•"


def everyone_text(scope: str) -> str:
    """Return a mass mention as text: a character without a shape after the `@` makes it no name."""
    return f"@\u200b{scope}"


def degrade(document: Document, supported: frozenset[type]) -> tuple[Document, tuple[Loss, ...]]:
    """Return a document with nodes of the `supported` classes only, and each kind of loss once.

    Paragraphs and texts are always supported. A document that needs no change is returned as it is.
    """
    if node_kinds(document) - supported <= _ALWAYS:
        return document, ()
    degrader = _Degrader(supported)
    blocks = degrader.blocks(document.blocks)
    return Document(blocks), tuple(Loss(*loss) for loss in degrader.losses)


def node_kinds(document: Document) -> set[type]:
    """Return the classes of a document's nodes."""
    kinds: set[type] = set()
    left: list[Block | Inline] = list(document.blocks)
    for node in left:  # which grows
        kind = type(node)
        kinds.add(kind)
        if kind in PARENTS:
            left += node.children  # type: ignore[union-attr]
        elif isinstance(node, ListBlock):
            left += chain.from_iterable(node.items)
    return kinds


class _Degrader:
    def __init__(self, supported: frozenset[type]) -> None:
        self._supported = supported
        self.losses: dict[tuple[str, str], None] = {}

    def blocks(self, blocks: Iterable[Block]) -> tuple[Block, ...]:
        return tuple(done for block in blocks for done in self._block(block))

    def _block(self, block: Block) -> Iterable[Block]:
        is_supported = type(block) in self._supported
        if not is_supported and not isinstance(block, Paragraph):
            self._lose(block)
        match block:
            case Paragraph(children):
                return (Paragraph(self.inlines(children)),)
            case CodeBlock(text):
                return (block,) if is_supported else (Paragraph(self.inlines(text_nodes(text))),)
            case Quote(children):
                inner = self.blocks(children)
                return (Quote(inner),) if is_supported else _prefixed(inner, "> ", "> ")
        return self._list(block, is_supported=is_supported)

    def _list(self, block: ListBlock, *, is_supported: bool) -> Iterable[Block]:
        items = tuple(self.blocks(item) for item in block.items)
        if is_supported:
            return (ListBlock(items, block.ordered, block.start),)
        lines: list[Inline] = []
        blocks: list[Block] = []
        for number, item in enumerate(items, block.start):
            mark = f"{number}. " if block.ordered else f"{_BULLET} "
            for child in _prefixed(item, mark, "  "):
                if not isinstance(child, Paragraph) or LineBreak not in self._supported:
                    blocks += [Paragraph(tuple(lines))] if lines else []
                    blocks.append(child)
                    lines = []
                else:
                    lines += [LineBreak()] if lines else []
                    lines += child.children
        return (*blocks, Paragraph(tuple(lines))) if lines else blocks

    def inlines(self, nodes: Iterable[Inline]) -> tuple[Inline, ...]:
        return tuple(done for node in nodes for done in self._inline(node))

    def _inline(self, node: Inline) -> tuple[Inline, ...]:
        is_supported = type(node) in self._supported
        if not is_supported:
            self._lose(node)
        match node:
            case Text():
                return (node,)
            case Link(url, children):
                inner = self.inlines(children)
                if is_supported:
                    return (Link(url, inner),)
                return inner if visible_text(inner) == url else (*inner, Text(f" ({url})"))
            case (
                Bold(children) | Italic(children) | Strike(children) | Underline(children) | Spoiler(children)
            ):
                inner = self.inlines(children)
                return (type(node)(inner),) if is_supported else inner
        return (node,) if is_supported else self._as_text(node)

    def _as_text(self, node: Inline) -> tuple[Inline, ...]:
        match node:
            case EveryoneMention(scope):
                return (Text(everyone_text(scope)),)
            case LineBreak():
                return (Text(" "),)
        nodes = text_nodes(visible_text((node,)))
        return nodes if LineBreak in self._supported else (Text(visible_text(nodes).replace("\n", " ")),)

    def _lose(self, node: Inline | Block) -> None:
        if not isinstance(node, Text | Emoji):
            self.losses[_LOSSES[type(node).__name__]] = None


def _prefixed(blocks: Iterable[Block], first: str, others: str) -> list[Block]:
    """Return blocks with a prefix before the first line, and one before each other line."""
    done: list[Block] = []
    prefix = first
    for block in blocks:
        if not isinstance(block, Paragraph):
            done.append(block)
            continue
        nodes: list[Inline] = []
        # One text with what follows it: a line in lists of many levels has no node for each of them.
        line_start, prefix = prefix, others
        for node in block.children:
            if line_start and type(node) is Text:
                nodes.append(Text(line_start + node.text))
                line_start = ""
                continue
            if line_start:
                nodes.append(Text(line_start))
            nodes.append(node)
            line_start = others if type(node) is LineBreak else ""
        if line_start:
            nodes.append(Text(line_start))
        done.append(Paragraph(tuple(nodes)))
    return done
