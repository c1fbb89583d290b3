"""Message templates: Liquid, which cannot run code, with bounds on the cost of a template. Pure.

A template comes from a manifest (later also from a user), its context is a stranger's payload. Only a short
list of tags and filters is allowed: nothing that could multiply (`join` of a range, `replace` without a
bound) or load another template. The hub's own filters make a value safe inside Markdown, so that a branch
name cannot forge a link or a mention; URLs in a value stay links, byte for byte.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from liquid import BoundTemplate, Environment
from liquid.exceptions import FilterError, LiquidError

from shared.contracts.errors import InterlinkError
from shared.wire.markdown import bare_link, cut_label, escape, link, split_links, web_url

MAX_TEMPLATE_CHARACTERS: Final = 20_000
"""Characters of a rendered text, and of a template's source."""

_DEFAULT_LINE_CHARACTERS: Final = 200
"""Characters of a value on one line, unless the template sets another limit."""

_WHITESPACE: Final = re.compile(r"\s+")
_RULE: Final = re.compile(r"[-=+: ]+")
_HEADING: Final = re.compile(r"#{1,6}\s+")
_BULLET: Final = re.compile(r"[*+]\s+")
_STRONG: Final = re.compile(r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)")
_LAYOUT: Final = re.compile(r"[ \t]*\n[ \t]*(\n?)\s*")
_BLANKS: Final = re.compile(r"[ \t]+")
_LINE_BREAK: Final = re.compile(r" ?\n\s*")
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that change the direction of writing: they disguise text."""

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


def _scalar_text(value: object) -> str:
    """Return a text or number as text; empty for values that have no place in a sentence."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _visible_parts(parts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Put the parts of a text (see `split_links`) on one line, without control characters."""
    line = [
        (text if url else _WHITESPACE.sub(" ", _CONTROL_CHARACTERS.sub("", text)), url) for text, url in parts
    ]
    if line and not line[0][1]:
        line[0] = (line[0][0].lstrip(), "")
    if line and not line[-1][1]:
        line[-1] = (line[-1][0].rstrip(), "")
    return line


def _cut_line(parts: Iterable[tuple[str, str]], max_characters: int) -> tuple[str, str]:
    """Cut the parts of a text to one line of `max_characters`; return its visible text and its Markdown.

    A URL that is cut still links to its whole target, if its visible part includes the host.
    """
    line = _visible_parts(parts)
    visible_text = "".join(visible for visible, _url in line)
    if len(visible_text) <= max_characters:
        markdown = "".join(bare_link(visible, url) if url else escape(visible) for visible, url in line)
        return visible_text, markdown
    left = max(max_characters, 1) - 1
    visible_text, markdown = f"{visible_text[:left]}…", ""
    for visible, url in line:
        if len(visible) > left:
            if label := cut_label(visible, left) if url else "":
                return visible_text, markdown + link(f"{escape(label)}…", url)
            markdown += "" if url else escape(visible[:left])
            break
        left -= len(visible)
        markdown += bare_link(visible, url) if url else escape(visible)
    return visible_text, f"{markdown.rstrip()}…"


# Filters. Their parameters are positional in templates: `{{ title | md: 80 }}`.


def _md(value: object, max_characters: int = _DEFAULT_LINE_CHARACTERS) -> str:
    """Filter `md`: the value on one line, cut to `max_characters`, escaped except for its URLs."""
    return _cut_line(split_links(_scalar_text(value)[:MAX_TEMPLATE_CHARACTERS]), max_characters)[1]


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
    parts = _visible_parts(split_links(_scalar_text(label)[:MAX_TEMPLATE_CHARACTERS]))
    text = "".join(visible for visible, _target in parts)
    if text == url:
        return bare_link(text, url)
    if len(text) > _DEFAULT_LINE_CHARACTERS:
        text = f"{text[: _DEFAULT_LINE_CHARACTERS - 1].rstrip()}…"
    return link(escape(text), url) if text else ""


