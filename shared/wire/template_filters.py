"""The filters of message templates that make a value safe in Markdown. Pure.

The value is a stranger's: a branch name must not forge a link or a mention. URLs in it stay links, byte for
byte. Text with formatting is parsed to the document tree, cut there, and rendered.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Final

from liquid.exceptions import FilterError

from shared.richtext.autolinks import split_links, web_url
from shared.richtext.build import CUT_MARK, canonical, visible_text
from shared.richtext.excerpt import excerpt, fit_markdown
from shared.richtext.flavored_markdown import parse_flavored_markdown
from shared.richtext.fragments import cut_line, one_line, parse_line, strip_line, write_line
from shared.richtext.markdown_render import render_markdown
from shared.richtext.mentions import without_mass_mentions
from shared.richtext.plain import parse_plain
from shared.richtext.tree import Document, Inline, LineBreak, Link, Paragraph, Text
from shared.wire.mentions import defuse_mentions

Parser = Callable[[str], Document]
"""Parses the text of a dialect to the tree."""

MAX_TEMPLATE_CHARACTERS: Final = 20_000
"""Characters of a rendered text, and of a template's source."""

_DEFAULT_LINE_CHARACTERS: Final = 200
"""Characters of a value on one line, unless the template sets another limit."""

MAX_NAMES: Final = 5
MAX_NAME_CHARACTERS: Final = _DEFAULT_LINE_CHARACTERS + 1
"""Characters that `names` reads of each name: with one more than is shown, `md` marks the cut."""
_MAX_NAME_PATHS: Final = 5

_READ_PER_CHARACTER: Final = 4
_READ_CHARACTERS: Final = 1000
_READ_PER_LINE: Final = 10
_MAX_READ_CHARACTERS: Final = 8000
"""An excerpt of Markdown is made from so many characters of the text for each of its own, plus a thousand,
and from so many lines for each: parsing costs time, and much of a text (targets of links) is not shown."""
MAX_MARKDOWN_CHARACTERS: Final = 20_000
"""Characters of Markdown that one template parses, with `_READ_CHARACTERS` more for each text."""
MARKDOWN_BUDGET: ContextVar[list[int]] = ContextVar("markdown_budget")

_TO_LAYOUT: Final = {ord("\n"): "\x0e", ord(" "): "\x0f"}
"""Line breaks and blanks that have a meaning, until the layout of the template is gone."""
FROM_LAYOUT: Final = {0x0E: "\n", 0x0F: " "}
_RULE: Final = re.compile(r"[-=+: ]+")
_HEADING: Final = re.compile(r"#{1,6}\s+")
_STAR_BULLET: Final = re.compile(r"[*+]\s+")
_STRONG: Final = re.compile(r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)")
_MAX_STRONG_CHARACTERS: Final = 2000
_DISGUISES: Final = re.compile(r"[\t\u2028-\u202e\u2066-\u2069]")
"""Tabs, and characters that change the direction of writing."""


def _line(value: object) -> list[Text | Link]:
    """Return a value on one line."""
    return parse_line(_scalar_text(value)[:MAX_TEMPLATE_CHARACTERS])


