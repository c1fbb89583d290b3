"""Split a document into parts that a dialect's limit allows. Pure.

It is split between blocks where that is possible, then at lines and words, and within a word between grapheme
clusters. Mentions, emoji and other nodes without text of their own stay whole. Places in a document are
counted from its beginning: one for each character, and one for each node without text of its own.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from shared.richtext.build import canonical
from shared.richtext.clusters import cluster_start, first_cluster_end
from shared.richtext.tree import (
    MARKS,
    Block,
    Code,
    CodeBlock,
    Document,
    Inline,
    LineBreak,
    Link,
    ListBlock,
    Paragraph,
    Quote,
    Text,
)

_WORD_END: Final = re.compile(r"\s+")
_LINE_END: Final = re.compile("\n")
_BLOCKS, _LINES, _WORDS = range(3)
_SPARE: Final = 8
"""A part is large enough if it leaves at most one of so many parts of the limit unused."""

_Nodes = tuple[Any, ...]
"""Blocks, inline nodes, or the items of a list. What is done to them is the same for all."""


def split(document: Document, *, limit: int, measure: Callable[[Document], int]) -> tuple[Document, ...]:
    """Return the parts of a document, each of which measures at most `limit`.

    `measure` returns the size of a document in the dialect, and grows with it. A mention, or a character with
    its marks, that is larger than the limit is a part of its own, and exceeds it.
    """
    rest = canonical(document)
    if not rest.blocks:
        return ()
    size = measure(rest)
    if size <= limit:
        return (rest,)
    parts: list[Document] = []
    per_place = size / max(1, sum(map(_places, rest.blocks)))
    while rest.blocks:
        places = _fitting_places(rest, limit, measure, per_place)
        head, rest = divide(rest, _best_end(rest, places))
        parts += [head] if head.blocks else []
    return tuple(parts)


def first_part(document: Document, *, limit: int, measure: Callable[[Document], int]) -> Document:
    """Return the beginning of a canonical document that measures at most `limit`; empty if nothing fits."""
    size = measure(document)
    if size <= limit or not document.blocks:
        return document
    places = _fitting_places(document, limit, measure, size / max(1, sum(map(_places, document.blocks))))
    head, _ = divide(document, _best_end(document, places))
    return head if measure(head) <= limit else Document(())


def _fitting_places(
    document: Document, limit: int, measure: Callable[[Document], int], per_place: float
) -> int:
    """Return how many places fit in a part, nearly at most, and at least one; all if all fit.

    `per_place` is what one place measures on average.
    """
    fits, fitting = 0, 0
    exceeds, exceeding = 0, 0  # unknown
    guess = max(1, int(limit / per_place))
    while True:
        head, rest = divide(document, guess)
        size = measure(head)
        if size <= limit:
            fits, fitting = guess, size
            if not rest.blocks or limit - size <= limit // _SPARE:
                break
        else:
            exceeds, exceeding = guess, size
        if exceeds and exceeds - fits <= 1:
            break
        if not exceeds:
            guess = min(2 * fits, fits + 1 + fits * (limit - size) // max(size, 1))
        else:
            # Between both by their sizes, but never too near to one of them: sizes may grow unevenly.
            span = exceeds - fits
            step = span * (limit - fitting) // (exceeding - fitting)
            guess = fits + min(max(step, span // 8, 1), span - max(span // 8, 1))
    return max(fits, 1)


def _best_end(document: Document, places: int) -> int:
    """Return the place up to `places` where a part ends best, if possible in the second half of the part."""
    ends: tuple[list[int], list[int], list[int]] = ([], [], [])
    if _find_ends(document.blocks, 0, places, ends) <= places:
        return places  # all of it
    last = [found[bisect_right(found, places) - 1] if found and found[0] <= places else 0 for found in ends]
    return next((end for end in last if end > places // 2), 0) or next(filter(None, last), places)


def _find_ends(nodes: Iterable[Block | Inline], start: int, until: int, ends: Sequence[list[int]]) -> int:
    """Note the places between blocks, lines and words, and return one that is behind the nodes or `until`."""
    for node in nodes:
        if start > until:
            break
        if start and isinstance(node, Block):
            ends[_BLOCKS].append(start)
        match node:
            case ListBlock(items):
                for item in items:
                    start = _find_ends(item, start, until, ends)
                continue
            case Text(text) | Code(text) | CodeBlock(text):
                near = text[: until - start]
                ends[_WORDS].extend(start + match.end() for match in _WORD_END.finditer(near))
                ends[_LINES].extend(start + match.end() for match in _LINE_END.finditer(near))
            case LineBreak():
                ends[_LINES].append(start + 1)
        if isinstance(node, _PARENTS):
            start = _find_ends(node.children, start, until, ends)
        else:
            start += _places(node)
    return start


_PARENTS: Final = (Paragraph, Quote, Link, *MARKS)


def _places(node: Block | Inline) -> int:
    if isinstance(node, Text | Code | CodeBlock):
        return max(1, len(node.text))
    if isinstance(node, ListBlock):
        return sum(_places(block) for item in node.items for block in item)
    return sum(map(_places, node.children)) if isinstance(node, _PARENTS) else 1


def divide(document: Document, places: int) -> tuple[Document, Document]:
    """Return a canonical document up to a place, and the rest, without blanks where they are divided.

    The first one has at least one cluster or leaf, unless it has only blanks: then it is empty. The second
    one is always shorter than the document.
    """
    first, second, _ = _divide_all(document.blocks, places, is_first=True)
    return Document(_trimmed(first, at_end=True)), Document(_trimmed(second, at_end=False))


def _divide_all(nodes: _Nodes, places: int, *, is_first: bool) -> tuple[_Nodes, _Nodes, int]:
    """Return the nodes up to a place, the others, and the places of the former.

    If they are `is_first` in the document, something of them is before that place.
    """
    used = 0
    for index, node in enumerate(nodes):
        if used >= places:
            return nodes[:index], nodes[index:], used
        first, second, size = _divide_one(node, places - used, is_first=is_first and not index)
        used += size
        if second is not None:
            return (*nodes[:index], *((first,) if first else ())), (second, *nodes[index + 1 :]), used
    return nodes, (), used


def _divide_one(node: Any, places: int, *, is_first: bool) -> tuple[Any, Any, int]:
    """Return a node up to a place, its rest, and the places of the former. One of them may be None."""
    if isinstance(node, Text | Code | CodeBlock):
        return _divide_text(node, places, is_first=is_first)
    if isinstance(node, ListBlock):
        return _divide_list(node, places, is_first=is_first)
    if not isinstance(node, _PARENTS):
        return node, None, 1
    first, second, used = _divide_all(node.children, places, is_first=is_first)
    if not second:
        return node, None, used
    return (_with(node, first) if first else None), _with(node, second), used


def _with(parent: Any, children: _Nodes) -> Any:
    return replace(parent, children=children)


def _divide_text(node: Text | Code | CodeBlock, places: int, *, is_first: bool) -> tuple[Any, Any, int]:
    size = max(1, len(node.text))
    if size <= places:
        return node, None, size
    end = cluster_start(node.text, places)
    if not end and is_first:
        end = first_cluster_end(node.text)
    if not end:
        return None, node, 0
    if end >= size:
        return node, None, size
    first = node.text[:end]
    if isinstance(node, CodeBlock):
        first = first.removesuffix("\n")
    return replace(node, text=first), replace(node, text=node.text[end:]), end


def _divide_list(
    node: ListBlock, places: int, *, is_first: bool
) -> tuple[ListBlock | None, ListBlock | None, int]:
    """Divide a list between its items or within one. An ordered one goes on counting."""
    used = 0
    for index, item in enumerate(node.items):
        first, second, size = _divide_all(item, places - used, is_first=is_first and not index)
        used += size
        if second:
            before = (*node.items[:index], *((first,) if first else ()))
            after = (second, *node.items[index + 1 :])
            start = node.start + index if node.ordered else 1
            head = replace(node, items=before) if before else None
            return head, replace(node, items=after, start=start), used
    return node, None, used


def _trimmed(nodes: _Nodes, *, at_end: bool, trim: Callable[..., Any] | None = None) -> _Nodes:
    """Return nodes without the blanks and line breaks at one end, and without what is empty then.

    `trim` does that for one of them, and returns the same object if there is nothing to do.
    """
    left = nodes
    while left:
        node, others = (left[-1], left[:-1]) if at_end else (left[0], left[1:])
        trimmed = (trim or _trimmed_node)(node, at_end=at_end)
        if trimmed is node:
            return left
        if trimmed:
            return (*others, trimmed) if at_end else (trimmed, *others)
        left = others
    return left


def _trimmed_node(node: Any, *, at_end: bool) -> Any:
    """Return a node without the blanks at one end; None if there is nothing else."""
    if isinstance(node, LineBreak):
        return None
    if isinstance(node, Text):
        text = node.text.rstrip() if at_end else node.text.lstrip()
        return node if text == node.text else Text(text) if text else None
    if isinstance(node, ListBlock):
        items = _trimmed(node.items, at_end=at_end, trim=_trimmed)
        return node if items is node.items else replace(node, items=items) if items else None
    if isinstance(node, _PARENTS):
        children = _trimmed(node.children, at_end=at_end)
        return node if children is node.children else _with(node, children) if children else None
    return node
