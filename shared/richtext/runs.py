"""Flat runs of text with marks, as most dialects have them, and the nested tree: one from the other."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from shared.richtext.build import clean
from shared.richtext.tree import (
    MARKS,
    ChannelMention,
    Code,
    CustomEmoji,
    Emoji,
    EveryoneMention,
    GroupMention,
    Inline,
    LineBreak,
    Link,
    Mark,
    Paragraph,
    Text,
    Time,
    UserMention,
)
from shared.richtext.urls import safe_url

Leaf = (
    Text
    | LineBreak
    | Code
    | Emoji
    | CustomEmoji
    | UserMention
    | ChannelMention
    | GroupMention
    | EveryoneMention
    | Time
)
NO_MARKS: Final[frozenset[Mark]] = frozenset()
MAX_RUNS: Final = 1_500
"""Runs that a dialect's parser makes of one message. What is behind them is cut off."""


@dataclass(slots=True)
class Run:
    """A leaf of the tree, the marks around it, and the address that it links to, if any.

    It is not frozen, because there are many: that takes twice the time to make one. Nobody changes a run.
    """

    leaf: Leaf
    marks: frozenset[Mark] = NO_MARKS
    url: str = ""


def is_link(url: str) -> bool:
    """Return whether a `Link` may have an address."""
    return bool(safe_url(url))


def text_runs(
    text: str, marks: frozenset[Mark] = NO_MARKS, url: str = "", *, code: bool = False
) -> list[Run]:
    """Return the runs of a text that may have line breaks."""
    text = clean(text)
    if "\n" not in text:
        return [Run(Code(text) if code else Text(text), marks, url)] if text else []
    runs: list[Run] = []
    for number, line in enumerate(text.split("\n")):
        if number:
            runs.append(Run(LineBreak(), marks, url))
        if line:
            runs.append(Run(Code(line) if code else Text(line), marks, url))
    return runs


def runs_of(children: Iterable[Inline], marks: frozenset[Mark] = NO_MARKS, url: str = "") -> Iterator[Run]:
    """Yield the runs of inline nodes, which the tree nests no deeper than `MAX_DEPTH`."""
    for node in children:
        if isinstance(node, Link):
            yield from runs_of(node.children, marks, url or node.url)
        elif isinstance(node, MARKS):
            yield from runs_of(node.children, marks | {type(node)}, url)
        else:
            yield Run(node, marks, url)


def inline_of(runs: Iterable[Run]) -> tuple[Inline, ...]:
    """Nest runs: links outside, then the marks in their order. Neighbours with the same marks become one."""
    root: list[Inline] = []
    open_: list[tuple[str | Mark, list[Inline]]] = []  # addresses and marks with what is in them so far
    nodes = root
    before: tuple[str, frozenset[Mark]] = ("", NO_MARKS)
    for run in runs:
        around = (run.url, run.marks)
        if around != before:
            before = around
            path: list[str | Mark] = [run.url] if run.url else []
            path += [mark for mark in MARKS if mark in run.marks]
            same = 0
            for (wrapper, _), wanted in zip(open_, path, strict=False):
                if wrapper != wanted:
                    break
                same += 1
            _close(open_, same, root)
            open_ += [(wrapper, []) for wrapper in path[same:]]
            nodes = open_[-1][1] if open_ else root
        _add_leaf(nodes, run.leaf)
    _close(open_, 0, root)
    return tuple(root)


def _close(open_: list[tuple[str | Mark, list[Inline]]], left: int, root: list[Inline]) -> None:
    """Close the innermost links and marks, until so many are `left` open."""
    while len(open_) > left:
        wrapper, children = open_.pop()
        parent = open_[-1][1] if open_ else root
        if children:
            inner = tuple(children)
            parent.append(Link(wrapper, inner) if isinstance(wrapper, str) else wrapper(inner))


def _add_leaf(nodes: list[Inline], leaf: Leaf) -> None:
    """Append a leaf, merged with the last one if both are texts or both are code."""
    if not isinstance(leaf, Text | Code):
        nodes.append(leaf)
    elif leaf.text:
        last = nodes[-1] if nodes else None
        if isinstance(last, Text | Code) and type(last) is type(leaf):
            nodes[-1] = type(leaf)(last.text + leaf.text)
        else:
            nodes.append(leaf)


def paragraphs_of(runs: Sequence[Run]) -> list[Paragraph]:
    """Return the paragraphs of runs: they end at an empty line. Line breaks at their ends are left out."""
    paragraphs: list[Paragraph] = []
    if LineBreak not in {type(run.leaf) for run in runs}:  # as in most texts
        return [] if _is_blank(runs) else [Paragraph(inline_of(runs))]
    for lines in _blocks_of_lines(runs):
        children: list[Run] = []
        for number, line in enumerate(lines):
            if number:
                children.append(_break_between(lines[number - 1], line))
            children += line
        paragraphs.append(Paragraph(inline_of(children)))
    return paragraphs


def _blocks_of_lines(runs: Sequence[Run]) -> Iterator[list[list[Run]]]:
    block: list[list[Run]] = []
    for line in split_lines(runs):
        if not _is_blank(line):
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _is_blank(line: Iterable[Run]) -> bool:
    return all(isinstance(run.leaf, Text) and not run.leaf.text.strip() for run in line)


def split_lines(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each line, without the line breaks."""
    line: list[Run] = []
    lines = [line]
    for run in runs:
        if isinstance(run.leaf, LineBreak):
            line = []
            lines.append(line)
        else:
            line.append(run)
    return lines


def _break_between(before: Sequence[Run], after: Sequence[Run]) -> Run:
    """Return a line break within the marks that both lines have where they meet: dialects do not tell."""
    last, first = before[-1], after[0]
    return Run(LineBreak(), last.marks & first.marks, last.url if last.url == first.url else "")


def join_paragraphs(paragraphs: Sequence[Paragraph]) -> list[Run]:
    """Return the runs of paragraphs with an empty line between them."""
    runs: list[Run] = []
    for number, paragraph in enumerate(paragraphs):
        if number:
            runs += (Run(LineBreak()), Run(LineBreak()))
        runs += runs_of(paragraph.children)
    return runs


def with_mark(runs: Iterable[Run], mark: Mark) -> list[Run]:
    """Return the runs with one more mark around each."""
    return [replace(run, marks=run.marks | {mark}) for run in runs]
