"""Filters: which events an outgoing webhook gets beyond its patterns, by event fields and by a condition.

All criteria that are set must hold; in a list, one item is enough. An event that does not have the field
(no channel, no text, no actor) does not meet a criterion on it. But it does meet the excluding criteria and
`has_attachments: false`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import re2
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.webhooks.event_fields import EventFields
from shared.wire.expressions import (
    MAX_CONDITION_STEPS,
    MAX_EXPRESSION_CHARACTERS,
    BudgetExceeded,
    Checkpoint,
    Expression,
    ExpressionError,
)

_MAX_PATTERN_CHARACTERS: Final = 500
_MAX_PROGRAM_SIZE: Final = 2_000
_MAX_PATTERN_MEMORY_BYTES: Final = 512 * 1024
_MAX_SEARCHED_CHARACTERS: Final = 10_000
"""Characters of a message's text. With the size of a pattern's program, they bound the time of a search."""

_Check = Callable[[EventFields, str], bool]
"""Returns True if an event meets a criterion. Gets its fields and the id of the webhook's own integration."""


def _re2_options() -> re2.Options:
    options = re2.Options()
    options.max_mem = _MAX_PATTERN_MEMORY_BYTES
    options.never_capture = True
    options.log_errors = False
    return options


_RE2_OPTIONS: Final = _re2_options()


def _compile_pattern(source: str) -> Any:
    """Compile an RE2 pattern. Raises `ExpressionError` if it is invalid or too large."""
    try:
        pattern = re2.compile(source, _RE2_OPTIONS)
    except re2.error as error:
        text = error.args[0] if error.args else b""
        reason = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        raise ExpressionError(f"not a valid RE2 pattern: {reason[:200]}") from None
    # RE2 runs in time linear in program size times text length: both are bounded.
    if pattern.programsize > _MAX_PROGRAM_SIZE:
        raise ExpressionError("the pattern is too large: use fewer repetitions and character classes")
    return pattern


def _compile_condition(source: str) -> Expression:
    return Expression(source, "condition", max_steps=MAX_CONDITION_STEPS)


def _validate_pattern(text: str) -> str:
    try:
        _compile_pattern(text)
    except ExpressionError as error:
        raise ValueError(str(error)) from None
    return text


def _validate_condition(text: str) -> str:
    try:
        _compile_condition(text)
    except ExpressionError as error:
        raise ValueError(str(error)) from None
    return text


_Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=200)]


class FilterSettings(BaseModel):
    """A filter as the API accepts it and the database stores it. A criterion that is not set always holds.

    `channels` and `conversations` are ids, `users` and `mentions` ids or names. A mention is in the data's
    `mentions`, or is `@name` in the text. `content` is an RE2 pattern, searched in the first 10,000
    characters of the message's text. `exclude_own` excludes events that came through the integration that the
    webhook belongs to. `condition` is JMESPath on
    `{id, type, workspace, occurred_at, sequence, subject, origin, actor, data}`.
    """

    model_config = ConfigDict(extra="forbid")

    channels: _Names = []
    users: _Names = []
    conversations: _Names = []
    mentions: _Names = []
    content: (
        Annotated[
            str, Field(min_length=1, max_length=_MAX_PATTERN_CHARACTERS), AfterValidator(_validate_pattern)
        ]
        | None
    ) = None
    has_attachments: bool | None = None
    exclude_bots: bool = False
    exclude_own: bool = False
    condition: (
        Annotated[
            str,
            Field(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS),
            AfterValidator(_validate_condition),
        ]
        | None
    ) = None


