"""The document tree as Slack's `rich_text` block, and as the plain text that notifications show."""

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any, Final

from shared.providers.slack.emoji import emoji_element
from shared.providers.slack.rich_text import MAX_INDENT, is_id
from shared.richtext.degrade import degrade, everyone_text
from shared.richtext.runs import Run, join_paragraphs, runs_of
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
    Italic,
    LineBreak,
    Link,
    ListBlock,
    Loss,
    Paragraph,
    Quote,
    Strike,
    Text,
    Time,
    UserMention,
)

SUPPORTED: Final[frozenset[type]] = frozenset(
    {
        *(Bold, Italic, Strike, Link, Code, LineBreak, Emoji, CustomEmoji, Time),
        *(UserMention, ChannelMention, GroupMention, CodeBlock, Quote, ListBlock),
    }
)
"""Nodes that Slack has; a mass mention is one only where it is allowed."""
_STYLE_BY_MARK: Final[dict[type[Any], str]] = {Bold: "bold", Italic: "italic", Strike: "strike"}
_MAX_MEASURED: Final = 1 << 20
Element = dict[str, Any]


class Renderer:
    """Renders one document. `losses` is what Slack cannot show as it was."""

    def __init__(self, *, mass_mentions: bool = False) -> None:
        """Without `mass_mentions`, a mention of everyone becomes text that mentions nobody."""
        self.losses: dict[Loss, None] = {}
        self._mass_mentions = mass_mentions
        self._elements: list[Element] = []

    def elements(self, document: Document) -> list[Element]:
        """Return the elements of the `rich_text` block. They are never empty."""
        self._elements = []
        supported = SUPPORTED | ({EveryoneMention} if self._mass_mentions else frozenset())
        shown, losses = degrade(document, supported)
        self.losses |= dict.fromkeys(losses)
        self._blocks(shown.blocks)
        return self._elements or [_section([_text(" ")])]

    def _lose(self, node: str, shown_as: str) -> None:
        self.losses[Loss(node, shown_as)] = None

    def _blocks(self, blocks: Sequence[Block]) -> None:
        """Render blocks. Paragraphs in a row are one section with empty lines between them."""
        paragraphs: list[Paragraph] = []
        for number, block in enumerate(blocks):
            if isinstance(block, Paragraph):
                paragraphs.append(block)
                if number + 1 < len(blocks) and isinstance(blocks[number + 1], Paragraph):
                    continue
                self._add_text("rich_text_section", paragraphs)
                paragraphs = []
            elif isinstance(block, CodeBlock):
                self._code_block(block, border=False)
            elif isinstance(block, Quote):
                self._quote(block)
            else:
                self._list(block, 0, border=False)

    def _add_text(self, kind: str, paragraphs: Sequence[Paragraph]) -> None:
        elements = self._inline(join_paragraphs(paragraphs))
        if elements:
            self._elements.append({"type": kind, "elements": elements})

    def _quote(self, quote: Quote) -> None:
        """Render a quote: Slack has no quote in a quote, and shows lists and code in it with a border."""
        paragraphs: list[Paragraph] = []
        for block in _unquoted(quote.children, lambda: self._lose("quote", "one quote")):
            if isinstance(block, Paragraph):
                paragraphs.append(block)
                continue
            self._add_text("rich_text_quote", paragraphs)
            paragraphs = []
            if isinstance(block, CodeBlock):
                self._code_block(block, border=True)
            elif isinstance(block, ListBlock):
                self._list(block, 0, border=True)
        self._add_text("rich_text_quote", paragraphs)

    def _code_block(self, block: CodeBlock, *, border: bool) -> None:
        if block.language:
            self._lose("language", "code without its language")
        # Code without text is dropped when it is read: the lists before and after it would become one.
        text = block.text if block.text.removesuffix("\n") else " "
        element: Element = {"type": "rich_text_preformatted", "elements": [_text(text)]}
        self._elements.append(element | ({"border": 1} if border else {}))

    def _list(self, block: ListBlock, indent: int, *, border: bool) -> None:
        """Render a list and those in its items, which Slack has one after another."""
        style = "ordered" if block.ordered else "bullet"
        offset = max(block.start - 1, 0) if block.ordered else 0
        open_list: Element | None = None
        for number, item in enumerate(block.items):
            own = list(takewhile(lambda part: isinstance(part, Paragraph), item))
            paragraphs = [part for part in own if isinstance(part, Paragraph)]
            others = item[len(own) :]
            if open_list is None:
                open_list = {"type": "rich_text_list", "style": style, "indent": indent, "elements": []}
                open_list |= {"border": 1} if border else {}
                open_list |= {"offset": offset + number} if block.ordered and offset + number else {}
                self._elements.append(open_list)
            open_list["elements"].append(_section(self._inline(join_paragraphs(paragraphs))))
            for part in others:
                open_list = None
                if isinstance(part, ListBlock):
                    self._list(part, min(indent + 1, MAX_INDENT), border=border)
                else:
                    self._lose("list", "blocks between the items of a list")
                    self._part_of_item(part, border=border)

    def _part_of_item(self, part: CodeBlock | Quote | Paragraph, *, border: bool) -> None:
        if isinstance(part, CodeBlock):
            self._code_block(part, border=border)
        elif isinstance(part, Quote):
            self._quote(part)
        else:
            self._add_text("rich_text_quote" if border else "rich_text_section", [part])

    def _inline(self, runs: Iterable[Run]) -> list[Element]:
        elements: list[Element] = []
        for run in runs:
            element = self._element(run)
            before = elements[-1] if elements else None
            if before and before["type"] in {"text", "link"} and _joins(before, element):
                before["text"] += element["text"]
            else:
                elements.append(element)
        return elements

    def _element(self, run: Run) -> Element:
        style = {_STYLE_BY_MARK[mark]: True for mark in run.marks}
        if isinstance(run.leaf, Code):
            style["code"] = True
        element = self._link(run) if run.url else self._leaf(run.leaf)
        return element | ({"style": dict(sorted(style.items()))} if style else {})

    def _link(self, run: Run) -> Element:
        if not isinstance(run.leaf, Text | Code | LineBreak | Emoji):
            self._lose(_node_name(run.leaf), "the text of a link")
        return {"type": "link", "url": run.url, "text": plain_leaf(run.leaf)}

    def _leaf(self, leaf: object) -> Element:
        match leaf:
            case UserMention(id) if is_id(id):
                return {"type": "user", "user_id": id}
            case ChannelMention(id) if is_id(id):
                return {"type": "channel", "channel_id": id}
            case GroupMention(id) if is_id(id):
                return {"type": "usergroup", "usergroup_id": id}
            case EveryoneMention(scope):
                return {"type": "broadcast", "range": scope}
            case Emoji(text):
                return emoji_element(text) or _text(text)
            case CustomEmoji(_, id) if id and ":" not in id:
                return {"type": "emoji", "name": id}
            case Time(at, fallback, format) if format:
                return {"type": "date", "timestamp": at, "format": format, "fallback": fallback}
            case Time(at, fallback):
                return {"type": "date", "timestamp": at, "format": "{date_num} {time}", "fallback": fallback}
            case UserMention() | ChannelMention() | GroupMention() | CustomEmoji():
                self._lose(_node_name(leaf), "plain text")
        return _text(plain_leaf(leaf))


