"""Slack's layout blocks as Markdown, `rich_text` included. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared.richtext.autolinks import web_url
from shared.richtext.fragments import escape, link
from shared.webhooks.incoming_formats.formatted import Formatter
from shared.webhooks.incoming_formats.normal_form import (
    MAX_CLIPPED_CHARACTERS,
    bold,
    clip,
    list_of,
    object_of,
    parse_http_url,
    plain_to_markdown,
    text_of,
)

MAX_BLOCKS: Final = 50
_MAX_PARTS: Final = 25
_MAX_LINES: Final = 100
_MAX_TABLE_CELLS: Final = 20


def blocks_to_markdown(blocks: Sequence[Mapping[str, Any]], formatter: Formatter) -> tuple[str, list[str]]:
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
            paragraphs += _paragraphs(block, kind, formatter)
    return "\n\n".join(filter(None, paragraphs)).removesuffix("\n\n---"), list(filter(None, images))


def _paragraphs(block: Mapping[str, Any], kind: object, formatter: Formatter) -> list[str]:
    match kind:
        case "header":
            return [bold(_text(block.get("text"), formatter))]
        case "section":
            return _section(block, formatter)
        case "context":
            elements = list_of(block.get("elements"), _MAX_PARTS)
            return [" ".join(filter(None, (_text(element, formatter) for element in elements)))]
        case "actions":
            return [buttons_to_markdown(block.get("elements"), formatter)]
        case "divider":
            return ["---"]
        case "image":
            return [_text(block.get("title"), formatter)]
        case "rich_text":
            return [formatter.block(block)]
        case "markdown":
            return [formatter.markdown(text_of(block.get("text")))]
        case "table":
            return [_table(block, formatter)]
        case "video":
            title, url = _text(block.get("title"), formatter), web_url(text_of(block.get("title_url")))
            return [link(title, url) if title and url else title]
    return []


def _section(block: Mapping[str, Any], formatter: Formatter) -> list[str]:
    texts = [block.get("text"), *list_of(block.get("fields"), _MAX_PARTS)]
    buttons = buttons_to_markdown([block.get("accessory")], formatter)
    return [*(_text(text, formatter) for text in texts), buttons]


def _text(part: object, formatter: Formatter) -> str:
    """Return the text of a text object; empty for any other element (an image, a button)."""
    if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        return ""
    text: str = clip(part["text"].strip())
    return formatter.mrkdwn(text) if part.get("type") == "mrkdwn" else plain_to_markdown(text)


def buttons_to_markdown(buttons: object, formatter: Formatter) -> str:
    """Return the buttons that have a URL as Markdown links on one line."""
    links: list[str] = []
    for button in map(object_of, list_of(buttons, _MAX_PARTS)):
        label = button.get("text")
        text = escape(text_of(label)) if isinstance(label, str) else _text(label, formatter)
        url = parse_http_url(button.get("url"))
        if text and url:
            links.append(link(text, url.replace("\\", "%5C")))
    return " ".join(links)


def _table(block: Mapping[str, Any], formatter: Formatter) -> str:
    """Return a table; its first row is the head."""
    rows = [
        [_cell(object_of(cell), formatter) for cell in list_of(row, _MAX_TABLE_CELLS)]
        for row in list_of(block.get("rows"), _MAX_LINES)
    ]
    if not rows or not rows[0]:
        return ""
    lines = [f"| {' | '.join(row)} |" for row in rows if row]
    return formatter.markdown("\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]))


def _cell(cell: Mapping[str, Any], formatter: Formatter) -> str:
    text = formatter.block(cell) if cell.get("type") == "rich_text" else plain_to_markdown(cell.get("text"))
    return " ".join(text.split())
