"""Build canonical trees: clean text, merged neighbours, limited nesting. Pure.

In a canonical tree neighbouring texts and marks are merged, no mark is in one of its own kind, marks neither
begin nor end with blanks, paragraphs neither begin nor end with line breaks, and nothing is empty. Every
dialect can render such a tree so that parsing gives it back.
"""

import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from shared.richtext.tree import (
    MARKS,
    Block,
    Bold,
    ChannelMention,
    Code,
    CodeBlock,
    CustomEmoji,
    Document,
    Emoji,
    EveryoneMention,
    GroupMention,
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
    Time,
    Underline,
    UserMention,
)
from shared.richtext.urls import safe_url

MAX_TEXT_CHARACTERS: Final = 40_000
"""A longer text is cut before it is parsed."""
MAX_TEXT_LINES: Final = 1_500
"""A text with more lines is cut too: each makes nodes of the tree."""
MAX_CONTAINERS: Final = 8
"""Levels of quotes and lists. With a paragraph, six marks and a text they are the MAX_DEPTH of a tree."""
CUT_MARK: Final = "…"

_MarkNode = Bold | Italic | Strike | Underline | Spoiler
_MERGED: Final = frozenset({Text, Code, *MARKS})
_UNCHANGED: Final = frozenset({LineBreak, Emoji, Time})

_LINE_END: Final = re.compile(r"\r\n|[\r\u2028\u2029]")
_ANY_LINE_END: Final = re.compile(r"\r\n|[\n\r\u2028\u2029]")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_UNCLEAN: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNCLEAN_OR_LINES: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LANGUAGE: Final = re.compile(r"[A-Za-z0-9_+#.-]{1,30}")


def clean(text: str) -> str:
    """Return text with line feeds as its line ends, without control characters, and valid in UTF-8.

    A lone surrogate becomes U+FFFD. Tabs stay.
    """
    if text.isprintable() or not _UNCLEAN.search(text):
        return text
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", _LINE_END.sub("\n", text)))


def is_in_a_line(text: str) -> bool:
    """Return whether a text has no line break, and nothing that `clean` changes."""
    # What is printable is clean, and found out several times as fast; a tab is neither.
    return text.isprintable() or _UNCLEAN_OR_LINES.search(text) is None


def is_clean_line(text: str) -> bool:
    """Return whether a text is not blank, and a line that `clean` does not change."""
    return bool(text) and not text.isspace() and is_in_a_line(text)


def clean_line(text: str) -> str:
    """Return clean text without line breaks: each becomes a blank."""
    return clean(text).replace("\n", " ")


def cut_text(text: str) -> str:
    """Cut a text to MAX_TEXT_CHARACTERS and MAX_TEXT_LINES with an ellipsis as its last character."""
    cut = cut_lines(text[:MAX_TEXT_CHARACTERS], MAX_TEXT_LINES)
    return text if len(cut) == len(text) else cut[: -len(CUT_MARK)] + CUT_MARK


def cut_lines(text: str, max_lines: int) -> str:
    """Return the first lines of a text."""
    if len(text) < max_lines:
        return text
    surplus = next(islice(_ANY_LINE_END.finditer(text), max(0, max_lines - 1), None), None)
    return text[: surplus.start()] if surplus else text


def text_nodes(text: str) -> tuple[Inline, ...]:
    """Return text as nodes: lines and the line breaks between them."""
    lines = clean(text).split("\n")
    nodes: list[Inline] = []
    for number, line in enumerate(lines):
        if number:
            nodes.append(LineBreak())
        if line:
            nodes.append(Text(line))
    return tuple(nodes)


def visible_text(nodes: Iterable[Inline]) -> str:
    """Return what a reader sees of inline nodes; a line break is a line feed."""
    return "".join(map(_visible, nodes))


def _visible(node: Inline) -> str:
    match node:
        case Text(text) | Code(text):
            return text
        case LineBreak():
            return "\n"
        case Emoji(text, name):
            return text or f":{name}:"
        case CustomEmoji(name):
            return f":{name}:"
        case UserMention(id_, label) | GroupMention(id_, label):
            return f"@{label or id_}"
        case ChannelMention(id_, label):
            return f"#{label or id_}"
        case EveryoneMention(scope):
            return f"@{scope}"
        case Time(_, fallback):
            return fallback
    return visible_text(node.children)


def canonical(document: Document) -> Document:
    """Return the canonical tree of a document. No text is lost, empty nodes and surplus nesting are."""
    return (
        document if document.is_canonical else Document(canonical_blocks(document.blocks), is_canonical=True)
    )


def only_text(document: Document) -> str | None:
    """Return the text of a canonical document that is nothing else, as most are; None for any other one."""
    if document.is_canonical and len(document.blocks) == 1:
        block = document.blocks[0]
        if type(block) is Paragraph and len(block.children) == 1:
            node = block.children[0]
            return node.text if type(node) is Text else None
    return None


