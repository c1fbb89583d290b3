"""Message templates: Liquid, which cannot run code, with bounds on the cost of a template. Pure.

A template comes from a manifest (later also from a user), its context is a stranger's payload. Only a short
list of tags and filters is allowed: nothing that could multiply (`join` of a range, `replace` without a
bound) or load another template. The hub's own filters make a value safe inside Markdown, so that a branch
name cannot forge a link or a mention; URLs in a value stay links, byte for byte.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from liquid import BoundTemplate, Environment
from liquid.exceptions import FilterError, LiquidError

from shared.contracts.errors import InterlinkError
from shared.wire.excerpt import cut_lines, plain_lines
from shared.wire.markdown import bare_link, escape, link, web_url
from shared.wire.people_markdown import markdown_lines
from shared.wire.spans import Span, strip, text_spans, visible_text, write_line
from shared.wire.wiki_markup import wiki_to_markdown

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
_MAX_MARKDOWN_CHARACTERS: Final = 20_000
"""Characters of Markdown that one template parses, with `_READ_CHARACTERS` more for each text."""
_MARKDOWN_BUDGET: ContextVar[list[int]] = ContextVar("markdown_budget")

_TO_LAYOUT: Final = {ord("\n"): "\x0e", ord(" "): "\x0f"}
"""Line breaks and blanks that have a meaning, until the layout of the template is gone."""
_FROM_LAYOUT: Final = {0x0E: "\n", 0x0F: " "}
_LAYOUT: Final = re.compile(r"[ \t]*\n[ \t]*(\n?)\s*")
_BLANKS: Final = re.compile(r"[ \t]+")
_LINE_BREAK: Final = re.compile(r" ?\n\s*")
_TAGS: Final = frozenset(
    {"#", "assign", "break", "capture", "case", "comment", "content", "continue", "echo", "for", "if"}
    | {"illegal", "liquid", "output", "unless"}
)
_FILTERS: Final = frozenset(
    {"append", "at_most", "capitalize", "default", "downcase", "first", "last", "minus", "plus", "prepend"}
    | {"remove", "remove_first", "size", "strip", "truncate", "upcase", "url_encode"}
)


class MessageTemplateError(InterlinkError):
    """A template is invalid, or rendering it with this payload failed or exceeded a bound."""


class BoundedEnvironment(Environment):
    """Liquid with bounds on loops, output and variables."""

    loop_iteration_limit = 1000
    output_stream_limit = MAX_TEMPLATE_CHARACTERS
    local_namespace_limit = 10_000
    context_depth_limit = 10


def _spans(value: object) -> list[Span]:
    """Return the spans of a text on one line."""
    return strip(text_spans(_scalar_text(value)[:MAX_TEMPLATE_CHARACTERS]))


def _scalar_text(value: object) -> str:
    """Return a text or number as text; empty for values that have no place in a sentence."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


# Filters. Their parameters are positional in templates: `{{ title | md: 80 }}`.


def _md(value: object, max_characters: int = _DEFAULT_LINE_CHARACTERS) -> str:
    """Filter `md`: the value on one line, cut to `max_characters`, escaped except for its URLs."""
    return write_line(_spans(value), max_characters)[1]


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
    text = visible_text(_spans(label))
    if text == url:
        return bare_link(text, url)
    if len(text) > _DEFAULT_LINE_CHARACTERS:
        text = f"{text[: _DEFAULT_LINE_CHARACTERS - 1].rstrip()}…"
    return link(escape(text), url) if text else ""


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
    unread = text[MAX_TEMPLATE_CHARACTERS:]
    return cut_lines(plain_lines(source), source, unread, lines, characters, "\n")


def _markdown(value: object, lines: int = 8, characters: int = 700) -> str:
    """Filter `markdown: lines, characters`: the first lines of Markdown that a person wrote, made safe.

    Lines stay whole, and a note says how much is left out. Raises `FilterError` if a template parses too
    much.
    """
    text = _scalar_text(value)
    visible = _strip_comments(text[:MAX_TEMPLATE_CHARACTERS])
    read, unread = _split_at(visible, lines, characters)
    return _rewrite(read, unread + text[MAX_TEMPLATE_CHARACTERS:], lines, characters)


def _wiki(value: object, lines: int = 8, characters: int = 700) -> str:
    """Filter `wiki: lines, characters`: as `markdown`, for Jira's wiki markup."""
    read, unread = _split_at(_scalar_text(value), lines, characters)
    return _rewrite(wiki_to_markdown(read), unread, lines, characters)


