"""Slack's mrkdwn, parsed to the document tree: only bots and old messages have no blocks.

It is read from left to right, line by line; each character is looked at a fixed number of times.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from shared.providers.slack.emoji import emoji_named
from shared.providers.slack.rich_text import Budget, is_id
from shared.richtext.autolinks import link_at
from shared.richtext.build import clean, is_clean_line
from shared.richtext.runs import NO_MARKS, Leaf, Run, is_link, paragraphs_of, text_runs
from shared.richtext.tree import (
    Block,
    Bold,
    ChannelMention,
    Code,
    CodeBlock,
    EveryoneMention,
    GroupMention,
    Inline,
    Italic,
    LineBreak,
    Link,
    Mark,
    Paragraph,
    Quote,
    Strike,
    Text,
    Time,
    UserMention,
)
from shared.richtext.urls import safe_url

_MARKS: Final[Mapping[str, Mark]] = {"*": Bold, "_": Italic, "~": Strike}
_SCOPES: Final[Mapping[str, Literal["here", "channel", "everyone"]]] = {
    "here": "here",
    "channel": "channel",
    "everyone": "everyone",
}
_FENCE: Final = "```"
_TOKEN: Final = re.compile(
    # The first character is before the looks behind it: such a pattern is searched several times faster.
    r"[<`:hHwW*_~](?:(?<=<)([^<>\n]{1,3000})>|(?<=`)([^`\n]+)`"
    r"|(?<=:)([a-z0-9_+'\-]{1,100}(?:::skin-tone-[2-6])?):"
    r"|(?<=[hHwW])(?<![A-Za-z0-9+.-][hHwW])(?:(?<=[hH])(?i:ttps?://)|(?<=[wW])(?i:ww\.))|(?<=[*_~]))"
)
_NOT_PLAIN: Final = re.compile(r"[<&*_~`:wW](?:(?<![wW])|[wW]{2}\.)")
"""What a line must not have to be one run: marks and links."""
_SIMPLE: Final = re.compile(r"<(?:@([A-Z0-9]{1,40})|(https?://[^<>|&\s]{1,1900})\|([^<>&]{1,900}))>")
_MAX_SIMPLE: Final = 10_000
_MAX_SIMPLE_TOKENS: Final = 4 * 50
"""Four groups of `_SIMPLE` and what is behind it for each."""
_ENTITIES: Final = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))
_QUOTE: Final = "&gt;"


def parse_mrkdwn(text: str, budget: Budget) -> list[Block]:
    """Return the blocks of a text in mrkdwn: paragraphs, quotes and code."""
    if is_plain(text) and budget.characters >= len(text) and budget.runs > 1:
        budget.characters -= len(text)
        budget.runs -= 1
        return [Paragraph((Text(text),))]
    return parse_marked(text, budget)


def parse_marked(text: str, budget: Budget) -> list[Block]:
    """Return the blocks of a text, whatever is in it. `parse_mrkdwn` returns the same, sooner."""
    text = clean(budget.take(text))
    if "\n" not in text and _FENCE not in text and not text.startswith(_QUOTE) and not budget.is_spent:
        budget.runs -= 1
        return [*paragraphs_of(_line_runs(text, budget))]
    blocks: list[Block] = []
    for number, part in enumerate(text.split(_FENCE)):
        if budget.is_spent and budget.runs <= 0:
            break
        if number % 2:
            code = unescape(part).strip("\n")
            blocks += [CodeBlock(code)] if code else []
        else:
            blocks += _lines(part, budget)
    return blocks


def is_plain(text: str) -> bool:
    """Return whether a text is one line without marks and links."""
    return is_clean_line(text) and _NOT_PLAIN.search(text) is None


def simple_line(text: str) -> tuple[Inline, ...] | None:
    """Return the canonical nodes of one line of text, links with labels and mentions of people.

    None for any other text. `parse_marked` and `canonical` return the same, and take several times as long.
    """
    if len(text) > _MAX_SIMPLE or not is_clean_line(text):
        return None
    first, *rest = _SIMPLE.split(text)
    nodes: list[Inline] = [Text(first)] if first else []
    if _NOT_PLAIN.search(first) or len(rest) > _MAX_SIMPLE_TOKENS:
        return None
    for user, url, label, plain in zip(*[iter(rest)] * 4, strict=True):
        if user:
            nodes.append(UserMention(user))
        elif (nodes and type(nodes[-1]) is Link) or safe_url(url) != url or label.strip() != label:
            return None
        else:
            nodes.append(Link(url, (Text(label),)))
        if plain:
            if _NOT_PLAIN.search(plain):
                return None
            nodes.append(Text(plain))
    return tuple(nodes)


def unescape(text: str) -> str:
    """Return a text with the three characters that Slack writes as entities."""
    if "&" not in text:
        return text
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text


def _lines(text: str, budget: Budget) -> Iterator[Block]:
    """Yield the paragraphs of a text, and the quotes between them."""
    quoted: list[Run] = []
    plain: list[Run] = []
    for line in text.split("\n"):
        if budget.runs <= 0:
            break
        budget.runs -= 1
        is_quote = line.startswith(_QUOTE)
        if is_quote and plain:
            yield from paragraphs_of(plain)
            plain = []
        if not is_quote and quoted:
            yield from _quote(quoted)
            quoted = []
        target = quoted if is_quote else plain
        if target:
            target.append(Run(LineBreak()))
        target += _line_runs(line.removeprefix(_QUOTE).removeprefix(" ") if is_quote else line, budget)
    yield from _quote(quoted)
    yield from paragraphs_of(plain)


def _quote(runs: list[Run]) -> list[Block]:
    paragraphs = paragraphs_of(runs)
    return [Quote(tuple(paragraphs))] if paragraphs else []


def _line_runs(line: str, budget: Budget) -> list[Run]:
    """Return the runs of one line. A mark counts only if its other end is in the same line."""
    last_closing = {sign: _last_closing(line, sign) for sign in _MARKS}
    marks: frozenset[Mark] = frozenset()
    runs: list[Run] = []
    start = 0
    position = 0
    while token := _TOKEN.search(line, position):
        position = token.end()
        if budget.runs <= 0:
            return runs
        sign = token[0]
        if mark := _MARKS.get(sign):
            if mark in marks:
                toggles = _closes(line, token.start())
            else:
                toggles = _opens(line, token.start()) and last_closing[sign] > token.start() + 1
            if not toggles:
                continue
            runs += text_runs(unescape(line[start : token.start()]), marks)
            marks ^= {mark}
        else:
            if sign[0].isalpha():
                added, position = _bare_link(line, token.start(), marks)
            else:
                added = _token_runs(token, marks)
            if not added:
                continue
            runs += text_runs(unescape(line[start : token.start()]), marks)
            runs += added
        budget.runs -= 2
        start = position
    return [*runs, *text_runs(unescape(line[start:]), marks)]


def _opens(line: str, at: int) -> bool:
    before, after = line[at - 1 : at], line[at + 1 : at + 2]
    return not before.isalnum() and bool(after) and not after.isspace()


def _closes(line: str, at: int) -> bool:
    before, after = line[at - 1 : at], line[at + 1 : at + 2]
    return not before.isspace() and not after.isalnum()


def _last_closing(line: str, sign: str) -> int:
    """Return where the last sign is that can close a mark; -1 if none can."""
    at = line.rfind(sign)
    while at > 0 and not _closes(line, at):
        at = line.rfind(sign, 0, at)
    return at if at > 0 else -1


def _bare_link(line: str, at: int, marks: frozenset[Mark]) -> tuple[list[Run], int]:
    """Return the link of a URL that is written without brackets, and where the line goes on.

    Slack writes brackets around URLs; programs that post to other chats in its dialect do not.
    """
    visible, url, end = link_at(line, at) or ("", "", at + 1)
    return (text_runs(visible, marks, url) if url else []), end


def _token_runs(token: re.Match[str], marks: frozenset[Mark]) -> list[Run]:
    reference, code, emoji = token.groups()
    if code:
        return [Run(Code(unescape(code)), marks)]
    if emoji:
        named = emoji_named(emoji)
        return [Run(named, marks)] if named else []
    return parse_reference(reference, marks)


def parse_reference(reference: str, marks: frozenset[Mark] = NO_MARKS) -> list[Run]:
    """Return the runs of what is between `<` and `>`: a mention or a link; none for anything else."""
    target, _, label = reference.partition("|")
    label = unescape(label)
    leaf = _mention(target, label)
    if leaf:
        return [Run(leaf, marks)]
    url = unescape(target)
    return text_runs(label or url.removeprefix("mailto:"), marks, url) if is_link(url) else []


def _mention(target: str, label: str) -> Leaf | None:
    """Return the mention in `<...>`; None for a link, and for what Slack does not document."""
    kind, rest = target[:1], target[1:]
    if kind == "@" and is_id(rest):
        return UserMention(rest, label.removeprefix("@"))
    if kind == "#" and is_id(rest):
        return ChannelMention(rest, label.removeprefix("#"))
    if kind != "!":
        return None
    if scope := _SCOPES.get(rest):
        return EveryoneMention(scope)
    name, _, argument = rest.partition("^")
    if name == "subteam" and is_id(argument):
        return GroupMention(argument, label.removeprefix("@"))
    at, _, form = argument.partition("^")
    if name == "date" and at.isdecimal() and len(at) < 12:
        return Time(int(at), label or at, form.partition("^")[0][:100])
    return Text(label) if label else None
