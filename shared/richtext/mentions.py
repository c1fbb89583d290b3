"""Find and replace the mentions of a document. Pure.

The identifiers of a tree are those of the dialect that it came from: who carries text to another system puts
that system's in their place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

from shared.richtext.build import canonical, is_clean_line, is_in_a_line, only_text
from shared.richtext.degrade import PARENTS, everyone_text
from shared.richtext.tree import (
    MARKS,
    ChannelMention,
    CodeBlock,
    Document,
    EveryoneMention,
    GroupMention,
    Inline,
    Link,
    ListBlock,
    Paragraph,
    Quote,
    Text,
    UserMention,
)
from shared.richtext.tree import Block as _Block


@dataclass(frozen=True, slots=True)
class Mentioned:
    """Whom a document mentions: ids in the order of their first mention, each once."""

    users: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    everyone: tuple[str, ...] = ()
    """The scopes of mass mentions."""

    def __bool__(self) -> bool:
        return bool(self.users or self.channels or self.groups or self.everyone)


_NOBODY: Final = Mentioned()


def map_mentions(
    document: Document,
    *,
    user: Callable[[UserMention], Inline] | None = None,
    channel: Callable[[ChannelMention], Inline] | None = None,
    group: Callable[[GroupMention], Inline] | None = None,
    everyone: Callable[[EveryoneMention], Inline] | None = None,
) -> Document:
    """Return the canonical document with each mention replaced by what its function returns for it.

    Mentions without a function stay as they are. What a function returns is not mapped again.
    """
    functions = {UserMention: user, ChannelMention: channel, GroupMention: group, EveryoneMention: everyone}
    return _mapped(document, functions)


def _mapped(document: Document, functions: "Functions") -> Document:
    replacer = _Replacer(functions)
    blocks = tuple([replacer.block(block) for block in document.blocks])
    return canonical(Document(blocks, is_canonical=document.is_canonical and replacer.is_canonical))


Functions = Mapping[type, Callable[[Any], Inline] | None]


class _Replacer:
    """Replaces mentions. `is_canonical` if a canonical tree has stayed one."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self.is_canonical = True

    def block(self, block: _Block) -> _Block:
        match block:
            case Paragraph(children):
                return Paragraph(self._inlines(children))
            case CodeBlock():
                return block
            case Quote(children):
                return Quote(tuple(map(self.block, children)))
            case ListBlock(items, ordered, start):
                mapped = tuple(tuple(map(self.block, item)) for item in items)
                return ListBlock(mapped, ordered, start)
        assert_never(block)

    def _inlines(self, nodes: tuple[Inline, ...]) -> tuple[Inline, ...]:
        done: list[Inline] = []
        for node in nodes:
            new = node if type(node) is Text else self._inline(node)
            if type(new) is Text and done and type(last := done[-1]) is Text:
                done[-1] = Text(last.text + new.text)  # as in a canonical tree
            else:
                done.append(new)
        return tuple(done)

    def _inline(self, node: Inline) -> Inline:
        if function := self._functions.get(type(node)):
            new = function(node)
            self.is_canonical = self.is_canonical and _is_canonical(new)
            return new
        if isinstance(node, Link):
            return Link(node.url, self._inlines(node.children))
        return type(node)(self._inlines(node.children)) if isinstance(node, MARKS) else node


def _is_canonical(node: Inline) -> bool:
    """Return whether a canonical tree stays one with this node in the place of a mention."""
    match node:
        case Text(text):
            return is_clean_line(text) and not (text[0].isspace() or text[-1].isspace())
        case UserMention(id_, label) | ChannelMention(id_, label):
            return is_clean_line(id_) and is_in_a_line(label)
    return False


def resolve_mentions(
    document: Document,
    *,
    user: Callable[[UserMention], tuple[str, str]],
    channel: Callable[[ChannelMention], tuple[str, str]],
    groups: bool,
    mass_mentions: bool,
) -> Document:
    """Return the canonical document for another system: mentions have its ids.

    `user` and `channel` return the id in that system and the name of who or what is mentioned. A mention that
    has no id there ('') becomes text, as do groups and mass mentions unless `groups` or `mass_mentions` lets
    them stay. No dialect takes that text for a mass mention.
    """

    def resolved_user(node: UserMention) -> Inline:
        user_id, name = user(node)
        return UserMention(user_id, name) if user_id else Text(f"@{name or node.id}")

    def resolved_channel(node: ChannelMention) -> Inline:
        channel_id, name = channel(node)
        return ChannelMention(channel_id, name) if channel_id else Text(f"#{name or node.id}")

    def group_text(node: GroupMention) -> Inline:
        return Text(f"@{node.label or node.id}")

    functions: Functions = {
        UserMention: resolved_user,
        ChannelMention: resolved_channel,
        GroupMention: None if groups else group_text,
        EveryoneMention: None if mass_mentions else _scope_text,
    }
    return _mapped(document, functions)


def _scope_text(node: EveryoneMention) -> Inline:
    return Text(everyone_text(node.scope))


def without_mass_mentions(document: Document) -> Document:
    """Return the document with mass mentions as text that no dialect takes for a mention."""
    return map_mentions(document, everyone=_scope_text)


def has_mentions(document: Document) -> bool:
    """Return whether a document mentions a user, a channel, a group or everyone."""
    return only_text(document) is None and bool(mentioned(document))


def mentioned(document: Document) -> Mentioned:
    """Return whom a document mentions."""
    users: dict[str, None] = {}
    channels: dict[str, None] = {}
    groups: dict[str, None] = {}
    scopes: dict[str, None] = {}
    # A stack, and no new nodes: every forwarded message is searched.
    rest: list[_Block | Inline] = list(reversed(document.blocks))
    while rest:
        node = rest.pop()
        kind = type(node)
        if kind is Text:
            continue
        if kind in PARENTS:
            rest.extend(reversed(node.children))  # type: ignore[union-attr]
            continue
        match node:
            case ListBlock(items):
                rest.extend(child for item in reversed(items) for child in reversed(item))
            case UserMention(id_):
                users[id_] = None
            case ChannelMention(id_):
                channels[id_] = None
            case GroupMention(id_):
                groups[id_] = None
            case EveryoneMention(scope):
                scopes[scope] = None
    if not (users or channels or groups or scopes):
        return _NOBODY
    return Mentioned(tuple(users), tuple(channels), tuple(groups), tuple(scopes))
