"""Slack's layout blocks as Markdown, `rich_text` included. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from shared.richtext.autolinks import web_url
from shared.richtext.fragments import escape, link
from shared.webhooks.incoming_formats.normal_form import (
    MAX_CLIPPED_CHARACTERS,
    clip,
    list_of,
    object_of,
    plain_to_markdown,
    text_of,
)
from shared.wire.mrkdwn import buttons_to_markdown, mrkdwn_to_markdown, parse_http_url
from shared.wire.timestamps import parse_timestamp

MAX_BLOCKS: Final = 50
_MAX_PARTS: Final = 25
_MAX_LINES: Final = 100
_MAX_TABLE_CELLS: Final = 20
_MAX_INDENT: Final = 8
_MAX_EMOJI_CHARACTERS: Final = 60
_MAX_CODE_POINT: Final = 0x10FFFF
_KEYCAPS: Final = frozenset(b"0123456789#*")
_SURROGATES: Final = range(0xD800, 0xE000)


def blocks_to_markdown(blocks: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return the text of layout blocks, a paragraph each, and the URLs of their images.

    Blocks of types that have no text are skipped.
    """
    paragraphs: list[str] = []
    images: list[str] = []
    for block in blocks[:MAX_BLOCKS]:
        if sum(map(len, paragraphs)) > MAX_CLIPPED_CHARACTERS:
            break
        kind = block.get("type")
        if kind == "image":
            images.append(parse_http_url(block.get("image_url")) or "")
        if kind != "divider" or any(paragraphs):
            paragraphs += _paragraphs(block, kind)
    return "\n\n".join(filter(None, paragraphs)).removesuffix("\n\n---"), list(filter(None, images))


def _paragraphs(block: Mapping[str, Any], kind: object) -> list[str]:
    match kind:
        case "header":
            text = _text(block.get("text"))
            return [f"**{text}**" if text else ""]
        case "section":
            return _section(block)
        case "context":
            return [" ".join(filter(None, map(_text, list_of(block.get("elements"), _MAX_PARTS))))]
        case "actions":
            return [buttons_to_markdown(block.get("elements"))]
        case "divider":
            return ["---"]
        case "image":
            return [_text(block.get("title"))]
        case "rich_text":
            return [_rich_text(block)]
        case "markdown":
            return [text_of(block.get("text"))]
        case "table":
            return [_table(block)]
        case "video":
            title, url = _text(block.get("title")), web_url(text_of(block.get("title_url")))
            return [link(title, url) if title and url else title]
    return []


def _section(block: Mapping[str, Any]) -> list[str]:
    fields = list_of(block.get("fields"), _MAX_PARTS)
    return [_text(block.get("text")), *map(_text, fields), buttons_to_markdown([block.get("accessory")])]


def _text(part: object) -> str:
    """Return the text of a text object; empty for any other element (an image, a button)."""
    if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        return ""
    text: str = clip(part["text"].strip())
    return mrkdwn_to_markdown(text) if part.get("type") == "mrkdwn" else text


# Rich text: https://docs.slack.dev/reference/block-kit/blocks/rich-text-block


def _rich_text(block: Mapping[str, Any]) -> str:
    paragraphs: list[str] = []
    for part in list_of(block.get("elements"), _MAX_LINES):
        if sum(map(len, paragraphs)) > MAX_CLIPPED_CHARACTERS:
            break
        paragraph = _rich_part(object_of(part))
        # An indented list continues the list before it.
        if paragraphs and paragraph.startswith("  ") and part.get("type") == "rich_text_list":
            paragraphs[-1] += f"\n{paragraph}"
        else:
            paragraphs.append(paragraph)
    return "\n\n".join(filter(None, paragraphs))


def _rich_part(part: Mapping[str, Any]) -> str:
    match part.get("type"):
        case "rich_text_section":
            return _inline(part).strip()
        case "rich_text_list":
            return "\n".join(_list_items(part))
        case "rich_text_quote":
            return "\n".join(f"> {line}" for line in _inline(part).split("\n"))
        case "rich_text_preformatted":
            elements = map(object_of, list_of(part.get("elements"), _MAX_LINES))
            code = "".join(str(clip(_raw(item.get("text")) or _raw(item.get("url")))) for item in elements)
            code = code.strip("\n")
            fence = "````" if "```" in code else "```"
            return f"{fence}\n{code}\n{fence}" if code else ""
    return ""


