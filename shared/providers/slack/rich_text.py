"""Slack's `rich_text` blocks: parsed to the document tree. Bounded in characters, elements and levels."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from shared.providers.slack.emoji import emoji_named
from shared.richtext.build import MAX_TEXT_CHARACTERS, clean, clean_line, cut_lines, is_in_a_line
from shared.richtext.runs import (
    MAX_RUNS,
    NO_MARKS,
    Leaf,
    Run,
    is_link,
    paragraphs_of,
    text_runs,
)
from shared.richtext.tree import (
    Block,
    Bold,
    ChannelMention,
    CodeBlock,
    EveryoneMention,
    GroupMention,
    Inline,
    Italic,
    ListBlock,
    Mark,
    Paragraph,
    Quote,
    Strike,
    Text,
    Time,
    Underline,
    UserMention,
)

MAX_INDENT: Final = 7
"""Levels of a list below its first; deeper items are shown at this level, so that the tree stays flat."""
_STYLES: Final[Mapping[str, Mark]] = {
    "bold": Bold,
    "italic": Italic,
    "strike": Strike,
    "underline": Underline,
}
_ID: Final = re.compile(r"[A-Z0-9]{1,40}")
_MAX_SIMPLE: Final = 50
_BLOCK_RUNS: Final = 4
"""What a block costs of the budget, because it takes as long as so many runs."""
_MAX_TIME: Final = 1 << 40


@dataclass(slots=True)
class Budget:
    """What is left to read of a message: characters and runs."""

    characters: int = MAX_TEXT_CHARACTERS
    runs: int = MAX_RUNS

    def take(self, text: str) -> str:
        """Return as much of a text as may still be read. Each line of it is a run at least."""
        taken = cut_lines(text[: self.characters], self.runs)
        self.characters -= len(taken)
        return taken

    @property
    def is_spent(self) -> bool:
        return self.runs <= 0 or self.characters <= 0


@dataclass(slots=True)
class _Item:
    paragraphs: list[Paragraph]
    lists: "list[_List]" = field(default_factory=list)


@dataclass(slots=True)
class _List:
    ordered: bool
    start: int
    items: list[_Item] = field(default_factory=list)


def parse_rich_text(block: Mapping[str, Any], budget: Budget) -> list[Block]:
    """Return the blocks of a `rich_text` block. Elements of an unknown type are left out."""
    blocks: list[Block] = []
    was_bordered = False
    for group in _groups(objects(block.get("elements"))):
        if budget.is_spent:
            break
        budget.runs -= _BLOCK_RUNS
        element = group[0]
        added = _parse_group(text_of(element.get("type")), group, budget)
        if not added:
            continue  # as if it were not there: what is beside it is neighbours
        if element.get("type") == "rich_text_quote":
            _append_quote(blocks, added, joins=was_bordered)
        else:
            _append(blocks, added, element)
        was_bordered = _border(element)
    return blocks


def simple_inlines(elements: Any) -> tuple[Inline, ...] | None:
    """Return the canonical nodes of a section that is one line of texts and mentions of people, as most are.

    None for any other. `parse_rich_text` and `canonical` return the same, and take several times as long.
    """
    if not isinstance(elements, list) or len(elements) > _MAX_SIMPLE:
        return None
    nodes: list[Inline] = []
    text, characters = "", 0
    for element in elements:
        if not isinstance(element, dict):
            return None
        if element.get("type") == "text" and not element.get("style"):
            part = element.get("text")
            if not isinstance(part, str) or not is_in_a_line(part):
                return None
            text += part
            characters += len(part)
            continue
        node = _simple_node(element)
        # Two texts with one mark are one.
        if node is None or (nodes and not text and type(nodes[-1]) is type(node) is not UserMention):
            return None
        if text:
            nodes.append(Text(text))
            text = ""
        nodes.append(node)
        characters += _MAX_SIMPLE if type(node) is UserMention else len(element["text"])
    if text and (nodes or not text.isspace()):
        nodes.append(Text(text))
    return tuple(nodes) if nodes and characters <= MAX_TEXT_CHARACTERS else None


def _simple_node(element: Mapping[str, Any]) -> Inline | None:
    """Return the node of a text with one mark, or of a mention of a person; None for any other element."""
    kind, style = element.get("type"), element.get("style")
    if kind == "user":
        user = text_of(element.get("user_id"))
        return UserMention(user) if not style and is_id(user) else None
    text = text_of(element.get("text"))
    if kind != "text" or not text or not isinstance(style, dict) or len(style) != 1:
        return None
    (name,) = style
    mark = _STYLES.get(name) if style[name] is True else None
    if mark is None or text[0].isspace() or text[-1].isspace() or not is_in_a_line(text):
        return None
    return mark((Text(text),))


def _parse_group(kind: str, group: list[Mapping[str, Any]], budget: Budget) -> Sequence[Block]:
    """Return the blocks of an element, or of the lists that belong together; none for an unknown type."""
    if kind == "rich_text_list":
        return _lists(group, budget)
    if kind == "rich_text_preformatted":
        return _code_blocks(group[0], budget)
    if kind in {"rich_text_quote", "rich_text_section"}:
        return paragraphs_of(_runs(group[0], budget))
    return ()


def objects(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a list, without anything else that is in it; none for what is no list."""
    if not value or not isinstance(value, list):
        return []
    return [item for item in value[:MAX_RUNS] if isinstance(item, dict)]