def _subject(value: object, max_characters: int = 100) -> str:
    """Filter `subject: max_characters`: the first line of a text that is not empty, as `md` writes it."""
    return _md(_scalar_text(value).strip()[:MAX_TEMPLATE_CHARACTERS].partition("\n")[0], max_characters)


def _excerpt(value: object, lines: int = 5, characters: int = 500) -> str:
    """Filter `excerpt: lines, characters`: the first lines that are not empty, each as `md` writes it.

    The text is treated as Markdown: marks that plain text does not need are removed.
    """
    excerpt: list[str] = []
    left = max(characters, 1)
    for raw in _strip_comments(_scalar_text(value)[:MAX_TEMPLATE_CHARACTERS]).splitlines():
        visible, line = _cut_line(_strip_markdown(raw.strip()), max(left, 1))
        if not line:
            continue
        if excerpt and (len(excerpt) >= lines or left <= 1):
            excerpt[-1] = excerpt[-1].removesuffix("…") + "…"
            break
        left -= len(visible)
        # A line of dashes would be a rule, or make a heading of the line above it.
        excerpt.append(("\\" if _RULE.fullmatch(visible) else "") + line)
    return "\n".join(excerpt)


def _strip_markdown(line: str) -> Iterator[tuple[str, str]]:
    """Split a line into parts (see `split_links`) without the marks of headings, bold type and autolinks.

    Every bullet becomes `-`.
    """
    line = _HEADING.sub("", line, count=1) if line.startswith("#") else line
    line = _BULLET.sub("- ", line, count=1) if line.startswith(("* ", "+ ")) else line
    # Marks in a URL have no meaning: a NUL replaces each URL while the marks in the text are removed.
    parts = list(split_links(line.replace("\0", "")))
    masked = "".join("\0" if url else text for text, url in parts)[:2000]
    texts = _STRONG.sub(r"\1", masked).replace("<\0>", "\0").split("\0")
    yield texts[0], ""
    for text, url_part in zip(texts[1:], (part for part in parts if part[1]), strict=False):
        yield url_part
        yield text, ""


def _strip_comments(text: str) -> str:
    """Remove HTML comments: forms of pull requests are full of them, and no reader sees them."""
    pieces: list[str] = []
    while (start := text.find("<!--")) >= 0:
        pieces.append(text[:start])
        end = text.find("-->", start)
        text = text[end + 3 :] if end >= 0 else ""
    return "".join((*pieces, text))


def _replace(value: object, old: str, new: str = "") -> str:
    text = _scalar_text(value)
    if len(text) + text.count(old) * len(new) > MAX_TEMPLATE_CHARACTERS:
        raise FilterError(f"replace would make more than {MAX_TEMPLATE_CHARACTERS} characters", token=None)
    return text.replace(old, new)


def new_environment(kind: type[BoundedEnvironment] = BoundedEnvironment) -> BoundedEnvironment:
    """Return an environment with the allowed tags and filters."""
    environment = kind()
    environment.tags = {name: tag for name, tag in environment.tags.items() if name in _TAGS}
    environment.filters = {
        name: function for name, function in environment.filters.items() if name in _FILTERS
    }
    own_filters: dict[str, Callable[..., str]] = {
        "md": _md,
        "bold": _bold,
        "url": _url,
        "link": _link,
        "excerpt": _excerpt,
        "replace": _replace,
        "subject": _subject,
    }
    for name, function in own_filters.items():
        environment.add_filter(name, function)
    return environment


_ENVIRONMENT: Final = new_environment()


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
        try:
            text = self._template.render(payload)
        except (LiquidError, RecursionError, ArithmeticError, ValueError, TypeError) as error:
            raise MessageTemplateError(f"{self._name}: {_first_line(error)}") from None
        return _LINE_BREAK.sub("\n", _BLANKS.sub(" ", text)).strip()


def _first_line(error: Exception) -> str:
    """Return an error's first line: Liquid appends an excerpt of the template."""
    return (str(error).splitlines() or [type(error).__name__])[0]
