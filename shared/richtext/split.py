"""Split a document into parts that a dialect's limit allows. Pure.

It is split between blocks where that is possible, then at lines and words, and within a word between grapheme
clusters. Mentions, emoji and other nodes without text of their own stay whole.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from shared.richtext.build import canonical
from shared.richtext.clusters import cluster_start
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
    Paragraph,
    Quote,
    Spoiler,
    Strike,
    Text,
    Underline,
)

_WORD_END: Final = re.compile(r"\s+")

_BLOCKS, _LINES, _WORDS = range(3)


def split(document: Document, *, limit: int, measure: Callable[[Document], int]) -> tuple[Document, ...]:
    """Return the parts of a document, each of which measures at most `limit`.

    `measure` returns the size of a document in the dialect, and grows with it. A mention, or a character with
    its marks, that is larger than the limit is a part of its own, and exceeds it. The time grows with the
    length of the document times the number of its parts.
    """
    parts: list[Document] = []
    rest = canonical(document)
    while rest.blocks:
        size = _fitting_size(rest, limit, measure)
        head, rest = _divide(rest, size)
        parts.append(head)
    return tuple(parts)


def _fitting_size(document: Document, limit: int, measure: Callable[[Document], int]) -> int:
    """Return how much of a document is the next part, at the best place to end it."""
    total = sum(map(_size, document.blocks))
    fits, exceeds = 0, min(total, max(limit, 1))
    while measure(_divide(document, exceeds)[0]) <= limit:
        if exceeds == total:
            return total
        fits, exceeds = exceeds, min(total, 2 * exceeds)
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        if measure(_divide(document, middle)[0]) <= limit:
            fits = middle
        else:
            exceeds = middle
    return _best_end(document, max(fits, 1))


def _best_end(document: Document, size: int) -> int:
    """Return the place up to `size` where a part ends best, if possible in the second half of the part."""
    ends: tuple[list[int], list[int], list[int]] = ([], [], [])
    _find_ends(document.blocks, 0, ends)
    last = [places[bisect_right(places, size) - 1] if places and places[0] <= size else 0 for places in ends]
    return next((end for end in last if end > size // 2), 0) or next(filter(None, last), size)


def _find_ends(nodes: Iterable[Block | Inline], start: int, ends: Sequence[list[int]]) -> int:
    """Note the places between blocks, lines and words, and return the place behind the nodes."""
    for node in nodes:
        if start and isinstance(node, Block):
            ends[_BLOCKS].append(start)
        match node:
            case ListBlock(items):
                for item in items:
                    start = _find_ends(item, start, ends)
                continue
            case Text(text) | Code(text):
                ends[_WORDS].extend(start + match.end() for match in _WORD_END.finditer(text))
            case CodeBlock(text):
                ends[_LINES].extend(start + match.end() for match in re.finditer("\n", text))
                ends[_WORDS].extend(start + match.end() for match in _WORD_END.finditer(text))
            case LineBreak():
                ends[_LINES].append(start + 1)
        if isinstance(node, _PARENTS):
            start = _find_ends(node.children, start, ends)
        else:
            start += _size(node)
    return start


_PARENTS = Paragraph | Quote | Link | Bold | Italic | Strike | Underline | Spoiler


def _size(node: Block | Inline) -> int:
    """Return the places of a node: one for each character, one for a node without text of its own."""
    match node:
        case Text(text) | Code(text) | CodeBlock(text):
            return max(1, len(text))
        case ListBlock(items):
            return sum(_size(block) for item in items for block in item)
    return sum(map(_size, node.children)) if isinstance(node, _PARENTS) else 1


def _divide(document: Document, size: int) -> tuple[Document, Document]:
    """Return the document up to a place and the rest. The first one is never empty."""
    first, second = _divide_blocks(document.blocks, size)
    head = canonical(Document(first))
    if not head.blocks:
        # The place was within the first cluster, or only blanks are before it.
        return _divide(document, size + 1)
    return head, canonical(Document(second))


def _divide_blocks(blocks: Sequence[Block], size: int) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    for index, block in enumerate(blocks):
        places = _size(block)
        if places > size:
            first, second = _divide_block(block, size) if size else ((), (block,))
            return (*blocks[:index], *first), (*second, *blocks[index + 1 :])
        size -= places
    return tuple(blocks), ()


def _divide_block(block: Block, size: int) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    match block:
        case Paragraph(children):
            head, tail = _divide_inlines(children, size)
            return (Paragraph(_strip_end(head)),), (Paragraph(_strip_start(tail)),)
        case CodeBlock(text, language):
            end = cluster_start(text, size)
            if not end:
                return (), (block,)
            return (CodeBlock(text[:end].removesuffix("\n"), language),), (CodeBlock(text[end:], language),)
        case Quote(children):
            first, second = _divide_blocks(children, size)
            return (Quote(first),), (Quote(second),)
    for index, item in enumerate(block.items):
        places = sum(map(_size, item))
        if places > size:
            first, second = _divide_blocks(item, size) if size else ((), item)
            before, after = (*block.items[:index], first), (second, *block.items[index + 1 :])
            start = block.start + index
            return (ListBlock(before, block.ordered, block.start),), (ListBlock(after, block.ordered, start),)
        size -= places
    return (block,), ()


def _strip_end(nodes: tuple[Inline, ...]) -> tuple[Inline, ...]:
    last = nodes[-1] if nodes else None
    return (*nodes[:-1], Text(last.text.rstrip(" "))) if isinstance(last, Text) else nodes


def _strip_start(nodes: tuple[Inline, ...]) -> tuple[Inline, ...]:
    first = nodes[0] if nodes else None
    return (Text(first.text.lstrip(" ")), *nodes[1:]) if isinstance(first, Text) else nodes


def _divide_inlines(nodes: Sequence[Inline], size: int) -> tuple[tuple[Inline, ...], tuple[Inline, ...]]:
    for index, node in enumerate(nodes):
        places = _size(node)
        if places > size:
            first, second = _divide_inline(node, size) if size else ((), (node,))
            return (*nodes[:index], *first), (*second, *nodes[index + 1 :])
        size -= places
    return tuple(nodes), ()


def _divide_inline(node: Inline, size: int) -> tuple[tuple[Inline, ...], tuple[Inline, ...]]:
    match node:
        case Text(text) | Code(text):
            kind = type(node)
            end = cluster_start(text, size)
            head, tail = text[:end].rstrip(" "), text[end:].lstrip(" ") if end else text
            return ((kind(head),) if head else ()), ((kind(tail),) if tail else ())
        case Link(url, children):
            first, second = _divide_inlines(children, size)
            return ((Link(url, first),) if first else ()), ((Link(url, second),) if second else ())
        case Bold(children) | Italic(children) | Strike(children) | Underline(children) | Spoiler(children):
            first, second = _divide_inlines(children, size)
            return (type(node)(first),), (type(node)(second),)
    return (), (node,)