def _split_at(text: str, lines: int, characters: int) -> tuple[str, str]:
    """Split a text behind what an excerpt may be made from, at the end of a line if one is near."""
    limit = min(_READ_PER_CHARACTER * max(characters, 1) + _READ_CHARACTERS, _MAX_READ_CHARACTERS)
    read = text[:limit]
    if len(text) > limit:
        read = read[: read.rfind("\n", limit // 2) + 1 or limit]
    read = "".join(read.splitlines(keepends=True)[: _READ_PER_LINE * max(lines, 1)])
    return read, text[len(read) :]


def _rewrite(read: str, unread: str, lines: int, characters: int) -> str:
    """Return an excerpt of Markdown, its layout encoded. `unread` is the text behind `read`."""
    budget = _MARKDOWN_BUDGET.get()
    budget[0] -= len(read) + _READ_CHARACTERS
    if budget[0] < 0:
        raise FilterError("too much Markdown in one template", token=None)
    read = read.replace("\r\n", "\n").replace("\r", "\n")
    source = read.split("\n")
    try:
        parsed = markdown_lines(read)
    except Exception:  # noqa: BLE001 -- of the parser: no text of a stranger may cost the message
        parsed = plain_lines(source)
    return cut_lines(parsed, source, unread, lines, characters, "\n\n").translate(_TO_LAYOUT)


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


_MARKDOWN_FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "md": _md,
    "bold": _bold,
    "url": _url,
    "link": _link,
    "excerpt": _excerpt,
    "markdown": _markdown,
    "names": _names,
    "wiki": _wiki,
    "subject": _subject,
}
MARKDOWN_FILTERS: Final = frozenset(_MARKDOWN_FILTERS)
"""Filters whose result is safe in Markdown."""


def new_environment(kind: type[BoundedEnvironment] = BoundedEnvironment) -> BoundedEnvironment:
    """Return an environment with the allowed tags and filters."""
    environment = kind()
    environment.tags = {name: tag for name, tag in environment.tags.items() if name in _TAGS}
    environment.filters = {
        name: function for name, function in environment.filters.items() if name in _FILTERS
    }
    for name, function in {**_MARKDOWN_FILTERS, "replace": _replace}.items():
        environment.add_filter(name, function)
    return environment


_ENVIRONMENT: Final = new_environment()


_RENDERING_ERRORS: Final = (
    *(LiquidError, RecursionError, ArithmeticError),
    *(ValueError, TypeError, AttributeError, LookupError),
)
"""Of a filter too, which a template may call with any arguments."""


class MessageTemplate:
    """A compiled template. Rendering it is bounded, whatever the payload is.

    A line break in the source is a blank in the result, and an empty line is a line break. Several blanks
    become one, and lines have no blanks at their ends.
    """

    __slots__ = ("_name", "_template")

    def __init__(
        self, source: str, name: str = "template", environment: BoundedEnvironment = _ENVIRONMENT
    ) -> None:
        """Raise `MessageTemplateError` for invalid Liquid. `name` is the template's name in errors."""
        self._name = name
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise MessageTemplateError(f"{name}: more than {MAX_TEMPLATE_CHARACTERS} characters")
        try:
            unwrapped = _LAYOUT.sub(lambda gap: gap[1] or " ", source)
            self._template: BoundTemplate = environment.from_string(unwrapped)
            unknown = sorted(set(self._template.analyze().filters) - set(environment.filters))
        except (LiquidError, RecursionError) as error:
            raise MessageTemplateError(f"{name}: {_first_line(error)}") from None
        if unknown:
            raise MessageTemplateError(f"{name}: no such filter: {', '.join(unknown)}")

    def render(self, payload: Mapping[str, Any]) -> str:
        """Return the text for a payload. Raises `MessageTemplateError`."""
        return self.render_phrase(payload).translate(_FROM_LAYOUT).strip()

    def render_phrase(self, payload: Mapping[str, Any]) -> str:
        """Return the text for a payload as another template can use it: the layout of Markdown is encoded.

        Raises `MessageTemplateError`.
        """
        budget = _MARKDOWN_BUDGET.set([_MAX_MARKDOWN_CHARACTERS])
        try:
            text = self._template.render(payload)
        except _RENDERING_ERRORS as error:
            raise MessageTemplateError(f"{self._name}: {_first_line(error)}") from None
        finally:
            _MARKDOWN_BUDGET.reset(budget)
        return _LINE_BREAK.sub("\n", _BLANKS.sub(" ", text)).strip()


def _first_line(error: Exception) -> str:
    """Return an error's first line: Liquid appends an excerpt of the template."""
    return (str(error).splitlines() or [type(error).__name__])[0]
