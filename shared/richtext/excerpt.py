"""Excerpts of documents: whole lines, and how much is left out. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from shared.richtext.autolinks import cut_label, honest_label, split_links
from shared.richtext.build import CUT_MARK, canonical, visible_text
from shared.richtext.markdown import parse_markdown, render_markdown
from shared.richtext.split import divide, first_part
from shared.richtext.tree import (
    Block,
    Code,
    CodeBlock,
    Document,
    Inline,
    LineBreak,
    Link,
    ListBlock,
    Marked,
    Paragraph,
    Quote,
    Text,
)

_SPARE_CHARACTERS: Final = 8
"""Room for what a mark changes in the Markdown before it."""
_MAX_WORD_CHARACTERS: Final = 30
"""A line is cut in front of a word that is not longer than this."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning of a document, and a note of what is left out: `… (7 more lines)`; '' for nothing."""

    document: Document
    note: str = ""


@dataclass(slots=True)
class _Line:
    """A line that a reader sees: its place in the document, and what stands at each of its places."""

    start: int
    is_code: bool = False
    pieces: list[tuple[str, int, str]] = field(default_factory=list)
    """Visible texts, each with its number of places (see `split`) and the URL that it links to."""
    end: int = 0

    @property
    def text(self) -> str:
        return "".join(text for text, _, _ in self.pieces)


