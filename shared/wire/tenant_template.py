"""Message templates that a workspace writes: Liquid with tighter bounds, safe by default. Pure.

Beside the bounds of manifests' templates, the work of filters is counted, and a template sees a payload of
bounded size: its author and the sender of the payload may both be hostile. A value that no filter makes
Markdown is written as `md` writes it, so that a template without filters forges no links and mentions.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, TextIO

from liquid import RenderContext
from liquid.builtin.expressions import FilteredExpression
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.echo_tag import EchoTag
from liquid.exceptions import FilterError

from shared.wire.message_template import BoundedEnvironment, MessageTemplate, new_environment
from shared.wire.template_filters import MARKDOWN_FILTERS, MAX_NAME_CHARACTERS, MAX_NAMES, Parser

MAX_FILTERED_CHARACTERS: Final = 40_000
"""Characters that the filters of one message's templates may read."""

_MAX_ITERATIONS: Final = 50
_MAX_OUTPUT_CHARACTERS: Final = 8_000
_FILTER_CALL_CHARACTERS: Final = 20
"""Characters that count for each call of a filter, whatever it reads."""
_MAX_TEXT_CHARACTERS: Final = 4_000
_MAX_ITEMS: Final = 200
_MAX_VALUES: Final = 2_000
_MAX_DEPTH: Final = 10
_left: ContextVar[list[int]] = ContextVar("left")
"""The characters that the filters of the current rendering may still read, in a list of one."""


class TenantEnvironment(BoundedEnvironment):
    """Liquid with the bounds of workspaces' templates."""

    loop_iteration_limit = _MAX_ITERATIONS
    output_stream_limit = _MAX_OUTPUT_CHARACTERS
    markdown_filters: frozenset[str] = MARKDOWN_FILTERS
    """Filters whose result is safe in Markdown."""


class _EscapingOutputNode(OutputNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        value = self.expression.evaluate(context)
        if not _is_markdown(self.expression, context.env):
            value = context.env.filters["md"](value)
        return buffer.write(str(value))


class _EscapingOutput(Output):
    node_class = _EscapingOutputNode


class _EscapingEcho(EchoTag):
    node_class = _EscapingOutputNode  # type: ignore[assignment]


def _is_markdown(expression: object, environment: object) -> bool:
    filters = expression.filters if isinstance(expression, FilteredExpression) else None
    safe = environment.markdown_filters if isinstance(environment, TenantEnvironment) else MARKDOWN_FILTERS
    return any(item.name in safe for item in filters or ())


def _charged(run: Callable[..., Any]) -> Callable[..., Any]:
    """Count what a filter reads. Raises `FilterError` when the template's budget is used up."""

    @wraps(run)
    def charge_and_run(value: object, *arguments: Any, **options: Any) -> Any:
        left = _left.get()
        texts = (item for item in (value, *arguments) if isinstance(item, str))
        left[0] -= _FILTER_CALL_CHARACTERS + sum(map(len, texts))
        if isinstance(value, list):  # only `names` reads one: each person at each path
            left[0] -= len(value[:MAX_NAMES]) * len(arguments) * MAX_NAME_CHARACTERS
        if left[0] < 0:
            raise FilterError(f"the filters read more than {MAX_FILTERED_CHARACTERS} characters", token=None)
        return run(value, *arguments, **options)

    return charge_and_run


def tenant_environment(dialects: Mapping[str, Parser]) -> TenantEnvironment:
    """Return an environment of workspaces' templates, with one filter for each of the dialects."""
    environment = new_environment(TenantEnvironment, dialects)
    assert isinstance(environment, TenantEnvironment)  # noqa: S101 -- for the type checker
    environment.markdown_filters = MARKDOWN_FILTERS | dialects.keys()
    environment.filters = {name: _charged(run) for name, run in environment.filters.items()}
    environment.add_tag(_EscapingOutput)
    environment.add_tag(_EscapingEcho)
    return environment


class TenantTemplate:
    """A compiled template of a workspace."""

    __slots__ = ("_template",)

    def __init__(self, source: str, name: str, environment: TenantEnvironment) -> None:
        """Raise `MessageTemplateError` for invalid Liquid. `name` is the template's name in errors."""
        self._template = MessageTemplate(source, name, environment)

    def render(self, payload: Mapping[str, Any]) -> str:
        """Return the Markdown for a payload from `bounded_payload`. Raises `MessageTemplateError`."""
        return render_message({"": self}, payload)[""]

    def render_within_budget(self, payload: Mapping[str, Any]) -> str:
        """Return the Markdown as a part of a message. Raises `MessageTemplateError`."""
        return self._template.render(payload)


def render_message(templates: Mapping[str, TenantTemplate], payload: Mapping[str, Any]) -> dict[str, str]:
    """Return the Markdown of each part of a message. The templates share what their filters may read.

    The payload is from `bounded_payload`. Raises `MessageTemplateError`.
    """
    token = _left.set([MAX_FILTERED_CHARACTERS])
    try:
        return {part: template.render_within_budget(payload) for part, template in templates.items()}
    finally:
        _left.reset(token)


def bounded_payload(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what templates see of a payload.

    That are the first 4,000 characters of each text, 200 items of each list and object, 10 levels and 2,000
    values in all.
    """
    left = [_MAX_VALUES]
    bounded = _bounded(payload, _MAX_DEPTH, left)
    return bounded if isinstance(bounded, dict) else {}


def _bounded(value: object, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if isinstance(value, str):
        is_cut = len(value) > _MAX_TEXT_CHARACTERS
        return f"{value[: _MAX_TEXT_CHARACTERS - 1]}…" if is_cut else value
    if isinstance(value, Mapping):
        names = list(value)[:_MAX_ITEMS] if depth else []
        return {name: _bounded(value[name], depth - 1, left) for name in names if left[0] > 0}
    if isinstance(value, list):
        items = value[:_MAX_ITEMS] if depth else []
        return [_bounded(item, depth - 1, left) for item in items if left[0] > 0]
    return value
