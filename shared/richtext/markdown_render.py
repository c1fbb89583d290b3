"""Render a document as the Markdown that messages have between providers and the chat. Pure.

What is text stays text: its marks are escaped, and blanks that a parser would drop are written as entities.
Where a mark would not be read as one because of the character beside it, that character is an entity.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from shared.richtext.build import canonical, only_text
from shared.richtext.degrade import degrade
from shared.richtext.markdown_inline import character_kind
from shared.richtext.rendered import Rendered
from shared.richtext.split import first_part
from shared.richtext.tree import (
    MARKS,
    Block,
    Bold,
    ChannelMention,
    Code,
    CodeBlock,
    CustomEmoji,
    Document,
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
    Underline,
    UserMention,
)

SUPPORTED: Final = frozenset(
    {
        *(Text, LineBreak, Code, CustomEmoji, UserMention, ChannelMention, GroupMention, EveryoneMention),
        *(Bold, Italic, Strike, Underline, Spoiler, Link, Paragraph, CodeBlock, Quote, ListBlock),
    }
)
"""The nodes that this Markdown has. An emoji of Unicode is text in it."""

_SPECIAL: Final = re.compile(
    # Its first character is before the looks behind it: such a pattern is searched several times faster.
    r"[\\`*_<\[\]~|+&@](?:(?<=[\\`*_<\[\]])|(?<=[~|+])(?=[~|+]|\Z)|(?<=[~|+][~|+])|(?<=\A[~|+])"
    r"|(?<=&)(?=[#A-Za-z])|(?<!\w@)(?<=@)(?=\w))"
)
_MAYBE_SPECIAL: Final = b"\\`*_<[]~|+&@"
"""The characters of `_SPECIAL`: texts without any are found several times as fast."""
_BEGINNINGS: Final = ">=-#:"
_BEGINNING: Final = re.compile(r"\A(?:[>=-]|#(?=#|\s|\Z)|:(?=-))")
"""What may begin a block at the beginning of a line."""
_NUMBER: Final = re.compile(r"\A(\s*\d{1,9})([.)])(?=\s|\Z)")
_MARKS: Final[dict[type, str]] = {Bold: "**", Italic: "_", Strike: "~~", Underline: "++", Spoiler: "||"}
_ENTITY: Final = re.compile(r"&(?=[#A-Za-z][A-Za-z0-9]{1,31};)")
_SAFE_ID: Final = re.compile("[A-Za-z0-9:_.~-]*")
_BACKTICKS: Final = re.compile("`+")


def render_markdown(document: Document) -> Rendered:
    """Return a document's Markdown. Times and nodes that it does not have become text."""
    if (text := only_text(document)) is not None:
        return Rendered(render_line(text), ())
    degraded, losses = degrade(document, SUPPORTED)
    return Rendered("\n\n".join(_blocks(canonical(degraded).blocks)), losses)


def cut_markdown(document: Document, limit: int) -> str:
    """Return the Markdown of the beginning of a document, at most `limit` characters.

    The document is cut, not its Markdown: without its end, a code would be read as marks and mentions.
    """

    def length(part: Document) -> int:
        return len(render_markdown(part).text)

    return render_markdown(first_part(canonical(document), limit=limit, measure=length)).text


def render_line(text: str) -> str:
    """Return the Markdown of a document that is this text only (`only_text`)."""
    return _text(text, at_start=True, at_end=True)


def _blocks(blocks: Sequence[Block]) -> list[str]:
    """Return the text of each block. Lists next to each other have different marks: else they were one."""
    texts = []
    is_second = False
    last: Block | None = None
    for block in blocks:
        is_list = isinstance(block, ListBlock) and isinstance(last, ListBlock)
        is_second = is_list and not is_second
        texts.append(_block(block, is_second=is_second))
        last = block
    return texts


def _block(block: Block, *, is_second: bool) -> str:
    match block:
        case Paragraph(children):
            return _inlines(children, is_paragraph=True)
        case CodeBlock(text, language):
            run_length = max((len(run) for run in _BACKTICKS.findall(text)), default=0)
            fence = "`" * max(3, run_length + 1)
            return f"{fence}{language}\n{text}\n{fence}"
        case Quote(children):
            lines = "\n\n".join(_blocks(children)).split("\n")
            return "\n".join(f"> {line}" if line else ">" for line in lines)
    return "\n".join(_item(block, number, is_second=is_second) for number in range(len(block.items)))


def _item(block: ListBlock, number: int, *, is_second: bool) -> str:
    if block.ordered:
        mark = f"{block.start + number}{')' if is_second else '.'} "
    else:
        mark = "* " if is_second else "- "
    text = ""
    last: Block | None = None
    item = block.items[number]
    for part, child in zip(_blocks(item), item, strict=True):
        is_tight = isinstance(last, Paragraph) and isinstance(child, ListBlock) and not child.ordered
        text += ("\n" if is_tight else "\n\n" if last else "") + part
        last = child
    indent = " " * len(mark)
    first, *lines = text.split("\n")
    return "\n".join([mark + first, *(indent + line if line else "" for line in lines)])


