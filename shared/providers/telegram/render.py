"""The document tree as Telegram's text with entities, whose offsets count UTF-16 code units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.richtext.degrade import degrade
from shared.richtext.tree import (
    MARKS,
    Block,
    Bold,
    Code,
    CodeBlock,
    Document,
    Emoji,
    GroupMention,
    Inline,
    Italic,
    LineBreak,
    Link,
    Loss,
    Paragraph,
    Quote,
    Spoiler,
    Strike,
    Text,
    Underline,
    UserMention,
)

MAX_ENTITIES: Final = 100
"""Entities of a message that Telegram takes."""
_KINDS: Final[dict[type[Any], str]] = {
    Bold: "bold",
    Italic: "italic",
    Strike: "strikethrough",
    Underline: "underline",
    Spoiler: "spoiler",
}
SUPPORTED: Final[frozenset[type]] = frozenset(
    {*_KINDS, Link, Code, LineBreak, Emoji, UserMention, GroupMention, CodeBlock, Quote}
)
"""Nodes that Telegram has, and mentions that are made text here, so that Telegram finds no name in it."""
_WORD_JOINER: Final = "\u2060"
"""Between `@` and a word: Telegram would find a user's name there."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text with its entities, its length in UTF-16 code units, and what it cannot show."""

    text: str
    entities: Sequence[dict[str, Any]]
    length: int
    losses: Sequence[Loss]


def utf16_length(text: str) -> int:
    """Return the length of a text in UTF-16 code units."""
    if text.isascii():
        return len(text)
    return len(text) + sum(character > "\uffff" for character in text)


def text_length(document: Document) -> int:
    """Return the length of a document's text in UTF-16 code units."""
    return render(document).length


def render(document: Document, *, heading: str = "") -> Rendered:
    """Render a document, below a heading in bold (the author's name) if there is one."""
    shown, losses = degrade(document, SUPPORTED)
    writer = _Writer(losses)
    if heading:
        writer.heading(heading)
        if shown.blocks:
            writer.write("\n")
    writer.blocks(shown.blocks)
    return writer.rendered()


class _Writer:
    """Writes text, and notes where entities begin and end."""

    def __init__(self, losses: Sequence[Loss]) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._entities: list[dict[str, Any]] = []
        self._losses = {(loss.node, loss.shown_as): None for loss in losses}
        self._marks: list[str] = []
        self._in_link = False

    def rendered(self) -> Rendered:
        entities = sorted(self._entities, key=lambda entity: (entity["offset"], -entity["length"]))
        if len(entities) > MAX_ENTITIES:
            self._lose("formatting", f"plain text after {MAX_ENTITIES} entities")
        return Rendered(
            "".join(self._parts),
            entities[:MAX_ENTITIES],
            self._length,
            tuple(Loss(*loss) for loss in self._losses),
        )

    def write(self, text: str) -> None:
        self._parts.append(text)
        self._length += utf16_length(text)

    def heading(self, text: str) -> None:
        start = self._length
        self.write(text)
        self._entity("bold", start)

    def _entity(self, kind: str, start: int, **fields: Any) -> None:
        if self._length > start:
            self._entities.append({"type": kind, "offset": start, "length": self._length - start, **fields})

    def _lose(self, node: str, shown_as: str) -> None:
        self._losses[node, shown_as] = None

    def blocks(self, blocks: Sequence[Block], *, quoted: bool = False) -> None:
        """Write blocks. An empty line is between paragraphs; code and quotes stand out by themselves."""
        before: Block | None = None
        for block in blocks:
            if before is not None:
                apart = isinstance(before, CodeBlock | Quote) or isinstance(block, CodeBlock | Quote)
                self.write("\n" if apart else "\n\n")
            before = block
            if isinstance(block, Paragraph):
                self._inline(block.children)
            elif isinstance(block, CodeBlock):
                self._code_block(block, quoted=quoted)
            elif isinstance(block, Quote):
                self._quote(block, quoted=quoted)

    def _code_block(self, block: CodeBlock, *, quoted: bool) -> None:
        start = self._length
        self.write(block.text)
        if quoted:
            self._lose("code_block", "code in a quote")
            self._entity("code", start)
        else:
            self._entity("pre", start, **({"language": block.language} if block.language else {}))

    def _quote(self, block: Quote, *, quoted: bool) -> None:
        start = self._length
        self.blocks(block.children, quoted=True)
        if quoted:
            self._lose("quote", "one quote")
        else:
            self._entity("blockquote", start)

    def _inline(self, children: Sequence[Inline]) -> None:
        """Write inline nodes, which the tree nests no deeper than `MAX_DEPTH`."""
        for node in children:
            start = self._length
            if isinstance(node, Link):
                outer, self._in_link = self._in_link, True
                self._inline(node.children)
                self._in_link = outer
                if not outer:
                    self._entity("text_link", start, url=node.url)
            elif isinstance(node, MARKS):
                kind = _KINDS[type(node)]
                is_new = kind not in self._marks
                self._marks.append(kind)
                self._inline(node.children)
                self._marks.pop()
                if is_new:
                    self._entity(kind, start)
            else:
                self._leaf(node)

    def _leaf(self, leaf: Inline) -> None:
        start = self._length
        match leaf:
            case Text(text) | Emoji(text):
                self.write(text)
            case LineBreak():
                self.write("\n")
            case Code(text):
                self.write(text)
                if self._marks or self._in_link:
                    self._lose("code", "plain text where it is bold, italic or a link")
                else:
                    self._entity("code", start)
            case UserMention(id, label) if not self._in_link and id.isdecimal() and id.isascii():
                self.write(label or id)
                user = {"id": int(id), "is_bot": False, "first_name": label or id}
                self._entity("text_mention", start, user=user)
            case UserMention(id) if not self._in_link and id.startswith("@"):
                self.write(id)
                self._entity("mention", start)
            case UserMention(id, label) | GroupMention(id, label):
                self._lose("user_mention" if isinstance(leaf, UserMention) else "group_mention", "plain text")
                self.write(f"@{_WORD_JOINER}{(label or id).removeprefix('@')}")
