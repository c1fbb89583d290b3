"""Parse a paragraph's Markdown: marks, links, mentions, code. Pure.

The rules are CommonMark's, in one pass: the work grows with the length of the text, whatever is in it.
"""

import re
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from html.entities import html5
from typing import ClassVar, Final
from urllib.parse import unquote

from shared.richtext.build import clean, clean_line, text_nodes, visible_text
from shared.richtext.tree import (
    Bold,
    ChannelMention,
    Code,
    CustomEmoji,
    EveryoneMention,
    GroupMention,
    Inline,
    Italic,
    LineBreak,
    Link,
    Mark,
    Spoiler,
    Strike,
    Text,
    Underline,
    UserMention,
)
from shared.richtext.urls import safe_url

MAX_MARKS: Final = 3000
"""A paragraph with more characters that may be marks is plain text."""

ENTITY: Final = r"&(?:\#[0-9]{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
_TOKEN: Final = re.compile(
    r"\\(?:[!-/:-@\[-`{-~]|\n[ \t]*)"
    r"|`+|\*+|_+|~~+|\|\|+|\+\++"
    r"|<(?:https?|mailto):[^\s<>]{1,2000}>"
    rf"|{ENTITY}"
    r"|!?\[|\]|\n[ \t]*",
    re.IGNORECASE,
)
_SPECIAL: Final = re.compile(r"[\\`*_~|+<&\[\]]")
_TARGET: Final = re.compile(
    r"\([ \n]{0,3}(?:<([^<>\n]{0,2000})>|((?:[^\s()<\\]|\\.|\([^\s()\\]{0,2000}\)){0,2000}))"
    r"(?:[ \n]{1,3}(?:\"[^\"]{0,500}\"|'[^']{0,500}'))?[ \n]{0,3}\)"
)
_ESCAPE: Final = re.compile(rf"\\([!-/:-@\[-`{{-~])|({ENTITY})")
_RUN: Final = re.compile("`+")
_MENTION: Final = re.compile(r"mention://(?:(user|channel|group)/([^/?#]+)|(everyone|channel|here))")
_PAIRS: Final[dict[str, Mark]] = {"~": Strike, "|": Spoiler, "+": Underline}
_MAX_RUN: Final = 3
_MAX_OPEN: Final = 12
"""Delimiters that wait for a partner; the oldest ones become text. With _MAX_RUN this limits nesting."""


class Delimiter:
    """Characters that may begin or end a mark. Those that do neither are text again."""

    __slots__ = ("can_close", "can_open", "char", "kind", "length", "original")

    def __init__(self, char: str, length: int, *, can_open: bool, can_close: bool) -> None:
        self.char = char
        self.kind: Mark | None = _PAIRS.get(char)
        self.length = self.original = length
        self.can_open = can_open
        self.can_close = can_close

    @property
    def text(self) -> str:
        return self.char * self.length


class Bracket:
    """The beginning of a link or an image, which is text if it does not end."""

    __slots__ = ("end", "mark", "position")

    def __init__(self, mark: str, position: int, end: int) -> None:
        self.mark = mark
        self.position = position
        """Its place among the parts."""
        self.end = end
        """Where the text behind it begins."""


Part = Inline | str | Delimiter | Bracket


def parse_inline(text: str) -> tuple[Inline, ...]:
    """Return the nodes of a paragraph's Markdown. The text is clean; the nodes are not yet canonical."""
    if not _SPECIAL.search(text) or len(_SPECIAL.findall(text)) > MAX_MARKS:
        return text_nodes("\n".join(line.strip(" \t") for line in text.split("\n")))
    return Scanner(text).scan()


