"""Tables, which the tree does not have: as code, or as lines of text. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from shared.richtext.build import visible_text
from shared.richtext.tree import (
    Block,
    Bold,
    ChannelMention,
    CodeBlock,
    EveryoneMention,
    GroupMention,
    Inline,
    LineBreak,
    Link,
    Paragraph,
    Text,
    UserMention,
)

Row = Sequence[tuple[Inline, ...]]

_ACTIVE: Final = (Link, UserMention, ChannelMention, GroupMention, EveryoneMention)


def table_block(rows: Sequence[Row], *, has_head: bool = True) -> Block:
    """Return a table as code with its columns aligned; as lines of text if code would lose its links.

    The nodes of each cell are canonical.
    """
    if any(isinstance(node, _ACTIVE) for row in rows for cell in row for node in cell):
        return Paragraph(tuple(_lines(rows, has_head=has_head)))
    return CodeBlock(_aligned([[visible_text(cell) for cell in row] for row in rows], has_head=has_head))


def _lines(rows: Sequence[Row], *, has_head: bool) -> Iterator[Inline]:
    """Yield the rows as lines, the head in bold type."""
    for number, row in enumerate(rows):
        if number:
            yield LineBreak()
        filled = max((column for column, cell in enumerate(row, 1) if cell), default=0)
        for column, cell in enumerate(row[:filled]):
            if column:
                yield Text(" | ")
            nodes = tuple(Text(" ") if isinstance(node, LineBreak) else node for node in cell)
            yield from (Bold(nodes),) if has_head and not number else nodes


def _aligned(rows: Sequence[Sequence[str]], *, has_head: bool) -> str:
    """Return the rows as lines with the cells of a column below each other."""
    count = max(map(len, rows), default=0)
    filled = [[cell.replace("\n", " ") for cell in row] + [""] * (count - len(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    if sum(widths) * len(rows) > len(rows) + 4 * sum(len(cell) + 1 for row in filled for cell in row):
        widths = [0] * len(widths)  # blanks would be most of the text
    lines = [" | ".join(map(str.ljust, row, widths)).rstrip() for row in filled]
    if has_head:
        lines.insert(1, "-+-".join("-" * max(width, 1) for width in widths))
    return "\n".join(lines)
