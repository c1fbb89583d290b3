"""Message templates: Liquid, which cannot run code, with bounds on the cost of a template. Pure.

A template comes from a manifest or from a user, its context is a stranger's payload. Only a short list of
tags and filters is allowed: nothing that could multiply (`join` of a range, `replace` without a bound) or
load another template. The hub's own filters (`template_filters`) make a value safe inside Markdown.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from liquid import BoundTemplate, Environment
from liquid.exceptions import LiquidError

from shared.contracts.errors import InterlinkError
from shared.wire.template_filters import (
    FILTERS,
    FROM_LAYOUT,
    MARKDOWN_BUDGET,
    MAX_MARKDOWN_CHARACTERS,
    MAX_TEMPLATE_CHARACTERS,
    Parser,
    dialect_filter,
)

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


def new_environment(
    kind: type[BoundedEnvironment] = BoundedEnvironment, dialects: Mapping[str, Parser] | None = None
) -> BoundedEnvironment:
    """Return an environment with the allowed tags and filters, and one filter for each of the dialects."""
    environment = kind()
    environment.tags = {name: tag for name, tag in environment.tags.items() if name in _TAGS}
    environment.filters = {
        name: function for name, function in environment.filters.items() if name in _FILTERS
    }
    own = {name: dialect_filter(parse) for name, parse in (dialects or {}).items()}
    for name, function in {**FILTERS, **own}.items():
        environment.add_filter(name, function)
    return environment


ENVIRONMENT: Final = new_environment()


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
        self, source: str, name: str = "template", environment: BoundedEnvironment = ENVIRONMENT
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
        return self.render_phrase(payload).translate(FROM_LAYOUT).strip()

    def render_phrase(self, payload: Mapping[str, Any]) -> str:
        """Return the text for a payload as another template can use it: the layout of Markdown is encoded.

        Raises `MessageTemplateError`.
        """
        budget = MARKDOWN_BUDGET.set([MAX_MARKDOWN_CHARACTERS])
        try:
            text = self._template.render(payload)
        except _RENDERING_ERRORS as error:
            raise MessageTemplateError(f"{self._name}: {_first_line(error)}") from None
        finally:
            MARKDOWN_BUDGET.reset(budget)
        return _LINE_BREAK.sub("\n", _BLANKS.sub(" ", text)).strip()


def _first_line(error: Exception) -> str:
    """Return an error's first line: Liquid appends an excerpt of the template."""
    return (str(error).splitlines() or [type(error).__name__])[0]