class Scanner:
    """Reads a paragraph from left to right: parts first, then what they mean together."""

    token: ClassVar[re.Pattern[str]] = _TOKEN

    def __init__(self, text: str) -> None:
        self._text = text
        self._parts: list[Part] = []
        self._brackets: list[Bracket] = []
        self._outside = 0
        """So many brackets are around a link. No link is in another one: they can only begin images."""
        self._runs: dict[int, list[int]] | None = None

    def scan(self) -> tuple[Inline, ...]:
        text, parts = self._text, self._parts
        position = 0
        search = self.token.search
        while match := search(text, position):
            start = match.start()
            if start > position:
                parts.append(text[position:start])
            position = self._read(match[0], start, match.end())
        if position < len(text):
            parts.append(text[position:])
        return resolve(parts)

    def _read(self, token: str, start: int, end: int) -> int:
        """Append what a token means, and return where the text goes on."""
        parts = self._parts
        first = token[0]
        if first in "*_~|+":
            parts.append(self._delimiter(token, start, end))
        elif first == "\n" or token[:2] == "\\\n":
            if parts and isinstance(parts[-1], str) and first == "\n":
                parts[-1] = parts[-1].rstrip(" \t")
            parts.append(LineBreak())
        elif first == "\\":
            parts.append(token[1])
        elif first == "`":
            return self._code(token, end)
        elif token in ("[", "!["):
            bracket = Bracket(token, len(parts), end)
            parts.append(bracket)
            self._brackets.append(bracket)
        elif first == "]":
            return self._close(end)
        elif first == "&":
            parts.extend(text_nodes(_decode(token)) if token[1] == "#" else (_decode(token),))
        else:
            url = safe_url(token[1:-1])
            parts.append(Link(url, (Text(token[1:-1]),)) if url else token)
        return end

    def _delimiter(self, token: str, start: int, end: int) -> Part:
        char, length = token[0], len(token)
        if length > _MAX_RUN or (char in _PAIRS and length != 2):
            return token
        before = _kind(self._text[start - 1]) if start else " "
        after = _kind(self._text[end]) if end < len(self._text) else " "
        left = after != " " and (after != "." or before != "a")
        right = before != " " and (before != "." or after != "a")
        if char == "_":
            left, right = left and (not right or before == "."), right and (not left or after == ".")
        if not left and not right:
            return token
        return Delimiter(char, length, can_open=left, can_close=right)

    def _code(self, token: str, end: int) -> int:
        if self._runs is None:
            self._runs = {}
            for run in _RUN.finditer(self._text):
                self._runs.setdefault(len(run[0]), []).append(run.start())
        starts = self._runs.get(len(token), [])
        index = bisect_right(starts, end - 1)
        if index == len(starts):
            self._parts.append(token)
            return end
        code = self._text[end : starts[index]].replace("\n", " ")
        if len(code) > 1 and code[0] == code[-1] == " " and code.strip(" "):
            code = code[1:-1]
        self._parts.append(Code(code))
        return starts[index] + len(token)

    def _close(self, end: int) -> int:
        """Read a closing bracket: with a target behind it, it ends a link or an image."""
        bracket = self._brackets.pop() if self._brackets else None
        if len(self._brackets) < self._outside:
            self._outside = len(self._brackets)
            if bracket and bracket.mark == "[":
                bracket = None
        target = self._target(bracket, end) if bracket else None
        if bracket is None or target is None:
            self._parts.append("]")
            return end
        children = resolve(self._parts[bracket.position + 1 :])
        self._parts[bracket.position :] = self._linked(target[0], children, is_image=bracket.mark == "![")
        if bracket.mark == "[":
            self._outside = len(self._brackets)
        return target[1]

    def _target(self, bracket: Bracket, end: int) -> tuple[str, int] | None:  # noqa: ARG002 -- for subclasses
        """Return where a link leads, whose text ends before `end`, and where the text goes on."""
        target = _TARGET.match(self._text, end)
        if target is None:
            return None
        url = target[1] or target[2] or ""
        if "\\" in url or "&" in url:
            url = _ESCAPE.sub(lambda match: match[1] or _decode(match[2]), url)
        return url, target.end()

    def _linked(self, url: str, children: tuple[Inline, ...], *, is_image: bool) -> tuple[Inline, ...]:
        return linked(url, children, is_image=is_image)


