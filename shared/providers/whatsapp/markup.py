"""The marks of WhatsApp's texts, parsed to the document tree: *bold*, _italic_, ~strike~, code, > quotes.

A text is read from left to right, line by line; each character is looked at a fixed number of times.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from shared.richtext.autolinks import link_at
from shared.richtext.build import canonical, clean, cut_text
from shared.richtext.runs import MAX_RUNS, NO_MARKS, Run, paragraphs_of, text_runs
from shared.richtext.tree import (
    Block,
    Bold,
    Code,
    CodeBlock,
    Document,
    Italic,
    LineBreak,
    Mark,
    Quote,
    Strike,
    UserMention,
)

_MARKS: Final[Mapping[str, Mark]] = {"*": Bold, "_": Italic, "~": Strike}
_FENCE: Final = "```"
_QUOTE: Final = "> "
_TOKEN: Final = re.compile(
    r"`([^`\n]+)`|@\u2068([^\u2069\n]{1,100})\u2069|@(\d{6,15})(?!\w)|(?<![A-Za-z0-9+.-])(?i:https?://|www\.)"
    r"|[*_~]"
)

Known = Callable[[str], str | None]
"""Returns the id of the person with a name or a phone number (digits only); None for an unknown one."""


def parse_markup(text: str, known: Known) -> Document:
    """Return the document of a text. Mentions of unknown people stay text."""
    blocks: list[Block] = []
    left = MAX_RUNS
    for number, part in enumerate(clean(cut_text(text)).split(_FENCE)):
        if left <= 0:
            break
        if number % 2:
            code = part.strip("\n")
            blocks += [CodeBlock(code)] if code else []
            left -= 1
        else:
            added, left = _lines(part, known, left)
            blocks += added
    return canonical(Document(tuple(blocks)))


def _lines(text: str, known: Known, left: int) -> tuple[list[Block], int]:
    """Return the paragraphs and quotes of a text, and how many runs are `left` of the message's."""
    blocks: list[Block] = []
    runs: list[Run] = []
    was_quote = False
    for line in text.split("\n"):
        if left <= 0:
            break
        is_quote = line.startswith(_QUOTE)
        if is_quote != was_quote:
            blocks += _ended(runs, is_quote=was_quote)
            runs, was_quote = [], is_quote
        added = list(_line_runs(line.removeprefix(_QUOTE) if is_quote else line, known, left))
        runs += added
        runs.append(Run(LineBreak()))
        left -= len(added) + 1
    return [*blocks, *_ended(runs, is_quote=was_quote)], left


def _ended(runs: list[Run], *, is_quote: bool) -> list[Block]:
    paragraphs = paragraphs_of(runs)
    return [Quote(tuple(paragraphs))] if is_quote and paragraphs else list(paragraphs)


def _line_runs(line: str, known: Known, left: int) -> Iterator[Run]:
    """Yield the runs of one line. A mark counts only if its other end is in the same line."""
    last_closing = {sign: _last_closing(line, sign) for sign in _MARKS}
    marks: frozenset[Mark] = NO_MARKS
    start = position = 0
    while left > 0 and (token := _TOKEN.search(line, position)):
        position = token.end()
        at = token.start()
        mark = _MARKS.get(token[0])
        if mark:
            is_open = mark in marks
            if not (_closes(line, at) if is_open else _opens(line, at) and last_closing[token[0]] > at + 1):
                continue
            added: list[Run] = []
        elif token[0][0] in "hHwW":
            visible, url, position = link_at(line, at) or ("", "", position)
            added = text_runs(visible, marks, url) if url else []
        else:
            added = _token_runs(token, marks, known)
        if not mark and not added:
            continue
        yield from text_runs(line[start:at], marks)
        yield from added
        marks ^= {mark} if mark else NO_MARKS
        start = position
        left -= 2
    yield from text_runs(line[start:], marks)


def _token_runs(token: re.Match[str], marks: frozenset[Mark], known: Known) -> list[Run]:
    code, name, phone = token.groups()
    if code:
        return [Run(Code(code), marks)]
    person = known(name or phone)
    if person is None:
        return text_runs(f"@{name or phone}", marks)
    return [Run(UserMention(person, name or ""), marks)]


def _opens(line: str, at: int) -> bool:
    before, after = line[at - 1 : at] if at else "", line[at + 1 : at + 2]
    return not before.isalnum() and bool(after) and not after.isspace()


def _closes(line: str, at: int) -> bool:
    before, after = line[at - 1 : at], line[at + 1 : at + 2]
    return bool(before) and not before.isspace() and not after.isalnum()


def _last_closing(line: str, sign: str) -> int:
    """Return where the last sign is that can close a mark; -1 if none can."""
    at = line.rfind(sign)
    while at > 0 and not _closes(line, at):
        at = line.rfind(sign, 0, at)
    return at if at > 0 else -1
