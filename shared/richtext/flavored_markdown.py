"""Parse the Markdown that people and programs write for other systems (GitHub's flavour). Pure.

Beyond the Markdown of messages it has bare URLs, links by reference, HTML tags, tasks, alerts, indented code
and underlined headings. Tags of bold, italic, struck, underlined and inline code, links and line breaks mean
the same as marks; of other tags only the content is shown. A provider may give its `<...>` a meaning of its
own: a mention, or a link with a text.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from html import unescape
from typing import ClassVar, Final, Literal

from shared.richtext.autolinks import honest_label, link_at
from shared.richtext.build import canonical, clean, cut_text, text_nodes, visible_text
from shared.richtext.markdown import Flavor, parse_blocks
from shared.richtext.markdown_inline import ENTITY, MAX_MARKS, Bracket, Delimiter, Scanner, resolve
from shared.richtext.tree import (
    Block,
    Bold,
    Code,
    CodeBlock,
    Document,
    EveryoneMention,
    Inline,
    Italic,
    LineBreak,
    Link,
    ListBlock,
    Mark,
    Paragraph,
    Quote,
    Strike,
    Text,
    Underline,
)

Reference = Callable[[str], tuple[Inline, ...] | None]
"""Returns what the text between `<` and `>` means in a dialect; None if it means nothing there."""

_MAX_TARGET_CHARACTERS: Final = 2000
"""Once the targets of the links of a text have so many characters together, further ones are text only."""
_MAX_CODE_CHARACTERS: Final = 2000
_SPECIAL: Final = re.compile(r"[\\`*_~|+<&\[\]:@]|www\.", re.IGNORECASE)
_OTHER_BLOCK: Final = re.compile(r"^(?:[ \t]*\t| {4}|[ ]{0,3}(?:<[A-Za-z/!?]|=+[ \t]*$))", re.MULTILINE)
_OTHER_RULES: Final = ("code", "html_block", "lheading")
_RULES_WITHOUT_HTML: Final = ("code", "lheading")
_DEFINITION: Final = re.compile(
    r"^[ \t]{0,3}\[(?!\^)([^\[\]\n]{1,200})\]:[ \t]*<?([^\s<>]{1,2000})>?"
    r"[ \t]*(?:\"[^\"\n]{0,500}\"|'[^'\n]{0,500}'|\([^()\n]{0,500}\))?[ \t]*(?:\n|\Z)",
    re.MULTILINE,
)
_LABEL: Final = re.compile(r"\[([^\[\]]{0,200})\]")
_TAG: Final = re.compile(r"(/?)([A-Za-z][A-Za-z0-9-]{0,30})(?:\s[^<>]*)?/?")
_HIDDEN: Final = re.compile(r"!--.*|\?.*|![A-Z].*", re.DOTALL)
_HREF: Final = re.compile(r"\shref\s?=\s?(?:\"([^\"]*)\"|'([^']*)'|([^\s\"']+))", re.IGNORECASE)
_MAIL: Final = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,200}")
_MARKS: Final[Mapping[str, Mark]] = {
    **dict.fromkeys(("b", "strong"), Bold),
    **dict.fromkeys(("i", "em"), Italic),
    **dict.fromkeys(("s", "strike", "del"), Strike),
    **dict.fromkeys(("u", "ins"), Underline),
}
_LINES: Final = frozenset({"br", "p", "div", "li", "tr", "hr", "h1", "h2", "h3", "h4", "h5", "h6"})
"""Tags that end a line."""
_SCOPES: Final[Mapping[str, Literal["everyone", "channel", "here"]]] = {
    "everyone": "everyone",
    "all": "everyone",
    "channel": "channel",
    "here": "here",
}
_TASK: Final = re.compile(r"\[([ xX])\] +")
_BOXES: Final = {" ": "☐ ", "x": "☑ ", "X": "☑ "}
_ALERT: Final = re.compile(r"\[!(NOTE|TIP|IMPORTANT|WARNING|CAUTION)\]\s*")


def parse_flavored_markdown(
    text: str, reference: Reference | None = None, *, html: bool = True, mass_mentions: bool = False
) -> Document:
    """Return the canonical tree of a text. `reference` says what `<...>` means beside links and tags.

    Without `html`, tags are text. With `mass_mentions`, `@everyone` and the like are mentions.

    A text over 40,000 characters is cut; none is invalid.
    """
    text = clean(cut_text(text))
    definitions = {_key(match[1]): match[2] for match in _DEFINITION.finditer(text)} if "]:" in text else {}
    inline = partial(_parse_inline, options=_Options(definitions, reference, html, mass_mentions))
    rules = _OTHER_RULES if html else _RULES_WITHOUT_HTML
    blocks = parse_blocks(text, Flavor(inline, _OTHER_BLOCK, rules))
    return canonical(Document(tuple(_finished(block) for block in blocks if not _is_empty(block))))


def _is_empty(block: Block) -> bool:
    return isinstance(block, CodeBlock) and not block.text.strip()


def _key(label: str) -> str:
    return " ".join(label.split()).casefold()


@dataclass(slots=True)
class _Options:
    """What the paragraphs of one text have in common."""

    definitions: Mapping[str, str]
    reference: Reference | None
    html: bool
    mass_mentions: bool
    left: int = _MAX_TARGET_CHARACTERS
    """Characters that the targets of further links may have."""


def _parse_inline(text: str, options: _Options) -> tuple[Inline, ...]:
    while options.definitions and (definition := _DEFINITION.match(text)):
        text = text[definition.end() :]
    if not _SPECIAL.search(text) or len(_SPECIAL.findall(text)) > MAX_MARKS:
        return text_nodes("\n".join(line.strip(" \t") for line in text.split("\n")))
    return _FlavoredScanner(text, options).scan()


class _Tag(Delimiter):
    """A tag that begins or ends a mark. Without a partner it is not shown."""

    def __init__(self, kind: Mark, *, is_end: bool) -> None:
        super().__init__(kind.__name__, 2, can_open=not is_end, can_close=is_end)
        self.kind = kind

    @property
    def text(self) -> str:
        return ""


class _Anchor(Bracket):
    """The tag that begins a link."""

    __slots__ = ("url",)

    def __init__(self, url: str, position: int, end: int) -> None:
        super().__init__("", position, end)
        self.url = url


class _FlavoredScanner(Scanner):
    token: ClassVar[re.Pattern[str]] = re.compile(
        r"\\(?:[!-/:-@\[-`{-~]|\n[ \t]*)"
        r"|`+|\*+|_+|~~+|\|\|+|\+\++"
        r"|<[^<>]{1,3000}>"
        r"|(?<![A-Za-z0-9+.-])(?:https?://|www\.|mailto:)"
        r"|(?<![\w.])@(?:everyone|here|channel|all)(?![\w.-]*\w)"
        rf"|{ENTITY}"
        r"|!?\[|\]|\n[ \t]*",
        re.IGNORECASE,
    )

    def __init__(self, text: str, options: _Options) -> None:
        super().__init__(text)
        self._options = options

    def _read(self, token: str, start: int, end: int) -> int:
        if token[0] == "<":
            return self._angle(token[1:-1], start, end)
        if token[0] == "@":
            scope = _SCOPES[token[1:].lower()]
            self._parts.append(EveryoneMention(scope) if self._options.mass_mentions else token)
            return end
        if token[0].isalpha():
            visible, url, position = link_at(self._text, start) or (token, "", end)
            self._parts.append(Link(url, (Text(visible),)) if url else visible)
            return position
        return super()._read(token, start, end)

    # Links

    def _close(self, end: int) -> int:
        if self._brackets and isinstance(self._brackets[-1], _Anchor):
            self._parts.append("]")
            return end
        return super()._close(end)

    def _target(self, bracket: Bracket, end: int) -> tuple[str, int] | None:
        target = super()._target(bracket, end)
        if target or not self._options.definitions:
            return target
        label = _LABEL.match(self._text, end)
        name = label[1] if label and label[1] else self._text[bracket.end : end - 1][:200]
        url = self._options.definitions.get(_key(name))
        return (url, label.end() if label else end) if url else None

    def _linked(self, url: str, children: tuple[Inline, ...], *, is_image: bool) -> tuple[Inline, ...]:
        if is_image and not children:
            children = (Text("image"),)
        nodes = super()._linked(url, children, is_image=is_image)
        link = nodes[0] if nodes else None
        if not isinstance(link, Link):
            return nodes
        label = visible_text(link.children)
        if honest_label(label, link.url) != label:
            nodes = (Link(link.url, (Text(link.url),)),)
        elif any(isinstance(child, LineBreak) for child in link.children):
            nodes = (Link(link.url, tuple(map(_on_one_line, link.children))),)
        self._options.left -= len(link.url)
        return nodes if self._options.left >= 0 else link.children

    # What is in angle brackets

    def _angle(self, content: str, start: int, end: int) -> int:
        nodes = self._options.reference(content) if self._options.reference else None
        if nodes is None and ":" in content and " " not in content:
            found = link_at(content, 0)
            if found and found[1] and found[2] == len(content):
                nodes = (Link(found[1], (Text(content),)),)
        if nodes is None and _MAIL.fullmatch(content):
            nodes = (Link(f"mailto:{content}", (Text(content),)),)
        if nodes is not None:
            self._parts.extend(nodes)
            return end
        tag = _TAG.fullmatch(content) if self._options.html else None
        if tag:
            return self._tag(tag, end)
        if self._options.html and _HIDDEN.fullmatch(content):
            return end
        self._parts.append("<")
        return start + 1

    def _tag(self, tag: re.Match[str], end: int) -> int:
        is_end, name = bool(tag[1]), tag[2].lower()
        if mark := _MARKS.get(name):
            self._parts.append(_Tag(mark, is_end=is_end))
        elif name == "a":
            self._end_anchor() if is_end else self._begin_anchor(tag[0], end)
        elif name in _LINES:
            if self._parts and not isinstance(self._parts[-1], LineBreak):
                self._parts.append(LineBreak())
            if name == "li" and not is_end:
                self._parts.append("• ")
        elif name == "code" and not is_end:
            close = self._text.find("</", end, end + _MAX_CODE_CHARACTERS)
            if close > end and self._text[close : close + 7].lower() == "</code>":
                self._parts.append(Code(unescape(self._text[end:close]).replace("\n", " ")))
                return close + 7
        return end

    def _begin_anchor(self, tag: str, end: int) -> None:
        href = _HREF.search(tag)
        url = unescape(next(filter(None, href.groups()), "")) if href else ""
        anchor = _Anchor(url, len(self._parts), end)
        self._parts.append(anchor)
        self._brackets.append(anchor)

    def _end_anchor(self) -> None:
        while self._brackets:
            bracket = self._brackets.pop()
            if isinstance(bracket, _Anchor):
                children = resolve(self._parts[bracket.position + 1 :])
                self._parts[bracket.position :] = self._linked(bracket.url, children, is_image=False)
                break
        self._outside = min(self._outside, len(self._brackets))


def _on_one_line(node: Inline) -> Inline:
    return Text(" ") if isinstance(node, LineBreak) else node


def _finished(block: Block) -> Block:
    """Return a block with its tasks and alerts."""
    if isinstance(block, ListBlock):
        return replace(block, items=tuple(_task(tuple(map(_finished, item))) for item in block.items))
    if isinstance(block, Quote):
        return Quote(_alert(tuple(map(_finished, block.children))))
    return block


def _task(item: tuple[Block, ...]) -> tuple[Block, ...]:
    text, rest = _first_text(item)
    task = _TASK.match(text)
    return (Paragraph((Text(_BOXES[task[1]] + text[task.end() :]), *rest)), *item[1:]) if task else item


def _alert(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    text, rest = _first_text(blocks)
    alert = _ALERT.fullmatch(text)
    is_alone = not rest or isinstance(rest[0], LineBreak)
    title = Bold((Text(alert[1].capitalize()),)) if alert and is_alone else None
    return (Paragraph((title, *rest)), *blocks[1:]) if title else blocks


def _first_text(blocks: tuple[Block, ...]) -> tuple[str, tuple[Inline, ...]]:
    """Return the text that blocks begin with, and the nodes behind it in its paragraph."""
    first = blocks[0] if blocks else None
    if isinstance(first, Paragraph) and first.children and isinstance(first.children[0], Text):
        return first.children[0].text, first.children[1:]
    return "", ()
