"""Message templates: Liquid, which has no way to run code, with bounds on what a template may cost.

A template is data from a manifest (later also from a user), the context a payload from a stranger.
Tags and filters are a short list: what could multiply (`join` of a range, `replace` without a bound)
or load another template is not on it. The filters of our own make a value safe inside Markdown, so
that nobody's branch name forges a link or a mention; URLs in a value stay links, byte for byte.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from liquid import BoundTemplate, Environment
from liquid.exceptions import FilterError, LiquidError

from shared.contracts.errors import InterlinkError
from shared.wire.markdown import bare_link, cut_label, escape, link, split_links, web_url

MAX_TEMPLATE_CHARACTERS: Final = 20_000
"""Of one rendered text, and of a template's source."""

_DEFAULT_LINE_CHARACTERS: Final = 200
"""Characters of a value on a line, where a template does not say."""

_WHITESPACE: Final = re.compile(r"\s+")
_RULE: Final = re.compile(r"[-=+: ]+")
_HEADING: Final = re.compile(r"#{1,6}\s+")
_BULLET: Final = re.compile(r"[*+]\s+")
_STRONG: Final = re.compile(r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)")
_LAYOUT: Final = re.compile(r"[ \t]*\n[ \t]*(\n?)\s*")
_BLANKS: Final = re.compile(r"[ \t]+")
_LINE_BREAK: Final = re.compile(r" ?\n\s*")
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of writing: they make text read as it is not."""

_TAGS: Final = frozenset(
    {"#", "assign", "break", "capture", "case", "comment", "content", "continue", "echo", "for", "if"}
    | {"illegal", "liquid", "output", "unless"}
)
_FILTERS: Final = frozenset(
    {"append", "at_most", "capitalize", "default", "downcase", "first", "last", "minus", "plus", "prepend"}
    | {"remove", "remove_first", "size", "strip", "truncate", "upcase", "url_encode"}
)


class MessageTemplateError(InterlinkError):
    """A template is wrong, went over its bounds with this payload, or made something that is no message."""


class _BoundedEnvironment(Environment):
    loop_iteration_limit = 1000
    output_stream_limit = MAX_TEMPLATE_CHARACTERS
    local_namespace_limit = 10_000
    context_depth_limit = 10


def _scalar_text(value: object) -> str:
    """A text or number of the payload; nothing for what has no place in a sentence."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _visible_parts(parts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Bring the parts of a text (see `split_links`) on one line, without what is not seen of them."""
    line = [
        (text if url else _WHITESPACE.sub(" ", _CONTROL_CHARACTERS.sub("", text)), url) for text, url in parts
    ]
    if line and not line[0][1]:
        line[0] = (line[0][0].lstrip(), "")
    if line and not line[-1][1]:
        line[-1] = (line[-1][0].rstrip(), "")
    return line


def _cut_line(given: Iterable[tuple[str, str]], longest: int) -> tuple[str, str]:
    """Cut the parts of a text to `longest` characters on one line: what is seen of it, and its Markdown.

    A URL that is cut leads to its whole address, where enough of it is seen to tell the host.
    """
    parts = _visible_parts(given)
    seen = "".join(visible for visible, _url in parts)
    if len(seen) <= longest:
        return seen, "".join(bare_link(visible, url) if url else escape(visible) for visible, url in parts)
    left = max(longest, 1) - 1
    seen, written = f"{seen[:left]}…", ""
    for visible, url in parts:
        if len(visible) > left:
            if label := cut_label(visible, left) if url else "":
                return seen, written + link(f"{escape(label)}…", url)
            written += "" if url else escape(visible[:left])
            break
        left -= len(visible)
        written += bare_link(visible, url) if url else escape(visible)
    return seen, f"{written.rstrip()}…"


def _md(value: object, longest: int = _DEFAULT_LINE_CHARACTERS) -> str:
    """`md`: the value on one line, cut to `longest` characters; Markdown acts on nothing but its URLs."""
    return _cut_line(split_links(_scalar_text(value)[:MAX_TEMPLATE_CHARACTERS]), longest)[1]


def _bold(value: object) -> str:
    """`bold`: as `md`, in bold type."""
    text = _md(value)
    return f"**{text}**" if text else ""


def _url(value: object) -> str:
    """`url`: an http or https address without user name; else nothing."""
    return web_url(_scalar_text(value))


def _link(label: object, target: object) -> str:
    """`link: target`: the label as a Markdown link, or alone when the target is not one to follow."""
    address = _url(target)
    if not address:
        return _md(label)
    seen = "".join(
        visible
        for visible, _url in _visible_parts(split_links(_scalar_text(label)[:MAX_TEMPLATE_CHARACTERS]))
    )
    if seen == address:
        return bare_link(seen, address)
    text = (
        seen if len(seen) <= _DEFAULT_LINE_CHARACTERS else f"{seen[: _DEFAULT_LINE_CHARACTERS - 1].rstrip()}…"
    )
    return link(escape(text), address) if text else ""