def _inlines(nodes: Sequence[Inline], *, is_paragraph: bool = False) -> str:
    """Return the Markdown of inline nodes. The characters beside marks become entities where they must."""
    parts: list[str] = []
    last = len(nodes) - 1
    after_mark = ""
    previous: Inline | None = None
    for index, node in enumerate(nodes):
        mark = ""
        if isinstance(node, Text):
            part = _text(
                node.text,
                at_start=isinstance(previous, LineBreak) if index else is_paragraph,
                at_end=isinstance(nodes[index + 1], LineBreak) if index < last else is_paragraph,
            )
        elif (mark := _MARKS.get(type(node), "")) and isinstance(node, MARKS):
            part = f"{mark}{_inlines(node.children)}{mark}"
        else:
            part = _inline(node, previous)
        if after_mark and not _can_touch(parts[-1][-len(after_mark) - 1], part[0], after_mark):
            part = _entity(part[0]) + part[1:]
        if parts and mark and not _can_touch(part[len(mark)], parts[-1][-1], mark):
            parts[-1] = parts[-1][:-1] + _entity(parts[-1][-1])
        if parts and part[0] == "[" and parts[-1][-1] == "!":
            parts[-1] = parts[-1][:-1] + "\\!"
        after_mark = mark
        parts.append(part)
        previous = node
    return "".join(parts)


def _can_touch(inner: str, outer: str, mark: str) -> bool:
    """Tell whether a mark between these characters is one, by CommonMark's rules of flanking."""
    return character_kind(outer) != "a" or (mark != "_" and character_kind(inner) == "a")


def _text(text: str, *, at_start: bool, at_end: bool) -> str:
    raw = text.encode("utf-8", "surrogatepass")
    is_plain = len(raw.translate(None, _MAYBE_SPECIAL)) == len(raw)
    escaped = text if is_plain else _SPECIAL.sub(_escape, text)
    first = text[0]
    if not first.isalpha():  # what begins with a letter needs nothing of this, as most texts
        if at_start and first in _BEGINNINGS:
            escaped = _BEGINNING.sub(_escape, escaped)
        is_blank = first.isspace()
        if first.isdigit() or (is_blank and text.lstrip()[:1].isdigit()):
            escaped = _NUMBER.sub(r"\1\\\2", escaped)
    else:
        is_blank = False
    if at_end and text[-1].isspace():
        escaped = escaped[:-1] + _entity(text[-1])
    if is_blank and at_start and escaped[0] == first:
        escaped = _entity(first) + escaped[1:]
    return escaped


def _escape(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


def _entity(character: str) -> str:
    return f"&#{ord(character)};"


def _inline(node: Inline, previous: Inline | None) -> str:
    match node:
        case LineBreak():
            return "\\\n" if isinstance(previous, LineBreak) else "\n"
        case Code(text):
            return _code(text)
        case Link(url, children):
            is_plain = children == (Text(url),) and not _ENTITY.search(url)
            return f"<{url}>" if is_plain else f"[{_link_text(children)}]({_target(url)})"
        case CustomEmoji(name, id_):
            return f"![:{_label(name)}:](emoji:{_id(id_)})"
        case UserMention(id_, label):
            return f"[@{_label(label)}](mention://user/{_id(id_)})"
        case ChannelMention(id_, label):
            return f"[#{_label(label)}](mention://channel/{_id(id_)})"
        case GroupMention(id_, label):
            return f"[@{_label(label)}](mention://group/{_id(id_)})"
        case EveryoneMention(scope):
            return f"[@{scope}](mention://{scope})"
    raise TypeError(f"{type(node).__name__} is no node of this Markdown: degrade the document first")


def _link_text(children: Sequence[Inline]) -> str:
    """Return the text of a link. A URL in it is escaped: some parsers look for bare URLs first."""
    text = _inlines(children)
    return text if "`" in text else text.replace("://", "\\://")


def _code(text: str) -> str:
    lengths = {len(run) for run in _BACKTICKS.findall(text)}
    fence = "`"
    while len(fence) in lengths:
        fence += "`"
    is_padded = text[0] == "`" or text[-1] == "`" or (text[0] == text[-1] == " " and text.strip(" "))
    return f"{fence} {text} {fence}" if is_padded else f"{fence}{text}{fence}"


def _label(label: str) -> str:
    return _text(label, at_start=False, at_end=False) if label else ""


def _id(id_: str) -> str:
    return id_ if _SAFE_ID.fullmatch(id_) else quote(id_, safe=":-_.~")


def _target(url: str) -> str:
    target = _ENTITY.sub("&amp;", url)
    return f"<{target}>" if "(" in target or ")" in target else target