def _scalar_text(value: object) -> str:
    """Return a text or number as text; empty for values that have no place in a sentence."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


# Filters. Their parameters are positional in templates: `{{ title | md: 80 }}`.


def _md(value: object, max_characters: int = _DEFAULT_LINE_CHARACTERS) -> str:
    """Filter `md`: the value on one line, cut to `max_characters`, escaped except for its URLs."""
    return write_line(cut_line(_line(value), max_characters))


def _bold(value: object) -> str:
    """Filter `bold`: as `md`, in bold type."""
    text = _md(value)
    return f"**{text}**" if text else ""


def _url(value: object) -> str:
    """Filter `url`: an http or https URL without a user name; empty for any other value."""
    return web_url(_scalar_text(value))


def _link(label: object, target: object) -> str:
    """Filter `link: target`: the label as a Markdown link, or alone if `target` is not a web URL."""
    url = _url(target)
    if not url:
        return _md(label)
    text = visible_text(_line(label))
    if text != url and len(text) > _DEFAULT_LINE_CHARACTERS:
        text = f"{text[: _DEFAULT_LINE_CHARACTERS - 1].rstrip()}…"
    return write_line([Link(url, (Text(text),))]) if text else ""


def _subject(value: object, max_characters: int = 100) -> str:
    """Filter `subject: max_characters`: the first line of a text that is not empty, as `md` writes it."""
    return _md(_scalar_text(value).strip()[:MAX_TEMPLATE_CHARACTERS].partition("\n")[0], max_characters)


def _excerpt(value: object, lines: int = 5, characters: int = 500) -> str:
    """Filter `excerpt: lines, characters`: the first lines of plain text that are not empty.

    Lines stay whole, and a note says how much is left out. Marks of Markdown that plain text does not need
    are removed.
    """
    text = _scalar_text(value)
    source = _strip_comments(text[:MAX_TEMPLATE_CHARACTERS]).splitlines()
    nodes: list[Inline] = []
    for shown in filter(visible_text, map(_plain_line, source)):
        nodes += [LineBreak(), *shown] if nodes else shown
    document = canonical(Document((Paragraph(tuple(nodes)),)))
    part = excerpt(document, lines, characters, text[MAX_TEMPLATE_CHARACTERS:])
    return "\n".join(filter(None, (*_written_lines(part.document), part.note)))


def _plain_line(line: str) -> list[Text | Link]:
    """Return a line without the marks of headings, bold type and autolinks."""
    line = line.strip()
    line = _HEADING.sub("", line, count=1) if line.startswith("#") else line
    line = _STAR_BULLET.sub("- ", line, count=1) if line.startswith(("* ", "+ ")) else line
    # Marks in a URL have no meaning: a NUL replaces each URL while the marks in the text are removed.
    parts = list(split_links(line.replace("\0", "")))
    masked = "".join("\0" if url else text for text, url in parts)[:_MAX_STRONG_CHARACTERS]
    texts = _STRONG.sub(r"\1", masked).replace("<\0>", "\0").split("\0")
    nodes: list[Text | Link] = [Text(one_line(texts[0]))]
    for text, (visible, url) in zip(texts[1:], (part for part in parts if part[1]), strict=False):
        nodes += [Link(url, (Text(visible),)), Text(one_line(text))]
    return strip_line(nodes)


def _written_lines(document: Document) -> list[str]:
    """Return the lines of a document that `_plain_line` made, as Markdown with nothing but links."""
    lines: list[list[Inline]] = [[]]
    for block in document.blocks:
        for node in block.children if isinstance(block, Paragraph) else ():
            if isinstance(node, LineBreak):
                lines.append([])
            else:
                lines[-1].append(node)
    # A line of dashes would be a rule, or make a heading of the line above it.
    return [("\\" if _RULE.fullmatch(visible_text(line)) else "") + write_line(line) for line in lines]


def _markdown(value: object, lines: int = 8, characters: int = 700) -> str:
    """Filter `markdown: lines, characters`: the first lines of Markdown that a person wrote, made safe.

    Lines stay whole, and a note says how much is left out. Raises `FilterError` if a template parses too
    much.
    """
    text = _scalar_text(value)
    visible = _strip_comments(text[:MAX_TEMPLATE_CHARACTERS])
    read, unread = _split_at(visible, lines, characters)
    return _write_excerpt(
        parse_flavored_markdown, read, unread + text[MAX_TEMPLATE_CHARACTERS:], lines, characters
    )


def dialect_filter(parse: Parser) -> Callable[..., str]:
    """Return a filter like `markdown` for a dialect that a provider parses."""

    def filter_(value: object, lines: int = 8, characters: int = 700) -> str:
        read, unread = _split_at(_scalar_text(value), lines, characters)
        return _write_excerpt(parse, read, unread, lines, characters)

    return filter_


def _write_excerpt(parse: Parser, read: str, unread: str, lines: int, characters: int) -> str:
    """Return an excerpt as Markdown, its layout encoded. `unread` is the text behind `read`.

    Raises `FilterError`.
    """
    budget = MARKDOWN_BUDGET.get()
    budget[0] -= len(read) + _READ_CHARACTERS
    if budget[0] < 0:
        raise FilterError("too much Markdown in one template", token=None)
    try:
        document = parse(_DISGUISES.sub("", read.expandtabs(4)))
    except Exception:  # noqa: BLE001 -- of a parser: no text of a stranger may cost the message
        document = parse_plain(read)
    part = excerpt(without_mass_mentions(document), lines, characters, unread)
    markdown = fit_markdown(render_markdown(part.document).text, _MAX_READ_CHARACTERS, CUT_MARK)
    markdown = "\n\n".join(filter(None, (markdown, part.note)))
    # An entity may have been one. It is replaced, so that nothing else begins a line.
    return _DISGUISES.sub("\u200b", defuse_mentions(markdown)).translate(_TO_LAYOUT)


def _split_at(text: str, lines: int, characters: int) -> tuple[str, str]:
    """Split a text behind what an excerpt may be made from, at the end of a line if one is near."""
    limit = min(_READ_PER_CHARACTER * max(characters, 1) + _READ_CHARACTERS, _MAX_READ_CHARACTERS)
    read = text[:limit]
    if len(text) > limit:
        read = read[: read.rfind("\n", limit // 2) + 1 or limit]
    read = "".join(read.splitlines(keepends=True)[: _READ_PER_LINE * max(lines, 1)])
    return read, text[len(read) :]


def _strip_comments(text: str) -> str:
    """Remove HTML comments: forms of pull requests are full of them, and no reader sees them."""
    pieces: list[str] = []
    while (start := text.find("<!--")) >= 0:
        pieces.append(text[:start])
        end = text.find("-->", start)
        text = text[end + 3 :] if end >= 0 else ""
    return "".join((*pieces, text))


def _names(value: object, *paths: str) -> str:
    """Filter `names: path, ...`: the names of people in a list, in bold type and separated by commas.

    Of each person, it is the first text at one of the paths, which have dots between keys. Five are named.
    Raises `FilterError` for paths that are not texts, or more than five.
    """
    if len(paths) > _MAX_NAME_PATHS or not all(isinstance(path, str) for path in paths):
        raise FilterError(f"write at most {_MAX_NAME_PATHS} paths as texts: names: 'name'", token=None)
    people = value if isinstance(value, list) else []
    names = (_first_name(person, paths) for person in people[:MAX_NAMES])
    more = [f"{len(people) - MAX_NAMES} more"] if len(people) > MAX_NAMES else []
    return ", ".join(filter(None, (*names, *more)))


def _first_name(person: object, paths: Sequence[str]) -> str:
    for path in paths:
        value = person
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if name := _bold(_scalar_text(value)[:MAX_NAME_CHARACTERS]):
            return name
    return ""


def _replace(value: object, old: str, new: str = "") -> str:
    text = _scalar_text(value)
    if len(text) + text.count(old) * len(new) > MAX_TEMPLATE_CHARACTERS:
        raise FilterError(f"replace would make more than {MAX_TEMPLATE_CHARACTERS} characters", token=None)
    return text.replace(old, new)


FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "md": _md,
    "bold": _bold,
    "url": _url,
    "link": _link,
    "excerpt": _excerpt,
    "markdown": _markdown,
    "names": _names,
    "subject": _subject,
    "replace": _replace,
}
"""The filters by name. `replace` alone does not make a value safe."""
MARKDOWN_FILTERS: Final = frozenset(FILTERS) - {"replace"}