def _subject(value: object, longest: int = 100) -> str:
    """`subject: longest`: the first line that says something, as `md` makes it."""
    return _md(_scalar_text(value).strip()[:MAX_TEMPLATE_CHARACTERS].partition("\n")[0], longest)


def _excerpt(value: object, lines: int = 5, characters: int = 500) -> str:
    """`excerpt: lines, characters`: the first lines that say something, each as `md` makes it.

    The text is taken for Markdown: marks that a reader of plain text can do without are left out.
    """
    found: list[str] = []
    left = max(characters, 1)
    for raw in _strip_comments(_scalar_text(value)[:MAX_TEMPLATE_CHARACTERS]).splitlines():
        seen, line = _cut_line(_strip_markdown(raw.strip()), max(left, 1))
        if not line:
            continue
        if found and (len(found) >= lines or left <= 1):
            found[-1] = found[-1].removesuffix("…") + "…"
            break
        left -= len(seen)
        found.append(("\\" if _RULE.fullmatch(seen) else "") + line)
    return "\n".join(found)


def _strip_markdown(line: str) -> Iterator[tuple[str, str]]:
    """Split a line into parts (see `split_links`) without marks of a heading, of bold type and around URLs.

    Every kind of bullet becomes `-`.
    """
    line = _HEADING.sub("", line, count=1) if line.startswith("#") else line
    line = _BULLET.sub("- ", line, count=1) if line.startswith(("* ", "+ ")) else line
    # Marks in a URL are its own: a NUL holds the place of each while the others are taken out.
    parts = list(split_links(line.replace("\0", "")))
    masked = "".join("\0" if url else text for text, url in parts)[:2000]
    texts = _STRONG.sub(r"\1", masked).replace("<\0>", "\0").split("\0")
    yield texts[0], ""
    for text, found in zip(texts[1:], (part for part in parts if part[1]), strict=False):
        yield found
        yield text, ""


def _strip_comments(text: str) -> str:
    """Without HTML comments, which pull request forms are full of and nobody sees."""
    kept: list[str] = []
    while (start := text.find("<!--")) >= 0:
        kept.append(text[:start])
        end = text.find("-->", start)
        text = text[end + 3 :] if end >= 0 else ""
    return "".join((*kept, text))


def _replace(value: object, old: str, new: str = "") -> str:
    text = _scalar_text(value)
    if len(text) + text.count(old) * len(new) > MAX_TEMPLATE_CHARACTERS:
        raise FilterError(f"replace would make more than {MAX_TEMPLATE_CHARACTERS} characters", token=None)
    return text.replace(old, new)


def _environment() -> Environment:
    environment = _BoundedEnvironment()
    environment.tags = {name: tag for name, tag in environment.tags.items() if name in _TAGS}
    environment.filters = {name: do for name, do in environment.filters.items() if name in _FILTERS}
    own: dict[str, Callable[..., str]] = {
        "md": _md,
        "bold": _bold,
        "url": _url,
        "link": _link,
        "excerpt": _excerpt,
        "replace": _replace,
        "subject": _subject,
    }
    for name, do in own.items():
        environment.add_filter(name, do)
    return environment


_ENVIRONMENT: Final = _environment()


class MessageTemplate:
    """A compiled template; `render` may be called with any payload and never runs away.

    Layout is for the reader of the template: a line break in it is a blank, an empty line is a line
    break, blanks in a row are one, and lines have no blank ends.
    """

    __slots__ = ("_name", "_template")

    def __init__(self, source: str, name: str = "template") -> None:
        """`name` is how errors call it. Raises `MessageTemplateError` for a source that is not Liquid."""
        self._name = name
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise MessageTemplateError(f"{name}: more than {MAX_TEMPLATE_CHARACTERS} characters")
        try:
            laid_out = _LAYOUT.sub(lambda gap: gap[1] or " ", source)
            self._template: BoundTemplate = _ENVIRONMENT.from_string(laid_out)
            unknown = sorted(set(self._template.analyze().filters) - set(_ENVIRONMENT.filters))
        except (LiquidError, RecursionError) as error:
            raise MessageTemplateError(f"{name}: {_first_line(error)}") from None
        if unknown:
            raise MessageTemplateError(f"{name}: no such filter: {', '.join(unknown)}")

    def render(self, payload: Mapping[str, Any]) -> str:
        """The text for this payload. Raises `MessageTemplateError`."""
        try:
            text = self._template.render(payload)
        except (LiquidError, RecursionError, ArithmeticError, ValueError, TypeError) as error:
            raise MessageTemplateError(f"{self._name}: {_first_line(error)}") from None
        return _LINE_BREAK.sub("\n", _BLANKS.sub(" ", text)).strip()


def _first_line(error: Exception) -> str:
    """Without the drawing of the template that a Liquid error carries."""
    return (str(error).splitlines() or [type(error).__name__])[0]
