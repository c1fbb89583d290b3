"""The document tree of formatted text: what every dialect is parsed to, and rendered from.

Identifiers in the tree (`UserMention.id`, ...) are those of the dialect that was parsed. Who carries text
from one
system to another replaces them before rendering (`mentions.py`). Nesting has a limit, so that whoever walks a
tree may recurse; parsers flatten what is nested deeper.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

MAX_DEPTH: Final = 16
"""Levels of blocks and inline nodes together, the document not counted."""


@dataclass(slots=True)
class Text:
    """Characters without meaning to any dialect. It contains no line break."""

    text: str


@dataclass(frozen=True, slots=True)
class LineBreak:
    pass


@dataclass(frozen=True, slots=True)
class Code:
    """Code within a line."""

    text: str


@dataclass(frozen=True, slots=True)
class Emoji:
    """An emoji of Unicode. `name` is its short name (`thumbsup`), empty if the dialect has none."""

    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class CustomEmoji:
    """An emoji of a workspace.

    `id` is what the dialect refers to it by; `name` is shown where it is unknown.
    """

    name: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class UserMention:
    """A person. `label` is the name to show, without `@`; empty if the dialect does not say."""

    id: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class ChannelMention:
    """A channel. `label` is its name without `#`; empty if the dialect does not say."""

    id: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class GroupMention:
    """A group of people. `label` is its name without `@`; empty if the dialect does not say."""

    id: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class EveryoneMention:
    """A mass mention: everyone of the workspace, the members of a channel, or those who are here now."""

    scope: Literal["everyone", "channel", "here"] = "everyone"


@dataclass(frozen=True, slots=True)
class Time:
    """A moment in seconds since 1970, shown in the reader's time zone. `fallback` is its text elsewhere."""

    at: int
    fallback: str
    format: str = ""
    """The dialect's format, for a target of the same dialect."""


@dataclass(frozen=True, slots=True)
class Bold:
    children: "tuple[Inline, ...]"


@dataclass(frozen=True, slots=True)
class Italic:
    children: "tuple[Inline, ...]"


@dataclass(frozen=True, slots=True)
class Strike:
    children: "tuple[Inline, ...]"


@dataclass(frozen=True, slots=True)
class Underline:
    children: "tuple[Inline, ...]"


@dataclass(frozen=True, slots=True)
class Spoiler:
    children: "tuple[Inline, ...]"


@dataclass(frozen=True, slots=True)
class Link:
    """A link to an absolute `http`, `https` or `mailto` address. No link is in another one."""

    url: str
    children: "tuple[Inline, ...]"


MARKS: Final = (Bold, Italic, Strike, Underline, Spoiler)
"""The marks, the outermost first: a tree that is made from runs nests them in this order, within a link."""
Mark = type[Bold] | type[Italic] | type[Strike] | type[Underline] | type[Spoiler]
Marked = Bold | Italic | Strike | Underline | Spoiler | Link
Inline = (
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
    | Marked
)


@dataclass(slots=True)
class Paragraph:
    children: tuple[Inline, ...]


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Lines of code, without a last line break. `language` may be empty."""

    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    children: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True)
class ListBlock:
    """A list. Each item is a sequence of blocks, lists among them. `start` counts for an ordered list."""

    items: "tuple[tuple[Block, ...], ...]"
    ordered: bool = False
    start: int = 1


Block = Paragraph | CodeBlock | Quote | ListBlock


@dataclass(slots=True)
class Document:
    blocks: tuple[Block, ...]
    is_canonical: bool = field(default=False, compare=False, repr=False, kw_only=True)
    """True only for what `build.canonical` returned: it need not be checked again. The tree is the same."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that a dialect cannot show as it was: a node's name, and what became of it.

    `node` is the lower-case name of the node (`underline`), `shown_as` is for people: "plain text".
    """

    node: str
    shown_as: str
