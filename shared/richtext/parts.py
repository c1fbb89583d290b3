"""Split a document that is too long for one message: between blocks, then words, then grapheme clusters."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from shared.richtext.runs import Run, inline_of, runs_of
from shared.richtext.tree import (
    Block,
    Code,
    CodeBlock,
    Document,
    LineBreak,
    ListBlock,
    Paragraph,
    Quote,
    Text,
    Time,
)

Measure = Callable[[str], int]
"""The length of a text in the provider's unit. It is never less than its number of characters."""

_GAP: Final = 2
"""What is between two blocks, at most."""
_ITEM: Final = 20
"""What a dialect without lists writes before an item, at most."""
_EXTENDS: Final = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0e31\u0e34-\u0e4e"
    "\u200c\u200d\u20d0-\u20ff\ufe00-\ufe0f\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
)
"""Characters that belong to the one before: marks, joiners, selectors, skin tones, the letters of flags."""
_LONGEST_CLUSTER: Final = 32


def split_document(
    document: Document, measure: Measure, *, first: int, rest: int, parts: int
) -> Sequence[Document]:
    """Return the parts of a document: the first no longer than `first`, the others than `rest`.

    There are at most `parts`; what is left is cut off. A document that fits is returned as it is.
    """
    if blocks_length(document.blocks, measure) <= first:
        return (document,)
    result: list[Document] = []
    left: Sequence[Block] = document.blocks
    while left and len(result) < parts:
        head, left = _cut_blocks(left, first if not result else rest, measure)
        result.append(Document(tuple(head)))
    return result


def blocks_length(blocks: Sequence[Block], measure: Measure) -> int:
    """Return the length of blocks as the longest dialect writes them, without their formatting."""
    return sum(_length(block, measure) + _GAP for block in blocks)


def _length(block: Block, measure: Measure) -> int:
    if isinstance(block, Paragraph):
        return sum(_leaf_length(run, measure) for run in runs_of(block.children))
    if isinstance(block, CodeBlock):
        return measure(block.text)
    if isinstance(block, Quote):
        return blocks_length(block.children, measure)
    return sum(blocks_length(item, measure) + _ITEM for item in block.items)


def _leaf_length(run: Run, measure: Measure) -> int:
    leaf = run.leaf
    if isinstance(leaf, LineBreak):
        return 1
    if isinstance(leaf, Text | Code):
        return measure(leaf.text)
    if isinstance(leaf, Time):
        return measure(leaf.fallback)
    names = (getattr(leaf, name, "") for name in ("id", "label", "name", "text", "scope"))
    return 2 + max(measure(name) for name in names)


def _cut_blocks(
    blocks: Sequence[Block], room: int, measure: Measure
) -> tuple[Sequence[Block], Sequence[Block]]:
    """Return the blocks that fit into `room`, and the others. At least some text is in the first."""
    head: list[Block] = []
    for number, block in enumerate(blocks):
        length = _length(block, measure) + _GAP
        if length <= room:
            head.append(block)
            room -= length
            continue
        if head and (room < 40 or isinstance(block, Paragraph)):
            return head, blocks[number:]
        fits, left = _cut(block, max(room - _GAP, 1), measure)
        return [*head, fits], [*([left] if left else []), *blocks[number + 1 :]]
    return head, ()


def _cut(block: Block, room: int, measure: Measure) -> tuple[Block, Block | None]:
    """Cut a block in two; the first one has some of its text."""
    if isinstance(block, Paragraph):
        runs = list(runs_of(block.children))
        before, after = _cut_runs(runs, room, measure)
        return Paragraph(inline_of(before)), Paragraph(inline_of(after)) if after else None
    if isinstance(block, CodeBlock):
        at = _break_at(block.text, _fitting(block.text, room, measure), "\n")
        code = replace(block, text=block.text[:at].removesuffix("\n"))
        return code, replace(block, text=block.text[at:]) if at < len(block.text) else None
    if isinstance(block, Quote):
        inner, left = _cut_blocks(block.children, room, measure)
        return Quote(tuple(inner)), Quote(tuple(left)) if left else None
    return _cut_list(block, room, measure)


def _cut_list(block: ListBlock, room: int, measure: Measure) -> tuple[Block, Block | None]:
    taken: list[tuple[Block, ...]] = []
    for number, item in enumerate(block.items):
        length = blocks_length(item, measure) + _ITEM
        if length <= room:
            taken.append(item)
            room -= length
            continue
        rest = block.items[number:]
        if not taken:
            inner, left = _cut_blocks(item, max(room - _ITEM, 1), measure)
            taken.append(tuple(inner))
            rest = (tuple(left), *rest[1:]) if left else rest[1:]
        following = replace(block, items=rest, start=block.start + number) if rest else None
        return replace(block, items=tuple(taken)), following
    return block, None


def _cut_runs(runs: Sequence[Run], room: int, measure: Measure) -> tuple[list[Run], list[Run]]:
    """Cut runs behind the last word that fits."""
    used = 0
    for number, run in enumerate(runs):
        length = _leaf_length(run, measure)
        if used + length <= room:
            used += length
            continue
        if not isinstance(run.leaf, Text | Code):
            at = max(number, 1)  # a mention or an emoji stays whole
            return list(runs[:at]), _unindented(runs[at:])
        text = run.leaf.text
        at = _break_at(text, _fitting(text, room - used, measure), " ", must=number == 0)
        before = [replace(run, leaf=replace(run.leaf, text=text[:at]))] if at else []
        after = [replace(run, leaf=replace(run.leaf, text=text[at:]))] if at < len(text) else []
        return [*runs[:number], *before], _unindented([*after, *runs[number + 1 :]])
    return list(runs), []


def _unindented(runs: Sequence[Run]) -> list[Run]:
    """Leave out the line breaks at the beginning of what follows a cut."""
    start = 0
    while start < len(runs) and isinstance(runs[start].leaf, LineBreak):
        start += 1
    return list(runs[start:])


def _fitting(text: str, room: int, measure: Measure) -> int:
    """Return how many characters of a text fit: units are at least as many as characters."""
    low, high = 0, min(len(text), max(room, 0))
    while low < high:
        middle = (low + high + 1) // 2
        if measure(text[:middle]) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _break_at(text: str, fitting: int, separator: str, *, must: bool = True) -> int:
    """Return where to cut a text: behind a separator if there is one, else between grapheme clusters.

    With `must`, at least one character is before the cut.
    """
    at = text.rfind(separator, 0, fitting) + 1
    if at > fitting // 2 or (at and not must):
        return at
    at = fitting
    while 0 < at < len(text) and fitting - at < _LONGEST_CLUSTER and _joins(text, at):
        at -= 1
    if must and at <= 0:
        return max(fitting, 1)
    return max(at, 0)


def _joins(text: str, at: int) -> bool:
    return bool(_EXTENDS.match(text[at])) or text[at - 1] == "\u200d"
