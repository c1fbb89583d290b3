"""Telegram's entities, parsed to the document tree. Offsets count UTF-16 code units.

The text is read once from left to right, at the places where an entity begins or ends; whatever overlaps or
lies outside of the text costs only itself.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.richtext.build import canonical, clean, clean_line, cut_text
from shared.richtext.runs import Run, is_link, paragraphs_of, text_runs
from shared.richtext.tree import (
    Block,
    Bold,
    CodeBlock,
    CustomEmoji,
    Document,
    Italic,
    Mark,
    Quote,
    Spoiler,
    Strike,
    Underline,
    UserMention,
)

MAX_ENTITIES: Final = 500
"""Entities that are read of one message; Telegram itself allows a hundred."""
MARKS: Final[Mapping[str, Mark]] = {
    "bold": Bold,
    "italic": Italic,
    "underline": Underline,
    "strikethrough": Strike,
    "spoiler": Spoiler,
}
_QUOTES: Final = frozenset({"blockquote", "expandable_blockquote"})
_ATOMS: Final = frozenset({"code", "custom_emoji", "text_mention", "mention"})
_LINKS: Final = frozenset({"text_link", "url", "email"})


@dataclass(frozen=True, slots=True)
class _Span:
    """An entity with its place in characters."""

    kind: str
    start: int
    end: int
    entity: Mapping[str, Any]


def parse_entities(text: str, entities: Any) -> Document:
    """Return the document of a text with its entities (`entities` or `caption_entities`)."""
    text = cut_text(text)
    spans = _spans(text, entities)
    blocks: list[Block] = []
    position = 0
    reader = _Reader(text, [span for span in spans if span.kind not in _QUOTES and span.kind != "pre"])
    for span in _apart(span for span in spans if span.kind in _QUOTES or span.kind == "pre"):
        blocks += paragraphs_of(reader.runs(position, span.start))
        blocks += _block(span, reader)
        position = span.end
    blocks += paragraphs_of(reader.runs(position, len(text)))
    return canonical(Document(tuple(blocks)))


def _block(span: _Span, reader: "_Reader") -> list[Block]:
    """Return the block of a quote or of code; none if it has no text."""
    if span.kind == "pre":
        code = clean(reader.text[span.start : span.end]).strip("\n")
        language = span.entity.get("language")
        reader.skip(span.end)
        return [CodeBlock(code, language[:40] if isinstance(language, str) else "")] if code else []
    paragraphs = paragraphs_of(reader.runs(span.start, span.end))
    return [Quote(tuple(paragraphs))] if paragraphs else []


def _spans(text: str, entities: Any) -> list[_Span]:
    """Return the entities that have a place in the text, by their beginning, the longer ones first."""
    if not isinstance(entities, list):
        return []
    # Characters beyond the first 65,536 count twice; `doubled` has the offsets where they begin.
    doubled = [at + number for number, at in enumerate(_astral(text))]
    spans: list[_Span] = []
    for entity in entities[:MAX_ENTITIES]:
        if not isinstance(entity, dict):
            continue
        kind, offset, length = (entity.get(name) for name in ("type", "offset", "length"))
        if not (isinstance(kind, str) and isinstance(offset, int) and isinstance(length, int)):
            continue
        if offset < 0 or length <= 0:
            continue
        start = min(offset - bisect_left(doubled, offset), len(text))
        end = min(offset + length - bisect_left(doubled, offset + length), len(text))
        if start < end:
            spans.append(_Span(kind, start, end, entity))
    return sorted(spans, key=lambda span: (span.start, -span.end))


def _astral(text: str) -> Sequence[int]:
    if text.isascii():
        return ()
    return [at for at, character in enumerate(text) if character > "\uffff"]


def _apart(spans: Iterable[_Span]) -> list[_Span]:
    """Return the spans without those that begin before the last one has ended."""
    apart: list[_Span] = []
    for span in spans:
        if not apart or span.start >= apart[-1].end:
            apart.append(span)
    return apart


class _Reader:
    """Reads the runs of a text from left to right, each piece once."""

    def __init__(self, text: str, spans: Sequence[_Span]) -> None:
        self.text = text
        self._atoms = {span.start: span for span in _apart(span for span in spans if span.kind in _ATOMS)}
        marked = [span for span in spans if span.kind in MARKS or span.kind in _LINKS]
        self._edges = sorted(
            {
                *(edge for span in marked for edge in (span.start, span.end)),
                *(edge for span in self._atoms.values() for edge in (span.start, span.end)),
            }
        )
        self._starting: dict[int, list[_Span]] = {}
        self._ending: dict[int, list[_Span]] = {}
        for span in marked:
            self._starting.setdefault(span.start, []).append(span)
            self._ending.setdefault(span.end, []).append(span)
        self._next_edge = 0
        self._marks: Counter[Mark] = Counter()
        self._links: list[tuple[int, str]] = []

    def runs(self, start: int, end: int) -> list[Run]:
        """Return the runs between two places. Calls go from left to right."""
        runs: list[Run] = []
        self._advance(start)
        position = start
        while position < end:
            atom = self._atoms.get(position)
            if atom and atom.end <= end:
                runs += self._atom(atom)
                position = atom.end
            else:
                following = self._edges[self._next_edge] if self._next_edge < len(self._edges) else end
                until = min(following, end)
                runs += text_runs(self.text[position:until], self._active_marks(), self._url())
                position = until
            self._advance(position)
        return runs

    def skip(self, end: int) -> None:
        """Leave out what is before a place."""
        self._advance(end)

    def _advance(self, position: int) -> None:
        while self._next_edge < len(self._edges) and self._edges[self._next_edge] <= position:
            edge = self._edges[self._next_edge]
            self._next_edge += 1
            for span in self._ending.get(edge, ()):
                if mark := MARKS.get(span.kind):
                    self._marks[mark] -= 1
            self._links = [link for link in self._links if link[0] > edge]
            for span in self._starting.get(edge, ()):
                if mark := MARKS.get(span.kind):
                    self._marks[mark] += 1
                elif not self._links and (url := self._address(span)):
                    self._links.append((span.end, url))

    def _active_marks(self) -> frozenset[Mark]:
        return frozenset(mark for mark, count in self._marks.items() if count > 0)

    def _url(self) -> str:
        return self._links[0][1] if self._links else ""

    def _address(self, span: _Span) -> str:
        """Return the address of a link; '' for one that is not allowed."""
        shown = self.text[span.start : span.end]
        if span.kind == "text_link":
            url = span.entity.get("url")
            url = url if isinstance(url, str) else ""
        elif span.kind == "email":
            url = f"mailto:{shown}"
        else:
            url = shown if "://" in shown[:12] else f"http://{shown}"
        return url if is_link(url) else ""

    def _atom(self, span: _Span) -> list[Run]:
        """Return the runs of an entity that is a leaf: its text is not looked at further."""
        shown, marks, url = self.text[span.start : span.end], self._active_marks(), self._url()
        line = clean_line(shown)
        if span.kind == "text_mention":
            user = span.entity.get("user")
            user_id = user.get("id") if isinstance(user, dict) else None
            if isinstance(user_id, int):
                return [Run(UserMention(str(user_id), line.removeprefix("@")), marks)]
        elif span.kind == "mention" and line[:1] == "@" and len(line) > 1:
            return [Run(UserMention(line, line[1:]), marks)]
        elif span.kind == "custom_emoji":
            emoji_id = span.entity.get("custom_emoji_id")
            if isinstance(emoji_id, str) and emoji_id.isdecimal() and emoji_id.isascii():
                return [Run(CustomEmoji(line, emoji_id[:40]), marks, url)]
        elif span.kind == "code":
            return text_runs(shown, marks, url, code=True)
        return text_runs(shown, marks, url)
