"""Templates: texts with sources in braces, such as `v0:{timestamp}:{body}`. One grammar for all. Pure.

    template = { literal | "{" source "}" }
    source   = name [ ":" argument ]

A literal has no brace: there is no way to write one, and `{{` is not special. Which sources there are depends
on the place of the template in a manifest: each place compiles their names with `find_source`.
"""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Final, Generic, TypeVar

from shared.contracts.errors import InterlinkError

T = TypeVar("T")

MAX_SOURCES: Final = 10
"""Sources in one template."""

MAX_QUOTED_CHARACTERS: Final = 100
"""Characters of a manifest's text that an error message repeats."""

TEMPLATE_PATTERN: Final = r"^(?:[^{}]|\{[^{}]+\})*$"
"""Pattern that every template matches, for the JSON Schema of manifests."""

_BRACES: Final = re.compile(r"\{([^{}]*)\}")


class TemplateError(InterlinkError):
    """A template has a syntax error, or a source that its place does not have."""


def has_sources(text: str) -> bool:
    """Return whether a text has a source in braces."""
    return _BRACES.search(text) is not None


def split_template(text: str) -> list[str]:
    """Split a template: literals at even positions, names of sources at odd ones.

    Raises `TemplateError` for an unbalanced brace, and for more than `MAX_SOURCES` sources.
    """
    pieces = _BRACES.split(text)
    if any("{" in literal or "}" in literal for literal in pieces[::2]):
        raise TemplateError(
            f"unbalanced brace in {text[:MAX_QUOTED_CHARACTERS]!r}: write a source in braces, as {{json:id}}"
        )
    count = len(pieces) // 2
    if count > MAX_SOURCES:
        raise TemplateError(f"{count} sources in one text: use at most {MAX_SOURCES}")
    return pieces


def find_source(name: str, plain: Mapping[str, T], with_argument: Mapping[str, Callable[[str], T]]) -> T:
    """Return what a source stands for: an item of `plain`, or what an item of `with_argument` returns.

    Raises `TemplateError` if neither has it; the text names a source that is written much like it.
    """
    kind, colon, argument = name.partition(":")
    if colon and argument and kind in with_argument:
        return with_argument[kind](argument)
    if not colon and kind in plain:
        return plain[kind]
    known = [*plain, *(f"{each}:" for each in with_argument)]
    close = get_close_matches((kind + colon)[:MAX_QUOTED_CHARACTERS], known, n=1)
    hint = f" (did you mean {close[0]}{'...' * close[0].endswith(':')}?)" if close else ""
    raise TemplateError(f"no such source: {name[:MAX_QUOTED_CHARACTERS]!r}{hint}")


class Template(Generic[T]):
    """A compiled template. It has one literal more than sources; `values` are what its sources stand for."""

    __slots__ = ("literals", "names", "text", "values")

    def __init__(self, text: str, compile_source: Callable[[str], T]) -> None:
        """Compile each source by its name. Raises `TemplateError`, also from `compile_source`."""
        pieces = split_template(text)
        self.text: Final = text
        self.literals: Final = tuple(pieces[::2])
        self.names: Final = tuple(pieces[1::2])
        self.values: Final[tuple[T, ...]] = tuple(map(compile_source, self.names))

    def parts(self) -> list[str | T]:
        """Return literals and values in order, without empty literals."""
        first, *others = self.literals
        parts: list[str | T] = [first] if first else []
        for value, literal in zip(self.values, others, strict=True):
            parts.append(value)
            if literal:
                parts.append(literal)
        return parts
