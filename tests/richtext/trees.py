"""Canonical documents for the tests of dialects."""

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

from shared.richtext.build import canonical
from shared.richtext.markdown_render import SUPPORTED
from shared.richtext.tree import (
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

HOSTILE = (
    *(
        "*x*",
        "**",
        "_",
        "__init__",
        "***",
        "~~~",
        "||",
        "|a|b|\n|-|-|",
        ":-:|",
        "++",
        "+",
        "- a",
        "1. a",
        "12)",
    ),
    *(
        "# a",
        "> q",
        "```",
        "`",
        "``x`",
        "@everyone",
        "@here",
        "<!channel>",
        "<@U1>",
        "<#C1|x>",
        "[a](b)",
        "](x)",
    ),
    *(
        "[@a](mention://user/1)",
        "![:a:](emoji:1)",
        "!",
        "![",
        "\\",
        "\\\\",
        "&amp;",
        "&#64;",
        "&",
        "&lt",
        "---",
    ),
    *(
        "===",
        "<b>",
        "<https://a.example>",
        "https://a.example/x_y_z",
        " ",
        "  ",
        "\t",
        "\u00a0",
        "\u3000",
        "\u202e",
    ),
    *("\u200b", "\u2060", "\ufeff", "\ud800", "\x00", "\x1b", "\x85", "\u2028", "\r", "é", "e\u0301", "日本"),
    *(
        "👍🏽",
        "👨‍👩‍👧",
        "1\ufe0f\u20e3",
        "a",
        "b.",
        ".",
        "(",
        ")",
        "😀",
        "1",
        "12.",
        ":",
        "=",
        "#",
        ">",
        "mention://everyone",
    ),
)
_LEVELS = 3
T = TypeVar("T")
_texts = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=3), max_size=5).map("".join)
_ids = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=8)
_lines = _texts.map(lambda text: text.replace("\n", ""))
_labels = _lines.map(str.strip)
_urls = st.sampled_from(
    [
        *("https://a.example/", "http://a.example/x_y_(z)?a=*b*&amp;c", "https://a.example/#|x|~~[1]"),
        *("mailto:a@b.example", "https://xn--a.example/é&copy=1", "https://a.example/&#64;+"),
    ]
)
_LEAVES: dict[type, st.SearchStrategy[Inline]] = {
    Text: st.builds(Text, _texts),
    LineBreak: st.just(LineBreak()),
    Code: st.builds(Code, _texts),
    Emoji: st.builds(Emoji, st.sampled_from(["👍", "👨‍👩‍👧", "🇩🇪"]), st.just("")),
    CustomEmoji: st.builds(CustomEmoji, st.from_regex(r"[a-z0-9_+'-]{1,8}", fullmatch=True), _ids),
    UserMention: st.builds(UserMention, _ids, _labels),
    ChannelMention: st.builds(ChannelMention, _ids, _labels),
    GroupMention: st.builds(GroupMention, _ids, _labels),
    EveryoneMention: st.builds(EveryoneMention, st.sampled_from(["everyone", "channel", "here"])),
    Time: st.builds(Time, st.integers(0, 2**31), st.just("at noon"), st.just("")),
}


def inlines(supported: frozenset[type] = SUPPORTED) -> st.SearchStrategy[tuple[Inline, ...]]:
    """Return a strategy of inline nodes, not canonical."""
    leaves = st.one_of(*(leaf for kind, leaf in _LEAVES.items() if kind in supported))
    marks = [kind for kind in (Bold, Italic, Strike, Underline, Spoiler) if kind in supported]

    def extend(children: st.SearchStrategy[Inline]) -> st.SearchStrategy[Inline]:
        nodes = st.lists(children, min_size=1, max_size=3).map(tuple)
        marked = [st.builds(kind, nodes) for kind in marks]
        return st.one_of(*marked, *([st.builds(Link, _urls, nodes)] if Link in supported else []))

    nested = _nested(leaves, extend) if marks or Link in supported else leaves
    return st.lists(nested, min_size=1, max_size=6).map(tuple)


def _nested(
    leaves: st.SearchStrategy[T], extend: Callable[[st.SearchStrategy[T]], st.SearchStrategy[T]]
) -> st.SearchStrategy[T]:
    """Return a strategy of leaves and nodes around them, some levels deep.

    `st.recursive` draws a tree again and again until it has few enough leaves, which took most of the time.
    """
    nested = leaves
    for _ in range(_LEVELS):
        nested = leaves | extend(nested)
    return nested


def documents(supported: frozenset[type] = SUPPORTED) -> st.SearchStrategy[Document]:
    """Return a strategy of canonical documents with nodes of the `supported` classes."""
    paragraphs = st.builds(Paragraph, inlines(supported))
    leaves: list[st.SearchStrategy[Block]] = [paragraphs]
    if CodeBlock in supported:
        leaves.append(st.builds(CodeBlock, _texts, st.sampled_from(["", "python", "c++"])))

    def extend(children: st.SearchStrategy[Block]) -> st.SearchStrategy[Block]:
        blocks = st.lists(children, min_size=1, max_size=2).map(tuple)
        items = st.lists(blocks, min_size=1, max_size=3).map(tuple)
        quotes = [st.builds(Quote, blocks)] if Quote in supported else []
        lists = [
            st.builds(ListBlock, items),
            st.builds(ListBlock, items, st.just(True), st.integers(0, 10**9)),
        ]
        return st.one_of(children, *quotes, *(lists if ListBlock in supported else []))

    blocks = _nested(st.one_of(*leaves), extend)
    return st.lists(blocks, max_size=4).map(lambda found: canonical(Document(tuple(found))))


def depth(node: object) -> int:
    """Return the levels of nodes below and with a node."""
    if isinstance(node, tuple):
        return max(map(depth, node), default=0)
    children = getattr(node, "children", getattr(node, "blocks", getattr(node, "items", ())))
    return depth(children) + (not isinstance(node, Document))
