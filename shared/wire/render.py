"""Message templates: Liquid, which has no way to run code, with bounds on what a template may cost.

A template is data from a manifest (later also from a user), the context a payload from a stranger.
Tags and filters are a short list: what could multiply (`join` of a range, `replace` without a bound)
or load another template is not on it. The filters of our own make a value safe inside Markdown, so
that nobody's branch name forges a link or a mention.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from liquid import BoundTemplate, Environment
from liquid.exceptions import FilterError, LiquidError

from shared.contracts.errors import InterlinkError

MOST_CHARACTERS: Final = 20_000
"""Of one rendered text, and of a template's source."""

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~@&])")
_BLANK: Final = re.compile(r"\s+")
_RULE: Final = re.compile(r"[-=+]+")
_HEADING: Final = re.compile(r"#{1,6}\s+")
_BULLET: Final = re.compile(r"[*+]\s+")
_STRONG: Final = re.compile(r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)")
_URL: Final = re.compile(r"https?://[^\s/?#@<>\"'`\\{}|^\[\]]+(?:[/?#][^\s<>\"'`\\{}|^]*)?", re.IGNORECASE)
_LAYOUT: Final = re.compile(r"[ \t]*\n[ \t]*(\n?)\s*")
_RUN: Final = re.compile(r"[ \t]+")
_BREAK: Final = re.compile(r" ?\n\s*")
_UNSEEN: Final = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of writing: they make text read as it is not."""

_TAGS: Final = frozenset(
    {"#", "assign", "break", "capture", "case", "comment", "content", "continue", "echo", "for", "if"}
    | {"illegal", "liquid", "output", "unless"}
)
_FILTERS: Final = frozenset(
    {"append", "at_most", "capitalize", "default", "downcase", "first", "last", "minus", "plus", "prepend"}
    | {"remove", "remove_first", "size", "strip", "truncate", "upcase", "url_encode"}
)


class Unrenderable(InterlinkError):
    """A template is wrong, went over its bounds with this payload, or made something that is no message."""


class _Bounded(Environment):
    loop_iteration_limit = 1000
    output_stream_limit = MOST_CHARACTERS
    local_namespace_limit = 10_000
    context_depth_limit = 10


def _plain(value: object) -> str:
    """A text or number of the payload; nothing for what has no place in a sentence."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _line(text: str, longest: int) -> str:
    line = _BLANK.sub(" ", _UNSEEN.sub("", text)).strip()
    return line if len(line) <= longest else line[: max(longest, 1) - 1].rstrip() + "…"


def _md(value: object, longest: int = 200) -> str:
    """`md`: the value on one line, cut to `longest` characters, with nothing that Markdown acts on."""
    return _SPECIAL.sub(r"\\\1", _line(_plain(value)[:MOST_CHARACTERS], longest))


def _bold(value: object) -> str:
    """`bold`: as `md`, in bold type."""
    text = _md(value)
    return f"**{text}**" if text else ""


def _url(value: object) -> str:
    """`url`: an http or https address without user name, fit for a Markdown link; else nothing."""
    text = _plain(value).strip()
    if len(text) > 2000 or not _URL.fullmatch(text):
        return ""
    return _UNSEEN.sub("", text).replace("(", "%28").replace(")", "%29")


def _link(label: object, target: object) -> str:
    """`link: target`: the label as a Markdown link, or alone when the target is not one to follow."""
    text, address = _md(label), _url(target)
    return f"[{text}]({address})" if text and address else text


def _subject(value: object, longest: int = 100) -> str:
    """`subject: longest`: the first line that says something, as `md` makes it."""
    return _md(_plain(value).strip()[:MOST_CHARACTERS].partition("\n")[0], longest)


def _excerpt(value: object, lines: int = 5, characters: int = 500) -> str:
    """`excerpt: lines, characters`: the first lines that say something, each as `md` makes it.

    The text is taken for Markdown: marks that a reader of plain text can do without are left out.
    """
    found: list[str] = []
    left = max(characters, 1)
    for raw in _uncommented(_plain(value)[:MOST_CHARACTERS]).splitlines():
        line = _line(_unmarked(raw.strip()), max(left, 1))
        if not line:
            continue
        if found and (len(found) >= lines or left <= 1):
            found[-1] = found[-1].removesuffix("…") + "…"
            break
        left -= len(line)
        found.append(("\\" if _RULE.fullmatch(line) else "") + _SPECIAL.sub(r"\\\1", line))
    return "\n".join(found)


def _unmarked(line: str) -> str:
    """Without the marks of a heading and of bold type, and with `-` for every kind of bullet."""
    line = _HEADING.sub("", line, count=1) if line.startswith("#") else line
    line = _BULLET.sub("- ", line, count=1) if line.startswith(("* ", "+ ")) else line
    return _STRONG.sub(r"\1", line[:2000])


def _uncommented(text: str) -> str:
    """Without HTML comments, which pull request forms are full of and nobody sees."""
    kept: list[str] = []
    while (start := text.find("<!--")) >= 0:
        kept.append(text[:start])
        end = text.find("-->", start)
        text = text[end + 3 :] if end >= 0 else ""
    return "".join((*kept, text))


def _replace(value: object, old: str, new: str = "") -> str:
    text = _plain(value)
    if len(text) + text.count(old) * len(new) > MOST_CHARACTERS:
        raise FilterError(f"replace would make more than {MOST_CHARACTERS} characters", token=None)
    return text.replace(old, new)


def _environment() -> Environment:
    environment = _Bounded()
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
        """`name` is how errors call it. Raises `Unrenderable` for a source that is not Liquid."""
        self._name = name
        if len(source) > MOST_CHARACTERS:
            raise Unrenderable(f"{name}: more than {MOST_CHARACTERS} characters")
        try:
            laid_out = _LAYOUT.sub(lambda gap: gap[1] or " ", source)
            self._template: BoundTemplate = _ENVIRONMENT.from_string(laid_out)
            unknown = sorted(set(self._template.analyze().filters) - set(_ENVIRONMENT.filters))
        except (LiquidError, RecursionError) as error:
            raise Unrenderable(f"{name}: {_first_line(error)}") from None
        if unknown:
            raise Unrenderable(f"{name}: no such filter: {', '.join(unknown)}")

    def render(self, payload: Mapping[str, Any]) -> str:
        """The text for this payload. Raises `Unrenderable`."""
        try:
            text = self._template.render(payload)
        except (LiquidError, RecursionError, ArithmeticError, ValueError, TypeError) as error:
            raise Unrenderable(f"{self._name}: {_first_line(error)}") from None
        return _BREAK.sub("\n", _RUN.sub(" ", text)).strip()


def _first_line(error: Exception) -> str:
    """Without the drawing of the template that a Liquid error carries."""
    return (str(error).splitlines() or [type(error).__name__])[0]