def canonical_blocks(blocks: Iterable[Block], containers: int = 0) -> tuple[Block, ...]:
    """Return canonical blocks that are within so many `containers`. Deeper ones than the limit dissolve."""
    done: list[Block] = []
    for block in blocks:
        match block:
            case Paragraph(children):
                nodes = _trim_line_breaks(canonical_inlines(children))
                done += [Paragraph(nodes)] if nodes else []
            case CodeBlock(text, language):
                done.append(CodeBlock(clean(text), language if _LANGUAGE.fullmatch(language) else ""))
            case Quote(children) if containers >= MAX_CONTAINERS:
                done += canonical_blocks(children, containers)
            case Quote(children):
                inner = canonical_blocks(children, containers + 1)
                done += [Quote(inner)] if inner else []
            case ListBlock():
                done += _canonical_list(block, containers)
    return tuple(done)


def _canonical_list(block: ListBlock, containers: int) -> tuple[Block, ...]:
    if containers >= MAX_CONTAINERS:
        return tuple(b for item in block.items for b in canonical_blocks(item, containers))
    items = tuple(filter(None, (canonical_blocks(item, containers + 1) for item in block.items)))
    if not items:
        return ()
    start = min(max(block.start, 0), 999_999_999 - len(items)) if block.ordered else 1
    return (ListBlock(items, block.ordered, start),)


def canonical_inlines(nodes: Iterable[Inline]) -> tuple[Inline, ...]:
    """Return canonical inline nodes."""
    return _inlines(nodes, frozenset())


def _inlines(nodes: Iterable[Inline], around: frozenset[type]) -> tuple[Inline, ...]:
    done: list[Inline] = []
    for node in nodes:
        # Most nodes have nothing that must be changed.
        if type(node) in _UNCHANGED or (type(node) is Text and node.text and is_in_a_line(node.text)):
            _append(done, node)
            continue
        for part in _inline(node, around):
            _append(done, part)
    return tuple(done)


def _append(done: list[Inline], node: Inline) -> None:
    """Append a node, merged with the last one if both are texts, code, or marks of one kind."""
    kind = type(node)
    if kind not in _MERGED or not done or type(done[-1]) is not kind:
        done.append(node)
        return
    last = done[-1]
    if isinstance(node, Text | Code) and isinstance(last, Text | Code):
        done[-1] = type(node)(last.text + node.text)
    elif isinstance(node, MARKS) and isinstance(last, MARKS):
        merged = list(last.children)
        for child in node.children:
            _append(merged, child)
        done[-1] = type(node)(tuple(merged))


def _inline(node: Inline, around: frozenset[type]) -> tuple[Inline, ...]:
    match node:
        case Bold() | Italic() | Strike() | Underline() | Spoiler():
            return _mark(node, around)
        case Text(text):
            return text_nodes(text)
        case Link():
            return _link(node, around)
        case Code(text):
            return (Code(clean_line(text)),) if clean_line(text) else ()
        case CustomEmoji(name, id_):
            return (CustomEmoji(clean_line(name), clean_line(id_)),)
        case UserMention(id_, label) | ChannelMention(id_, label) | GroupMention(id_, label):
            if Link in around or not (clean_id := clean_line(id_)):
                return text_nodes(_visible(node))
            return (type(node)(clean_id, clean_line(label)),)
        case EveryoneMention() if Link in around:
            return text_nodes(_visible(node))
    return (node,)


def _link(node: Link, around: frozenset[type]) -> tuple[Inline, ...]:
    url = safe_url(node.url)
    children = _inlines(node.children, around | {Link})
    if Link in around or not url:
        return children
    return (Link(url, children or (Text(url),)),)


def _mark(node: _MarkNode, around: frozenset[type]) -> tuple[Inline, ...]:
    """Return a mark with the blanks at its ends outside of it."""
    kind = type(node)
    children = _inlines(node.children, around if kind in around else around | {kind})
    if kind in around:
        return children
    before, children = _split_blanks(children, str.lstrip)
    after, children = _split_blanks(children[::-1], str.rstrip)
    marked = (kind(children[::-1]),) if children else ()
    return (*before, *marked, *after[::-1])


def _split_blanks(
    nodes: tuple[Inline, ...], strip: Callable[[str], str]
) -> tuple[tuple[Inline, ...], tuple[Inline, ...]]:
    """Return the blanks that nodes begin with, and the rest. `strip` removes blanks at the outer side."""
    blanks: list[Inline] = []
    for index, node in enumerate(nodes):
        if isinstance(node, Text):
            rest = strip(node.text)
            size = len(node.text) - len(rest)
            if size:
                blanks.append(Text(node.text[:size] if node.text.endswith(rest) else node.text[-size:]))
            if rest:
                return tuple(blanks), ((Text(rest), *nodes[index + 1 :]) if size else nodes[index:])
        elif isinstance(node, LineBreak):
            blanks.append(node)
        else:
            return tuple(blanks), nodes[index:]
    return tuple(blanks), ()


def _trim_line_breaks(nodes: tuple[Inline, ...]) -> tuple[Inline, ...]:
    start, end = 0, len(nodes)
    while start < end and isinstance(nodes[start], LineBreak):
        start += 1
    while start < end and isinstance(nodes[end - 1], LineBreak):
        end -= 1
    return nodes[start:end]