def text_of(value: Any) -> str:
    """Return a text; '' for anything else."""
    return value if isinstance(value, str) else ""


def _groups(elements: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Yield each element alone, but lists that follow one another together: nested lists are such."""
    group: list[Mapping[str, Any]] = []
    for element in elements:
        joins = element.get("type") == "rich_text_list" and (
            group and group[0].get("type") == "rich_text_list" and _border(group[0]) == _border(element)
        )
        if group and not joins:
            yield group
            group = []
        group.append(element)
    if group:
        yield group


def _border(element: Mapping[str, Any]) -> bool:
    return bool(element.get("border"))


def _append_quote(blocks: list[Block], added: Sequence[Block], *, joins: bool) -> None:
    """Append a quote. It `joins` the one before if that ended with a list or code, which have a border."""
    last = blocks[-1] if blocks else None
    if joins and isinstance(last, Quote):
        blocks[-1] = Quote((*last.children, *added))
    else:
        blocks.append(Quote(tuple(added)))


def _append(blocks: list[Block], added: Sequence[Block], element: Mapping[str, Any]) -> None:
    """Append blocks; those with a border belong to the quote before them."""
    if not _border(element) or element.get("type") == "rich_text_section":
        blocks += added
    elif blocks and isinstance(blocks[-1], Quote):
        blocks[-1] = Quote((*blocks[-1].children, *added))
    else:
        blocks.append(Quote(tuple(added)))


def _code_blocks(element: Mapping[str, Any], budget: Budget) -> list[Block]:
    parts: list[str] = []
    for part in objects(element.get("elements")):
        if budget.is_spent:
            break
        budget.runs -= 1
        parts.append(budget.take(text_of(part.get("text")) or text_of(part.get("url"))))
    text = clean("".join(parts)).removesuffix("\n")
    return [CodeBlock(text, clean(text_of(element.get("language")))[:40])] if text else []


def _lists(elements: list[Mapping[str, Any]], budget: Budget) -> list[Block]:
    """Nest lists, which Slack sends one after another with their `indent`."""
    roots: list[_List] = []
    levels: list[_List] = []
    for element in elements:
        if budget.is_spent:
            break
        budget.runs -= _BLOCK_RUNS
        items = list(_items(element, budget))
        if not items:
            continue
        level = min(_number(element.get("indent")), MAX_INDENT, len(levels))
        ordered = element.get("style") == "ordered"
        offset = _number(element.get("offset"))
        del levels[level + 1 :]
        if level == len(levels) or not _goes_on(levels[level], ordered, offset):
            siblings = levels[level - 1].items[-1].lists if level else roots
            levels[level:] = [_List(ordered, offset + 1)]
            siblings.append(levels[level])
        levels[level].items += items
    return _list_blocks(roots)


def _items(element: Mapping[str, Any], budget: Budget) -> Iterator[_Item]:
    for item in objects(element.get("elements")):
        if budget.is_spent:
            break
        budget.runs -= 1
        yield _Item(paragraphs_of(_runs(item, budget)))


def _goes_on(before: _List, ordered: bool, offset: int) -> bool:
    if before.ordered != ordered:
        return False
    return not ordered or offset in {0, before.start - 1 + len(before.items)}


def _list_blocks(lists: Iterable[_List]) -> list[Block]:
    """Return the blocks of lists (at most `MAX_INDENT` levels). A list without text is none."""
    blocks: list[Block] = []
    for parsed in lists:
        items = [(*item.paragraphs, *_list_blocks(item.lists)) for item in parsed.items]
        if filled := tuple(filter(None, items)):
            blocks.append(ListBlock(filled, parsed.ordered, parsed.start))
    return blocks


def _number(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value < 1_000_000 else 0


def _runs(section: Mapping[str, Any], budget: Budget) -> list[Run]:
    runs: list[Run] = []
    for element in objects(section.get("elements")):
        if budget.is_spent:
            break
        added = _element_runs(element, budget)
        budget.runs -= max(len(added), 1)
        runs += added
    return runs


def _element_runs(element: Mapping[str, Any], budget: Budget) -> list[Run]:
    """Return the runs of one inline element; none for a type that has no text."""
    style = element.get("style")
    marks = NO_MARKS
    if isinstance(style, dict):
        marks = frozenset([mark for name, mark in _STYLES.items() if style.get(name) is True])
    kind = text_of(element.get("type"))
    if kind in {"text", "link"}:
        url = budget.take(text_of(element.get("url"))) if kind == "link" else ""
        text = budget.take(text_of(element.get("text")) or url)
        is_code = isinstance(style, dict) and style.get("code") is True
        return text_runs(text, marks, url if url and is_link(url) else "", code=is_code)
    leaf = _leaf(element, budget)
    return [Run(leaf, marks)] if leaf else []


def _leaf(element: Mapping[str, Any], budget: Budget) -> Leaf | None:
    budget.characters -= 1
    match element:
        case {"type": "user", "user_id": str(user)} if is_id(user):
            return UserMention(user)
        case {"type": "channel", "channel_id": str(channel)} if is_id(channel):
            return ChannelMention(channel)
        case {"type": "usergroup", "usergroup_id": str(group)} if is_id(group):
            return GroupMention(group)
        case {"type": "broadcast", "range": "here" | "channel" | "everyone" as scope}:
            return EveryoneMention(scope)
        case {"type": "emoji", "name": str(name)}:
            tone = _number(element.get("skin_tone"))
            full = f"{name}::skin-tone-{tone}" if 2 <= tone <= 6 and "::" not in name else name
            return emoji_named(full, text_of(element.get("unicode")))
        case {"type": "date", "timestamp": int(at)} if 0 <= at < _MAX_TIME:
            fallback = clean(budget.take(text_of(element.get("fallback")))).replace("\n", " ")
            return Time(at, fallback or iso_time(at), text_of(element.get("format"))[:100])
        case {"type": "color", "value": str(value)}:
            return Text(clean_line(value[:20])) if value else None
    return None


def iso_time(at: int) -> str:
    """Return a time in UTC as text: `2026-11-23 14:00 UTC`; its seconds if no calendar has it."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return str(at)


def is_id(value: str) -> bool:
    """Return whether a text can be an id of Slack: capital letters and digits."""
    return _ID.fullmatch(value) is not None