def _unquoted(blocks: Sequence[Block], lose: Callable[[], None]) -> list[Block]:
    """Return the blocks of a quote, with those of the quotes in it (no deeper than the tree)."""
    flat: list[Block] = []
    for block in blocks:
        if isinstance(block, Quote):
            lose()
            flat += _unquoted(block.children, lose)
        else:
            flat.append(block)
    return flat


def _joins(before: Element, element: Element) -> bool:
    return before.keys() == element.keys() and all(
        before[name] == element[name] for name in element if name != "text"
    )


def _section(elements: list[Element]) -> Element:
    return {"type": "rich_text_section", "elements": elements}


def _text(text: str) -> Element:
    return {"type": "text", "text": text}


def _node_name(leaf: object) -> str:
    return {
        UserMention: "user_mention",
        ChannelMention: "channel_mention",
        GroupMention: "group_mention",
        CustomEmoji: "custom_emoji",
    }.get(type(leaf), type(leaf).__name__.lower())


def plain_leaf(leaf: object) -> str:
    """Return a leaf as plain text that means nothing to Slack."""
    match leaf:
        case Text(text) | Code(text) | Emoji(text):
            return text
        case UserMention(id, label) | GroupMention(id, label):
            return f"@{label or id}"
        case ChannelMention(id, label):
            return f"#{label or id}"
        case EveryoneMention(scope):
            return everyone_text(scope)
        case CustomEmoji(name):
            return f":{name}:"
        case Time(_, fallback):
            return fallback
    return "\n"


def text_length(document: Document) -> int:
    """Return how long Slack counts a document, at most: its text, in which some characters are escaped."""
    return len(plain_text(document, _MAX_MEASURED))


def plain_text(document: Document, limit: int) -> str:
    """Return a document as the text that notifications show, escaped, without a mention that Slack reads."""
    lines: list[str] = []
    pending: list[Block] = list(reversed(document.blocks))
    while pending:
        block = pending.pop()
        if isinstance(block, Paragraph):
            lines.append("".join(plain_leaf(run.leaf) for run in runs_of(block.children)))
        elif isinstance(block, CodeBlock):
            lines.append(block.text)
        elif isinstance(block, Quote):
            pending += reversed(block.children)
        else:
            pending += (part for item in reversed(block.items) for part in reversed(item))
    text = "\n".join(lines)[:limit]
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