def linked(url: str, children: tuple[Inline, ...], *, is_image: bool) -> tuple[Inline, ...]:
    """Return the node of a link or an image; its text if it leads to no allowed target."""
    scheme = url[:8].lower()
    if is_image and scheme.startswith("emoji:"):
        name = visible_text(children)
        if len(name) > 1 and name[0] == name[-1] == ":":
            name = name[1:-1]
        return (CustomEmoji(name, clean_line(unquote(url[6:]))),)
    if scheme.startswith("mention:") and not is_image:
        return _mention(url, children)
    safe = safe_url(url)
    if is_image:
        children = text_nodes(visible_text(children))  # a link in a link is none
    return (Link(safe, children),) if safe else children


def _mention(url: str, children: tuple[Inline, ...]) -> tuple[Inline, ...]:
    match = _MENTION.fullmatch(url)
    if match is None:
        return children
    if match[3]:
        return (EveryoneMention(match[3]),)  # type: ignore[arg-type]  # the pattern has the three scopes
    id_, label = clean_line(unquote(match[2])), clean_line(visible_text(children))
    if not id_:
        return children
    if match[1] == "channel":
        return (ChannelMention(id_, label.removeprefix("#")),)
    return ((UserMention if match[1] == "user" else GroupMention)(id_, label.removeprefix("@")),)


def _decode(entity: str) -> str:
    """Return the character of an entity; an unknown entity as it is."""
    name = entity[1:]
    if name[0] != "#":
        return html5.get(name, entity)
    number = int(name[2:-1], 16) if name[1] in "xX" else int(name[1:-1])
    if not 0 < number < 0x110000 or 0xD800 <= number < 0xE000:
        return "\ufffd"
    return clean(chr(number))


@lru_cache(maxsize=1024)
def _kind(char: str) -> str:
    """Return a blank for blanks, a point for punctuation and symbols, `a` for other characters."""
    if char.isspace():
        return " "
    return "." if unicodedata.category(char)[0] in "PS" else "a"


character_kind = _kind


def resolve(parts: list[Part]) -> tuple[Inline, ...]:
    """Pair the delimiters of marks, and make text of those without a partner."""
    done: list[Part] = []
    openers: list[int] = []  # positions in `done`
    for part in parts:
        if not isinstance(part, Delimiter):
            done.append(part)
            continue
        if part.can_close:
            _pair(part, done, openers)
        if part.length:
            if part.can_open:
                openers.append(len(done))
                del openers[:-_MAX_OPEN]
            done.append(part)
    return _nodes(done)


def _pair(closer: Delimiter, done: list[Part], openers: list[int]) -> None:
    """Close marks with a delimiter, until it is used up or nothing is open that it closes."""
    while closer.length:
        found = _opener(closer, done, openers)
        if found < 0:
            return
        position = openers[found]
        opener = done[position]
        if not isinstance(opener, Delimiter):
            return
        kind = closer.kind
        used = 2 if kind or min(opener.length, closer.length) > 1 else 1
        inner = _nodes(done[position + 1 :])
        del openers[found + 1 :]
        marked: Inline = (kind or (Bold if used == 2 else Italic))(inner)
        done[position + 1 :] = [marked]
        opener.length -= used
        closer.length -= used
        if not opener.length:
            del done[position]
            del openers[found]


def _opener(closer: Delimiter, done: list[Part], openers: list[int]) -> int:
    """Return the index of the nearest opener of a closer; -1 if there is none."""
    for index in range(len(openers) - 1, -1, -1):
        opener = done[openers[index]]
        if not isinstance(opener, Delimiter) or opener.char != closer.char:
            continue
        is_either = opener.can_close or closer.can_open
        total = opener.original + closer.original
        if not is_either or total % 3 or not (opener.original % 3 or closer.original % 3):
            return index
    return -1


def _nodes(parts: list[Part]) -> tuple[Inline, ...]:
    nodes: list[Inline] = []
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
        elif isinstance(part, Delimiter):
            text += part.text
        elif isinstance(part, Bracket):
            text += part.mark
        else:
            if text:
                nodes.append(Text(text))
                text = ""
            nodes.append(part)
    if text:
        nodes.append(Text(text))
    return tuple(nodes)
