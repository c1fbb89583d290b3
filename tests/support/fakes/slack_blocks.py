"""Blocks of Slack messages: which are refused, and what people see of them.

https://docs.slack.dev/reference/block-kit/blocks
The limit of all blocks together is in https://github.com/slackapi/bolt-js/issues/2509 only.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.support.fakes.slack_state import Json, SlackError

MAX_BLOCKS: Final = 50
MAX_ALL_CHARACTERS: Final = 13_200
_MAX_ID: Final = 255
_TEXT_LIMITS: Final = {"section": 3000, "header": 150, "markdown": 12_000}
_STYLES: Final = frozenset({"bold", "italic", "strike", "code", "underline", "highlight", "client_highlight"})
_INLINE: Final[dict[str, tuple[tuple[str, type], ...]]] = {
    "text": (("text", str),),
    "link": (("url", str),),
    "user": (("user_id", str),),
    "channel": (("channel_id", str),),
    "usergroup": (("usergroup_id", str),),
    "emoji": (("name", str),),
    "broadcast": (("range", str),),
    "date": (("timestamp", int), ("format", str)),
    "color": (("value", str),),
}
_INLINE_MAY: Final = {
    "link": {"text", "unsafe"},
    "emoji": {"unicode", "skin_tone", "url"},
    "date": {"url", "fallback"},
}
_PARTS: Final[dict[str, set[str]]] = {
    "rich_text_section": set(),
    "rich_text_list": {"style", "indent", "offset", "border"},
    "rich_text_preformatted": {"border", "language"},
    "rich_text_quote": {"border"},
}
_BLOCKS: Final[dict[str, set[str]]] = {
    "section": {"text", "fields", "accessory", "expand"},
    "divider": set(),
    "header": {"text"},
    "markdown": {"text"},
    "context": {"elements"},
    "actions": {"elements"},
    "image": {"image_url", "slack_file", "alt_text", "title"},
    "rich_text": {"elements"},
}


class _Wrong(Exception):
    """A block is not as Slack takes it; says what and where."""


def check_blocks(blocks: Any) -> list[Json]:
    """Return the blocks; `invalid_blocks_format`, `invalid_blocks` or `msg_blocks_too_long`."""
    if not isinstance(blocks, list):
        raise SlackError("invalid_blocks_format")
    try:
        _need(len(blocks) <= MAX_BLOCKS, f"no more than {MAX_BLOCKS} items allowed [json-pointer:/blocks]")
        ids = [
            block["block_id"]
            for index, block in enumerate(blocks)
            if "block_id" in _checked(block, f"/blocks/{index}")
        ]
        _need(len(set(ids)) == len(ids), "`block_id` is not unique [json-pointer:/blocks]")
    except _Wrong as wrong:
        detail = str(wrong)
        raise SlackError(
            "invalid_blocks", errors=[detail], response_metadata={"messages": [f"[ERROR] {detail}"]}
        ) from None
    if sum(len(text) for text in _texts(blocks)) > MAX_ALL_CHARACTERS:
        raise SlackError("msg_blocks_too_long")
    return blocks


def _need(fine: bool, what: str) -> None:
    if not fine:
        raise _Wrong(what)


def _checked(block: Any, at: str) -> Json:
    _need(isinstance(block, dict), f"must be an object [json-pointer:{at}]")
    kind = block.get("type")
    _need(isinstance(kind, str) and kind in _BLOCKS, f"unsupported type: {kind} [json-pointer:{at}/type]")
    _known(block, {"type", "block_id"} | _BLOCKS[kind], at)
    if "block_id" in block:
        block_id = block["block_id"]
        fits = isinstance(block_id, str) and 0 < len(block_id) <= _MAX_ID
        _need(fits, f"must be 1 to {_MAX_ID} characters [json-pointer:{at}/block_id]")
    check = _CHECKS.get(kind)
    if check:
        check(block, at)
    return dict(block)


def _kind(thing: Any) -> str:
    kind = thing.get("type") if isinstance(thing, dict) else None
    return kind if isinstance(kind, str) else ""


def _known(thing: Json, names: set[str], at: str) -> None:
    unknown = sorted(set(thing) - names)
    _need(not unknown, f"invalid additional property: {', '.join(unknown)} [json-pointer:{at}]")


def _text_object(thing: Any, limit: int, at: str, kinds: tuple[str, ...]) -> None:
    _need(isinstance(thing, dict) and thing.get("type") in kinds, f"no text object [json-pointer:{at}]")
    _known(thing, {"type", "text", "emoji", "verbatim"}, at)
    text = thing.get("text")
    fits = isinstance(text, str) and 0 < len(text) <= limit
    _need(fits, f"must be 1 to {limit} characters [json-pointer:{at}/text]")


def _section(block: Json, at: str) -> None:
    both = ("plain_text", "mrkdwn")
    fields = block.get("fields", [])
    _need("text" in block or bool(fields), f"missing required field: text [json-pointer:{at}]")
    if "text" in block:
        _text_object(block["text"], _TEXT_LIMITS["section"], f"{at}/text", both)
    _need(isinstance(fields, list) and len(fields) <= 10, f"no more than 10 items [json-pointer:{at}/fields]")
    for index, one in enumerate(fields):
        _text_object(one, 2000, f"{at}/fields/{index}", both)


def _header(block: Json, at: str) -> None:
    _text_object(block.get("text"), _TEXT_LIMITS["header"], f"{at}/text", ("plain_text",))


def _markdown(block: Json, at: str) -> None:
    text, limit = block.get("text"), _TEXT_LIMITS["markdown"]
    fits = isinstance(text, str) and 0 < len(text) <= limit
    _need(fits, f"must be 1 to {limit} characters [json-pointer:{at}/text]")


def _context(block: Json, at: str) -> None:
    elements = block.get("elements")
    fits = isinstance(elements, list) and 0 < len(elements) <= 10
    _need(fits, f"must have 1 to 10 elements [json-pointer:{at}/elements]")
    for index, one in enumerate(elements or []):
        where = f"{at}/elements/{index}"
        if isinstance(one, dict) and one.get("type") == "image":
            _image(one, where)
        else:
            _text_object(one, 3000, where, ("plain_text", "mrkdwn"))


def _image(block: Json, at: str) -> None:
    alt, url = block.get("alt_text"), block.get("image_url")
    _need(isinstance(alt, str) and len(alt) <= 2000, f"missing required field: alt_text [json-pointer:{at}]")
    fits = (isinstance(url, str) and 0 < len(url) <= 3000) != ("slack_file" in block)
    _need(fits, f"needs either image_url or slack_file [json-pointer:{at}]")


def _rich_text(block: Json, at: str) -> None:
    parts = block.get("elements")
    _need(isinstance(parts, list), f"missing required field: elements [json-pointer:{at}]")
    for index, part in enumerate(parts or []):
        where = f"{at}/elements/{index}"
        kind = _kind(part)
        _need(kind in _PARTS, f"unsupported type: {kind} [json-pointer:{where}]")
        _known(part, {"type", "elements"} | _PARTS[kind], where)
        _need(isinstance(part.get("elements"), list), f"missing field: elements [json-pointer:{where}]")
        if kind == "rich_text_list":
            _list(part, where)
        else:
            _inlines(part["elements"], where)


def _list(part: Json, at: str) -> None:
    _need(part.get("style") in {"bullet", "ordered"}, f"invalid style [json-pointer:{at}/style]")
    indent = part.get("indent", 0)
    _need(isinstance(indent, int) and 0 <= indent <= 8, f"invalid indent [json-pointer:{at}/indent]")
    for index, item in enumerate(part["elements"]):
        where = f"{at}/elements/{index}"
        fine = isinstance(item, dict) and item.get("type") == "rich_text_section"
        _need(fine, f"a list has sections only [json-pointer:{where}]")
        _known(item, {"type", "elements"}, where)
        _inlines(item.get("elements"), where)


def _inlines(elements: Any, at: str) -> None:
    _need(isinstance(elements, list), f"missing required field: elements [json-pointer:{at}]")
    for index, one in enumerate(elements):
        where = f"{at}/elements/{index}"
        kind = _kind(one)
        _need(kind in _INLINE, f"unsupported type: {kind} [json-pointer:{where}]")
        needs = _INLINE[kind]
        _known(one, {"type", "style", *(name for name, _ in needs), *_INLINE_MAY.get(kind, ())}, where)
        for name, needed in needs:
            value = one.get(name)
            fine = isinstance(value, needed) and value != ""
            _need(fine, f"missing or empty field: {name} [json-pointer:{where}]")
        style = one.get("style", {})
        fine = isinstance(style, dict) and set(style) <= _STYLES
        _need(fine and all(isinstance(value, bool) for value in style.values()), f"invalid style at {where}")
        if kind == "broadcast":
            known = one["range"] in {"here", "channel", "everyone"}
            _need(known, f"invalid range [json-pointer:{where}/range]")


_CHECKS: Final[dict[str, Callable[[Json, str], None]]] = {
    "section": _section,
    "header": _header,
    "markdown": _markdown,
    "context": _context,
    "image": _image,
    "rich_text": _rich_text,
}


def _texts(blocks: list[Json]) -> Iterator[str]:
    """Every text of the blocks, at whatever depth."""
    waiting: list[Any] = list(blocks)
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [value for name, value in one.items() if name != "text" or not isinstance(value, str)]
            if isinstance(one.get("text"), str):
                yield one["text"]
        elif isinstance(one, list):
            waiting += one


NameOf = Callable[[str, str], str]


def visible_text(blocks: list[Json], name_of: NameOf) -> str:
    """Return what people read: mentions as names, a line for each block, item and quote."""
    return "\n".join(line for block in blocks for line in _lines(block, name_of))


def _lines(block: Json, name_of: NameOf) -> Iterator[str]:
    if block["type"] in {"section", "header"}:
        yield from (one["text"] for one in [block.get("text"), *block.get("fields", [])] if one)
    elif block["type"] == "markdown":
        yield block["text"]
    elif block["type"] == "context":
        yield " ".join(one.get("text") or one.get("alt_text", "") for one in block["elements"])
    elif block["type"] == "image":
        yield block["alt_text"]
    for part in block["elements"] if block["type"] == "rich_text" else []:
        if part["type"] == "rich_text_list":
            ordered = part["style"] == "ordered"
            for number, item in enumerate(part["elements"], part.get("offset", 0) + 1):
                yield (f"{number}. " if ordered else "• ") + _inline_text(item["elements"], name_of)
        else:
            quote = "> " if part["type"] == "rich_text_quote" else ""
            yield quote + _inline_text(part["elements"], name_of).removesuffix("\n")


def _inline_text(elements: list[Json], name_of: NameOf) -> str:
    return "".join(_seen(one, name_of) for one in elements)


def _seen(one: Json, name_of: NameOf) -> str:
    kind = one["type"]
    if kind in {"user", "channel", "usergroup"}:
        return name_of(kind, one[f"{kind}_id"])
    if kind == "broadcast":
        return f"@{one['range']}"
    if kind == "emoji":
        return f":{one['name']}:"
    if kind == "date":
        return str(one.get("fallback") or one["timestamp"])
    return str(one.get("text") or one.get("url") or one.get("value"))