def _list_items(part: Mapping[str, Any]) -> Iterator[str]:
    depth = part.get("indent")
    indent = "    " * min(depth, _MAX_INDENT) if type(depth) is int and depth > 0 else ""
    offset = part.get("offset")
    first = offset + 1 if type(offset) is int and 0 <= offset < 10_000 else 1
    for number, item in enumerate(list_of(part.get("elements"), _MAX_LINES), first):
        mark = f"{number}." if part.get("style") == "ordered" else "-"
        yield f"{indent}{mark} {_inline(object_of(item)).strip()}"


def _inline(part: Mapping[str, Any]) -> str:
    texts: list[str] = []
    for item in list_of(part.get("elements"), _MAX_LINES):
        if sum(map(len, texts)) > MAX_CLIPPED_CHARACTERS:
            break
        texts.append(_inline_element(object_of(item)))
    return "".join(texts)


def _inline_element(element: Mapping[str, Any]) -> str:
    write = _INLINE.get(str(element.get("type")))
    return _styled(write(element), object_of(element.get("style"))) if write else ""


def _styled(text: str, style: Mapping[str, Any]) -> str:
    """Put the marks of a style around a text, inside the blanks at its ends."""
    inner = text.strip()
    if not inner:
        return text
    start = text.index(inner)
    before, after = text[:start], text[start + len(inner) :]
    for name, mark in (("strike", "~~"), ("italic", "*"), ("bold", "**")):
        if style.get(name) is True:
            inner = f"{mark}{inner}{mark}"
    return f"{before}{inner}{after}"


def _raw(value: object) -> str:
    return value if isinstance(value, str) else ""


def _text_element(element: Mapping[str, Any]) -> str:
    text = str(clip(_raw(element.get("text"))))
    if object_of(element.get("style")).get("code") is True and text.strip():
        ticks = "``" if "`" in text else "`"
        return f"{ticks}{' ' if '`' in text else ''}{text}{' ' if '`' in text else ''}{ticks}"
    return escape(text)


def _link_element(element: Mapping[str, Any]) -> str:
    url, label = web_url(_raw(element.get("url"))), escape(text_of(element.get("text")))
    if not url:
        return label or escape(text_of(element.get("url")))
    return link(label, url) if label else f"<{url}>"


def _emoji_element(element: Mapping[str, Any]) -> str:
    try:
        points = [int(point, 16) for point in _raw(element.get("unicode"))[:_MAX_EMOJI_CHARACTERS].split("-")]
    except ValueError:
        points = []
    if points and all(map(_is_emoji_part, points)):
        return "".join(map(chr, points))
    name = text_of(element.get("name"))[:_MAX_EMOJI_CHARACTERS]
    return f":{escape(name)}:" if name else ""


def _is_emoji_part(point: int) -> bool:
    """Return whether a code point may be part of an emoji. Those of keycaps begin with an ASCII digit."""
    return point in _KEYCAPS or (0x7F < point <= _MAX_CODE_POINT and point not in _SURROGATES)


def _date_element(element: Mapping[str, Any]) -> str:
    fallback = text_of(element.get("fallback"))
    time = None if fallback else parse_timestamp(text_of(element.get("timestamp")))
    return escape(fallback) if time is None else f"{time:%Y-%m-%d %H:%M} UTC"


def _mention(name: str, mark: str) -> Callable[[Mapping[str, Any]], str]:
    def write(element: Mapping[str, Any]) -> str:
        value = text_of(element.get(name))
        return f"{mark}{escape(value)}" if value else ""

    return write


_INLINE: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "text": _text_element,
    "link": _link_element,
    "emoji": _emoji_element,
    "date": _date_element,
    "user": _mention("user_id", "@"),
    "usergroup": _mention("usergroup_id", "@"),
    "broadcast": _mention("range", "@"),
    "channel": _mention("channel_id", "#"),
    "team": _mention("team_id", "@"),
    "color": _mention("value", ""),
}


def _table(block: Mapping[str, Any]) -> str:
    """Return a table; its first row is the head."""
    rows = [
        [_cell(object_of(cell)) for cell in list_of(row, _MAX_TABLE_CELLS)]
        for row in list_of(block.get("rows"), _MAX_LINES)
    ]
    if not rows or not rows[0]:
        return ""
    lines = [f"| {' | '.join(row)} |" for row in rows if row]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _cell(cell: Mapping[str, Any]) -> str:
    text = _rich_text(cell) if cell.get("type") == "rich_text" else plain_to_markdown(cell.get("text"))
    return " ".join(text.split())