def excerpt(document: Document, max_lines: int, max_characters: int, unread: str = "") -> Excerpt:
    """Return the first lines, at most `max_lines` with `max_characters`.

    Lines stay whole. Only a first line, or one that begins in the first half of the characters, is cut.
    `unread` is the text behind the one that the document was parsed from. A line that nobody sees counts as
    none. The document is canonical.
    """
    max_lines, left, unread = max(max_lines, 1), max(max_characters, 1), unread.strip()
    lines = [line for line in _lines(document.blocks) if line.text.strip()]
    count = 0
    partial: _Line | None = None
    for line in lines:
        size = len(line.text)
        if count == max_lines or size > left:
            if count == 0 or (count < max_lines and left > max_characters // 2):
                partial = line
            break
        count += 1
        left -= size
    else:
        if not unread:
            return Excerpt(document)
    if partial:
        return _cut_in_line(document, partial, left, lines[count + 1 :], unread)
    shown = divide(document, lines[count - 1].end)[0] if count else Document(())
    hidden = len(lines) - count + (unread.count("\n") + 1 if unread else 0)
    return Excerpt(shown, f"{CUT_MARK} ({_count(hidden, 'more line')})" if hidden else "")


def _cut_in_line(
    document: Document, line: _Line, max_characters: int, rest: Sequence[_Line], unread: str
) -> Excerpt:
    """Return the document up to a place in a line, with an ellipsis there."""
    text = line.text
    shown = text[: max_characters - 1]
    blank = shown.rfind(" ", max(0, len(shown) - _MAX_WORD_CHARACTERS))
    if blank > 0 and not line.is_code:
        shown = shown[:blank]
    place, characters = _place(line, len(shown))
    end = line.start + place
    head = divide(document, end)[0] if end else Document(())
    hidden = len(text) - characters + sum(len(other.text) for other in rest) + len(unread)
    note = f"({_count(hidden, 'more character')})"
    if line.is_code:
        return Excerpt(_with_end(head, CUT_MARK), f"{CUT_MARK} {note}")
    return Excerpt(_with_end(head, f"{CUT_MARK} {note}"))


def _place(line: _Line, characters: int) -> tuple[int, int]:
    """Return the last place of a line within so many characters, and the characters before it.

    A URL is not cut in its host, which would look like another host.
    """
    place = before = 0
    for text, places, url in line.pieces:
        if before + len(text) <= characters:
            place, before = place + places, before + len(text)
            continue
        inside = characters - before if places == len(text) else 0
        if url and inside and any(found for _, found in split_links(text)):
            inside = len(cut_label(text, inside))
        return place + inside, before + inside
    return place, before


def _lines(blocks: Iterable[Block]) -> list[_Line]:
    lines: list[_Line] = []
    _read_blocks(blocks, 0, lines)
    return lines


def _read_blocks(blocks: Iterable[Block], place: int, lines: list[_Line]) -> int:
    for block in blocks:
        match block:
            case CodeBlock(text):
                start = place
                for code in text.split("\n"):
                    lines.append(
                        _Line(start, is_code=True, pieces=[(code, len(code), "")], end=start + len(code))
                    )
                    start += len(code) + 1
                place += max(1, len(text))
            case Paragraph(children):
                lines.append(_Line(place, end=place))
                place = _read_inlines(children, place, "", lines)
            case Quote(children):
                place = _read_blocks(children, place, lines)
            case ListBlock(items):
                for item in items:
                    place = _read_blocks(item, place, lines)
    return place


def _read_inlines(nodes: Iterable[Inline], place: int, url: str, lines: list[_Line]) -> int:
    for node in nodes:
        if isinstance(node, LineBreak):
            place += 1
            lines.append(_Line(place, end=place))
        elif isinstance(node, Marked):
            place = _read_inlines(node.children, place, node.url if isinstance(node, Link) else url, lines)
        else:
            text = visible_text((node,))
            places = len(text) if isinstance(node, Text | Code) else 1
            lines[-1].pieces.append((text, places, url))
            place += places
            lines[-1].end = place
    return place


def _with_end(document: Document, end: str) -> Document:
    """Return a document with a text behind its last text, or as a paragraph behind what is no text."""
    if not document.blocks:
        return Document((Paragraph((Text(end),)),))
    return canonical(Document(_blocks_with_end(document.blocks, end)))


def _blocks_with_end(blocks: tuple[Any, ...], end: str) -> tuple[Any, ...]:
    last = blocks[-1]
    match last:
        case Paragraph((*others, Link(url, children))) if end.startswith(CUT_MARK):
            # Within the link: a part of a URL is not taken for another one.
            label = Link(url, (*children, Text(CUT_MARK)))
            return (*blocks[:-1], Paragraph((*others, label, Text(end.removeprefix(CUT_MARK)))))
        case Paragraph(children):
            return (*blocks[:-1], Paragraph((*children, Text(end))))
        case CodeBlock(text):
            return (*blocks[:-1], replace(last, text=text + end))
        case Quote(children):
            return (*blocks[:-1], Quote(_blocks_with_end(children, end)))
        case ListBlock(items):
            items = (*items[:-1], _blocks_with_end(items[-1], end))
            return (*blocks[:-1], replace(last, items=items))
    return blocks


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def fit_markdown(markdown: str, max_characters: int, mark: str = "") -> str:
    """Cut Markdown to at most `max_characters`: between blocks, lines or words, never inside an escape.

    A `mark` that begins with an empty line becomes a paragraph of its own, another one the end of the text.
    Markdown that is short enough is returned as it is; what is cut is written anew.
    """
    if len(markdown) <= max_characters:
        return markdown
    document = parse_markdown(markdown)
    is_paragraph = mark.startswith("\n\n")
    spare = 0 if is_paragraph or not mark else _SPARE_CHARACTERS
    head = first_part(document, limit=max_characters - len(mark) - spare, measure=_length)
    head = _without_cut_url(head)
    cut = _text(head) + mark if is_paragraph or not mark else _text(_with_end(head, mark))
    return cut.strip() if len(cut) <= max_characters else mark.strip()


def _text(document: Document) -> str:
    return render_markdown(document).text


def _length(document: Document) -> int:
    return len(_text(document))


def _without_cut_url(document: Document) -> Document:
    """Return a document without a link at its end whose text is a part of a URL: another URL."""
    last = document.blocks[-1] if document.blocks else None
    link = last.children[-1] if isinstance(last, Paragraph) else None
    if not isinstance(last, Paragraph) or not isinstance(link, Link):
        return document
    label = visible_text(link.children)
    if honest_label(label, link.url) == label:
        return document
    return canonical(Document((*document.blocks[:-1], Paragraph(last.children[:-1]))))