class EventFilter:
    """A compiled filter. It is evaluated once for each event and webhook, so cheap checks come first."""

    __slots__ = ("_checks", "_condition")

    def __init__(self, settings: FilterSettings) -> None:
        self._checks = tuple(_checks(settings))
        self._condition = _compile_condition(settings.condition) if settings.condition is not None else None

    @classmethod
    def from_stored(cls, settings: Mapping[str, Any]) -> "EventFilter | None":
        """Return the filter of stored settings; None if no criterion is set.

        Raises `ExpressionError` for settings that `FilterSettings` does not accept.
        """
        try:
            validated = FilterSettings.model_validate(settings)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ExpressionError(f"filter: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        return cls(validated) if validated != FilterSettings() else None

    def matches(self, fields: EventFields, own: str) -> bool:
        """Return whether an event passes the filter.

        `own` is the id of the integration that the webhook belongs to, or empty. Never raises: if the
        condition cannot be evaluated on the event, the event does not pass.
        """
        return self.explain(fields, own)[0]

    def explain(self, fields: EventFields, own: str) -> tuple[bool, str]:
        """Return whether an event passes, and why not: the first criterion that is not met, or an empty text.

        Never raises, like `matches`.
        """
        try:
            return self.evaluate(fields, own)
        except BudgetExceeded as error:
            return False, f"condition_too_expensive: {error}"

    @property
    def has_condition(self) -> bool:
        """True if evaluating the filter may take long."""
        return self._condition is not None

    def evaluate(
        self, fields: EventFields, own: str, checkpoint: Checkpoint | None = None
    ) -> tuple[bool, str]:
        """Return the same as `explain`. `checkpoint` is called regularly while the condition is evaluated.

        Raises `BudgetExceeded` if the condition takes too many steps: whether it holds is unknown.
        """
        for reason, check in self._checks:
            if not check(fields, own):
                return False, reason
        # Last, because a condition costs more than all other checks together.
        if self._condition is not None:
            try:
                if not self._condition.holds(fields.document, checkpoint):
                    return False, "condition: is false for this event"
            except BudgetExceeded:
                raise
            except ExpressionError as error:
                return False, str(error)
        return True, ""


def _checks(settings: FilterSettings) -> list[tuple[str, _Check]]:
    """Return the check of each criterion except the condition, with the reason if it is not met."""
    checks: list[tuple[str, _Check]] = []
    if settings.exclude_own:
        checks.append(("exclude_own: the event came through this integration", _not_own))
    if settings.channels:
        checks.append(("channels: the event is in none of them", _in_channels(frozenset(settings.channels))))
    if settings.conversations:
        conversations = frozenset(settings.conversations)
        checks.append(("conversations: the event is in none of them", _in_conversations(conversations)))
    if settings.users:
        checks.append(("users: none of them is the actor", _by_users(frozenset(settings.users))))
    if settings.exclude_bots:
        checks.append(("exclude_bots: the actor is a program", _not_by_bot))
    if settings.has_attachments is not None:
        reason = "there are none" if settings.has_attachments else "there are some"
        checks.append((f"has_attachments: {reason}", _with_attachments(settings.has_attachments)))
    if settings.mentions:
        checks.append(("mentions: none of them is mentioned", _with_mentions(frozenset(settings.mentions))))
    if settings.content is not None:
        checks.append(("content: the pattern is not in the text", _with_content(settings.content)))
    return checks


def _not_own(fields: EventFields, own: str) -> bool:
    return not own or own not in fields.origin_ids


def _not_by_bot(fields: EventFields, _own: str) -> bool:
    return not fields.is_bot


def _in_channels(channels: frozenset[str]) -> _Check:
    return lambda fields, _own: fields.channel in channels


def _in_conversations(conversations: frozenset[str]) -> _Check:
    return lambda fields, _own: fields.conversation in conversations


def _by_users(users: frozenset[str]) -> _Check:
    return lambda fields, _own: fields.user in users or fields.user_name in users


def _with_attachments(expected: bool) -> _Check:
    return lambda fields, _own: bool(fields.attachments) is expected


def _with_mentions(names: frozenset[str]) -> _Check:
    return lambda fields, _own: not names.isdisjoint(fields.mentions)


def _with_content(source: str) -> _Check:
    pattern = _compile_pattern(source)

    def contains(fields: EventFields, _own: str) -> bool:
        text = fields.content[:_MAX_SEARCHED_CHARACTERS].encode("utf-8", "replace")
        return bool(text) and pattern.search(text) is not None

    return contains
