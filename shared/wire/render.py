"""Message templates: Liquid, which has no way to run code, with bounds on loops, output and depth.

A template is data from a manifest (later also from a user), the context a payload from a stranger.
The filter `md` makes a value safe inside Markdown: nobody's branch name may forge a link or a mention.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from liquid import BoundTemplate, Environment
from liquid.exceptions import LiquidError

from shared.contracts.errors import InterlinkError

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~@])")
_BLANK: Final = re.compile(r"\s+")


class Unrenderable(InterlinkError):
    """A template is wrong, or went over its bounds with this payload."""


class _Bounded(Environment):
    loop_iteration_limit = 1000
    output_stream_limit = 20_000
    local_namespace_limit = 10_000
    context_depth_limit = 10


def _md(value: object) -> str:
    return _SPECIAL.sub(r"\\\1", _BLANK.sub(" ", "" if value is None else str(value))).strip()


def _environment() -> Environment:
    environment = _Bounded()
    environment.add_filter("md", _md)
    return environment


_ENVIRONMENT: Final = _environment()


class MessageTemplate:
    """A compiled template; `render` may be called with any payload and never runs away."""

    __slots__ = ("_template",)

    def __init__(self, source: str) -> None:
        try:
            self._template: BoundTemplate = _ENVIRONMENT.from_string(source)
        except LiquidError as error:
            raise Unrenderable(f"template: {error}") from None

    def render(self, payload: Mapping[str, Any]) -> str:
        """The text for this payload, without blank ends. Raises `Unrenderable`."""
        try:
            return self._template.render(payload).strip()
        except (LiquidError, RecursionError, ValueError, TypeError) as error:
            raise Unrenderable(f"template: {error}") from None
