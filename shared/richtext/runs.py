"""Flat runs of text with marks, as most dialects have them, and the nested tree: one from the other."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from shared.richtext.build import clean
from shared.richtext.tree import (
    Bold,
    ChannelMention,
    Code,
    CustomEmoji,
    Emoji,
    EveryoneMention,
    GroupMention,
    Inline,
    Italic,
    LineBreak,
    Link,
    Paragraph,
    Spoiler,
    Strike,
    Text,
    Time,
    Underline,
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
Mark = type[Bold] | type[Italic] | type[Strike] | type[Underline] | type[Spoiler]
MARKS: Final[tuple[Mark, ...]] = (Bold, Italic, Strike, Underline, Spoiler)
"""The marks, the outermost first: a tree that is made from runs nests them in this order, within a link."""
NO_MARKS: Final[frozenset[Mark]] = frozenset()
MAX_RUNS: Final = 2_000
"""Runs that a dialect's parser makes of one message. What is behind them is cut off."""


@dataclass(frozen=True, slots=True)
class Run:
    """A leaf of the tree, the marks around it, and the address that it links to, if any."""

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
    runs: list[Run] = []
    for number, line in enumerate(clean(text).split("\n")):
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
        elif isinstance(node, Bold | Italic | Strike | Underline | Spoiler):
            yield from runs_of(node.children, marks | {type(node)}, url)
        else:
            yield Run(node, marks, url)


def inline_of(runs: Sequence[Run]) -> tuple[Inline, ...]:
    """Nest runs: links outside, then the marks in their order. Neighbours with the same marks become one."""
    used = frozenset[Mark]().union(*(run.marks for run in runs))
    nodes: list[Inline] = []
    levels = [mark for mark in MARKS if mark in used]
    for url, group in groupby(runs, key=lambda run: run.url):
        children = _nest(list(group), levels)
        if url and children:
            nodes.append(Link(url, children))
        else:
            nodes += children
    return tuple(nodes)


def _nest(runs: Sequence[Run], levels: Sequence[Mark]) -> tuple[Inline, ...]:
    """Nest by the first level, and its groups by the others: never deeper than there are marks."""
    if not levels:
        return tuple(_merged(runs))
    mark, *inner = levels
    nodes: list[Inline] = []
    for is_marked, group in groupby(runs, key=lambda run: mark in run.marks):
        children = _nest(list(group), inner)
        if is_marked and children:
            nodes.append(mark(children))
        else:
            nodes += children
    return tuple(nodes)


def _merged(runs: Iterable[Run]) -> Iterator[Leaf]:
    for kind, group in groupby((run.leaf for run in runs), key=type):
        if kind in {Text, Code}:
            joined = "".join(leaf.text for leaf in group if isinstance(leaf, Text | Code))
            if joined:
                yield Text(joined) if kind is Text else Code(joined)
        else:
            yield from group


def paragraphs_of(runs: Sequence[Run]) -> list[Paragraph]:
    """Return the paragraphs of runs: they end at an empty line. Line breaks at their ends are left out."""
    paragraphs: list[Paragraph] = []
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
        if any(not isinstance(run.leaf, Text) or run.leaf.text.strip() for run in line):
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def split_lines(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each line, without the line breaks."""
    lines: list[list[Run]] = [[]]
    for run in runs:
        if isinstance(run.leaf, LineBreak):
            lines.append([])
        else:
            lines[-1].append(run)
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
