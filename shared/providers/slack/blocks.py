"""The body of a message of Slack: its blocks, or its text and attachments if it has no text in blocks."""

from collections.abc import Mapping
from typing import Any, Final

from shared.providers.slack.mrkdwn import parse_mrkdwn, simple_line
from shared.providers.slack.rich_text import Budget, objects, parse_rich_text, simple_inlines, text_of
from shared.richtext.build import canonical
from shared.richtext.runs import is_link, paragraphs_of, runs_of, text_runs, with_mark
from shared.richtext.tree import Block, Bold, Document, Italic, Link, Paragraph, Text

MARKER_PREFIX: Final = "il-"
"""How the `block_id` of a hub's own message begins; what follows is the marker."""
MAX_BLOCKS: Final = 50


def marker_of(message: Mapping[str, Any]) -> str | None:
    """Return the marker that a hub left on a message, this one or another one; None without one."""
    blocks = message.get("blocks")
    for block in blocks[:MAX_BLOCKS] if isinstance(blocks, list) else ():
        block_id = block.get("block_id") if isinstance(block, dict) else None
        if isinstance(block_id, str) and block_id.startswith(MARKER_PREFIX):
            return block_id.removeprefix(MARKER_PREFIX)[:200]
    return None


def parse_body(message: Mapping[str, Any]) -> Document:
    """Parse the text of a message, whatever kind of blocks it has."""
    blocks = message.get("blocks")
    if not blocks:
        inlines = simple_line(text_of(message.get("text")))
    elif (block := _only(blocks, "rich_text")) and (
        section := _only(block.get("elements"), "rich_text_section")
    ):
        inlines = simple_inlines(section.get("elements"))
    else:
        inlines = None
    if inlines and message.get("subtype") != "me_message":
        return Document((Paragraph(inlines),), is_canonical=True)
    return parse_whole_body(message)


def _only(items: Any, kind: str) -> Mapping[str, Any] | None:
    """Return the only object of a list, if it is of this type."""
    if isinstance(items, list) and len(items) == 1:
        item = items[0]
        if isinstance(item, dict) and item.get("type") == kind:
            return item
    return None


def parse_whole_body(message: Mapping[str, Any]) -> Document:
    """Parse the text of a message with all of its blocks. `parse_body` returns the same, sooner."""
    budget = Budget()
    blocks: list[Block] = []
    for block in objects(message.get("blocks"))[:MAX_BLOCKS]:
        blocks += _parse_block(block, budget)
    if not blocks:
        blocks += parse_mrkdwn(text_of(message.get("text")), budget)
    if not blocks:
        for attachment in objects(message.get("attachments"))[:MAX_BLOCKS]:
            blocks += _parse_attachment(attachment, budget)
    if message.get("subtype") == "me_message":
        blocks = [_italic(block) if isinstance(block, Paragraph) else block for block in blocks]
    return canonical(Document(tuple(blocks)))


def _italic(paragraph: Paragraph) -> Paragraph:
    return paragraphs_of(with_mark(runs_of(paragraph.children), Italic))[0]


def _parse_block(block: Mapping[str, Any], budget: Budget) -> list[Block]:
    """Parse one block of any kind that shows text. Buttons and menus are left out."""
    kind = text_of(block.get("type"))
    if kind == "rich_text":
        return parse_rich_text(block, budget)
    if kind == "header":
        return list(paragraphs_of(with_mark(text_runs(_plain(block.get("text"), budget)), Bold)))
    if kind == "image":
        return _image(block, budget)
    if kind not in {"section", "context"}:
        return []
    parts = [block.get("text"), *objects(block.get("fields")), *objects(block.get("elements"))]
    return [parsed for part in parts for parsed in _text_object(part, budget)]


def _text_object(value: Any, budget: Budget) -> list[Block]:
    if not isinstance(value, dict):
        return []
    if value.get("type") == "mrkdwn":
        return parse_mrkdwn(text_of(value.get("text")), budget)
    return list(paragraphs_of(text_runs(_plain(value, budget))))


def _plain(value: Any, budget: Budget) -> str:
    return budget.take(text_of(value.get("text"))) if isinstance(value, dict) else ""


def _image(block: Mapping[str, Any], budget: Budget) -> list[Block]:
    url = text_of(block.get("image_url"))
    label = text_runs(budget.take(text_of(block.get("alt_text")) or "image").replace("\n", " "), url=url)
    return list(paragraphs_of(label)) if is_link(url) else []


def _parse_attachment(attachment: Mapping[str, Any], budget: Budget) -> list[Block]:
    """Parse an attachment of an old integration: its introduction, its title, and its text."""
    blocks: list[Block] = list(parse_mrkdwn(text_of(attachment.get("pretext")), budget))
    title, url = budget.take(text_of(attachment.get("title"))), text_of(attachment.get("title_link"))
    line = title.replace("\n", " ").strip()
    if line:
        label = Text(line)
        blocks.append(Paragraph((Link(url, (label,)) if is_link(url) else Bold((label,)),)))
    blocks += parse_mrkdwn(text_of(attachment.get("text")), budget)
    for block in objects(attachment.get("blocks"))[:MAX_BLOCKS]:
        blocks += _parse_block(block, budget)
    return blocks or parse_mrkdwn(text_of(attachment.get("fallback")), budget)
