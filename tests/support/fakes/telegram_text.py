"""Texts and entities, checked and trimmed as Telegram does. Offsets and lengths are UTF-16 code units.

From memory: the texts of the errors. Telegram splits entities that overlap, and drops those inside of code;
a client that is right sends neither, so that both are refused here, with a complaint.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.support.fakes.telegram_model import Refusal

MAX_TEXT: Final = 4096
MAX_CAPTION: Final = 1024
_TYPES: Final = {
    "bold": (),
    "italic": (),
    "underline": (),
    "strikethrough": (),
    "spoiler": (),
    "blockquote": (),
    "expandable_blockquote": (),
    "code": (),
    "pre": (),
    "text_link": ("url",),
    "text_mention": ("user",),
    "custom_emoji": ("custom_emoji_id",),
    "mention": (),
    "hashtag": (),
    "cashtag": (),
    "bot_command": (),
    "url": (),
    "email": (),
    "phone_number": (),
}
_OPTIONAL: Final = {"pre": {"language"}}
_CODE: Final = frozenset({"code", "pre"})
_QUOTES: Final = frozenset({"blockquote", "expandable_blockquote"})

Complain = Callable[[str], None]


def units(text: str) -> int:
    """The length in UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


def formatted(
    text: str, entities: Sequence[Any], complain: Complain, *, caption: bool = False
) -> tuple[str, list[dict[str, Any]]]:
    """The text and its entities as Telegram stores them; Refusal, with a complaint for a client's fault."""
    checked = [_entity(one, text, complain) for one in entities]
    checked.sort(key=lambda one: (one["offset"], -one["length"]))
    _check_nesting(checked, complain)
    text, checked = _trimmed(text, checked)
    if units(text) > (MAX_CAPTION if caption else MAX_TEXT):
        raise Refusal.bad("message caption is too long" if caption else "message is too long")
    if not text and not caption:
        raise Refusal.bad("message text is empty")
    return text, checked


def _entity(raw: Any, text: str, complain: Complain) -> dict[str, Any]:
    if not isinstance(raw, dict) or raw.get("type") not in _TYPES:
        complain(f"{raw!r} is no entity")
        raise Refusal.bad("can't parse MessageEntity: Unsupported type specified")
    kind = raw["type"]
    needed = {"type", "offset", "length", *_TYPES[kind]}
    unknown = raw.keys() - needed - _OPTIONAL.get(kind, set())
    if missing := needed - raw.keys():
        raise Refusal.bad(f"can't parse MessageEntity: Can't find field {min(missing)!r}")
    if unknown:
        complain(f"the entity {kind} has {sorted(unknown)}")
    offset, length = raw["offset"], raw["length"]
    if not isinstance(offset, int) or offset < 0:
        raise Refusal.bad(f"receive entity with incorrect offset {offset}")
    if not isinstance(length, int) or length <= 0:
        raise Refusal.bad(f"receive entity with incorrect length {length}")
    _check_range(text, offset, length)
    return dict(raw)


def _check_range(text: str, offset: int, length: int) -> None:
    borders, position = {0}, 0
    for character in text:
        position += 2 if ord(character) > 0xFFFF else 1
        borders.add(position)
    start, end = f"entity beginning at UTF-16 offset {offset}", offset + length
    if offset >= position or end > position:
        raise Refusal.bad(f"{start} ends after the end of the text at UTF-16 offset {end}")
    if offset not in borders:
        raise Refusal.bad(f"{start} begins in a middle of a UTF-16 symbol")
    if end not in borders:
        raise Refusal.bad(f"{start} ends in a middle of a UTF-16 symbol")


def _check_nesting(entities: Sequence[dict[str, Any]], complain: Complain) -> None:
    stack: list[dict[str, Any]] = []
    for entity in entities:
        end = entity["offset"] + entity["length"]
        while stack and stack[-1]["offset"] + stack[-1]["length"] <= entity["offset"]:
            stack.pop()
        problem = ""
        if stack and end > stack[-1]["offset"] + stack[-1]["length"]:
            problem = f"{entity['type']} overlaps {stack[-1]['type']}"
        elif stack and (entity["type"] in _CODE or stack[-1]["type"] in _CODE):
            problem = f"{entity['type']} is inside of {stack[-1]['type']}"
        elif entity["type"] in _QUOTES and any(one["type"] in _QUOTES for one in stack):
            problem = "a blockquote is inside of a blockquote"
        elif any(one["type"] == entity["type"] for one in stack):
            problem = f"{entity['type']} is inside of itself"
        if problem:
            complain(f"entities: {problem}")
            raise Refusal.bad(f"can't use entities: {problem}")
        stack.append(entity)


def _trimmed(text: str, entities: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Without white space at both ends, and without entities that have nothing else."""
    stripped = text.strip()
    cut = units(text[: len(text) - len(text.lstrip())])
    total = units(stripped)
    found = []
    for entity in entities:
        start = max(entity["offset"] - cut, 0)
        end = min(entity["offset"] + entity["length"] - cut, total)
        if end > start and _part(stripped, start, end).strip():
            found.append({**entity, "offset": start, "length": end - start})
    return stripped, found


def _part(text: str, start: int, end: int) -> str:
    return text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le", errors="replace")
