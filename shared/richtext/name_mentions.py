"""Find mentions and emoji that a dialect writes as plain words: `@ada`, `~general`, `:smile:`. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from shared.richtext.build import canonical
from shared.richtext.tree import (
    Block,
    Bold,
    ChannelMention,
    CodeBlock,
    Document,
    Emoji,
    Inline,
    Italic,
    ListBlock,
    Paragraph,
    Quote,
    Spoiler,
    Strike,
    Text,
    Underline,
    UserMention,
)

_WORD: Final = re.compile(r"(?<![\w@#~:/.])([@#~])([\w.\-]{1,128})|:([a-z0-9_+\-]{1,64}):", re.IGNORECASE)
_LAST_SIGNS: Final = ".-_"
"""Characters of names that more often end a sentence when they end a word."""


@dataclass(frozen=True, slots=True)
class WordNames:
    """Who and what is known by a name in lower case: ids of users, and of channels behind `channel_mark`.

    `emoji` returns the character of a short name, None if it has none.
    """

    users: Mapping[str, str]
    channels: Mapping[str, str]
    channel_mark: str
    emoji: Callable[[str], str | None]


def with_word_mentions(document: Document, names: WordNames) -> Document:
    """Return the canonical document with known names as mentions and emoji, outside links and code."""
    return canonical(Document(tuple(_block(block, names) for block in document.blocks)))


def _block(block: Block, names: WordNames) -> Block:
    match block:
        case Paragraph(children):
            return Paragraph(_inlines(children, names))
        case Quote(children):
            return Quote(tuple(_block(child, names) for child in children))
        case ListBlock(items, ordered, start):
            return ListBlock(
                tuple(tuple(_block(child, names) for child in item) for item in items), ordered, start
            )
        case CodeBlock():
            return block


def _inlines(nodes: tuple[Inline, ...], names: WordNames) -> tuple[Inline, ...]:
    found: list[Inline] = []
    for node in nodes:
        match node:
            case Text(text):
                found.extend(_words(text, names))
            case (
                Bold(children) | Italic(children) | Strike(children) | Underline(children) | Spoiler(children)
            ):
                found.append(type(node)(_inlines(children, names)))
            case _:
                found.append(node)
    return tuple(found)


def _words(text: str, names: WordNames) -> list[Inline]:
    nodes: list[Inline] = []
    start = 0
    for match in _WORD.finditer(text):
        node, length = _word(match, names)
        if node is not None:
            nodes += (Text(text[start : match.start()]), node)
            start = match.start() + length
    return [*nodes, Text(text[start:])]


def _word(match: re.Match[str], names: WordNames) -> tuple[Inline | None, int]:
    """Return what a word stands for, and how many of its characters."""
    mark, name, emoji = match.groups()
    if emoji:
        character = names.emoji(emoji.lower())
        return (Emoji(character, emoji.lower()) if character else None), len(match[0])
    known = names.users if mark == "@" else names.channels if mark == names.channel_mark else {}
    while name and name.lower() not in known and name[-1] in _LAST_SIGNS:
        name = name[:-1]
    id_ = known.get(name.lower())
    if id_ is None:
        return None, 0
    return (UserMention(id_, name) if mark == "@" else ChannelMention(id_, name)), len(name) + 1
